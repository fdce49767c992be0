//! What can be wrong with a tokenizer, split by what the caller does about it.

use crate::gguf;

/// Why a tokenizer cannot be built, or a text not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A metadata key is missing or has the wrong type: choose another file, or convert again.
    #[error(transparent)]
    Metadata(#[from] gguf::Error),
    /// The metadata contradicts itself: the file is corrupt, get it again.
    #[error("metadata key `{field}`: {fault}")]
    BadFile { field: &'static str, fault: Fault },
    /// A sound tokenizer of a sort Russet does not know: choose another model.
    #[error("metadata key `{field}` is `{found}`, which is not supported; supported: {supported}")]
    Unsupported { field: &'static str, found: String, supported: String },
    /// The text to encode is too long: shorten it.
    #[error("the text has {bytes} bytes, more than the {limit} that can be encoded at once")]
    TooLong { bytes: usize, limit: usize },
}

/// A contradiction in the tokenizer's metadata.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    #[error("the vocabulary is empty")]
    Empty,
    #[error("{found} entries for a vocabulary of {expected}")]
    Count { found: usize, expected: usize },
    #[error("{found} entries, more than the {limit} allowed")]
    TooMany { found: usize, limit: usize },
    #[error("token {id} has {bytes} bytes, more than the {limit} allowed")]
    TokenTooLong { id: usize, bytes: usize, limit: usize },
    #[error("tokens {first} and {second} are both {text:?}")]
    Duplicate { first: u32, second: u32, text: String },
    #[error("token {id} has score {score}, expected a finite number")]
    Score { id: usize, score: f32 },
    #[error("token {id} has type {found}, expected 0 to 6")]
    Type { id: usize, found: i32 },
    #[error("byte token {id} is {text:?}, expected <0x00> to <0xFF>")]
    ByteName { id: u32, text: String },
    #[error("there is no token for byte 0x{byte:02X}")]
    NoByte { byte: u8 },
    #[error("merge {index} is {text:?}, expected two tokens with a space between")]
    Merge { index: usize, text: String },
    #[error("merge {index} ({text:?}) names {missing:?}, which is not in the vocabulary")]
    MergeToken { index: usize, text: String, missing: String },
    #[error("id {id} is outside the vocabulary of {size}")]
    Id { id: u32, size: usize },
    #[error("this token is to be added to every text, but its id is not given")]
    NoId,
}
