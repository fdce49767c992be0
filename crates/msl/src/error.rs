//! What can go wrong between kernel text and something that runs.
use std::fmt;
use std::path::PathBuf;

/// Something in the text of a kernel that must change, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    pub what: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.what)
    }
}

/// Split by what a caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Install it, or skip what needs it.
    #[error("{tool} is missing; try: {hint}")]
    Missing { tool: &'static str, hint: &'static str },
    /// Change the kernel: a compiler's own words, with file and line.
    #[error("{compiler} refuses it:\n{log}")]
    Refused { compiler: String, log: String },
    /// Change the kernel: it is not in the dialect.
    #[error("{}", lines(.0))]
    Dialect(Vec<Complaint>),
    /// Change the kernel: what running it showed.
    #[error("{0}")]
    Fault(String),
    /// The system refused a file or a process.
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: std::io::Error },
}

fn lines(complaints: &[Complaint]) -> String {
    complaints.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

pub type Result<T> = std::result::Result<T, Error>;
