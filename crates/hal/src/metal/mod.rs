//! GPUs of Macs, through Metal.
//!
//! The driver is compiled for macOS, and on Linux under `--cfg fake_metal` (see `crates/fake-metal`), where tests run it.

use std::path::PathBuf;

#[cfg(any(target_os = "macos", fake_metal))]
mod driver;
#[cfg(any(target_os = "macos", fake_metal))]
pub(crate) use driver::{open, probe};

/// How to open a GPU.
#[derive(Clone, Debug, Default)]
pub struct MetalOptions {
    /// Where compiled kernels are kept between runs, or nowhere. Whatever goes wrong there costs time only.
    pub cache: Option<PathBuf>,
}

#[cfg(not(any(target_os = "macos", fake_metal)))]
mod absent {
    use super::MetalOptions;
    use crate::{Device, Info};
    use std::sync::Arc;

    const WHY: &str = "Metal exists on macOS only";

    pub(crate) fn probe() -> Result<Vec<Result<Info, String>>, String> {
        Err(WHY.to_owned())
    }

    pub(crate) fn open(_: usize, _: &MetalOptions) -> Result<Arc<dyn Device>, String> {
        Err(WHY.to_owned())
    }
}
#[cfg(not(any(target_os = "macos", fake_metal)))]
pub(crate) use absent::{open, probe};
