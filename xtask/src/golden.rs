//! `golden`: remakes the committed fixtures from engines other than this one.
use crate::process::{cache_dir, command, root, run as run_command};
use crate::python;
use anyhow::Result;

/// The scripts of `xtask/golden/`, in the order in which they run.
const SCRIPTS: &[&str] =
    &["formats.py", "tokens.py", "chat.py", "chat_tools.py", "models.py", "embeddings.py"];

/// Runs every script in an environment of its own, with the directory of the test models as
/// `RUSSET_TEST_MODELS`.
pub(crate) fn run() -> Result<()> {
    let skips = crate::models::run()?;
    anyhow::ensure!(skips.is_empty(), "{}", skips.join("\n"));
    let scripts = root().join("xtask/golden");
    println!("golden: the first run builds llama.cpp from source: ten minutes or more");
    let python = python::environment("golden-venv", Some(&scripts.join("requirements.txt")))?;
    for script in SCRIPTS {
        println!("golden: {script}");
        run_command(
            command(&python, [scripts.join(script)])
                .env("RUSSET_TEST_MODELS", cache_dir()?.join("models")),
        )?;
    }
    Ok(())
}
