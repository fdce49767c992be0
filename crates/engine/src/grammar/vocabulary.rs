//! A model's vocabulary as a trie of bytes: what masks are made over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::ParserLimits;
use llguidance::toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use model::tokenizer::Tokenizer;

use super::{Constraint, Error, Grammar};

/// The trie counts the way back from a token in 10 bits.
const TOKEN_BYTES_MAX: usize = 1000;

/// What a grammar may cost. A schema of 30 objects takes 25,000 of fuel for its first mask, less for later ones, and
/// some hundred states of 2 KB. The worst that was found takes 4 seconds to be refused and half a second a mask.
fn limits() -> ParserLimits {
    ParserLimits {
        max_grammar_size: 20_000,
        // Four for each optional property of an object.
        max_items_in_row: 5000,
        step_max_items: 20_000,
        initial_lexer_fuel: 300_000,
        step_lexer_fuel: 100_000,
        max_lexer_states: 30_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

/// A model's vocabulary, ready for grammars. Build it once per model, when first needed, and share it: it takes a
/// fraction of a second, or seconds for 262,144 tokens.
pub struct Vocabulary {
    factory: ParserFactory,
    tokens: usize,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl Vocabulary {
    /// Fails only with [`Error::Internal`].
    pub fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, Error> {
        let tokens = tokenizer.vocab_size();
        let internal = |what| Error::Internal { grammar: "vocabulary", what };
        // The trie asserts that it can hold the tokens.
        let factory = catch_unwind(AssertUnwindSafe(|| {
            let spelling: TokEnv = Arc::new(Spelling { trie: trie(&tokenizer), tokenizer });
            ParserFactory::new_simple(&spelling)
        }));
        let mut factory = factory
            .map_err(|_| internal("the trie cannot hold its tokens".to_owned()))?
            .map_err(|error| internal(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory, tokens })
    }

    /// Compiles a grammar into the state of an answer that has not begun; clone it for further answers. Takes
    /// milliseconds, and seconds where it is meant to do harm: not for the thread that runs steps.
    pub fn constrain(&self, grammar: &Grammar) -> Result<Constraint, Error> {
        let source = grammar.checked()?;
        let parser = self
            .factory
            .create_parser(source)
            .map_err(|error| Error::compile(grammar.name(), &error))?;
        let mut constraint = Constraint::new(parser, grammar.name())?;
        // What nothing can match, or what is too much work, mostly shows at once.
        match constraint.mask(&mut vec![0; self.mask_words()]) {
            Err(Error::DeadEnd { grammar }) => {
                let what = "no text of this model's tokens can match it".to_owned();
                Err(Error::Invalid { grammar, what })
            }
            Err(error) => Err(error),
            Ok(()) => Ok(constraint),
        }
    }

    /// Number of tokens; ids lie below it.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Words of a mask: one bit a token, rounded up.
    #[must_use]
    pub fn mask_words(&self) -> usize {
        self.tokens.div_ceil(32)
    }
}

/// The trie, and the tokenizer's own way to write a text in it.
struct Spelling {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl TokenizerEnv for Spelling {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let own = std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| self.tokenizer.encode_inside(text).ok())
            // A literal `▁` is written as a space, and some vocabularies lack bytes.
            .filter(|ids| ids.iter().flat_map(|&id| self.trie.token(id)).eq(bytes));
        own.unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }
}

fn trie(tokenizer: &Tokenizer) -> TokTrie {
    let count =
        u32::try_from(tokenizer.vocab_size()).expect("a vocabulary has fewer than 2^24 tokens");
    let words: Vec<Vec<u8>> = (0..count).map(|id| word(tokenizer, id)).collect();
    let ends = tokenizer.end_of_generation();
    let info = TokRxInfo::new(count, ends.first().copied().unwrap_or(INVALID_TOKEN));
    let trie = TokTrie::from(&info, &words);
    if ends.len() > 1 { trie.with_eos_tokens(ends) } else { trie }
}

/// The bytes by which grammars find a token; none for one that they must not.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
    let bytes = tokenizer.token_bytes(id);
    if bytes.len() > TOKEN_BYTES_MAX {
        Vec::new()
    } else if tokenizer.is_control(id) {
        [&[MARKER], bytes].concat()
    } else if bytes.contains(&MARKER) {
        // Never part of UTF-8, so no text needs it.
        Vec::new()
    } else {
        bytes.to_vec()
    }
}
