//! The two servers: how each is started for this job, and stopped.
use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Answers at the same time.
pub(super) const PARALLEL: u32 = 16;
/// Tokens of one conversation at most: room for the long prompt.
const CONTEXT: u32 = 4096;

/// One of the two programs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side<'a> {
    Russet(&'a Path),
    Peer(&'a Path),
}

/// A server that listens; it ends with this value.
#[derive(Debug)]
pub(super) struct Server {
    process: Child,
    pub(super) address: SocketAddr,
}

impl Side<'_> {
    /// Starts it with `model` and waits until it answers; what it says goes to a file in `dir`.
    pub(super) fn start(self, model: &Path, threads: usize, dir: &Path) -> Result<Server> {
        // Free now: another program could take it before the server does, which would be seen.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = self.command(model, &threads.to_string());
        command.args(["--port", &address.port().to_string()]);
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut said = BufReader::new(process.stderr.take().context("no standard error")?);
        let server = Server { process, address };
        let mut log = std::fs::File::create(dir.join(self.log()))?;
        let mut line = String::new();
        while !self.is_ready(&line) {
            line.clear();
            if said.read_line(&mut line)? == 0 {
                bail!("{command:?} ended; see {}", dir.join(self.log()).display());
            }
            log.write_all(line.as_bytes())?;
        }
        std::thread::spawn(move || std::io::copy(&mut said, &mut log));
        Ok(server)
    }

    /// Whether this is what it says when it answers: Russet listens before its model is loaded.
    fn is_ready(self, line: &str) -> bool {
        match self {
            Self::Russet(_) => line.trim_end().ends_with(" answers"),
            Self::Peer(_) => line.contains("listening on http"),
        }
    }

    fn log(self) -> &'static str {
        match self {
            Self::Russet(_) => "russet-serve.log",
            Self::Peer(_) => "llama-server.log",
        }
    }

    fn command(self, model: &Path, threads: &str) -> Command {
        let parallel = PARALLEL.to_string();
        match self {
            Self::Russet(program) => {
                let mut serve = Command::new(program);
                serve.args(["serve", "--device", "cpu", "--threads", threads]);
                serve.args(["--parallel", &parallel, "--model"]).arg(model);
                serve
            }
            // Continuous batching and reuse of a slot's prompt are its defaults.
            Self::Peer(program) => {
                let mut serve = Command::new(program);
                serve.args(["-t", threads, "-tb", threads, "-np", &parallel, "-fa", "on"]);
                serve.args(["-c", &(PARALLEL * CONTEXT).to_string(), "--no-ui", "-m"]).arg(model);
                serve
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
