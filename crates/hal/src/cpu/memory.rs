//! Host memory as device buffers.
use memmap2::MmapMut;
use std::fmt;
use std::sync::Arc;

/// Memory of one buffer, page aligned.
pub(super) enum HostMemory {
    Owned { mapping: MmapMut, bytes: u64 },
    Mapped(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostMemory({} bytes)", self.bytes())
    }
}

/// Above this size, huge pages save more TLB misses than their zeroing costs.
#[cfg(target_os = "linux")]
const HUGE_PAGES_FROM: usize = 4 << 20;

impl HostMemory {
    /// Zeroed pages, committed on first touch, so that a page lies near the thread that uses it first.
    pub(super) fn zeroed(bytes: u64) -> std::io::Result<Self> {
        let length = usize::try_from(bytes.max(1)).map_err(std::io::Error::other)?;
        let mapping = MmapMut::map_anon(length)?;
        #[cfg(target_os = "linux")]
        if length >= HUGE_PAGES_FROM {
            // Advice only: a kernel without huge pages says no, and nothing is lost.
            drop(mapping.advise(memmap2::Advice::HugePage));
        }
        Ok(Self::Owned { mapping, bytes })
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Owned { bytes, .. } => *bytes,
            Self::Mapped(mapping) => (**mapping).as_ref().len() as u64,
        }
    }

    pub(super) fn writable(&self) -> bool {
        matches!(self, Self::Owned { .. })
    }

    /// The first byte. Writing through it is allowed only when [`Self::writable`].
    pub(super) fn pointer(&self) -> *mut u8 {
        match self {
            Self::Owned { mapping, .. } => mapping.as_ptr().cast_mut(),
            Self::Mapped(mapping) => (**mapping).as_ref().as_ptr().cast_mut(),
        }
    }
}
