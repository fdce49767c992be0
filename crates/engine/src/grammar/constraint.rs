//! One answer on its way through a grammar.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};

use llguidance::TokenParser;
use llguidance::api::StopReason;

use super::Error;

/// The state of one answer. Clone it for answers that begin alike.
#[derive(Clone)]
pub struct Constraint {
    parser: TokenParser,
    grammar: &'static str,
    /// An end token was accepted.
    ended: bool,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constraint")
            .field("grammar", &self.grammar)
            .field("tokens", &self.parser.num_tokens())
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

impl Constraint {
    pub(super) fn new(mut parser: TokenParser, grammar: &'static str) -> Result<Self, Error> {
        parser.start_without_prompt();
        let mut constraint = Self { parser, grammar, ended: false };
        // A grammar that matches only the empty text is at its end already.
        constraint.guarded(TokenParser::check_stop)?;
        Ok(constraint)
    }

    /// Sets in `allowed` the bit of every token that may come next and clears all others.
    /// `allowed`: ([`super::Vocabulary::mask_words`]) or longer.
    ///
    /// After an error other than [`Error::NotAllowed`] the answer cannot go on.
    pub fn mask(&mut self, allowed: &mut [u32]) -> Result<(), Error> {
        allowed.fill(0);
        if self.is_finished() {
            self.ends(|word, bit| allowed[word] |= bit);
            return Ok(());
        }
        let mask = self.guarded(TokenParser::compute_mask)?;
        let words = mask.as_slice().len().min(allowed.len());
        allowed[..words].copy_from_slice(&mask.as_slice()[..words]);
        if !self.may_end()? {
            // Only a Lark grammar that names an end token has one here: it would end the answer too early.
            self.ends(|word, bit| allowed[word] &= !bit);
        }
        if allowed.iter().all(|&word| word == 0) {
            return Err(Error::DeadEnd { grammar: self.grammar });
        }
        Ok(())
    }

    /// Goes on by `token`, one of the mask. On [`Error::NotAllowed`] nothing changes.
    pub fn accept(&mut self, token: u32) -> Result<(), Error> {
        let not_allowed = Error::NotAllowed { grammar: self.grammar, token };
        if self.parser.token_env.tok_trie().eos_tokens().contains(&token) {
            self.ended |= self.may_end()?;
            return if self.ended { Ok(()) } else { Err(not_allowed) };
        }
        if self.is_finished()
            || token as usize >= self.parser.token_env.tok_trie().vocab_size()
            || !self.guarded(|parser| parser.validate_token(token))?
        {
            return Err(not_allowed);
        }
        self.guarded(|parser| {
            parser.consume_token(token)?;
            parser.check_stop()
        })?;
        Ok(())
    }

    /// The tokens that must come next, as the tokenizer writes them, often none. They are not accepted yet. Known
    /// before the model runs: they can be run at once like a prompt.
    pub fn forced(&mut self) -> Result<Vec<u32>, Error> {
        if self.is_finished() {
            return Ok(Vec::new());
        }
        self.guarded(|parser| Ok::<_, Infallible>(parser.compute_ff_tokens()))
    }

    /// Nothing but an end token may come.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.ended || self.parser.stop_reason() == StopReason::NoExtension
    }

    /// Whether an end token may come.
    pub fn may_end(&mut self) -> Result<bool, Error> {
        if self.is_finished() {
            return Ok(true);
        }
        self.guarded(|parser| Ok::<_, Infallible>(parser.is_accepting()))
    }

    /// Calls `f` with the word and the bit of each end token.
    fn ends(&self, mut f: impl FnMut(usize, u32)) {
        let trie = self.parser.token_env.tok_trie();
        let known = |&&id: &&u32| (id as usize) < trie.vocab_size();
        trie.eos_tokens().iter().filter(known).for_each(|id| f(*id as usize / 32, 1 << (id % 32)));
    }

    /// Runs the parser, whose bugs are panics; a request must not take others with it.
    fn guarded<T, E: std::fmt::Display>(
        &mut self,
        run: impl FnOnce(&mut TokenParser) -> Result<T, E>,
    ) -> Result<T, Error> {
        let parser = &mut self.parser;
        let grammar = self.grammar;
        let result = match catch_unwind(AssertUnwindSafe(|| run(parser))) {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(_) => return Err(Error::Internal { grammar, what: "panic".to_owned() }),
        };
        result.map_err(|what| match self.parser.stop_reason() {
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                Error::TooComplex { grammar, what }
            }
            StopReason::NoExtensionBias => Error::DeadEnd { grammar },
            _ => Error::Internal { grammar, what },
        })
    }
}
