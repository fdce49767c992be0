//! What a model answered: text, reasoning and calls of functions, told apart as the text arrives.
//!
//! Each family of models writes calls in its own syntax, and the chat template shows which: [`Format::of_template`].
//! Nothing is lost: what turns out not to be a call comes out as content, marker and all. White space beside a marker
//! belongs to the marker. Arguments are streamed as written, without a check that they are JSON beyond their brackets:
//! as with OpenAI's API, a client must be ready for arguments that are cut off or wrong.

mod choice;
mod format;
mod header;
#[cfg(test)]
mod tests;

use header::{Braces, Header, Step};

pub use choice::{Choice, ChoiceError};
pub use format::Format;

/// What a piece of text added to the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    Content(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// A call begins. Calls count from 0.
    ToolCall {
        index: usize,
        name: String,
    },
    /// The next piece of the newest call's arguments, a JSON object as text.
    ToolArguments {
        index: usize,
        piece: String,
    },
}

/// Where in an answer the held text stands.
#[derive(Debug)]
enum State {
    /// Nothing but white space yet, or only reasoning: a call may come without a marker.
    Start,
    /// After a call that was followed by what belongs to none, its end marker is still to come.
    Content {
        closing: bool,
    },
    Reasoning,
    /// A call begins `at` bytes into the held text; before it, space and marker.
    Call {
        at: usize,
    },
    /// `wrapped`: in an object that holds the name too.
    Arguments {
        braces: Braces,
        wrapped: bool,
    },
    /// Behind the arguments; `wrapped` until that object's end.
    Tail {
        wrapped: bool,
    },
}

/// Takes an answer apart. Feed it the text of a [`crate::tokenizer::Stream`] that shows [`Format::markers`].
#[derive(Debug)]
pub struct OutputParser {
    format: Format,
    tools: Vec<String>,
    state: State,
    /// Text that could still become something else.
    held: String,
    /// White space is dropped until other text comes.
    after_marker: bool,
    /// The newest call has a marker, so an end marker may follow.
    marked: bool,
    calls: usize,
    deltas: Vec<Delta>,
}

impl OutputParser {
    /// `tools` are the names of the functions that the model was offered: without any, nothing is taken for a call.
    /// `prompt` is the rendered prompt: templates may open the reasoning themselves.
    #[must_use]
    pub fn new(format: Format, tools: impl IntoIterator<Item = String>, prompt: &str) -> Self {
        let thinks = format.reasoning.is_some_and(|[open, _]| prompt.trim_end().ends_with(open));
        Self {
            format,
            tools: tools.into_iter().collect(),
            state: if thinks { State::Reasoning } else { State::Start },
            held: String::new(),
            after_marker: thinks,
            marked: false,
            calls: 0,
            deltas: Vec::new(),
        }
    }

    /// Takes the next piece of text and returns what is certain with it.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        self.held.push_str(text);
        while self.step(false) {}
        std::mem::take(&mut self.deltas)
    }

    /// The end of the answer: what was held back.
    pub fn finish(&mut self) -> Vec<Delta> {
        while self.step(true) {}
        std::mem::take(&mut self.deltas)
    }

    /// Goes on from one state to the next; false when more text is needed. `end`: there is none.
    fn step(&mut self, end: bool) -> bool {
        if self.after_marker {
            let space = self.held.len() - self.held.trim_start().len();
            self.held.drain(..space);
            self.after_marker = self.held.is_empty();
        }
        if self.held.is_empty() {
            return false;
        }
        match self.state {
            State::Start => self.start(end),
            State::Content { closing } => self.content(closing, end),
            State::Reasoning => self.reasoning(end),
            State::Call { at } => self.call(at, end),
            State::Arguments { braces, wrapped } => self.arguments(braces, wrapped),
            State::Tail { wrapped: true } => self.wrapper(end),
            State::Tail { wrapped: false } => self.tail(end),
        }
    }

    fn start(&mut self, end: bool) -> bool {
        let at = self.held.len() - self.held.trim_start().len();
        if at == self.held.len() && !end {
            return false;
        }
        let bare =
            self.format.bare && !self.tools.is_empty() && self.held[at..].starts_with(['{', '[']);
        self.state = if bare { State::Call { at } } else { State::Content { closing: false } };
        true
    }

    fn content(&mut self, closing: bool, end: bool) -> bool {
        let thinks = self.format.reasoning.map(|[open, _]| open);
        let close = Some(self.format.close).filter(|_| closing);
        let opens = self.opens();
        let markers: Vec<&str> =
            thinks.into_iter().chain(close).chain(opens.iter().copied()).collect();
        let places = markers.iter().filter_map(|m| self.held.find(m).map(|at| (at, *m)));
        let Some((at, marker)) = places.min_by_key(|place| place.0) else {
            let kept = if end { 0 } else { undecided(&self.held, &markers) };
            return self.emit(self.held.len() - kept, Delta::Content);
        };
        let before = self.held[..at].trim_end().len();
        self.emit(before, Delta::Content);
        let marker_end = at - before + marker.len();
        if opens.contains(&marker) {
            // The space and the marker are content again if this is no call.
            (self.state, self.marked) = (State::Call { at: marker_end }, true);
            return true;
        }
        self.held.drain(..marker_end);
        self.after_marker = true;
        let thought = thinks == Some(marker);
        self.state = if thought { State::Reasoning } else { State::Content { closing: false } };
        true
    }

    fn reasoning(&mut self, end: bool) -> bool {
        let Some([_, close]) = self.format.reasoning else { return false };
        let Some(at) = self.held.find(close) else {
            let kept = if end { 0 } else { undecided(&self.held, &[close]) };
            return self.emit(self.held.len() - kept, Delta::Reasoning);
        };
        let before = self.held[..at].trim_end().len();
        self.emit(before, Delta::Reasoning);
        self.held.drain(..at - before + close.len());
        (self.after_marker, self.state) = (true, State::Start);
        true
    }

    fn call(&mut self, at: usize, end: bool) -> bool {
        let tools = (!self.format.certain).then_some(self.tools.as_slice());
        match header::call(&self.held[at..], tools, self.format.named) {
            Step::Incomplete if !end => return false,
            Step::Incomplete | Step::Malformed => {
                self.state = State::Content { closing: false };
                self.emit(at, Delta::Content);
            }
            Step::Done(Header { name, arguments, end, wrapped }) => {
                self.held.drain(..at + end);
                let index = self.calls;
                self.calls += 1;
                self.deltas.push(Delta::ToolCall { index, name });
                self.state = match arguments {
                    None => State::Arguments { braces: Braces::default(), wrapped },
                    Some(piece) => {
                        self.deltas.push(Delta::ToolArguments { index, piece });
                        State::Tail { wrapped }
                    }
                };
            }
        }
        true
    }

    fn arguments(&mut self, mut braces: Braces, wrapped: bool) -> bool {
        let end = braces.feed(&self.held);
        self.state = match end {
            Some(_) => State::Tail { wrapped },
            None => State::Arguments { braces, wrapped },
        };
        let index = self.calls - 1;
        self.emit(end.unwrap_or(self.held.len()), |piece| Delta::ToolArguments { index, piece })
    }

    /// The rest of the object around name and arguments.
    fn wrapper(&mut self, end: bool) -> bool {
        match header::rest_of_object(&self.held) {
            Step::Incomplete if !end => return false,
            Step::Done(bytes) => {
                self.held.drain(..bytes);
                self.state = State::Tail { wrapped: false };
            }
            Step::Incomplete | Step::Malformed => {
                self.state = State::Content { closing: self.marked }
            }
        }
        true
    }

    /// Between calls, or behind the last.
    fn tail(&mut self, end: bool) -> bool {
        let separator = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | ']');
        let rest = self.held.trim_start_matches(separator);
        let close = if self.marked { self.format.close } else { "" };
        let opens = self.opens();
        let mut dropped = self.held.len() - rest.len();
        self.state = if rest.starts_with('{') {
            State::Call { at: 0 }
        } else if let Some(open) = opens.iter().find(|open| rest.starts_with(**open)) {
            self.marked = true;
            State::Call { at: open.len() }
        } else if !close.is_empty() && rest.starts_with(close) {
            dropped += close.len();
            self.after_marker = true;
            State::Content { closing: false }
        } else if !end && opens.iter().chain([&close]).any(|marker| marker.starts_with(rest)) {
            return false;
        } else {
            State::Content { closing: !close.is_empty() }
        };
        self.held.drain(..dropped);
        true
    }

    fn opens(&self) -> &'static [&'static str] {
        if self.tools.is_empty() { &[] } else { self.format.open }
    }

    /// Emits the first `bytes` that are held; false if that is nothing.
    fn emit(&mut self, bytes: usize, delta: impl FnOnce(String) -> Delta) -> bool {
        if bytes > 0 {
            self.deltas.push(delta(self.held.drain(..bytes).collect()));
        }
        bytes > 0
    }
}

/// Bytes at the end of `text` that could begin a marker, with the white space before them, which goes with it.
fn undecided(text: &str, markers: &[&str]) -> usize {
    let begins = |marker: &&str| {
        let lengths = marker.char_indices().map(|(at, _)| at).skip(1);
        lengths.filter(|&at| text.ends_with(&marker[..at])).max().unwrap_or(0)
    };
    let begun = markers.iter().map(begins).max().unwrap_or(0);
    let before = &text[..text.len() - begun];
    if markers.is_empty() { 0 } else { text.len() - before.trim_end().len() }
}
