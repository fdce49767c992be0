//! The device.
use crate::runtime::{Id, Object, Sel, Strong, class};
use crate::{buffer, foundation, library, queue, settings};
use std::ptr;

class!(DEVICE, c"MTLDevice", [], [
    "name" => name,
    "hasUnifiedMemory" => unified,
    "supportsFamily:" => supports,
    "recommendedMaxWorkingSetSize" => working_set,
    "currentAllocatedSize" => allocated,
    "maxBufferLength" => buffer_max,
    "maxThreadsPerThreadgroup" => threads_max,
    "maxThreadgroupMemoryLength" => scratch_max,
    "newCommandQueue" => queue::new_queue,
    "newFence" => queue::new_fence,
    "newResidencySetWithDescriptor:error:" => queue::new_residency_set,
    "newBufferWithLength:options:" => buffer::new_with_length,
    "newBufferWithBytesNoCopy:length:options:deallocator:" => buffer::new_without_copy,
    "newLibraryWithSource:options:error:" => library::new_library,
    "newComputePipelineStateWithDescriptor:options:reflection:error:" => library::new_pipeline,
    "newBinaryArchiveWithDescriptor:error:" => library::new_archive,
]);

/// What objc2-metal asks on every system but macOS.
#[expect(unsafe_code, reason = "exports a function")]
#[unsafe(no_mangle)]
extern "C" fn MTLCreateSystemDefaultDevice() -> Id {
    if settings::get().none { ptr::null() } else { Strong::new(&DEVICE, ()).give() }
}

extern "C" fn name(_: &Object, _: Sel) -> Id {
    foundation::string("Fake GPU on Linux").autorelease()
}

extern "C" fn unified(_: &Object, _: Sel) -> bool {
    settings::get().unified
}

/// `MTLGPUFamilyMetal3`, which every Apple7 has.
const METAL3: u64 = 5001;

extern "C" fn supports(_: &Object, _: Sel, family: u64) -> bool {
    let newest = settings::get().family;
    (1001..=newest).contains(&family) || (family == METAL3 && newest >= 1007)
}

extern "C" fn working_set(_: &Object, _: Sel) -> u64 {
    settings::get().memory
}

extern "C" fn allocated(_: &Object, _: Sel) -> u64 {
    buffer::allocated()
}

extern "C" fn buffer_max(_: &Object, _: Sel) -> u64 {
    settings::get().buffer
}

/// `MTLSize`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Size {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) depth: usize,
}

impl Size {
    pub(crate) fn of(self) -> [usize; 3] {
        [self.width, self.height, self.depth]
    }
}

extern "C" fn threads_max(_: &Object, _: Sel) -> Size {
    Size { width: 1024, height: 1024, depth: 1024 }
}

pub(crate) const SCRATCH_MAX: usize = 32 << 10;

extern "C" fn scratch_max(_: &Object, _: Sel) -> usize {
    SCRATCH_MAX
}
