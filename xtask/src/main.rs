//! Project tasks, run as `cargo xtask TASK`. [`USAGE`] lists them.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks")]

mod arm;
mod bench;
mod check;
mod clients;
mod darwin;
mod dist;
mod fake;
mod golden;
mod models;
mod msl;
mod page;
mod process;
mod python;
mod served;
mod setup;
mod soak;
mod tidy;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask TASK

  check    everything: sets up what is needed, formats, lints, tests (Arm's kernels emulated), cross build; skips last
  setup    installs what the tests need (idempotent)
  models   downloads the real models that tests use into the user's cache directory
  msl      what every compiler and sanitizer says of FILE.metal, a file of kernels; without FILE how to run one
  tidy     the rules of DESIGN.md that a program can check
  cross    lints for aarch64-apple-darwin, links for it and x86_64-apple-darwin, against stubs of their libraries
  dist     the release binaries for this machine and for Macs, with their SHA-256; --help says where
  clients  runs the official Python clients against russet serve and a real model
  fake     lints and tests the Metal driver on Linux, on crates/fake-metal in place of Apple's frameworks
  page     tests the server's chat page in a headless browser; --help lists options
  bench    speed and memory beside llama.cpp on the same files; --help lists the options
  soak     a thousand clients at a real server for ten minutes, half of which go away; --help lists the options
  golden   remakes fixtures/ from an independent engine (slow: builds llama.cpp the first time)
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let tasks: Vec<String> = std::env::args().skip(1).collect();
    let (task, options) = match tasks.as_slice() {
        [task, options @ ..]
            if options.is_empty()
                || matches!(task.as_str(), "bench" | "dist" | "msl" | "page" | "soak") =>
        {
            (task, options)
        }
        _ => bail!("expected one task\n\n{USAGE}"),
    };
    match task.as_str() {
        "bench" => bench::run(options),
        "check" => check::run(),
        "setup" => report(&setup::run()?),
        "msl" => msl::run(options),
        "models" => report(&models::run()?),
        "soak" => soak::run(options),
        "tidy" => tidy::run(),
        "dist" => dist::dist(options),
        "fake" => check::fake(),
        "clients" => report(&clients::run()?),
        "page" => report(&page::run(options)?),
        "cross" => report(&darwin::check()?),
        "golden" => golden::run(),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("no task is called {other:?}\n\n{USAGE}"),
    }
}

/// As a task of its own, what `check` only lists as skipped is a failure.
fn report(skips: &[String]) -> Result<()> {
    if skips.is_empty() { Ok(()) } else { bail!("{}", skips.join("\n")) }
}
