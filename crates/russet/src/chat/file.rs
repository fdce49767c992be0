//! Conversations as files: JSON of messages and settings.
use super::conversation::{Conversation, Turn};
use super::settings;
use crate::args::SamplingArguments;
use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

const FORMAT: &str = "russet chat 1";

#[derive(Debug, Deserialize, Serialize)]
struct Saved {
    format: String,
    model: String,
    settings: SamplingArguments,
    messages: Vec<SavedMessage>,
}

#[derive(Debug, Deserialize, Serialize)]
struct SavedMessage {
    role: String,
    content: String,
    /// See [`Turn::partial`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) model: String,
    pub(super) conversation: Conversation,
    pub(super) sampling: SamplingArguments,
}

/// Writes the whole conversation, with what the model no longer sees.
pub(super) fn save(
    path: &Path,
    overwrite: bool,
    model: &str,
    conversation: &Conversation,
    sampling: &SamplingArguments,
) -> anyhow::Result<()> {
    let message = |role: &str, content: &String, partial| SavedMessage {
        role: role.to_owned(),
        content: content.clone(),
        partial,
    };
    let system = conversation.system.iter().map(|text| message("system", text, false));
    let turns = conversation.turns.iter().flat_map(|turn| {
        [message("user", &turn.question, false), message("assistant", &turn.answer, turn.partial)]
    });
    let saved = Saved {
        format: FORMAT.to_owned(),
        model: model.to_owned(),
        settings: sampling.clone(),
        messages: system.chain(turns).collect(),
    };
    let mut json = serde_json::to_string_pretty(&saved)?;
    json.push('\n');
    write(path, overwrite, json.as_bytes())
}

fn write(path: &Path, overwrite: bool, bytes: &[u8]) -> anyhow::Result<()> {
    let shown = || path.display().to_string();
    if overwrite {
        // Beside it first: a full disk must not cost the old file.
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        return fs::write(&partial, bytes)
            .and_then(|()| fs::rename(&partial, path))
            .with_context(shown);
    }
    match File::create_new(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} exists; /save! {} overwrites it", shown(), shown())
        }
        created => created.and_then(|mut file| file.write_all(bytes)).with_context(shown),
    }
}

/// Reads what [`save`] wrote.
pub(super) fn load(path: &Path) -> anyhow::Result<Loaded> {
    let shown = || path.display().to_string();
    let json = fs::read(path).with_context(shown)?;
    let saved: Saved = serde_json::from_slice(&json)
        .with_context(|| format!("{} is no saved chat", path.display()))?;
    if saved.format != FORMAT {
        bail!("{}: the format is {:?}, expected {FORMAT:?}", path.display(), saved.format);
    }
    settings::check(&saved.settings).with_context(shown)?;
    let conversation = conversation(saved.messages).with_context(shown)?;
    Ok(Loaded { model: saved.model, conversation, sampling: saved.settings })
}

/// An optional system message, then questions and answers in turn.
fn conversation(messages: Vec<SavedMessage>) -> anyhow::Result<Conversation> {
    let mut messages = messages.into_iter().enumerate().peekable();
    let system = messages.next_if(|(_, message)| message.role == "system");
    let mut turns = Vec::new();
    while let Some((number, question)) = messages.next() {
        if question.role != "user" {
            bail!("message {} has the role {:?}, expected user", number + 1, question.role);
        }
        let answer = messages.next().map(|(_, message)| message);
        let Some(answer) = answer.filter(|answer| answer.role == "assistant") else {
            bail!("message {} has no answer with the role assistant", number + 1);
        };
        turns.push(Turn {
            question: question.content,
            answer: answer.content,
            partial: answer.partial,
        });
    }
    let system = system.map(|(_, message)| message.content);
    Ok(Conversation { system, turns, forgotten: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: &str) -> SavedMessage {
        SavedMessage { role: role.to_owned(), content: role.to_owned(), partial: false }
    }

    #[test]
    fn roles_take_turns() {
        let of = |roles: &[&str]| conversation(roles.iter().map(|role| message(role)).collect());
        assert_eq!(of(&[]).unwrap(), Conversation::default());
        let full = of(&["system", "user", "assistant", "user", "assistant"]).unwrap();
        assert_eq!((full.system.as_deref(), full.turns.len()), (Some("system"), 2));
        assert!(of(&["assistant"]).unwrap_err().to_string().contains("message 1"));
        assert!(of(&["system", "user"]).unwrap_err().to_string().contains("message 2"));
        assert!(of(&["user", "user"]).is_err());
        assert!(of(&["user", "assistant", "system"]).is_err());
    }
}
