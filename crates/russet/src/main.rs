//! The russet command: large language models on every processor this machine has.
mod answer;
mod args;
mod bench;
mod chat;
mod devices;
mod doctor;
mod environment;
mod inspect;
mod interrupt;
mod logits;
mod pull;
mod receipt;
mod run;
mod session;
mod speed;
mod store;
mod synth;
mod table;

use args::{Arguments, Command};
use clap::Parser as _;
use environment::Environment;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(&arguments.command, &Environment::read()) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &Command, environment: &Environment) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(arguments) => run::run(arguments, environment),
        Command::Chat(arguments) => chat::chat(arguments, environment),
        Command::Logits(arguments) => logits::logits(arguments, environment),
        Command::Pull { model } => pull::pull(model, environment),
        Command::List { json } => pull::list(*json, environment),
        Command::Inspect(arguments) => inspect::inspect(arguments, environment),
        Command::Devices { json } => devices::devices(*json),
        Command::Doctor(arguments) => doctor::doctor(arguments, environment),
        Command::Bench(arguments) => bench::bench(arguments, environment),
        Command::Synth(arguments) => synth::synth(arguments),
        Command::Rm { model } => pull::remove(model, environment),
    }
}

/// Whoever read our output has stopped reading: no error for `russet run ... | head`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::BrokenPipe)
}

#[expect(clippy::print_stderr, reason = "the one place where errors are shown")]
fn report(error: &anyhow::Error) {
    eprintln!("russet: {error:#}");
}
