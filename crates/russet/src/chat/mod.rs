//! `russet chat`: question after question. The KV cache stays between them.
mod command;
mod conversation;
mod file;
mod prompt;
mod settings;
mod typed;

use crate::answer::{Answer, Ended, answer};
use crate::args::{ChatArguments, SamplingArguments};
use crate::environment::Environment;
use crate::interrupt;
use crate::session::{Session, Watch, say};
use anyhow::{Context as _, bail};
use command::{Command, Input, System};
use conversation::{Conversation, Fitted, Room, Turn};
use engine::{MemoryPlan, SequenceId};
use indicatif::HumanBytes;
use prompt::{Entered, Prompt};
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Tokens kept free for an answer whose length is not limited.
const ANSWER_ROOM: u32 = 256;

pub(crate) fn chat(
    arguments: &ChatArguments,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    interrupt::install()?;
    settings::check(&arguments.sampling)?;
    let session = Session::open(&arguments.model, Watch::default(), environment)?;
    if session.template.is_none() {
        bail!(
            "{} has no chat template: it only continues text, as in `russet run --raw --model {} TEXT`",
            session.path.display(),
            session.name
        );
    }
    let history = environment.store_root.as_ref().filter(|_| !arguments.no_history);
    let prompt = Prompt::open(history.map(|root| root.join("chat_history")))?;
    let conversation = Conversation { system: arguments.system.clone(), ..Conversation::default() };
    let mut chat = Chat {
        session,
        prompt,
        conversation,
        sampling: arguments.sampling.clone(),
        sequence: None,
        answers: 0,
        initial: String::new(),
        editing: None,
    };
    chat.run()
}

/// What happens after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Prompt,
    Quit,
    /// Ctrl-C where nobody is there to go on.
    Interrupted,
}

struct Chat {
    session: Session,
    prompt: Prompt,
    conversation: Conversation,
    sampling: SamplingArguments,
    /// The sequence of the last answer.
    sequence: Option<SequenceId>,
    /// Answers since the seed was set: each has the seed that follows.
    answers: u64,
    /// What stands in the next line, to be edited.
    initial: String,
    /// The question that the next line replaces.
    editing: Option<usize>,
}

/// Input.
impl Chat {
    fn run(&mut self) -> anyhow::Result<ExitCode> {
        if self.prompt.is_terminal() {
            let context = self.session.engine.options().context;
            say(&format!("{}, {context} tokens of context", self.session.name));
            say("/help lists the commands, Ctrl-D quits");
        }
        let (mut warned, mut failed) = (false, false);
        loop {
            let initial = std::mem::take(&mut self.initial);
            let next = match self.prompt.read(&initial)? {
                Entered::End => break,
                Entered::Interrupted { empty: true } if warned => break,
                Entered::Interrupted { empty } => {
                    if self.editing.take().is_some() {
                        say("not changed");
                    } else if empty {
                        say("Ctrl-C again or Ctrl-D quits");
                    }
                    warned = empty;
                    continue;
                }
                Entered::Text(text) => self.enter(&text),
            };
            warned = false;
            match next {
                Ok(Next::Prompt) => {}
                Ok(Next::Quit) => break,
                Ok(Next::Interrupted) => return Ok(ExitCode::from(interrupt::EXIT_STATUS)),
                Err(error) if crate::is_closed_pipe(&error) => return Err(error),
                Err(error) => {
                    failed = true;
                    say(&format!("{error:#}"));
                }
            }
        }
        // A script cannot see the message, but it can see the status.
        let failure = failed && !self.prompt.is_terminal();
        Ok(if failure { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn enter(&mut self, typed: &str) -> anyhow::Result<Next> {
        let editing = self.editing.take();
        match command::parse(typed)? {
            Input::Command(command) => self.obey(command),
            Input::Message(question) => {
                let before = editing.unwrap_or(self.conversation.turns.len());
                self.ask(before, question)
            }
            Input::Nothing => {
                if editing.is_some() {
                    say("not changed");
                }
                Ok(Next::Prompt)
            }
        }
    }

    fn obey(&mut self, command: Command) -> anyhow::Result<Next> {
        match command {
            Command::Quit => return Ok(Next::Quit),
            Command::Retry => {
                let last = self.last("answer again")?;
                return self.ask(last, self.conversation.turns[last].question.clone());
            }
            Command::Help => say(&command::help()),
            Command::Show => self.show()?,
            Command::Clear => {
                self.conversation.turns.clear();
                self.conversation.forgotten = 0;
                self.answers = 0;
                say("forgotten");
            }
            Command::System(system) => self.system(system),
            Command::Undo => self.undo()?,
            Command::Edit(number) => self.edit(number)?,
            Command::Set { name, value } => {
                settings::set(&mut self.sampling, &name, &value)?;
                if name == "seed" {
                    self.answers = 0;
                }
            }
            Command::Save { path, overwrite } => {
                let name = &self.session.name;
                file::save(&path, overwrite, name, &self.conversation, &self.sampling)?;
                say(&format!("saved {}", path.display()));
            }
            Command::Load(path) => self.load(&path)?,
        }
        Ok(Next::Prompt)
    }
}

/// Commands.
impl Chat {
    /// The place of the last turn.
    fn last(&self, to_do: &str) -> anyhow::Result<usize> {
        let turns = self.conversation.turns.len();
        turns.checked_sub(1).with_context(|| format!("nothing to {to_do}: nothing was asked yet"))
    }

    fn system(&mut self, system: Option<System>) {
        match system {
            Some(System::Off) => self.conversation.system = None,
            Some(System::Text(text)) => self.conversation.system = Some(text),
            None => say(self.conversation.system.as_deref().unwrap_or("no system message")),
        }
    }

    fn undo(&mut self) -> anyhow::Result<()> {
        let last = self.last("undo")?;
        if let Some(turn) = self.conversation.turns.pop() {
            say(&format!("dropped: {}", turn.question));
        }
        self.conversation.forgotten = self.conversation.forgotten.min(last);
        Ok(())
    }

    /// Prepares the next line to replace a question.
    fn edit(&mut self, number: Option<usize>) -> anyhow::Result<()> {
        let last = self.last("edit")?;
        let place = number.map_or(last, |number| number - 1);
        let Some(turn) = self.conversation.turns.get(place) else {
            bail!("there are {} questions, no number {}", last + 1, place + 1);
        };
        self.initial = typed::typed_as(&turn.question);
        self.editing = Some(place);
        Ok(())
    }

    fn load(&mut self, path: &Path) -> anyhow::Result<()> {
        let loaded = file::load(path)?;
        (self.conversation, self.sampling) = (loaded.conversation, loaded.sampling);
        self.answers = 0;
        let turns = self.conversation.turns.len();
        say(&format!("loaded {turns} questions with their answers"));
        if loaded.model != self.session.name {
            say(&format!("they were saved with {}, this is {}", loaded.model, self.session.name));
        }
        if let Some(turn) = self.conversation.turns.last() {
            say(&format!("the last question: {}", turn.question));
        }
        Ok(())
    }

    fn show(&mut self) -> anyhow::Result<()> {
        say(&settings::show(&self.sampling));
        let Conversation { turns, forgotten, .. } = &self.conversation;
        let messages = self.conversation.messages(*forgotten..turns.len());
        let used = if turns.is_empty() { 0 } else { self.session.chat_tokens(&messages)?.len() };
        let engine = &self.session.engine;
        let context = engine.options().context;
        say(&format!("{:<19}{used} of {context} tokens", "context"));
        if *forgotten > 0 {
            say(&format!("{:<19}{forgotten} of {} questions", "no longer seen", turns.len()));
        }
        let memory = MemoryPlan::new(engine.model(), engine.device().info(), engine.options())?;
        let (weights, cache) = (HumanBytes(memory.weights), HumanBytes(memory.cache));
        say(&format!("{:<19}weights {weights}, KV cache {cache}", "memory"));
        say(&format!("{:<19}{}", "model", self.session.path.display()));
        let info = engine.device().info();
        say(&format!("{:<19}{} ({})", "device", info.kind.name(), info.name));
        Ok(())
    }
}

/// Answers.
impl Chat {
    /// Asks `question` after the first `before` turns; what came after them is dropped once it is answered.
    fn ask(&mut self, before: usize, question: String) -> anyhow::Result<Next> {
        let Fitted { tokens, forgotten } = self.fit(before, &question)?;
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(self.answers));
        let params = self.session.params(&sampling);
        // What the text shares with the last one is found in the cache.
        let id = self.session.engine.start(&tokens, params.clone())?;
        if let Some(last) = self.sequence.replace(id) {
            self.session.engine.release(last);
        }
        let mut out = std::io::stdout().lock();
        let mut show = |text: &str| out.write_all(text.as_bytes()).and_then(|()| out.flush());
        let answer = answer(&mut self.session, id, &params, &sampling.stop, &mut show)?;
        if !answer.text.ends_with('\n') {
            show("\n")?;
        }
        let used = self.session.engine.tokens(id)?.len();
        let kept = self.session.engine.cached_tokens(id);
        self.conversation.turns.truncate(before);
        self.conversation.forgotten = forgotten;
        self.answers += 1;
        let closing = self.closing_line(&answer, kept, used);
        say(&fold(&closing, self.prompt.columns()));
        let ended = answer.ended;
        let partial = !matches!(ended, Ended::ByModel | Ended::ByStopString);
        self.conversation.turns.push(Turn { question, answer: answer.text, partial });
        let alone = !self.prompt.is_terminal();
        Ok(if alone && ended == Ended::Interrupted { Next::Interrupted } else { Next::Prompt })
    }

    fn fit(&self, before: usize, question: &str) -> anyhow::Result<Fitted> {
        let context = self.session.engine.options().context;
        let answer = self.sampling.max_tokens.unwrap_or(ANSWER_ROOM).min(context / 4);
        let room = Room { context: context as usize, answer: answer as usize };
        let fitted = self
            .conversation
            .fit(before, question, room, |messages| self.session.chat_tokens(messages))?;
        let dropped = fitted.forgotten.saturating_sub(self.conversation.forgotten);
        if dropped > 0 {
            say(&format!(
                "the context is full: the oldest {} left out from here on",
                if dropped == 1 { "turn is".to_owned() } else { format!("{dropped} turns are") }
            ));
        }
        Ok(fitted)
    }

    fn closing_line(&self, answer: &Answer, kept: u32, used: usize) -> Vec<String> {
        let context = self.session.engine.options().context;
        let mut parts = vec![
            format!(
                "prompt {kept} kept, {} run, {:.1} tokens/s",
                answer.prompt_tokens,
                answer.prompt_tokens_per_second()
            ),
            format!("answer {} tokens, {:.1} tokens/s", answer.tokens, answer.tokens_per_second()),
            format!("context {used} of {context}"),
        ];
        if self.sampling.temperature > 0.0 {
            parts.push(format!("seed {}", answer.seed));
        }
        match answer.ended {
            Ended::ByModel | Ended::ByStopString => {}
            Ended::TokensMax => parts.push("cut at max-tokens".to_owned()),
            Ended::ContextFull => parts.push("cut: the context is full".to_owned()),
            Ended::Interrupted => parts.push("stopped, kept as far as it came".to_owned()),
        }
        parts
    }
}

/// Joins parts into lines of at most so many columns.
fn fold(parts: &[String], columns: usize) -> String {
    let mut text = String::new();
    let mut column = 0;
    for part in parts {
        let width = part.chars().count();
        if column > 0 && column + 3 + width >= columns {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push_str(" | ");
            column += 3;
        }
        text.push_str(part);
        column += width;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn parts_are_folded_between_them() {
        let parts = ["aaaa", "bbbb", "cccccccccccc", "d"].map(str::to_owned);
        assert_eq!(fold(&parts, usize::MAX), "aaaa | bbbb | cccccccccccc | d");
        assert_eq!(fold(&parts, 12), "aaaa | bbbb\ncccccccccccc\nd");
        assert_eq!(fold(&parts, 11), "aaaa\nbbbb\ncccccccccccc\nd");
    }
}
