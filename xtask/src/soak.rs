//! `soak`: a real server under many clients for minutes, half of which go away in the middle. What must hold is checked after each
//! round: nothing runs, no KV block is in use, memory does not grow. Then the server is killed and started again.
use crate::process::{build_russet, root, run as run_command};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: cargo xtask soak [OPTIONS]

  --clients N     at the same time [default: 1000]
  --minutes N     for so long [default: 10]
  --russet PATH   a russet to test [default: builds one]
  --model PATH    a GGUF file [default: a tiny one of the fixtures]
";

/// Nothing that works takes longer.
const TIME_MAX: Duration = Duration::from_secs(120);
/// Rounds until memory has its size: buffers are kept, and rounds differ in how many are in use at once.
const WARM_ROUNDS: usize = 3;
/// What memory may be afterwards, of the most that it was before.
const GROWTH_MAX: f64 = 1.2;

struct Options {
    clients: usize,
    minutes: u64,
    russet: Option<PathBuf>,
    model: PathBuf,
}

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some(options) = options(arguments)? else {
        print!("{USAGE}");
        return Ok(());
    };
    let russet = match &options.russet {
        Some(path) => path.clone(),
        None => build_russet(&["--release"])?,
    };
    let mut server = Server::start(&russet, &options.model, 0)?;
    rounds(&server, &options)?;
    server = kill_and_restart(server, &russet, &options.model)?;
    server.terminate()
}

/// None when help was asked for.
fn options(arguments: &[String]) -> Result<Option<Options>> {
    let model = root().join("fixtures/models/tiny/qwen3.gguf");
    let mut options = Options { clients: 1000, minutes: 10, russet: None, model };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        if matches!(name.as_str(), "--help" | "-h") {
            return Ok(None);
        }
        let value = rest.next().with_context(|| format!("{name} takes a value\n\n{USAGE}"))?;
        match name.as_str() {
            "--clients" => options.clients = value.parse()?,
            "--minutes" => options.minutes = value.parse()?,
            "--russet" => options.russet = Some(value.into()),
            "--model" => options.model = value.into(),
            _ => bail!("there is no {name}\n\n{USAGE}"),
        }
    }
    Ok(Some(options))
}

/// A server in a process of its own; killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(russet: &Path, model: &Path, port: u16) -> Result<Self> {
        let dir = root().join("target/soak");
        fs::create_dir_all(&dir)?;
        // A connection is a file; shells allow few of them by default.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 8192; exec \"$0\" \"$@\""]).arg(russet);
        command.args(["serve", "--requests-max", "4096", "--device", "cpu"]);
        command.args(["--port", &port.to_string(), "--model"]).arg(model);
        command.env("RUSSET_HOME", dir.join("store")).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the server")?;
        let lines = BufReader::new(child.stderr.take().context("no standard error")?).lines();
        let mut log = File::options().create(true).append(true).open(dir.join("server.log"))?;
        let (told, tells) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                drop(writeln!(log, "{line}"));
                drop(told.send(line));
            }
        });
        let mut port = None;
        while let Ok(line) = tells.recv_timeout(TIME_MAX) {
            if let Some(address) = line.strip_prefix("listening on http://127.0.0.1:") {
                port = Some(address.parse()?);
            }
            if let (Some(port), true) = (port, line.ends_with(" answers")) {
                return Ok(Self { child, port });
            }
        }
        bail!("the server does not start: see target/soak/server.log")
    }

    fn ask(&self, line: &str, body: &str) -> Result<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(TIME_MAX))?;
        stream.set_write_timeout(Some(TIME_MAX))?;
        let length = body.len();
        let head = "host: localhost\r\nconnection: close\r\n";
        let request = format!("{line} HTTP/1.1\r\n{head}content-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes())?;
        Ok(BufReader::new(stream))
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut text = String::new();
        self.ask(&format!("GET {path}"), "")?.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Waits until nothing runs; then the server must hold nothing for anybody.
    #[expect(clippy::disallowed_methods, reason = "nothing tells when a server becomes idle")]
    fn check_idle(&self) -> Result<Duration> {
        let since = Instant::now();
        while !self.get("/ready")?.contains("\"state\":\"idle\"") {
            ensure!(since.elapsed() < TIME_MAX, "something still runs");
            std::thread::sleep(Duration::from_millis(20));
        }
        let metrics = self.get("/metrics")?;
        for name in ["running", "waiting", "kv_blocks_used"] {
            let line = format!("russet_{name} 0");
            ensure!(metrics.lines().any(|found| found == line), "no {line:?} in:\n{metrics}");
        }
        Ok(since.elapsed())
    }

    fn resident_kib(&self) -> Result<u64> {
        let id = self.child.id().to_string();
        let output = Command::new("ps").args(["-o", "rss=", "-p", &id]).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    }

    /// Asks it to end, as a supervisor would.
    fn terminate(mut self) -> Result<()> {
        let since = Instant::now();
        run_command(Command::new("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let status = self.child.wait()?;
        ensure!(status.success(), "SIGTERM ended the server with {status}");
        println!("soak: SIGTERM: exit 0 after {:.1} s", since.elapsed().as_secs_f64());
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    Stays,
    GoesAway,
    /// Takes nothing of its answer while others are there.
    NeverReads,
    Malformed,
    Oversized,
}

impl Habit {
    fn of(client: usize) -> Self {
        match client % 100 {
            97 => Self::NeverReads,
            98 => Self::Malformed,
            99 => Self::Oversized,
            other if other % 2 == 0 => Self::Stays,
            _ => Self::GoesAway,
        }
    }
}

fn rounds(server: &Server, options: &Options) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(60 * options.minutes);
    let mut most_kib = 1;
    for number in 0.. {
        let since = Instant::now();
        round(server, options.clients, number)?;
        let took = since.elapsed().as_secs_f64();
        let idle = server.check_idle()?.as_secs_f64();
        let kib = server.resident_kib()?;
        println!(
            "soak: round {number}: {} clients in {took:.1} s, idle {idle:.2} s later, {kib} KiB resident",
            options.clients
        );
        if number < WARM_ROUNDS {
            most_kib = most_kib.max(kib);
        }
        #[expect(clippy::cast_precision_loss, reason = "kibibytes of a process")]
        let ratio = kib as f64 / most_kib as f64;
        ensure!(
            ratio <= GROWTH_MAX,
            "memory has grown to {ratio:.2} times the most of the first rounds"
        );
        if Instant::now() > until {
            println!("soak: memory at the end is {ratio:.3} times the most of the first rounds");
            break;
        }
    }
    Ok(())
}

fn round(server: &Server, clients: usize, number: usize) -> Result<()> {
    let all_there = Barrier::new(clients);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for client in 0..clients {
            let all_there = &all_there;
            let work = move || {
                let id = format!("{number}.{client}");
                let result = begin(server, Habit::of(client), &id);
                all_there.wait();
                result.and_then(|answer| finish(Habit::of(client), answer)).context(id)
            };
            threads
                .push(std::thread::Builder::new().stack_size(1 << 18).spawn_scoped(scope, work)?);
        }
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?
        })
    })
}

/// Sends a client's request; all have done so before any goes on.
fn begin(server: &Server, habit: Habit, id: &str) -> Result<BufReader<TcpStream>> {
    let tokens = if habit == Habit::Stays { 32 } else { 200 };
    let job = json!({ "job_id": id, "prompt": "one two", "max_tokens": tokens, "temperature": 0 });
    let body = match habit {
        Habit::Malformed => "{\"job_id\": 7, ".to_owned(),
        Habit::Oversized => " ".repeat((16 << 20) + 1),
        _ => job.to_string(),
    };
    server.ask("POST /execute", &body)
}

fn finish(habit: Habit, mut answer: BufReader<TcpStream>) -> Result<()> {
    let mut line = String::new();
    match habit {
        Habit::NeverReads => return Ok(()),
        Habit::GoesAway => {
            while line != "event: started\n" {
                line.clear();
                ensure!(answer.read_line(&mut line)? > 0, "the stream ended before it began");
            }
            return Ok(());
        }
        Habit::Stays | Habit::Malformed | Habit::Oversized => {}
    }
    answer.read_to_string(&mut line)?;
    let expected = match habit {
        Habit::Malformed => "HTTP/1.1 400 ",
        Habit::Oversized => "HTTP/1.1 413 ",
        _ => "HTTP/1.1 200 ",
    };
    ensure!(line.starts_with(expected), "expected {expected}, got {line}");
    let ends = line.matches("event: end\n").count();
    ensure!(ends == usize::from(habit == Habit::Stays), "{ends} ends in {line}");
    Ok(())
}

/// Kills a server that is at work; one that is started in its place answers at once.
fn kill_and_restart(mut server: Server, russet: &Path, model: &Path) -> Result<Server> {
    let mut running: Vec<_> = (0..20)
        .map(|i| begin(&server, Habit::GoesAway, &format!("killed {i}")))
        .collect::<Result<_>>()?;
    finish(Habit::GoesAway, running.swap_remove(0))?;
    server.child.kill()?;
    server.child.wait()?;
    let since = Instant::now();
    let again = Server::start(russet, model, server.port)?;
    finish(Habit::Stays, begin(&again, Habit::Stays, "after")?)?;
    let idle = again.check_idle()?;
    println!(
        "soak: killed and started again: an answer {:.2} s later, idle after {:.2} s",
        since.elapsed().as_secs_f64(),
        idle.as_secs_f64()
    );
    Ok(again)
}
