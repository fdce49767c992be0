//! Buffers, and the poison that stands in them while work is under way.
#![expect(unsafe_code, reason = "memory that host and kernels share")]
use crate::block::{Block, Deallocator};
use crate::runtime::{Id, Object, Sel, Strong, class, lock, misuse};
use crate::settings;
use memmap2::MmapMut;
use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

class!(BUFFER, c"MTLBuffer", [], ["length" => length, "contents" => contents]);

/// What committed work will write reads as this until the work has ended: NaN, and no token.
const POISON: u8 = 0xff;
/// Of Linux on x86-64.
const PAGE_BYTES: usize = 4096;
/// `MTLResourceStorageModeMask`, of which shared is 0.
const STORAGE: usize = 0xf0;
const UNTRACKED: usize = 0x100;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

pub(crate) struct Buffer {
    pointer: *mut u8,
    pub(crate) length: usize,
    /// Whether Metal itself orders command buffers that use it.
    pub(crate) tracked: bool,
    deallocator: Option<Deallocator>,
    shadow: Mutex<Shadow>,
    /// Last, so that the memory outlives the rest.
    _memory: Option<MmapMut>,
}
// SAFETY: the memory may be used from any thread; who may use it when is what the fake is there to check.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

#[derive(Default)]
struct Shadow {
    /// Committed command buffers that write it and have not ended.
    pending: usize,
    /// What is really in it while the host sees poison.
    hidden: Option<Vec<u8>>,
}

/// Bytes in all buffers.
pub(crate) fn allocated() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

fn admit(length: usize, options: usize) -> bool {
    let settings = settings::get();
    let bytes = length as u64;
    if options & STORAGE != 0 {
        misuse!("a buffer with options {options:#x}: the fake has shared storage only");
    }
    if length == 0 || bytes > settings.buffer {
        misuse!("a buffer of {length} bytes; 1 to {}", settings.buffer);
    }
    !settings::fails("alloc", &ALLOCATIONS) && allocated() + bytes <= settings.memory
}

fn buffer(buffer: Buffer) -> Id {
    BYTES.fetch_add(buffer.length as u64, Ordering::Relaxed);
    Strong::new(&BUFFER, buffer).give()
}

pub(crate) extern "C" fn new_with_length(_: &Object, _: Sel, length: usize, options: usize) -> Id {
    let Some(mut memory) = admit(length, options).then(|| MmapMut::map_anon(length).ok()).flatten()
    else {
        return ptr::null();
    };
    buffer(Buffer {
        pointer: memory.as_mut_ptr(),
        length,
        tracked: options & UNTRACKED == 0,
        deallocator: None,
        shadow: Mutex::default(),
        _memory: Some(memory),
    })
}

pub(crate) unsafe extern "C" fn new_without_copy(
    _: &Object,
    _: Sel,
    pointer: *mut u8,
    length: usize,
    options: usize,
    deallocator: *const Block,
) -> Id {
    if !pointer.addr().is_multiple_of(PAGE_BYTES) || !length.is_multiple_of(PAGE_BYTES) {
        misuse!(
            "newBufferWithBytesNoCopy: {pointer:?} and {length} bytes, both must be multiples of {PAGE_BYTES}"
        );
    }
    if !admit(length, options) {
        return ptr::null();
    }
    buffer(Buffer {
        pointer,
        length,
        tracked: options & UNTRACKED == 0,
        // SAFETY: the selector's contract.
        deallocator: unsafe { Deallocator::new(deallocator) },
        shadow: Mutex::default(),
        _memory: None,
    })
}

extern "C" fn length(this: &Object, _: Sel) -> usize {
    this.body::<Buffer>().length
}

extern "C" fn contents(this: &Object, _: Sel) -> *mut c_void {
    this.body::<Buffer>().pointer.cast()
}

impl Buffer {
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        self.pointer.wrapping_add(offset)
    }

    /// Committed work will write it.
    pub(crate) fn promise(&self) {
        let mut shadow = lock(&self.shadow);
        shadow.pending += 1;
        self.hide(&mut shadow);
    }

    /// Work that promised to write it has ended.
    pub(crate) fn keep(&self) {
        lock(&self.shadow).pending -= 1;
    }

    fn hide(&self, shadow: &mut Shadow) {
        if shadow.pending > 0 && shadow.hidden.is_none() {
            // SAFETY: the buffer's memory, which no kernel uses now: they run one at a time.
            let bytes = unsafe { std::slice::from_raw_parts_mut(self.pointer, self.length) };
            shadow.hidden = Some(bytes.to_vec());
            bytes.fill(POISON);
        }
    }

    /// Puts the poison back after a kernel has run, where other work is still to write it.
    pub(crate) fn cover(&self) {
        self.hide(&mut lock(&self.shadow));
    }

    /// Shows what is really in it to a kernel.
    pub(crate) fn uncover(&self) {
        let Some(hidden) = lock(&self.shadow).hidden.take() else { return };
        // SAFETY: as in `hide`.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.pointer, self.length) };
        if let Some(at) = bytes.iter().position(|byte| *byte != POISON) {
            misuse!(
                "the host wrote to byte {at} of a buffer of {} bytes that work under way writes",
                self.length
            );
        }
        bytes.copy_from_slice(&hidden);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if lock(&self.shadow).pending > 0 {
            misuse!(
                "a buffer of {} bytes was released while work under way writes it",
                self.length
            );
        }
        if let Some(deallocator) = &self.deallocator {
            deallocator.call(self.pointer, self.length);
        }
        BYTES.fetch_sub(self.length as u64, Ordering::Relaxed);
    }
}
