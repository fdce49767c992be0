//! `page`: the server's chat page in a headless browser, asking a real model. Plain Python drives the browser, through pipes.
use crate::process::{build_russet, cache_dir, command, root, run as run_command, succeeds};
use crate::served::Served;
use anyhow::Result;
use std::ffi::OsStr;

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
    let arguments = ["--device", "cpu", "--model"].map(OsStr::new);
    let arguments = [&arguments[..], &[model.as_os_str()]].concat();
    let server = Served::start(build_russet(&[])?.as_os_str(), &arguments)?;
    let test = root().join("crates/server/tests/page/test.py");
    run_command(
        command("python3", ["-B".as_ref(), test.as_os_str()])
            .args(["--browser", browser, "--server", &server.url])
            .args(options),
    )?;
    Ok(Vec::new())
}
