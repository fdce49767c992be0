//! The process environment, read once.
use crate::store::{self, Sources, Store};
use anyhow::Context as _;
use std::path::PathBuf;

/// The system's place for caches, in a home directory.
const CACHE: &str = if cfg!(target_vendor = "apple") { "Library/Caches" } else { ".cache" };

/// What the environment says.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) store_root: Option<PathBuf>,
    /// What can be made again.
    pub(crate) cache_root: Option<PathBuf>,
    pub(crate) sources: Sources,
    /// Features of the CPU to leave unused.
    pub(crate) cpu_without: Vec<String>,
}

impl Environment {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(crate) fn read() -> Self {
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            store_root: store::root_from(
                path("RUSSET_HOME"),
                path("XDG_DATA_HOME"),
                std::env::home_dir(),
            ),
            cache_root: path("XDG_CACHE_HOME")
                .or_else(|| Some(std::env::home_dir()?.join(CACHE)))
                .map(|cache| cache.join("russet")),
            sources: Sources {
                hub_endpoint: text("HF_ENDPOINT"),
                hub_token: text("HF_TOKEN"),
                python: path("RUSSET_PYTHON").unwrap_or_else(|| PathBuf::from("python3")),
            },
            cpu_without: text("RUSSET_CPU_WITHOUT")
                .map(|names| names.split(',').map(|name| name.trim().to_owned()).collect())
                .unwrap_or_default(),
        }
    }

    /// The model store.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        let root = self.store_root.as_ref();
        let root =
            root.context("no place for models: set RUSSET_HOME to a directory for the store")?;
        Ok(Store::open(root)?)
    }
}
