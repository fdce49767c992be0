//! `russet run`: one prompt, one answer.
use crate::answer::{Ended, answer};
use crate::args::RunArguments;
use crate::environment::Environment;
use crate::session::{Session, Watch, say};
use crate::{interrupt, receipt};
use anyhow::{Context as _, bail};
use model::chat::Message;
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;

pub(crate) fn run(arguments: &RunArguments, environment: &Environment) -> anyhow::Result<ExitCode> {
    interrupt::install()?;
    let prompt = prompt(arguments.prompt.as_deref())?;
    let watch = Watch { kernels: arguments.receipt.is_some(), logits_hash: arguments.logits_hash };
    let mut session = Session::open(&arguments.model, watch, environment)?;
    let tokens = if arguments.raw {
        session.tokenizer.encode_prompt(&prompt)?
    } else {
        session.chat_tokens(&messages(arguments.system.as_deref(), prompt))?
    };
    let params = session.params(&arguments.sampling);
    let id = session.engine.start(&tokens, params.clone())?;
    let mut out = std::io::stdout().lock();
    let mut show = |text: &str| out.write_all(text.as_bytes()).and_then(|()| out.flush());
    let answer = answer(&mut session, id, &params, &arguments.sampling.stop, &mut show)?;
    if !answer.text.ends_with('\n') {
        show("\n")?;
    }
    say(&answer.summary(&session));
    if let Some(path) = &arguments.receipt {
        receipt::write(path, &session, id, &answer)?;
    }
    let interrupted = answer.ended == Ended::Interrupted;
    Ok(if interrupted { ExitCode::from(interrupt::EXIT_STATUS) } else { ExitCode::SUCCESS })
}

/// The prompt given, or standard input.
pub(crate) fn prompt(given: Option<&str>) -> anyhow::Result<String> {
    if let Some(prompt) = given.filter(|prompt| *prompt != "-") {
        return Ok(prompt.to_owned());
    }
    if given.is_none() && std::io::stdin().is_terminal() {
        bail!("no prompt: give one as an argument or on standard input");
    }
    let mut prompt = String::new();
    std::io::stdin().read_to_string(&mut prompt).context("standard input is not UTF-8 text")?;
    Ok(prompt)
}

pub(crate) fn messages(system: Option<&str>, prompt: String) -> Vec<Message> {
    let system = system.map(|content| Message::new("system", content));
    system.into_iter().chain([Message::new("user", prompt)]).collect()
}
