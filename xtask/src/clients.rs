//! `clients`: the official Python clients against a running `russet serve` of a real model.
use crate::process::{cache_dir, cargo, command, root, run as run_command};
use crate::python;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::thread::JoinHandle;

const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// `SmolLM2`'s own format of turns, with a place for tools.
const TEMPLATE: &str = "fixtures/chat/qwen2.5.jinja";
const SCRIPTS: &str = "crates/server/tests/clients";
const LISTENING: &str = "listening on ";

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
    run_command(&mut cargo(["build", "--quiet", "--package", "russet"]))?;
    let server = Server::start(&model)?;
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

/// A `russet serve`, killed when it is dropped.
struct Server {
    child: Child,
    url: String,
    /// Collects what it says; read all the time, so that it never waits for a reader.
    said: Option<JoinHandle<String>>,
}

impl Server {
    fn start(model: &Path) -> Result<Self> {
        let mut child = command(root().join("target/debug/russet"), ["serve", "--port", "0"])
            .args(["--chat-template", TEMPLATE, "--model"])
            .arg(model)
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start russet serve")?;
        let mut said = BufReader::new(child.stderr.take().context("no standard error")?);
        let url = address(&mut said)?;
        let said = std::thread::spawn(move || {
            said.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n")
        });
        Ok(Self { child, url, said: Some(said) })
    }

    /// It must end by itself when it is told to.
    fn stop(mut self) -> Result<()> {
        run_command(&mut command("kill", [self.child.id().to_string()]))?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { bail!("russet serve ended with {status}") }
    }

    /// What it said until now.
    fn kill(mut self) -> String {
        drop(self.child.kill());
        self.said.take().and_then(|said| said.join().ok()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where a server listens: it says so when it does.
fn address(said: &mut BufReader<ChildStderr>) -> Result<String> {
    let mut all = String::new();
    loop {
        let from = all.len();
        if said.read_line(&mut all)? == 0 {
            bail!("russet serve ended:\n{all}");
        }
        if let Some(url) = all[from..].trim().strip_prefix(LISTENING) {
            return Ok(url.to_owned());
        }
    }
}
