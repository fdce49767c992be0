//! Structured output: answers that follow a JSON schema, a regular expression or a Lark grammar, by masks over the
//! vocabulary.
//!
//! Grammars are compiled and run by llguidance (an Earley parser over a lexer of derivatives), which walks a trie of
//! the vocabulary's bytes. A [`Vocabulary`] is built once per model and shared; [`Vocabulary::constrain`] compiles a
//! [`Grammar`]; the [`Constraint`] follows one answer. Where the grammar leaves no choice of bytes the tokenizer's own
//! spelling is the only one allowed, as the model was trained on it.
//!
//! Invariant: a control token is allowed only where a Lark grammar names it, an end token only where the grammar may end.

mod constraint;
mod error;
mod source;
#[cfg(test)]
mod tests;
mod vocabulary;

pub use constraint::Constraint;
pub use error::Error;
pub use source::Grammar;
pub use vocabulary::Vocabulary;
