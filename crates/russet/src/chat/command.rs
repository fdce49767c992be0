//! What a line of input means: a message, or a command.
use super::typed;
use std::path::PathBuf;

/// A command as `/help` shows it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    arguments: &'static str,
    what: &'static str,
}

const fn entry(name: &'static str, arguments: &'static str, what: &'static str) -> Entry {
    Entry { name, arguments, what }
}

/// Every command.
pub(super) const COMMANDS: [Entry; 11] = [
    entry("/help", "", "this list"),
    entry("/clear", "", "forget the conversation"),
    entry("/system", "TEXT", "set the system message; off removes it"),
    entry("/undo", "", "drop the last question and its answer"),
    entry("/retry", "", "answer the last question again"),
    entry("/edit", "[N]", "change question N, or the last one"),
    entry("/save", "FILE", "/save! FILE overwrites"),
    entry("/load", "FILE", "a conversation and its settings"),
    entry("/set", "NAME VALUE", "change a setting; see /show"),
    entry("/show", "", "settings, context and memory"),
    entry("/quit", "", "or Ctrl-D"),
];

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    Help,
    Clear,
    /// Show it, or set it.
    System(Option<System>),
    Undo,
    Retry,
    /// The number of a question, from 1.
    Edit(Option<usize>),
    Save {
        path: PathBuf,
        overwrite: bool,
    },
    Load(PathBuf),
    Set {
        name: String,
        value: String,
    },
    Show,
    Quit,
}

/// What becomes of the system message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum System {
    Off,
    Text(String),
}

/// A line of input.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Input {
    Nothing,
    Message(String),
    Command(Command),
}

/// Why a command cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("no command {name}; there are {} (// sends a message that begins with /)", names())]
    Unknown { name: String },
    #[error("{name} needs {what}")]
    Missing { name: &'static str, what: &'static str },
    #[error("{name} takes nothing, but got {given:?}")]
    Unexpected { name: String, given: String },
    #[error("/edit takes the number of a question, from 1, not {given:?}")]
    NotANumber { given: String },
}

fn names() -> String {
    COMMANDS.map(|command| command.name).join(" ")
}

/// Understands what was typed. A command begins with `/`; `//` begins a message with `/`.
pub(super) fn parse(typed: &str) -> Result<Input, Error> {
    let text = typed.trim();
    if let Some(rest) = text.strip_prefix('/')
        && !rest.starts_with('/')
    {
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        return command(name, rest.trim()).map(Input::Command);
    }
    let message = typed::text_of(typed);
    let empty = message.trim().is_empty();
    Ok(if empty { Input::Nothing } else { Input::Message(message) })
}

fn command(name: &str, rest: &str) -> Result<Command, Error> {
    let plain = |command: Command| match rest {
        "" => Ok(command),
        _ => Err(Error::Unexpected { name: name.to_owned(), given: rest.to_owned() }),
    };
    let path = |name| match rest {
        "" => Err(Error::Missing { name, what: "a file" }),
        _ => Ok(PathBuf::from(rest)),
    };
    match name {
        "/help" => plain(Command::Help),
        "/clear" => plain(Command::Clear),
        "/undo" => plain(Command::Undo),
        "/retry" => plain(Command::Retry),
        "/show" => plain(Command::Show),
        "/quit" | "/exit" => plain(Command::Quit),
        "/system" => Ok(Command::System(match rest {
            "" => None,
            "off" => Some(System::Off),
            _ => Some(System::Text(typed::text_of(rest))),
        })),
        "/edit" if rest.is_empty() => Ok(Command::Edit(None)),
        "/edit" => match rest.parse() {
            Ok(number) if number > 0 => Ok(Command::Edit(Some(number))),
            _ => Err(Error::NotANumber { given: rest.to_owned() }),
        },
        "/save" => Ok(Command::Save { path: path("/save")?, overwrite: false }),
        "/save!" => Ok(Command::Save { path: path("/save!")?, overwrite: true }),
        "/load" => Ok(Command::Load(path("/load")?)),
        "/set" if rest.is_empty() => Ok(Command::Show),
        "/set" => match rest.split_once(char::is_whitespace) {
            Some((name, value)) => {
                Ok(Command::Set { name: name.to_owned(), value: value.trim().to_owned() })
            }
            None => Err(Error::Missing { name: "/set", what: "a name and a value" }),
        },
        _ => Err(Error::Unknown { name: name.to_owned() }),
    }
}

/// The text of `/help`, in fewer than 60 columns.
pub(super) fn help() -> String {
    let mut text = String::new();
    for Entry { name, arguments, what } in &COMMANDS {
        let usage = format!("{name} {arguments}");
        text += &format!("{usage:<17}{what}\n");
    }
    text += "A \\ at the end of a line continues the message;\n\
             \"\"\" begins and ends one of several lines.\n\
             Ctrl-C stops an answer, or clears the line.";
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(typed: &str) -> Input {
        parse(typed).expect(typed)
    }

    #[test]
    fn messages() {
        assert_eq!(parsed(""), Input::Nothing);
        assert_eq!(parsed("  \t"), Input::Nothing);
        assert_eq!(parsed("\"\"\"\n\n\"\"\""), Input::Nothing);
        assert_eq!(parsed("a\\\nb"), Input::Message("a\nb".to_owned()));
        assert_eq!(parsed("//tmp is what?"), Input::Message("/tmp is what?".to_owned()));
        assert_eq!(parsed("\"\"\"\n/quit\n\"\"\""), Input::Message("/quit".to_owned()));
    }

    #[test]
    fn commands() {
        let command = |typed| match parsed(typed) {
            Input::Command(command) => command,
            other => panic!("{typed}: {other:?}"),
        };
        for (typed, expected) in [
            (" /help ", Command::Help),
            ("/exit", Command::Quit),
            ("/system", Command::System(None)),
            ("/system off", Command::System(Some(System::Off))),
            ("/system Be  brief.", Command::System(Some(System::Text("Be  brief.".to_owned())))),
            ("/system a\\\nb", Command::System(Some(System::Text("a\nb".to_owned())))),
            ("/edit", Command::Edit(None)),
            ("/edit 2", Command::Edit(Some(2))),
            ("/save a b", Command::Save { path: "a b".into(), overwrite: false }),
            ("/save! a", Command::Save { path: "a".into(), overwrite: true }),
            ("/load a", Command::Load("a".into())),
            ("/set", Command::Show),
            ("/set top-k 3", Command::Set { name: "top-k".to_owned(), value: "3".to_owned() }),
        ] {
            assert_eq!(command(typed), expected, "{typed}");
        }
    }

    #[test]
    fn what_is_no_command() {
        let error = |typed| parse(typed).expect_err(typed).to_string();
        let unknown = error("/sav x");
        assert!(unknown.contains("no command /sav"), "{unknown}");
        for command in &COMMANDS {
            assert!(unknown.contains(command.name), "{unknown}");
            let known = !matches!(parse(command.name), Err(Error::Unknown { .. }));
            assert!(known, "{} is listed but not understood", command.name);
        }
        assert!(error("/quit now").contains("takes nothing"));
        assert!(error("/edit 0").contains("from 1"));
        assert!(error("/save").contains("needs a file"));
        assert!(error("/set seed").contains("a name and a value"));
    }

    #[test]
    fn help_fits_a_narrow_terminal() {
        assert!(help().lines().all(|line| line.chars().count() < 60), "{}", help());
    }
}
