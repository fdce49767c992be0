//! Buffers: shared storage, mapped files without a copy, and what keeps them resident.
#![expect(unsafe_code, reason = "host memory behind Metal buffers")]
use crate::Memory;
use block2::RcBlock;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::{
    MTLAllocation, MTLBuffer, MTLCommandQueue, MTLDevice, MTLResidencySet,
    MTLResidencySetDescriptor, MTLResourceOptions,
};
use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

pub(super) type Buffer = ProtocolObject<dyn MTLBuffer>;
type Mapping = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A page of this system, 16 KiB on Apple silicon: what `newBufferWithBytesNoCopy` asks for.
fn page_bytes() -> usize {
    // SAFETY: asks for a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(1).max(1)
}

/// Shared with the processor; order between command buffers is kept by a fence, not by tracking each buffer.
fn options() -> MTLResourceOptions {
    MTLResourceOptions::StorageModeShared | MTLResourceOptions::HazardTrackingModeUntracked
}

/// Why memory was not given.
pub(super) enum Refused {
    /// So many bytes were asked of the device and it has them not.
    Full(u64),
    /// More than one buffer can hold.
    TooLong { bytes: u64, most: u64 },
}

/// The memory behind a handle.
pub(super) struct Block {
    pub(super) bytes: u64,
    pub(super) writable: bool,
    /// The host's copy of read-only memory that Metal did not copy.
    mapping: Option<Mapping>,
    /// Owned memory has one, all of it. A mapping longer than a buffer may be has one for each part that was asked for.
    windows: Vec<Window>,
    /// The last fence whose work uses it, and the last whose work writes it.
    pub(super) used: u64,
    pub(super) written: u64,
}

struct Window {
    offset: u64,
    bytes: u64,
    buffer: Retained<Buffer>,
}

// SAFETY: Metal's buffers may be used from any thread; the device's lock orders our uses.
unsafe impl Send for Block {}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} bytes in {} buffers)", self.bytes, self.windows.len())
    }
}

impl Block {
    /// Takes memory from `device`; it must have been admitted.
    pub(super) fn new(
        device: &ProtocolObject<dyn MTLDevice>,
        memory: Memory,
    ) -> Result<Self, Refused> {
        let most = most_bytes(device);
        let block = |bytes, writable| Self {
            bytes,
            writable,
            mapping: None,
            windows: Vec::new(),
            used: 0,
            written: 0,
        };
        match memory {
            Memory::Bytes(bytes) | Memory::Dense(bytes) => {
                if bytes > most {
                    return Err(Refused::TooLong { bytes, most });
                }
                // Metal clears new buffers, and has none without a length.
                let buffer = device.newBufferWithLength_options(length(bytes.max(1)), options());
                let buffer = buffer.ok_or(Refused::Full(bytes))?;
                let windows = vec![Window { offset: 0, bytes, buffer }];
                Ok(Self { windows, ..block(bytes, true) })
            }
            Memory::Mapped(mapping) => {
                let contents = (*mapping).as_ref();
                let bytes = contents.len() as u64;
                let mut block = block(bytes, false);
                let aligned = contents.as_ptr().addr().is_multiple_of(page_bytes());
                if aligned && bytes > 0 {
                    block.mapping = Some(Arc::clone(&mapping));
                    if bytes > most || block.map(device, 0, bytes).is_ok() {
                        return Ok(block);
                    }
                    block.mapping = None;
                }
                if bytes > most {
                    return Err(Refused::TooLong { bytes, most });
                }
                // A copy is dearer, and right for any pointer.
                let buffer = device.newBufferWithLength_options(length(bytes.max(1)), options());
                let buffer = buffer.ok_or(Refused::Full(bytes))?;
                // SAFETY: the new buffer holds as many bytes, and nothing else knows it.
                unsafe {
                    start(&buffer).copy_from_nonoverlapping(contents.as_ptr(), contents.len());
                }
                block.windows.push(Window { offset: 0, bytes, buffer });
                Ok(block)
            }
        }
    }

    /// Makes the part from `offset` visible to the device; both ends lie on pages, or the end is the mapping's.
    fn map(
        &mut self,
        device: &ProtocolObject<dyn MTLDevice>,
        offset: u64,
        bytes: u64,
    ) -> Result<usize, Refused> {
        let refused = Refused::Full(bytes);
        let Some(mapping) = &self.mapping else { return Err(refused) };
        let Some(first) =
            NonNull::new((**mapping).as_ref().as_ptr().cast_mut().wrapping_add(length(offset)))
        else {
            return Err(refused);
        };
        // The buffer keeps the mapping, for as long as Metal keeps the buffer. The rest of the last page is mapped
        // with it, and no span reaches it.
        let kept = Arc::clone(mapping);
        let release = RcBlock::new(move |_: NonNull<c_void>, _: usize| {
            let _: &Mapping = &kept;
        });
        let whole = length(bytes).next_multiple_of(page_bytes());
        // SAFETY: the pages lie in the mapping, which the block keeps, and kernels only read what is not writable:
        // `prepare` checks that no launch declares a write, and its caller vouches for the declaration.
        let buffer = unsafe {
            device.newBufferWithBytesNoCopy_length_options_deallocator(
                first.cast(),
                whole,
                options(),
                Some(&release),
            )
        };
        self.windows.push(Window { offset, bytes, buffer: buffer.ok_or(refused)? });
        Ok(self.windows.len() - 1)
    }

    /// The window that holds a span, made when it is not there yet. The flag tells that it is new.
    pub(super) fn window(
        &mut self,
        device: &ProtocolObject<dyn MTLDevice>,
        (offset, bytes): (u64, u64),
    ) -> Result<(usize, bool), Refused> {
        let holds = |window: &Window| {
            window.offset <= offset && offset + bytes <= window.offset + window.bytes
        };
        if let Some(found) = self.windows.iter().position(holds) {
            return Ok((found, false));
        }
        let page = page_bytes() as u64;
        let most = most_bytes(device);
        let first = offset / page * page;
        let long = most.min(self.bytes - first);
        if offset + bytes > first + long {
            return Err(Refused::TooLong { bytes, most });
        }
        Ok((self.map(device, first, long)?, true))
    }

    /// The buffer of a window and where the window begins in the block.
    pub(super) fn buffer(&self, window: usize) -> (&Buffer, u64) {
        let window = &self.windows[window];
        (&window.buffer, window.offset)
    }

    pub(super) fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.windows.iter().map(|window| &*window.buffer)
    }

    /// The first byte, for the host. Writing through it is allowed only when [`Self::writable`].
    pub(super) fn pointer(&self) -> *mut u8 {
        match (&self.mapping, self.windows.first()) {
            (Some(mapping), _) => (**mapping).as_ref().as_ptr().cast_mut(),
            (None, Some(window)) => start(&window.buffer),
            (None, None) => NonNull::dangling().as_ptr(),
        }
    }
}

/// Whole pages that one buffer can hold.
fn most_bytes(device: &ProtocolObject<dyn MTLDevice>) -> u64 {
    (device.maxBufferLength() / page_bytes() * page_bytes()) as u64
}

fn start(buffer: &Buffer) -> *mut u8 {
    buffer.contents().as_ptr().cast()
}

/// Bytes on this host.
pub(super) fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Keeps every buffer resident, so that no command buffer has to name them. Before macOS 15 there is none: a buffer is
/// then made resident by each encoder that binds it, which every launch does.
#[derive(Default)]
pub(super) struct Residency {
    set: Option<Retained<ProtocolObject<dyn MTLResidencySet>>>,
    grown: bool,
}

// SAFETY: the device's lock orders all uses.
unsafe impl Send for Residency {}

impl fmt::Debug for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Residency({})", self.set.is_some())
    }
}

impl Residency {
    pub(super) fn new(
        device: &ProtocolObject<dyn MTLDevice>,
        queue: &ProtocolObject<dyn MTLCommandQueue>,
    ) -> Self {
        if super::info::macos().0 < 15 {
            return Self::default();
        }
        let set =
            device.newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new()).ok();
        if let Some(set) = &set {
            queue.addResidencySet(set);
        }
        Self { set, grown: false }
    }

    pub(super) fn add(&mut self, buffer: &Buffer) {
        if let Some(set) = &self.set {
            set.addAllocation(allocation(buffer));
            self.grown = true;
        }
    }

    /// Whether the set has all that Metal knows of a block. Without a set every launch makes resident what it binds.
    pub(super) fn holds(&self, block: &Block) -> bool {
        let held = |set: &ProtocolObject<dyn MTLResidencySet>| {
            block.buffers().all(|buffer| set.containsAllocation(allocation(buffer)))
        };
        self.set.as_deref().is_none_or(held)
    }

    /// Takes them out at once: memory that is given back should be free.
    pub(super) fn remove(&mut self, block: &Block) {
        if let Some(set) = &self.set {
            for buffer in block.buffers() {
                set.removeAllocation(allocation(buffer));
            }
            set.commit();
        }
    }

    /// What was added since the last call becomes resident now, all at once.
    pub(super) fn settle(&mut self) {
        if let Some(set) = self.set.as_ref().filter(|_| std::mem::take(&mut self.grown)) {
            set.commit();
            set.requestResidency();
        }
    }
}

fn allocation(buffer: &Buffer) -> &ProtocolObject<dyn MTLAllocation> {
    ProtocolObject::from_ref(buffer)
}
