//! What changes from step to step: one small device buffer of 32-bit words, rewritten before each submit.
//!
//! Prepared commands stay the same; kernels read from here which tokens, positions and KV blocks a step is about.
use hal::Span;

/// Set in a token word: its low bits name a row of the last step's samples, and the token is that row's sample.
pub const FEEDBACK: u32 = 1 << 31;

/// How large a step may be. Fixes the layout of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of one step.
    pub tokens: u32,
    /// Rows of logits of one step.
    pub rows: u32,
    /// Sequences that hold KV blocks at the same time.
    pub sequences: u32,
    /// KV blocks of one sequence.
    pub blocks: u32,
    /// Tokens of one KV block.
    pub block_tokens: u32,
    pub vocabulary: u32,
}

/// Which count says how many tokens come before the prompts'.
pub(crate) const EXACT: usize = 3;

/// Words of one row's sampling parameters, see [`crate::sample`].
pub(crate) const SAMPLER_WORDS: u32 = 16;

/// Threads share so many tiles of attention at most; a step writes them all.
const COUNTERS: u32 = 128;

/// The arrays in the buffer, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Array {
    /// tokens, rows, sequences, tokens before the prompts'
    Counts,
    Tokens,
    Positions,
    Sequences,
    Rows,
    Samplers,
    Tables,
    /// Zeros, which kernels count in.
    Counters,
    Seen,
    // The last two are of rows, and large: memory that no row of the step asks for is never touched.
    Allowed,
    Bias,
}

const ARRAYS: [Array; 11] = [
    Array::Counts,
    Array::Tokens,
    Array::Positions,
    Array::Sequences,
    Array::Rows,
    Array::Samplers,
    Array::Tables,
    Array::Counters,
    Array::Seen,
    Array::Allowed,
    Array::Bias,
];

impl Limits {
    fn words(&self, array: Array) -> u64 {
        let [count, each] = match array {
            Array::Counts => [4, 1],
            Array::Tokens | Array::Positions | Array::Sequences => [self.tokens, 1],
            Array::Rows => [self.rows, 1],
            Array::Samplers => [self.rows, SAMPLER_WORDS],
            Array::Tables => [self.sequences, self.blocks],
            Array::Counters => [COUNTERS, 1],
            Array::Seen => [self.sequences, self.seen_words()],
            Array::Allowed => [self.rows, self.seen_words()],
            Array::Bias => [self.rows, self.vocabulary],
        };
        u64::from(count) * u64::from(each)
    }

    /// Words of one set of tokens, seen or allowed: one bit per vocabulary entry.
    #[must_use]
    pub fn seen_words(&self) -> u32 {
        self.vocabulary.div_ceil(32)
    }

    /// First word of an array; each starts on a 64-byte boundary.
    fn start(&self, array: Array) -> u64 {
        let before = ARRAYS.iter().take_while(|other| **other != array);
        before.map(|other| self.words(*other).next_multiple_of(16)).sum()
    }

    /// The word of the step's part that holds `index` of an array.
    fn word(&self, array: Array, index: u32) -> usize {
        let start = usize::try_from(self.start(array)).expect("a step's words fit in memory");
        start + index as usize
    }

    /// Size of the whole buffer.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        4 * (self.start(Array::Bias) + self.words(Array::Bias))
    }

    /// Size of the part that is rewritten at every step: all but sets of tokens and biases.
    #[must_use]
    pub fn step_bytes(&self) -> usize {
        4 * self.word(Array::Seen, 0)
    }
}

/// Spans of the arrays in a device's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    pub whole: Span,
    pub limits: Limits,
}

impl Inputs {
    fn span(&self, array: Array) -> Span {
        self.whole.part(4 * self.limits.start(array), 4 * self.limits.words(array))
    }

    /// `[tokens, rows, sequences, exact]`: the first `exact` tokens continue an answer, the others belong to prompts.
    #[must_use]
    pub fn counts(&self) -> Span {
        self.span(Array::Counts)
    }
    /// Token ids, or [`FEEDBACK`] with a row.
    #[must_use]
    pub fn tokens(&self) -> Span {
        self.span(Array::Tokens)
    }
    #[must_use]
    pub fn positions(&self) -> Span {
        self.span(Array::Positions)
    }
    /// Which table each token belongs to.
    #[must_use]
    pub fn sequences(&self) -> Span {
        self.span(Array::Sequences)
    }
    /// Which tokens' logits are wanted.
    #[must_use]
    pub fn rows(&self) -> Span {
        self.span(Array::Rows)
    }
    #[must_use]
    pub fn samplers(&self) -> Span {
        self.span(Array::Samplers)
    }
    /// KV block ids, `(sequences, blocks)`.
    #[must_use]
    pub fn tables(&self) -> Span {
        self.span(Array::Tables)
    }
    /// Words that are 0 when a launch begins and when it ends.
    #[must_use]
    pub fn counters(&self) -> Span {
        self.span(Array::Counters)
    }
    /// Sets of seen tokens, `(sequences, seen_words)`.
    #[must_use]
    pub fn seen(&self) -> Span {
        self.span(Array::Seen)
    }
    /// The word of `sequence`'s seen set that holds `token`'s bit.
    #[must_use]
    pub fn seen_word(&self, sequence: u32, token: u32) -> Span {
        let word = sequence * self.limits.seen_words() + token / 32;
        self.seen().part(4 * u64::from(word), 4)
    }
    /// Sets of tokens that may be drawn, `(rows, seen_words)`; see [`crate::sample::Sampler::masked`].
    #[must_use]
    pub(crate) fn allowed(&self) -> Span {
        self.span(Array::Allowed)
    }
    /// The set of `row` of the step.
    #[must_use]
    pub fn allowed_row(&self, row: u32) -> Span {
        row_of(self.allowed(), row, self.limits.seen_words())
    }
    /// Numbers added to logits, f32 `(rows, vocabulary)`; see [`crate::sample::Sampler::biased`].
    #[must_use]
    pub(crate) fn bias(&self) -> Span {
        self.span(Array::Bias)
    }
    /// The numbers of `row` of the step.
    #[must_use]
    pub fn bias_row(&self, row: u32) -> Span {
        row_of(self.bias(), row, self.limits.vocabulary)
    }
}

fn row_of(span: Span, row: u32, words: u32) -> Span {
    span.part(4 * u64::from(row) * u64::from(words), 4 * u64::from(words))
}

/// One token of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// A token id, or [`FEEDBACK`] with a row of the last step.
    pub id: u32,
    pub position: u32,
    /// The table it belongs to.
    pub sequence: u32,
    /// Whether its logits are wanted.
    pub wanted: bool,
}

/// The step's part of the buffer, on the host: filled anew for each step, without allocating.
#[derive(Clone, Debug)]
pub struct Batch {
    limits: Limits,
    words: Vec<u32>,
    bytes: Vec<u8>,
    prompts: bool,
}

impl Batch {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let bytes = limits.step_bytes();
        Self { limits, words: vec![0; bytes / 4], bytes: vec![0; bytes], prompts: false }
    }

    /// Forgets the tokens; block tables stay.
    pub fn clear(&mut self) {
        self.words[..4].fill(0);
        self.prompts = false;
    }

    /// Says that the tokens pushed from here on belong to prompts: a device may multiply them in a way that is fast for many
    /// tokens and rounds a little more. A token's results do not depend on what else is in the step, as long as the same
    /// tokens count as a prompt's.
    pub fn start_prompts(&mut self) {
        self.prompts = true;
    }

    #[must_use]
    pub fn tokens(&self) -> u32 {
        self.words[0]
    }

    /// Whether some of the tokens belong to prompts.
    #[must_use]
    pub fn has_prompts(&self) -> bool {
        self.words[EXACT] < self.words[0]
    }

    #[must_use]
    pub fn rows(&self) -> u32 {
        self.words[1]
    }

    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Token `index` of the step.
    #[must_use]
    pub fn token(&self, index: u32) -> Token {
        let at = |array| self.words[self.limits.word(array, index)];
        let wanted = self.row_tokens().contains(&index);
        Token {
            id: at(Array::Tokens),
            position: at(Array::Positions),
            sequence: at(Array::Sequences),
            wanted,
        }
    }

    /// Which tokens' logits are wanted, in the order of the rows.
    #[must_use]
    pub fn row_tokens(&self) -> &[u32] {
        let start = self.limits.word(Array::Rows, 0);
        &self.words[start..start + self.rows() as usize]
    }

    /// Adds a token; returns its row of logits if it wants one. Panics past the limits: the scheduler keeps to them.
    pub fn push(&mut self, token: Token) -> Option<u32> {
        let index = self.words[0];
        assert!(index < self.limits.tokens, "more tokens than the step's limit");
        self.set(Array::Tokens, index, token.id);
        self.set(Array::Positions, index, token.position);
        self.set(Array::Sequences, index, token.sequence);
        self.words[0] += 1;
        if !self.prompts {
            self.words[EXACT] = self.words[0];
        }
        token.wanted.then(|| {
            let row = self.words[1];
            assert!(row < self.limits.rows, "more rows than the step's limit");
            self.set(Array::Rows, row, index);
            self.words[1] += 1;
            row
        })
    }

    /// Sets how row `row` is sampled.
    pub fn set_sampler(&mut self, row: u32, sampler: &crate::sample::Sampler) {
        for (i, word) in sampler.words().into_iter().enumerate() {
            let i = u32::try_from(i).expect("a sampler is a few words");
            self.set(Array::Samplers, row * SAMPLER_WORDS + i, word);
        }
    }

    /// Sets which KV block holds tokens `index * block_tokens ..` of `sequence`.
    pub fn set_block(&mut self, sequence: u32, index: u32, block: u32) {
        self.set(Array::Tables, sequence * self.limits.blocks + index, block);
    }

    /// The image to write to the start of [`Inputs::whole`].
    pub fn image(&mut self) -> &[u8] {
        for (bytes, word) in self.bytes.chunks_exact_mut(4).zip(&self.words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        &self.bytes
    }

    fn set(&mut self, array: Array, index: u32, word: u32) {
        assert!(u64::from(index) < self.limits.words(array), "index leaves the {array:?} array");
        self.words[self.limits.word(array, index)] = word;
    }
}
