//! The conversation: turns of a question and its answer, and which of them fit into the context.
use model::chat::Message;

/// A question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) question: String,
    pub(super) answer: String,
    /// The answer was cut off: by the user, by `max-tokens` or by the end of the context.
    pub(super) partial: bool,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conversation {
    pub(super) system: Option<String>,
    pub(super) turns: Vec<Turn>,
    /// Turns at the beginning that the model no longer sees, for lack of room.
    pub(super) forgotten: usize,
}

/// A prompt that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fitted {
    pub(super) tokens: Vec<u32>,
    /// See [`Conversation::forgotten`].
    pub(super) forgotten: usize,
}

/// How many tokens a prompt may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) context: usize,
    /// Kept free for the answer.
    pub(super) answer: usize,
}

/// The question alone is too long.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the question takes {tokens} of {context} tokens and leaves no room for an answer: \
     shorten it, or start with a larger --ctx"
)]
pub(super) struct TooLong {
    tokens: usize,
    context: usize,
}

impl Conversation {
    /// What the model is shown: the system message and the turns in `shown`.
    pub(super) fn messages(&self, shown: std::ops::Range<usize>) -> Vec<Message> {
        let message = |role: &str, content: &String| Message::new(role, content);
        let system = self.system.iter().map(|content| message("system", content));
        let turns = self.turns[shown]
            .iter()
            .flat_map(|turn| [message("user", &turn.question), message("assistant", &turn.answer)]);
        system.chain(turns).collect()
    }

    /// The prompt that asks `question` after the first `before` turns. When they do not fit, the oldest are left out:
    /// several at once, because the cache of everything behind them is lost each time.
    pub(super) fn fit(
        &self,
        before: usize,
        question: &str,
        room: Room,
        mut tokens_of: impl FnMut(&[Message]) -> anyhow::Result<Vec<u32>>,
    ) -> anyhow::Result<Fitted> {
        let mut forgotten = self.forgotten.min(before);
        let mut prompt = |first| {
            let mut messages = self.messages(first..before);
            messages.push(Message::new("user", question));
            tokens_of(&messages)
        };
        let mut tokens = prompt(forgotten)?;
        let limit = room.context.saturating_sub(room.answer);
        if tokens.len() > limit {
            let target = limit.saturating_sub(room.context / 4);
            while tokens.len() > target && forgotten < before {
                forgotten += 1;
                tokens = prompt(forgotten)?;
            }
        }
        if tokens.len() >= room.context {
            return Err(TooLong { tokens: tokens.len(), context: room.context }.into());
        }
        Ok(Fitted { tokens, forgotten })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten tokens a turn, one for each byte of a question, five for a system message.
    fn conversation(turns: usize) -> Conversation {
        let turn =
            Turn { question: "12345".to_owned(), answer: "12345".to_owned(), partial: false };
        Conversation {
            system: Some("12345".to_owned()),
            turns: vec![turn; turns],
            ..Conversation::default()
        }
    }

    fn tokens_of(messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        assert_eq!(messages[0].role, "system");
        assert_eq!(messages.last().map(|message| message.role.as_str()), Some("user"));
        Ok(messages.iter().flat_map(|message| message.content.bytes().map(u32::from)).collect())
    }

    fn fit(conversation: &Conversation, question: &str, context: usize) -> anyhow::Result<Fitted> {
        let room = Room { context, answer: 8 };
        conversation.fit(conversation.turns.len(), question, room, tokens_of)
    }

    #[test]
    fn nothing_is_dropped_while_there_is_room() {
        // 5 + 4 * 10 + 3 tokens and 8 for the answer.
        let fitted = fit(&conversation(4), "abc", 56).unwrap();
        assert_eq!((fitted.tokens.len(), fitted.forgotten), (48, 0));
    }

    #[test]
    fn the_oldest_turns_go_until_a_quarter_is_free() {
        // One token less of context: the limit is 47, the target 47 - 13 = 34, so two turns go.
        let fitted = fit(&conversation(4), "abc", 55).unwrap();
        assert_eq!((fitted.tokens.len(), fitted.forgotten), (28, 2));
    }

    #[test]
    fn what_was_forgotten_stays_forgotten() {
        let conversation = Conversation { forgotten: 3, ..conversation(4) };
        let fitted = fit(&conversation, "abc", 1000).unwrap();
        assert_eq!((fitted.tokens.len(), fitted.forgotten), (18, 3));
        // Unless an earlier question is asked again.
        let room = Room { context: 1000, answer: 8 };
        assert_eq!(conversation.fit(1, "abc", room, tokens_of).unwrap().forgotten, 1);
    }

    #[test]
    fn a_question_that_does_not_fit_alone() {
        // The room for the answer is given up first: 5 + 14 of 20 tokens.
        assert_eq!(fit(&conversation(4), &"q".repeat(14), 20).unwrap().forgotten, 4);
        let error = fit(&conversation(4), &"q".repeat(15), 20).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&TooLong { tokens: 20, context: 20 }));
    }
}
