//! `page`: the server's chat page in a headless browser, asking a real model. Plain Python drives the browser, through pipes.
use crate::process::{cache_dir, cargo, command, output, root, run as run_command, succeeds};
use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};

/// Chromium by its names on Debian, on other Linuxes and on a Mac.
const BROWSERS: [&str; 7] = [
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
];
const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

fn browser() -> Option<&'static str> {
    BROWSERS.into_iter().find(|program| succeeds(&mut command(program, ["--version"])))
}

pub(crate) fn has_browser() -> bool {
    browser().is_some()
}

/// Runs the test with these options of its own (`--help` lists them). A line for each thing that it lacks.
pub(crate) fn run(options: &[String]) -> Result<Vec<String>> {
    let Some(browser) = browser() else {
        return Ok(vec![
            "the chat page in a browser; try: sudo apt-get install chromium-headless-shell"
                .to_owned(),
        ]);
    };
    let model = cache_dir()?.join("models").join(MODEL);
    if !model.exists() {
        return Ok(vec![format!(
            "the chat page in a browser: no {MODEL}; try: cargo xtask models"
        )]);
    }
    let server = Server::start(&build()?, &model)?;
    let test = root().join("crates/server/tests/page/test.py");
    run_command(
        command("python3", ["-B".as_ref(), test.as_os_str()])
            .args(["--browser", browser, "--server", &server.url])
            .args(options),
    )?;
    Ok(Vec::new())
}

/// What `cargo test` has built already.
fn build() -> Result<PathBuf> {
    let arguments = ["build", "--quiet", "--package", "russet"];
    let messages = output(cargo(arguments).arg("--message-format").arg("json-render-diagnostics"))?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    executables.next_back().context("cargo built no executable")
}

/// `russet serve` on a free port; ended when dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(russet: &Path, model: &Path) -> Result<Self> {
        let mut process = command(russet, ["serve", "--model"])
            .arg(model)
            .args(["--device", "cpu", "--host", "127.0.0.1", "--port", "0"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", russet.display()))?;
        let stderr = process.stderr.take().context("no standard error")?;
        let mut server = Self { process, url: String::new() };
        server.url = listening(stderr)?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; the test has said so then.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The address that the server says it listens on. What it says later is read and dropped, so that it never waits for us.
fn listening(stderr: ChildStderr) -> Result<String> {
    let mut lines = BufReader::new(stderr).lines();
    let mut said = String::new();
    for line in lines.by_ref() {
        let line = line?;
        if let Some(at) = line.find("http://127.0.0.1:") {
            let url = line[at..].split_whitespace().next().unwrap_or_default().to_owned();
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(url);
        }
        said = said + &line + "\n";
    }
    bail!("russet serve ended before it listened:\n{said}")
}
