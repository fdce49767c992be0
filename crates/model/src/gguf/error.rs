//! What can be wrong with a GGUF file, split by what the caller does about it.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// The file an error is about, where known; displays as `path: ` or as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place(Option<Arc<Path>>);

impl Place {
    pub(super) fn new(path: &Path) -> Self {
        Self(Some(Arc::from(path)))
    }

    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => write!(f, "{}: ", path.display()),
            None => Ok(()),
        }
    }
}

/// Why a GGUF file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened or mapped: check the path and its permissions.
    #[error("{place}{source}")]
    Io {
        place: Place,
        #[source]
        source: io::Error,
    },
    /// The file breaks the format: get it again, or repair what wrote it.
    #[error("{place}{fault}")]
    BadFile { place: Place, fault: Fault },
    /// The file is sound, but Russet cannot run it: choose another file of this model.
    #[error("{place}{what}")]
    Unsupported { place: Place, what: Unsupported },
    /// Something this model needs is not in the file: convert it again, or choose another file.
    #[error("{place}{what}")]
    Missing { place: Place, what: Missing },
}

impl Error {
    /// The same error, saying which file it is about.
    #[must_use]
    pub(super) fn at(mut self, file: &Place) -> Self {
        let (Self::Io { place, .. }
        | Self::BadFile { place, .. }
        | Self::Unsupported { place, .. }
        | Self::Missing { place, .. }) = &mut self;
        place.clone_from(file);
        self
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::BadFile { place: Place::default(), fault }
    }
}

impl From<Unsupported> for Error {
    fn from(what: Unsupported) -> Self {
        Self::Unsupported { place: Place::default(), what }
    }
}

impl From<Missing> for Error {
    fn from(what: Missing) -> Self {
        Self::Missing { place: Place::default(), what }
    }
}

/// A breach of the format. Offsets are bytes from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("not a GGUF file: it begins with {}, not \"GGUF\"{}", found.escape_ascii(), magic_hint(*found))]
    Magic { found: [u8; 4] },
    #[error(
        "{field} at byte {offset} needs {needed} bytes, past the end of the file at byte {length}: \
         the download is incomplete or corrupt, get the file again"
    )]
    Truncated { field: String, offset: usize, needed: u64, length: usize },
    #[error(
        "{field} at byte {offset} is {found}, more than {limit}: the file is corrupt, get it again"
    )]
    Absurd { field: String, offset: usize, found: u64, limit: u64 },
    #[error("{field} at byte {offset} is not UTF-8: the file is corrupt, get it again")]
    NotUtf8 { field: String, offset: usize },
    #[error("{field} at byte {offset} is a bool of {found}, expected 0 or 1")]
    Bool { field: String, offset: usize, found: u8 },
    #[error("{field} at byte {offset} has value type {found}, expected 0 (u8) to 12 (f64)")]
    ValueType { field: String, offset: usize, found: u32 },
    #[error("metadata key `{key}` occurs twice")]
    DuplicateKey { key: String },
    #[error("metadata key `{key}` holds {found}, expected {expected}")]
    WrongType { key: String, expected: &'static str, found: String },
    #[error("`general.alignment` is {found}, expected a power of two")]
    Alignment { found: u64 },
    #[error("tensor `{tensor}` occurs twice")]
    DuplicateTensor { tensor: String },
    #[error("tensor `{tensor}` has {found} dimensions, expected 1 to 4")]
    Dimensions { tensor: String, found: u32 },
    #[error("tensor `{tensor}` has shape {shape:?}: a dimension is zero or the product overflows")]
    Shape { tensor: String, shape: Vec<u64> },
    #[error("tensor `{tensor}` has type id {id}, which no ggml version defines")]
    TensorType { tensor: String, id: u32 },
    #[error(
        "tensor `{tensor}` has rows of {columns}, not a multiple of the {block} of a {format} block"
    )]
    Row { tensor: String, columns: u64, format: ops::format::Format, block: usize },
    #[error(
        "tensor `{tensor}` has data offset {offset}, not a multiple of the alignment {alignment}"
    )]
    Misaligned { tensor: String, offset: u64, alignment: u64 },
    #[error(
        "tensor `{tensor}` has {bytes} bytes at data offset {offset}, past the end of the file: \
         the {available} bytes of tensor data are fewer; the download is incomplete, get the file again"
    )]
    OutOfRange { tensor: String, offset: u64, bytes: u64, available: u64 },
    #[error("tensors `{first}` and `{second}` overlap at byte {offset}")]
    Overlap { first: String, second: String, offset: u64 },
    #[error(
        "tensor `{tensor}` has a scale that is NaN or infinite in block {block}: the file is corrupt, \
         get it again"
    )]
    Scale { tensor: String, block: usize },
}

fn magic_hint(found: [u8; 4]) -> &'static str {
    match &found {
        b"vers" => " (a Git LFS pointer? get the file itself)",
        b"<!do" | b"<!DO" | b"<htm" => " (a web page? get the file itself)",
        b"ggjt" | b"tjgg" | b"lmgg" | b"fmgg" => {
            " (a format older than GGUF: convert the model again)"
        }
        b"PK\x03\x04" => " (a zip archive)",
        _ => "",
    }
}

/// A sound file that Russet does not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    #[error("GGUF version {found} is not supported, expected 2 or 3: convert the model again")]
    Version { found: u32 },
    #[error("a big-endian GGUF file: choose the little-endian one")]
    BigEndian,
    #[error(
        "part of a model split in {parts} files (`split.count`): merge them with llama-gguf-split --merge"
    )]
    Split { parts: u64 },
    #[error(
        "tensor `{tensor}` has type {name}, which Russet does not run yet; supported: {}",
        super::types::supported()
    )]
    TensorType { tensor: String, name: &'static str },
}

/// Something a model needs and the file lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("metadata key `{key}` is missing")]
    Key { key: String },
    #[error("tensor `{tensor}` is missing")]
    Tensor { tensor: String },
}
