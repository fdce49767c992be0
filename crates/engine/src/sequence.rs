//! One sequence: its tokens, how many of them the cache holds, and how the next one is chosen.
use crate::schedule::Progress;
use ops::sample::Sampler;

/// Names a sequence of an engine. The generation tells a reused place from the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId {
    pub(crate) index: usize,
    pub(crate) generation: u64,
}

/// How a sequence is continued.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// `seed` and `draw` of the sampler start the stream of draws.
    pub sampler: Sampler,
    /// Tokens to sample at most.
    pub tokens_max: u32,
    /// Tokens that end the answer; they are not reported.
    pub end_tokens: Vec<u32>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    ByModel,
    /// `tokens_max` were sampled.
    TokensMax,
    /// The context is full.
    ContextFull,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) generation: u64,
    pub(crate) tokens: Vec<u32>,
    /// Tokens whose K and V the cache holds; the rest is pending.
    pub(crate) cached: usize,
    pub(crate) blocks: Vec<u32>,
    pub(crate) params: Params,
    pub(crate) sampled: u32,
    /// Still to be continued.
    pub(crate) running: bool,
    /// The row of the last step that sampled the newest token, for feedback on the device.
    pub(crate) row: Option<u32>,
}

impl Sequence {
    /// Tokens to run in the next steps.
    fn pending(&self) -> u32 {
        let pending = if self.running { self.tokens.len() - self.cached } else { 0 };
        u32::try_from(pending).expect("the context has fewer than 2^32 tokens")
    }

    /// How far the sequence is, for the scheduler.
    pub(crate) fn progress(&self) -> Progress {
        // A sampled token is run by the next step, so it never waits together with others.
        Progress { pending: self.pending(), decodes: self.sampled > 0 }
    }

    /// Adds a sampled token; says whether it ends the answer.
    pub(crate) fn accept(&mut self, token: u32, context: u32) -> (bool, Option<End>) {
        self.sampled += 1;
        self.params.sampler.draw += 1;
        if self.params.end_tokens.contains(&token) {
            self.running = false;
            // Kept, so that the next turn of a chat finds it where the template puts it.
            self.tokens.push(token);
            return (false, Some(End::ByModel));
        }
        self.tokens.push(token);
        let end = if self.sampled >= self.params.tokens_max {
            Some(End::TokensMax)
        } else if self.tokens.len() >= context as usize {
            Some(End::ContextFull)
        } else {
            None
        };
        self.running = end.is_none();
        (true, end)
    }
}
