//! The russet command: large language models on every processor this machine has.
mod answer;
mod args;
mod bench;
mod callback;
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
mod serve;
mod session;
mod speed;
mod store;
mod synth;
mod table;

use anyhow::anyhow;
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
    hal::cpu::leave_out(environment.cpu_without.clone())
        .map_err(|error| anyhow!("RUSSET_CPU_WITHOUT: {error}, this processor's features"))?;
    match command {
        Command::Run(arguments) => run::run(arguments, environment),
        Command::Chat(arguments) => chat::chat(arguments, environment),
        Command::Serve(arguments) => serve::serve(arguments, environment),
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
    eprintln!("russet: {}", message(error));
}

/// The error and its causes, leaving out a cause that what stands before it already ends with.
fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if message.is_empty() {
            message = cause;
        } else if !message.ends_with(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    #[test]
    fn a_cause_is_told_once() {
        let told = anyhow!("no such file").context("model.gguf: no such file");
        assert_eq!(super::message(&told), "model.gguf: no such file");
        let untold = anyhow!("no such file").context("cannot open model.gguf");
        assert_eq!(super::message(&untold), "cannot open model.gguf: no such file");
    }
}
