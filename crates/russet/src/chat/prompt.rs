//! Where questions come from: an editor on a terminal, or the lines of a pipe.
use super::command::COMMANDS;
use super::{settings, typed};
use crate::session::say;
use anyhow::Context as _;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::config::Behavior;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use std::cell::Cell;
use std::io::{BufRead as _, ErrorKind, IsTerminal as _};
use std::path::{Path, PathBuf};

const PROMPT: &str = "> ";
const HISTORY_MAX: usize = 1000;

/// What was entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    Text(String),
    /// Ctrl-C, and whether there was nothing to clear.
    Interrupted {
        empty: bool,
    },
    End,
}

/// See the module.
pub(super) enum Prompt {
    Terminal(Box<Terminal>),
    /// Nobody is there: no prompt is shown.
    Lines,
}

pub(super) struct Terminal {
    editor: Editor<Assist, DefaultHistory>,
    history: Option<PathBuf>,
}

impl Prompt {
    /// For the standard input of this process. `history` is where lines are remembered.
    pub(super) fn open(history: Option<PathBuf>) -> anyhow::Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Lines);
        }
        let output = std::io::stdout();
        // Standard output is for answers: when it is no terminal, the editor goes around it.
        let behavior = if output.is_terminal() { Behavior::Stdio } else { Behavior::PreferTerm };
        let config = Config::builder()
            .behavior(behavior)
            .completion_type(CompletionType::List)
            .max_history_size(HISTORY_MAX)?
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Assist::default()));
        let history = history.filter(|path| load_history(&mut editor, path));
        Ok(Self::Terminal(Box::new(Terminal { editor, history })))
    }

    /// Whether somebody sits there.
    pub(super) const fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// Columns that a line may have.
    pub(super) fn columns(&mut self) -> usize {
        match self {
            Self::Terminal(terminal) => {
                terminal.editor.dimensions().map_or(80, |(columns, _)| usize::from(columns).max(20))
            }
            Self::Lines => usize::MAX,
        }
    }

    /// The next text, which may have several lines. On a terminal, `initial` is there to be edited.
    pub(super) fn read(&mut self, initial: &str) -> anyhow::Result<Entered> {
        match self {
            Self::Terminal(terminal) => terminal.read(initial),
            Self::Lines => read_lines(),
        }
    }
}

fn read_lines() -> anyhow::Result<Entered> {
    let mut input = std::io::stdin().lock();
    let mut text = String::new();
    loop {
        let bytes = input.read_line(&mut text).context("standard input is not UTF-8 text")?;
        if bytes == 0 && text.is_empty() {
            return Ok(Entered::End);
        }
        if text.ends_with('\n') {
            text.pop();
        }
        if text.ends_with('\r') {
            text.pop();
        }
        if bytes == 0 || typed::is_complete(&text) {
            return Ok(Entered::Text(text));
        }
        text.push('\n');
    }
}

/// Whether lines can be remembered there.
fn load_history(editor: &mut Editor<Assist, DefaultHistory>, path: &Path) -> bool {
    match editor.load_history(path) {
        Ok(()) => true,
        Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::NotFound => true,
        Err(error) => {
            say(&format!("no history: {}: {error}", path.display()));
            false
        }
    }
}

impl Terminal {
    fn read(&mut self, initial: &str) -> anyhow::Result<Entered> {
        loop {
            return match self.editor.readline_with_initial(PROMPT, (initial, "")) {
                Ok(text) => {
                    self.remember(&text)?;
                    Ok(Entered::Text(text))
                }
                Err(ReadlineError::Interrupted) => {
                    let empty = self.editor.helper().is_none_or(|assist| assist.empty.get());
                    Ok(Entered::Interrupted { empty })
                }
                Err(ReadlineError::Eof) => Ok(Entered::End),
                // The window changed its size.
                Err(ReadlineError::Signal(_)) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    fn remember(&mut self, text: &str) -> anyhow::Result<()> {
        if text.trim().is_empty() {
            return Ok(());
        }
        self.editor.add_history_entry(text)?;
        // At once, so that a process that is killed loses nothing.
        if let Some(path) = &self.history
            && let Err(error) = self.editor.append_history(path)
        {
            say(&format!("no history any more: {}: {error}", path.display()));
            self.history = None;
        }
        Ok(())
    }
}

/// What the editor asks while somebody types.
#[derive(Default)]
struct Assist {
    files: FilenameCompleter,
    /// Whether the line is empty.
    empty: Cell<bool>,
}

impl Helper for Assist {}

impl Highlighter for Assist {}

/// There are no hints, but this is how the editor tells what the line is.
impl Hinter for Assist {
    type Hint = String;

    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.empty.set(line.is_empty());
        None
    }
}

impl Validator for Assist {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match typed::is_complete(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Completer for Assist {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..position];
        if ["/save ", "/save! ", "/load "].iter().any(|command| typed.starts_with(command)) {
            return self.files.complete_path(line, position);
        }
        Ok(completions(typed))
    }
}

/// Where the word begins that can be completed, and by what.
fn completions(typed: &str) -> (usize, Vec<Pair>) {
    let pairs = |words: &[&str], prefix: &str| {
        let matching = words.iter().filter(|word| word.starts_with(prefix));
        let pair =
            |word: &&str| Pair { display: (*word).to_owned(), replacement: format!("{word} ") };
        matching.map(pair).collect()
    };
    match typed.strip_prefix("/set ") {
        Some(name) => ("/set ".len(), pairs(&settings::NAMES, name)),
        None if typed.starts_with('/') => (0, pairs(&COMMANDS.map(|command| command.name), typed)),
        None => (typed.len(), Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion() {
        let replacements = |typed| {
            let (start, pairs) = completions(typed);
            let words: Vec<String> = pairs.into_iter().map(|pair| pair.replacement).collect();
            (start, words)
        };
        assert_eq!(replacements("/q"), (0, vec!["/quit ".to_owned()]));
        assert_eq!(replacements("/s").1.len(), 4);
        assert_eq!(replacements("/set top").1, ["top-k ", "top-p "]);
        assert_eq!(replacements("hello").1.len(), 0);
        assert_eq!(replacements("/nothing").1.len(), 0);
    }
}
