//! Why a model cannot be used, split by what the caller does about it.
use crate::gguf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file itself: see [`gguf::Error`].
    #[error(transparent)]
    File(#[from] gguf::Error),
    /// A sound file of a kind that Russet does not run: choose another model.
    #[error("{file}: {field} is {found}, which Russet does not run; supported: {supported}")]
    Unsupported { file: String, field: String, found: String, supported: String },
    /// A value or shape that contradicts the rest of the file: get the file again, or convert it anew.
    #[error(
        "{file}: {field} is {found}, expected {expected}; the file is damaged or was converted wrongly"
    )]
    BadField { file: String, field: String, found: String, expected: String },
}
