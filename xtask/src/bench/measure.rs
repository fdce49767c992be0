//! Runs of both sides, in turn.
use super::peer::Peer;
use crate::process::output;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What is measured, each in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Prompt {
        tokens: u32,
        depth: u32,
    },
    Decode {
        tokens: u32,
        depth: u32,
    },
    /// From the start of the process to the first byte of the answer.
    First,
}

impl Test {
    pub(super) fn name(self) -> String {
        let after = |depth| if depth == 0 { String::new() } else { format!(" after {depth}") };
        match self {
            Self::Prompt { tokens, depth } => format!("prompt {tokens}{}", after(depth)),
            Self::Decode { tokens, depth } => format!("decode {tokens}{}", after(depth)),
            Self::First => format!("first token after {FIRST_TOKENS}, cold start"),
        }
    }
}

const PROMPT: Test = Test::Prompt { tokens: 512, depth: 0 };
const DECODE: Test = Test::Decode { tokens: 128, depth: 512 };
const DEEP: [Test; 2] =
    [Test::Prompt { tokens: 512, depth: 4096 }, Test::Decode { tokens: 128, depth: 4096 }];

/// Tokens of the prompt of [`Test::First`].
const FIRST_TOKENS: u32 = 32;
const FIRST_CONTEXT: &str = "512";
/// Cut to so many tokens.
const FIRST_TEXT: &str = "The first apples came to the valley with the settlers, who planted them along the river and gave \
     each tree the name of the child that was born that year, so that a stranger could read";

/// One of the two programs.
#[derive(Debug)]
pub(super) enum Side<'a> {
    Russet { program: &'a Path, threads: String },
    Peer { program: &'a Path, threads: String },
}

/// One run of one side.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) seconds: f64,
    pub(super) memory_bytes_peak: Option<f64>,
    /// Percent of the read bandwidth, and of the int8 peak, both measured in the same process.
    pub(super) read_percent: Option<f64>,
    pub(super) int8_percent: Option<f64>,
}

/// All runs of one test: one entry per pair, with one sample per side.
#[derive(Debug)]
pub(super) struct Results {
    pub(super) test: Test,
    pub(super) pairs: Vec<Vec<Sample>>,
}

impl<'a> Side<'a> {
    /// Russet, and the peer where there is one.
    pub(super) fn all(russet: &'a Path, peer: Option<&'a Peer>, threads: usize) -> Vec<Self> {
        let threads = threads.to_string();
        let peer = peer.map(|peer| Self::Peer { program: &peer.program, threads: threads.clone() });
        [Self::Russet { program: russet, threads }].into_iter().chain(peer).collect()
    }

    fn run(&self, model: &Path, test: Test, text: &str) -> Result<Sample> {
        match (test, self) {
            (Test::First, _) => first(&mut self.first_command(model, text)),
            (_, Self::Russet { program, threads }) => {
                let mut bench = Command::new(program);
                let (prompt, decode, depth) = match test {
                    Test::Decode { tokens, depth } => (0, tokens, depth),
                    Test::Prompt { tokens, depth } => (tokens, 0, depth),
                    Test::First => (0, 0, 0),
                };
                bench.arg("bench").arg(model).args(["--device", "cpu", "--threads", threads]);
                bench.args(["--json", "--repeat", "1"]);
                for (name, value) in
                    [("--prompt", prompt), ("--decode", decode), ("--depth", depth)]
                {
                    bench.arg(name).arg(value.to_string());
                }
                sample(&output(&mut bench)?)
            }
            (_, Self::Peer { program, threads }) => {
                let (task, tokens, depth) = match test {
                    Test::Decode { tokens, depth } => ("decode", tokens, depth),
                    Test::Prompt { tokens, depth } => ("prompt", tokens, depth),
                    Test::First => ("first", 0, 0),
                };
                let mut measure = Command::new(program);
                measure.arg(task).arg(model).arg(threads);
                sample(&output(measure.arg(tokens.to_string()).arg(depth.to_string()))?)
            }
        }
    }

    fn first_command(&self, model: &Path, text: &str) -> Command {
        match self {
            Self::Russet { program, threads } => {
                let mut run = Command::new(program);
                run.args(["run", "--raw", "-n", "1", "--temperature", "0", "--device", "cpu"]);
                run.args(["--ctx", FIRST_CONTEXT, "--threads", threads, "--model"]);
                run.arg(model).arg(text);
                run
            }
            Self::Peer { program, threads } => {
                let mut run = Command::new(program);
                run.arg("first").arg(model).args([threads.as_str(), FIRST_CONTEXT, text]);
                run
            }
        }
    }
}

/// Measures a model: every test as often as `pairs` says, both sides in turn, and who goes first changes from pair to pair.
pub(super) fn model(
    sides: &[Side<'_>],
    peer: Option<&Peer>,
    model: &Path,
    deep: bool,
    pairs: usize,
) -> Result<Vec<Results>> {
    let text = match peer {
        Some(peer) => peer.prefix(model, FIRST_TOKENS, FIRST_TEXT)?,
        None => FIRST_TEXT.to_owned(),
    };
    let deep: &[Test] = if deep { &DEEP } else { &[] };
    let tests = [PROMPT, DECODE, Test::First].into_iter().chain(deep.iter().copied());
    let mut results: Vec<Results> = tests.map(|test| Results { test, pairs: Vec::new() }).collect();
    // The file into the page cache.
    std::io::copy(&mut std::fs::File::open(model)?, &mut std::io::sink())
        .with_context(|| format!("cannot read {}", model.display()))?;
    for pair in 0..pairs {
        for result in &mut results {
            println!("bench: {}, {}, {} of {pairs}", name(model), result.test.name(), pair + 1);
            let mut run = |side: &Side<'_>| side.run(model, result.test, &text);
            let mut samples = if pair % 2 == 0 {
                sides.iter().map(run).collect::<Result<Vec<_>>>()?
            } else {
                sides.iter().rev().map(&mut run).collect::<Result<Vec<_>>>()?
            };
            if pair % 2 == 1 {
                samples.reverse();
            }
            result.pairs.push(samples);
        }
    }
    Ok(results)
}

/// The file's name, without its extension.
pub(super) fn name(model: &Path) -> String {
    model.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Reads the one line of JSON that both sides print: Russet has a list of seconds.
fn sample(line: &str) -> Result<Sample> {
    let value: Value = serde_json::from_str(line.trim())
        .with_context(|| format!("expected one line of JSON, found {line:?}"))?;
    let number = |key: &str| value.get(key).and_then(Value::as_f64);
    let listed = value.get("seconds").and_then(|seconds| seconds.get(0)).and_then(Value::as_f64);
    Ok(Sample {
        seconds: listed.or_else(|| number("seconds")).context("no seconds in the JSON")?,
        memory_bytes_peak: number("memory_bytes_peak"),
        read_percent: number("read_percent"),
        int8_percent: number("int8_percent"),
    })
}

/// Time from the start of the process to the first byte on its standard output.
fn first(command: &mut Command) -> Result<Sample> {
    let since = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let mut out = child.stdout.take().context("no standard output")?;
    let count = out.read(&mut [0; 1])?;
    let time: Duration = since.elapsed();
    drop(std::io::copy(&mut out, &mut std::io::sink()));
    let status = child.wait()?;
    if count == 0 || !status.success() {
        bail!("{command:?} gave no answer: {status}");
    }
    Ok(Sample {
        seconds: time.as_secs_f64(),
        memory_bytes_peak: None,
        read_percent: None,
        int8_percent: None,
    })
}
