//! A `russet serve` for other programs to ask.
use crate::process::{command, run as run_command};
use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStderr, Stdio};
use std::thread::JoinHandle;

/// What it says when it listens, and at the end of the line that says that its model is loaded.
const LISTENS: &str = "listening on ";
const ANSWERS: &str = " answers";

/// A server on a free port, killed when it is dropped.
pub(crate) struct Served {
    child: Child,
    pub(crate) url: String,
    /// Collects what it says; read all the time, so that it never waits for a reader.
    said: Option<JoinHandle<String>>,
}

impl Served {
    /// Starts `russet serve` with these arguments, and waits until its model answers.
    pub(crate) fn start(russet: &OsStr, arguments: &[&OsStr]) -> Result<Self> {
        let mut child = command(russet, ["serve", "--port", "0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", russet.display()))?;
        let mut said = BufReader::new(child.stderr.take().context("no standard error")?);
        let url = url(&mut said)?;
        let said = std::thread::spawn(move || {
            said.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n")
        });
        Ok(Self { child, url, said: Some(said) })
    }

    /// It must end by itself when it is told to.
    pub(crate) fn stop(mut self) -> Result<()> {
        run_command(&mut command("kill", [self.child.id().to_string()]))?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { bail!("russet serve ended with {status}") }
    }

    /// Ends it now; returns what it said.
    pub(crate) fn kill(mut self) -> String {
        drop(self.child.kill());
        drop(self.child.wait());
        self.said.take().and_then(|said| said.join().ok()).unwrap_or_default()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn url(said: &mut BufReader<ChildStderr>) -> Result<String> {
    let (mut all, mut url) = (String::new(), None);
    loop {
        let from = all.len();
        if said.read_line(&mut all)? == 0 {
            bail!("russet serve ended:\n{all}");
        }
        let line = all[from..].trim();
        if let Some(found) = line.strip_prefix(LISTENS) {
            url = Some(found.to_owned());
        }
        if let (Some(url), true) = (&url, line.ends_with(ANSWERS)) {
            return Ok(url.clone());
        }
    }
}
