//! `clients`: the official Python clients against a running `russet serve` of a real model.
use crate::process::{build_russet, cache_dir, command, root, run as run_command};
use crate::python;
use crate::served::Served;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::PathBuf;

const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// `SmolLM2`'s own format of turns, with a place for tools.
const TEMPLATE: &str = "fixtures/chat/qwen2.5.jinja";
const SCRIPTS: &str = "crates/server/tests/clients";

/// Runs every script of [`SCRIPTS`] with the server's address. Returns a line for what is missing.
pub(crate) fn run() -> Result<Vec<String>> {
    let model = cache_dir()?.join("models").join(MODEL);
    if !model.exists() {
        return Ok(vec![format!("the Python clients: {MODEL} is missing, see cargo xtask models")]);
    }
    let python = match python::environment("clients", Some(&root().join("xtask/clients.txt"))) {
        Ok(python) => python,
        Err(error) => return Ok(vec![format!("the Python clients: {error:#}")]),
    };
    let russet = build_russet(&[])?;
    let arguments =
        ["--chat-template".as_ref(), TEMPLATE.as_ref(), "--model".as_ref(), model.as_os_str()];
    let server = Served::start(russet.as_os_str(), &arguments)?;
    for script in scripts()? {
        if let Err(error) = run_command(command(&python, [&script]).arg(&server.url)) {
            return Err(error.context(format!("the server said:\n{}", server.kill())));
        }
    }
    server.stop()?;
    Ok(Vec::new())
}

fn scripts() -> Result<Vec<PathBuf>> {
    let dir = root().join(SCRIPTS);
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut scripts: Vec<PathBuf> =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "py"));
    scripts.sort();
    if scripts.is_empty() {
        bail!("{}: no script", dir.display());
    }
    Ok(scripts)
}
