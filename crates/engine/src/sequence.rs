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
#[derive(Clone, Debug)]
pub struct Params {
    /// `seed` and `draw` of the sampler start the stream of draws.
    pub sampler: Sampler,
    /// Tokens to sample at most.
    pub tokens_max: u32,
    /// Tokens that end the answer; they are not reported.
    pub end_tokens: Vec<u32>,
    pub penalties: Penalties,
    /// Added to the logits of these tokens; negative infinity forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Keep the log probability of each sampled token, and of so many of the most probable ones.
    pub logprobs: Option<u32>,
    pub when_full: WhenFull,
    pub reuse: Reuse,
}

impl Params {
    /// Up to `tokens_max` tokens by `sampler`, with everything else off.
    #[must_use]
    pub fn new(sampler: Sampler, tokens_max: u32) -> Self {
        Self {
            sampler,
            tokens_max,
            end_tokens: Vec::new(),
            penalties: Penalties::default(),
            logit_bias: Vec::new(),
            logprobs: None,
            when_full: WhenFull::End,
            reuse: Reuse::All,
        }
    }
}

/// What makes tokens less probable by what came before; 0 is off.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Penalties {
    /// Taken from a token's logit for each time that the answer has it (OpenAI's API).
    pub frequency: f32,
    /// Taken from a token's logit once when the answer has it (OpenAI's API).
    pub presence: f32,
    pub dry: Dry,
}

/// "Don't repeat yourself" (p-e-w, text-generation-webui): a token that would make the end of the text the repetition of an earlier
/// stretch of `n > length_allowed` tokens loses `multiplier * base^(n - length_allowed)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dry {
    /// 0 is off.
    pub multiplier: f32,
    pub base: f32,
    pub length_allowed: u32,
}

impl Default for Dry {
    fn default() -> Self {
        Self { multiplier: 0.0, base: 1.75, length_allowed: 2 }
    }
}

/// What happens when the context is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// The answer ends with [`End::ContextFull`].
    End,
    /// The first `keep` tokens and the newer half of the others stay, and are read again.
    Shift { keep: u32 },
}

/// Which K and V of earlier sequences a prompt may reuse. Those of prompts are what reading it anew would give, bit by bit; those of answers
/// were computed by kernels that round less, so that later tokens can differ in the last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Those of prompts and of answers: a conversation goes on without reading anything twice.
    All,
    /// Those of prompts: the same request gives the same tokens, whatever ran before.
    Prompts,
}

/// How a sampled token stood among the others, before anything changed its logits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logprobs {
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The most probable tokens with theirs, most probable first.
    pub top: Vec<(u32, f32)>,
}

/// How the rows of a text become one embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    Mean,
    /// The row of the last token.
    Last,
    /// The row of the first token.
    Cls,
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
