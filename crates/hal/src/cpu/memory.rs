//! Host memory as device buffers.
use super::info::memory_bytes_free;
use crate::{Buffer, Commands, Error, Memory, Result, Slots, Span};
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

/// From the one size on, huge pages save more TLB misses than their zeroing costs. Past the other, buffers are caches for many
/// sequences, of which a few blocks are used: all of a model's caches come to their next huge page in the same step, and zeroing those
/// stops it for a quarter of a second.
#[cfg(target_os = "linux")]
const HUGE_PAGES: std::ops::RangeInclusive<usize> = 4 << 20..=32 << 20;

impl HostMemory {
    /// Zeroed pages, committed on first touch, so that a page lies near the thread that uses it first. `dense`: all of them will be
    /// used.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(unused_variables, reason = "only Linux is told where large pages pay")
    )]
    pub(super) fn zeroed(bytes: u64, dense: bool) -> std::io::Result<Self> {
        let length = usize::try_from(bytes.max(1)).map_err(std::io::Error::other)?;
        let mapping = MmapMut::map_anon(length)?;
        #[cfg(target_os = "linux")]
        if dense || HUGE_PAGES.contains(&length) {
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

/// The buffers of a device that computes in host memory.
#[derive(Debug)]
pub struct HostBuffers {
    device: &'static str,
    slots: Slots<HostMemory>,
}

/// Smaller buffers are taken without asking the system what is free: a model takes dozens, and reading the files of the control
/// groups takes longer than mapping the memory.
const ASKED_FROM: u64 = 4 << 20;

impl HostBuffers {
    /// `device` names the device in errors; `owner` is its number, see [`crate::next_owner`].
    #[must_use]
    pub fn new(device: &'static str, owner: u32) -> Self {
        Self { device, slots: Slots::new("buffer", owner) }
    }

    /// Takes zeroed memory, or keeps a mapping.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn alloc(&mut self, memory: Memory) -> Result<Buffer> {
        let dense = matches!(memory, Memory::Dense(_));
        let memory = match memory {
            Memory::Mapped(mapping) => HostMemory::Mapped(mapping),
            Memory::Bytes(bytes) | Memory::Dense(bytes) => {
                let asks = bytes >= ASKED_FROM;
                if asks && memory_bytes_free().is_some_and(|free| bytes > free) {
                    return Err(self.out_of_memory(bytes));
                }
                self.zeroed(bytes, dense)?
            }
        };
        Ok(Buffer(self.slots.insert(memory)))
    }

    /// Zeroed memory beside the buffers.
    pub(super) fn zeroed(&self, bytes: u64, dense: bool) -> Result<HostMemory> {
        HostMemory::zeroed(bytes, dense).map_err(|_| self.out_of_memory(bytes))
    }

    fn out_of_memory(&self, needed: u64) -> Error {
        let free = memory_bytes_free().unwrap_or(0);
        Error::OutOfMemory { device: self.device.to_owned(), needed, free }
    }

    /// Gives a buffer's memory back. A stale handle is ignored.
    pub fn free(&mut self, buffer: Buffer) {
        drop(self.slots.remove(buffer.0));
    }

    /// Whether the buffer still lives.
    ///
    /// # Errors
    /// [`Error::Stale`] when not.
    pub fn live(&self, buffer: Buffer) -> Result<()> {
        self.slots.get(buffer.0).map(|_| ())
    }

    /// [`Commands::check`] with these buffers.
    ///
    /// # Errors
    /// As there.
    pub fn check(&self, commands: &Commands) -> Result<()> {
        let facts = |memory: &HostMemory| (memory.bytes(), memory.writable());
        commands.check(|buffer| self.slots.get(buffer.0).map(facts))
    }

    /// First byte and length of a span.
    ///
    /// # Errors
    /// [`Error::Stale`]; [`Error::BadSpan`] when it leaves its buffer.
    pub fn place(&self, span: Span) -> Result<(*mut u8, usize)> {
        let memory = self.slots.get(span.buffer.0)?;
        if span.offset.checked_add(span.bytes).is_none_or(|end| end > memory.bytes()) {
            let reason = format!("span {span:?} leaves its buffer of {} bytes", memory.bytes());
            return Err(Error::BadSpan { command: 0, reason });
        }
        let fits = "a host buffer's size fits in usize";
        let offset = usize::try_from(span.offset).expect(fits);
        let bytes = usize::try_from(span.bytes).expect(fits);
        Ok((memory.pointer().wrapping_add(offset), bytes))
    }

    /// How many bytes of a span lie in RAM.
    ///
    /// # Errors
    /// As [`Self::place`]; [`Error::Failed`] when the system does not tell.
    pub fn resident(&self, span: Span) -> Result<u64> {
        let (pointer, bytes) = self.place(span)?;
        super::resident::resident(pointer, bytes).map_err(|error| Error::Failed {
            device: self.device.to_owned(),
            reason: format!("cannot ask which pages lie in memory: {error}"),
        })
    }

    /// Copies bytes to the start of a span.
    ///
    /// # Errors
    /// As [`Self::place`]; [`Error::BadSpan`] when the span is shorter or may not be written.
    ///
    /// # Safety
    /// No work runs that uses the span.
    #[expect(unsafe_code, reason = "raw host memory behind handles")]
    pub unsafe fn write(&self, target: Span, source: &[u8]) -> Result<()> {
        let (pointer, bytes) = self.place(target)?;
        if !self.slots.get(target.buffer.0)?.writable() || source.len() > bytes {
            let reason = format!("cannot write {} bytes to {target:?}", source.len());
            return Err(Error::BadSpan { command: 0, reason });
        }
        // SAFETY: the span was checked, the buffer is writable, and the caller says that no work uses it.
        unsafe { pointer.copy_from_nonoverlapping(source.as_ptr(), source.len()) };
        Ok(())
    }

    /// Copies bytes from the start of a span.
    ///
    /// # Errors
    /// As [`Self::place`]; [`Error::BadSpan`] when the span is shorter.
    ///
    /// # Safety
    /// No work runs that writes the span.
    #[expect(unsafe_code, reason = "raw host memory behind handles")]
    pub unsafe fn read(&self, source: Span, target: &mut [u8]) -> Result<()> {
        let (pointer, bytes) = self.place(source)?;
        if target.len() > bytes {
            let reason = format!("cannot read {} bytes from {source:?}", target.len());
            return Err(Error::BadSpan { command: 0, reason });
        }
        // SAFETY: the span was checked, and the caller says that no work writes it.
        unsafe { target.as_mut_ptr().copy_from_nonoverlapping(pointer, target.len()) };
        Ok(())
    }
}
