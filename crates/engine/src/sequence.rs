//! One sequence: its tokens, how many of them the cache holds, and how the next one is chosen.
use crate::Error;
use crate::adjust::Adjust;
use crate::blocks::Path;
use crate::grammar::Constraint;
use crate::memory::BLOCK_TOKENS;
use crate::speculate::{GUESSES_MAX, Record, lookup};
use ops::sample::Sampler;

/// Names a sequence of an engine, by the number of its arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId(pub(crate) u64);

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
    /// What the answer must follow.
    pub constraint: Option<Constraint>,
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
            constraint: None,
            logprobs: None,
            when_full: WhenFull::End,
            reuse: Reuse::All,
        }
    }
}

impl Params {
    /// Whether all numbers are within their bounds.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let s = &self.sampler;
        let finite = |x: f32| x.is_finite();
        let checks = [
            (
                finite(s.temperature) && s.temperature >= 0.0,
                "temperature",
                "0 or more",
                s.temperature,
            ),
            ((0.0..=1.0).contains(&s.top_p), "top_p", "0 to 1", s.top_p),
            ((0.0..=1.0).contains(&s.min_p), "min_p", "0 to 1", s.min_p),
            ((0.0..=1.0).contains(&s.typical_p), "typical_p", "0 to 1", s.typical_p),
            (
                (0.0..=1.0).contains(&s.xtc_probability),
                "xtc_probability",
                "0 to 1",
                s.xtc_probability,
            ),
            (s.xtc_threshold > 0.0, "xtc_threshold", "more than 0", s.xtc_threshold),
            (
                finite(s.repetition_penalty) && s.repetition_penalty > 0.0,
                "repetition_penalty",
                "more than 0",
                s.repetition_penalty,
            ),
            (
                finite(self.penalties.frequency),
                "frequency_penalty",
                "a number",
                self.penalties.frequency,
            ),
            (
                finite(self.penalties.presence),
                "presence_penalty",
                "a number",
                self.penalties.presence,
            ),
            (
                finite(self.penalties.dry.multiplier),
                "dry_multiplier",
                "a number",
                self.penalties.dry.multiplier,
            ),
            (
                finite(self.penalties.dry.base) && self.penalties.dry.base >= 1.0,
                "dry_base",
                "1 or more",
                self.penalties.dry.base,
            ),
        ];
        if let Some((_, name, expected, value)) = checks.iter().find(|(good, ..)| !good) {
            return Err(Error::BadRequest {
                what: format!("{name} is {value}, expected {expected}"),
            });
        }
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan() || *bias == f32::INFINITY) {
            Some((token, bias)) => Err(Error::BadRequest {
                what: format!("logit_bias of token {token} is {bias}, expected a number"),
            }),
            None => Ok(()),
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
    /// None: everything is read.
    Nothing,
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
    /// The grammar came to a point where it allows no token of the model's, or where it is too complex to go on.
    Stuck,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) tokens: Vec<u32>,
    /// So many of the tokens are read as a prompt; the others were sampled.
    pub(crate) prompt: usize,
    /// Tokens whose K and V the cache holds; the rest is pending.
    pub(crate) cached: usize,
    /// Tokens of the prompt that the cache held at the start.
    pub(crate) found: u32,
    pub(crate) blocks: Vec<u32>,
    /// Full blocks that others can find, and where they lead.
    pub(crate) kept: usize,
    pub(crate) path: Path,
    /// Its row of the block tables, while it runs.
    pub(crate) place: Option<u32>,
    pub(crate) params: Params,
    pub(crate) adjust: Option<Box<Adjust>>,
    pub(crate) sampled: u32,
    /// The answer ended; the tokens can still be asked for.
    pub(crate) ended: bool,
    pub(crate) logprobs: Option<Logprobs>,
    /// Guesses at the tokens that follow, for the next step.
    pub(crate) guesses: Vec<u32>,
    pub(crate) record: Record,
    /// The draft's sequence that guesses for this one.
    pub(crate) draft: Option<SequenceId>,
    /// Its full blocks may be found by others. A draft's text is taken back at times.
    pub(crate) shares: bool,
    /// With so many tokens it keeps its place and is not continued.
    pub(crate) rests_at: Option<usize>,
    /// The step and the row that sampled the newest token, for feedback on the device.
    pub(crate) row: Option<(u64, u32)>,
}

impl Sequence {
    pub(crate) fn new(id: SequenceId, prompt: &[u32], params: Params) -> Self {
        Self {
            id,
            tokens: prompt.to_vec(),
            prompt: prompt.len(),
            cached: 0,
            found: 0,
            blocks: Vec::new(),
            kept: 0,
            path: Path::ROOT,
            place: None,
            adjust: Adjust::new(&params, prompt).map(Box::new),
            params,
            sampled: 0,
            ended: false,
            logprobs: None,
            guesses: Vec::with_capacity(GUESSES_MAX as usize),
            record: Record::NEW,
            draft: None,
            shares: true,
            rests_at: None,
            row: None,
        }
    }

    /// Nothing of it is to be run.
    pub(crate) fn rests(&self) -> bool {
        self.ended || self.rests_at.is_some_and(|tokens| self.tokens.len() >= tokens)
    }

    /// What is to be run in one way when the cache holds the first `cached` tokens: the rest of the prompt, or of the answer.
    pub(crate) fn pending(&self, cached: usize) -> &[u32] {
        let end = if cached < self.prompt { self.prompt } else { self.tokens.len() };
        &self.tokens[cached..end]
    }

    /// It runs, and only the token that was sampled last is pending.
    pub(crate) fn goes_on(&self) -> bool {
        self.place.is_some() && self.sampled > 0 && self.cached + 1 == self.tokens.len()
    }

    /// Takes the memory that all its tokens will need, at most `room` of them.
    pub(crate) fn reserve(&mut self, room: usize) {
        let answer = self.params.tokens_max as usize;
        let most = self.tokens.len().saturating_add(answer).min(room) + 1;
        self.tokens.reserve(most.saturating_sub(self.tokens.len()));
        self.blocks.reserve(room.div_ceil(BLOCK_TOKENS as usize));
    }

    /// How many guesses at the next tokens can pay, at most `room`. None where what a sampler makes of a token depends on the tokens
    /// before it in the same step, or each must be seen by itself.
    pub(crate) fn guesses_wanted(&self, cost: f64, room: usize) -> usize {
        let free = self.adjust.is_none() && self.params.constraint.is_none();
        let alone = free && self.params.sampler.repetition_penalty == 1.0;
        if !alone || self.params.logprobs.is_some() || !self.goes_on() {
            return 0;
        }
        let left = self.params.tokens_max.saturating_sub(self.sampled + 1) as usize;
        left.min(room).min(self.record.guesses(cost) as usize)
    }

    /// Guesses by what the text already has.
    pub(crate) fn look_up(&mut self, most: usize) {
        lookup(&self.tokens, most, &mut self.guesses);
    }

    /// Tokens that need not be run when the cache holds them: all but the last, whose logits are wanted.
    pub(crate) fn reusable(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - 1]
    }

    /// Adds a sampled token; says whether it is part of the answer, and whether it ends it. `room` is how many tokens can be held.
    pub(crate) fn accept(&mut self, token: u32, room: usize) -> (bool, Option<End>) {
        self.sampled += 1;
        self.params.sampler.draw += 1;
        self.tokens.push(token);
        if let Some(adjust) = &mut self.adjust {
            adjust.accept(&self.tokens, self.prompt);
        }
        if !self.follows(token) {
            self.ended = true;
            return (false, Some(End::Stuck));
        }
        if self.params.end_tokens.contains(&token) {
            self.ended = true;
            return (false, Some(End::ByModel));
        }
        let full = self.tokens.len() >= room;
        let end = if self.params.constraint.as_ref().is_some_and(Constraint::is_finished) {
            Some(End::ByModel)
        } else if self.sampled >= self.params.tokens_max {
            Some(End::TokensMax)
        } else if full && self.params.when_full == WhenFull::End {
            Some(End::ContextFull)
        } else {
            None
        };
        self.ended = end.is_some();
        (true, end)
    }

    /// Whether the grammar, if there is one, goes on with this token.
    fn follows(&mut self, token: u32) -> bool {
        self.params.constraint.as_mut().is_none_or(|constraint| constraint.accept(token).is_ok())
    }

    /// Makes room in a full context: see [`WhenFull::Shift`]. What stays is read again as a prompt.
    pub(crate) fn shift(&mut self, keep: u32) {
        let keep = (keep as usize).min(self.tokens.len() / 2);
        let dropped = (self.tokens.len() - keep) / 2;
        self.tokens.drain(keep..keep + dropped);
        (self.prompt, self.row) = (self.tokens.len(), None);
    }
}
