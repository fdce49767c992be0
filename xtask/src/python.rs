//! Private Python environments under `target/`, so that nothing is installed into the user's.
use crate::process::{command, output, root, run};
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// The interpreter of the environment `target/NAME` that has `requirements` (a pip requirements
/// file) installed; made when missing or when what it was made from has changed.
pub(crate) fn environment(name: &str, requirements: Option<&Path>) -> Result<PathBuf> {
    let wanted = match requirements {
        Some(file) => fs::read(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => Vec::new(),
    };
    let version = output(&mut command("python3", ["--version"]))?;
    let stamp: String = crate::models::hex(
        &Sha256::new().chain_update(version.as_bytes()).chain_update(&wanted).finalize(),
    );
    let dir = root().join("target").join(name);
    let python = dir.join("bin/python");
    let stamp_file = dir.join("made-from");
    if python.exists() && fs::read_to_string(&stamp_file).is_ok_and(|made| made == stamp) {
        return Ok(python);
    }
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    if let Err(error) = output(command("python3", ["-m", "venv"]).arg(&dir)) {
        bail!(
            "{error:#}\npython3 cannot make a virtual environment; on Debian: apt-get install \
             python3-venv; on a Mac: brew install python"
        );
    }
    if let Some(file) = requirements {
        run(command(&python, ["-m", "pip", "install", "--requirement"]).arg(file))?;
    }
    fs::write(&stamp_file, stamp)?;
    Ok(python)
}
