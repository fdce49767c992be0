//! Decoding as tokens arrive: a character is shown only when all its bytes are there.

use super::{Control, Tokenizer};

/// Decodes one token after another. The texts it returns, put together, are what
/// [`Tokenizer::decode`] makes of all the tokens at once.
#[derive(Debug)]
pub struct Stream<'t> {
    tokenizer: &'t Tokenizer,
    control: Control,
    /// Control tokens that are shown all the same.
    shown: Vec<u32>,
    /// Bytes of a character that is not whole yet: at most three.
    held: Vec<u8>,
    text: String,
}

impl<'t> Stream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, control: Control) -> Self {
        Self { tokenizer, control, shown: Vec::new(), held: Vec::new(), text: String::new() }
    }

    /// Shows the control tokens of these names even where others are skipped: a parser of the text needs them.
    #[must_use]
    pub fn showing<'n>(mut self, names: impl IntoIterator<Item = &'n str>) -> Self {
        self.shown.extend(names.into_iter().filter_map(|name| self.tokenizer.token_id(name)));
        self
    }

    /// Takes the next token and returns the text that is whole with it, often none.
    pub fn push(&mut self, id: u32) -> &str {
        self.text.clear();
        let hidden = self.control == Control::Skip && self.tokenizer.is_control(id);
        if !hidden || self.shown.contains(&id) {
            self.held.extend_from_slice(self.tokenizer.token_bytes(id));
            self.drain();
        }
        &self.text
    }

    /// Ends the stream: what was held back and can no longer become whole, as U+FFFD.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.held.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
            self.held.clear();
        }
        &self.text
    }

    /// Moves all that can be told from `held` to `text`.
    fn drain(&mut self) {
        let mut rest = self.held.as_slice();
        loop {
            let (whole, bad) = match std::str::from_utf8(rest) {
                Ok(text) => (text.len(), None),
                Err(e) => (e.valid_up_to(), Some(e.error_len())),
            };
            self.text.push_str(std::str::from_utf8(&rest[..whole]).unwrap_or_default());
            rest = &rest[whole..];
            let Some(Some(bytes)) = bad else { break };
            self.text.push(char::REPLACEMENT_CHARACTER);
            rest = &rest[bytes..];
        }
        self.held = rest.to_vec();
    }
}
