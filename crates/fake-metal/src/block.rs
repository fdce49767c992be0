//! Blocks: closures with a C layout that know how to copy themselves.
#![expect(unsafe_code, reason = "raw closures across the C ABI")]
use crate::runtime::misuse;
use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI64, Ordering};

#[repr(C)]
struct Descriptor {
    reserved: usize,
    bytes: usize,
    copy: Option<unsafe extern "C" fn(*mut c_void, *const c_void)>,
    dispose: Option<unsafe extern "C" fn(*const c_void)>,
}

#[repr(C)]
pub(crate) struct Block {
    isa: *const c_void,
    flags: c_int,
    retains: c_int,
    invoke: *const c_void,
    descriptor: *const Descriptor,
}

/// The descriptor has `copy` and `dispose`.
const HAS_COPY: c_int = 1 << 25;
/// Lies on the heap: made by [`_Block_copy`].
const ON_HEAP: c_int = 1 << 24;
const GLOBAL: c_int = 1 << 28;

/// How many blocks are on the heap.
static ALIVE: AtomicI64 = AtomicI64::new(0);

/// Classes of blocks, which nobody sends messages to.
#[repr(C)]
pub(crate) struct BlockClass([usize; 32]);
#[unsafe(no_mangle)]
static _NSConcreteStackBlock: BlockClass = BlockClass([0; 32]);
#[unsafe(no_mangle)]
static _NSConcreteGlobalBlock: BlockClass = BlockClass([0; 32]);

fn layout(descriptor: &Descriptor) -> Layout {
    let layout = Layout::from_size_align(descriptor.bytes, 16);
    layout.unwrap_or_else(|_| misuse!("a block of {} bytes", descriptor.bytes))
}

/// # Safety
/// `block` is a block or null.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _Block_copy(block: *const Block) -> *const Block {
    // SAFETY: the caller's promise; a heap block's count is only touched under the lock of its owner.
    unsafe {
        let Some(from) = block.as_ref() else { return block };
        if from.flags & GLOBAL != 0 {
            return block;
        }
        if from.flags & ON_HEAP != 0 {
            (*block.cast_mut()).retains += 1;
            return block;
        }
        let descriptor = &*from.descriptor;
        let copy = alloc(layout(descriptor)).cast::<Block>();
        copy.cast::<u8>().copy_from_nonoverlapping(block.cast(), descriptor.bytes);
        (*copy).flags |= ON_HEAP;
        (*copy).retains = 1;
        if let Some(fields) = descriptor.copy.filter(|_| from.flags & HAS_COPY != 0) {
            fields(copy.cast(), block.cast());
        }
        ALIVE.fetch_add(1, Ordering::Relaxed);
        copy
    }
}

/// # Safety
/// `block` is a block or null.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _Block_release(block: *const Block) {
    // SAFETY: as above.
    unsafe {
        let Some(from) = block.as_ref() else { return };
        if from.flags & ON_HEAP == 0 {
            return;
        }
        let own = block.cast_mut();
        (*own).retains -= 1;
        match (*own).retains {
            0 => {
                let descriptor = &*from.descriptor;
                if let Some(dispose) = descriptor.dispose.filter(|_| from.flags & HAS_COPY != 0) {
                    dispose(block.cast());
                }
                dealloc(own.cast(), layout(descriptor));
                ALIVE.fetch_sub(1, Ordering::Relaxed);
            }
            count if count < 0 => misuse!("over-release of a block"),
            _ => {}
        }
    }
}

pub(crate) fn alive() -> i64 {
    ALIVE.load(Ordering::Relaxed)
}

/// A block of our own: `void (^)(void *pointer, NSUInteger length)`.
pub(crate) struct Deallocator(*const Block);
// SAFETY: called once, by whoever ends the buffer.
unsafe impl Send for Deallocator {}
// SAFETY: as above.
unsafe impl Sync for Deallocator {}

impl Deallocator {
    /// # Safety
    /// `block` is null or such a block.
    pub(crate) unsafe fn new(block: *const Block) -> Option<Self> {
        // SAFETY: the caller's promise.
        (!block.is_null()).then(|| Self(unsafe { _Block_copy(block) }))
    }

    pub(crate) fn call(&self, pointer: *mut u8, length: usize) {
        type Invoke = unsafe extern "C" fn(*const Block, *mut c_void, usize);
        // SAFETY: `new`'s caller says that the block has this type.
        unsafe {
            let invoke = std::mem::transmute::<*const c_void, Invoke>((*self.0).invoke);
            invoke(self.0, pointer.cast(), length);
        }
    }
}

impl Drop for Deallocator {
    fn drop(&mut self) {
        // SAFETY: our copy.
        unsafe { _Block_release(self.0) };
    }
}
