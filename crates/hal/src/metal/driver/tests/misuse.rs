//! The fake finds mistakes: each of these is made on purpose, with Metal's own calls, in a process of its own.
#![expect(unsafe_code, reason = "misuses an API")]
use super::super::library::{Compiler, Fault, Pipeline};
use super::ADD;
use super::faults::parent;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{
    MTLBarrierScope, MTLBuffer, MTLCommandBuffer, MTLCommandEncoder as _, MTLCommandQueue,
    MTLComputeCommandEncoder, MTLCopyAllDevices, MTLDevice, MTLDispatchType, MTLResidencySet as _,
    MTLResidencySetDescriptor, MTLResource as _, MTLResourceOptions, MTLSize,
};
use std::os::unix::process::ExitStatusExt as _;
use std::ptr::NonNull;

type Encoder = ProtocolObject<dyn MTLComputeCommandEncoder>;

/// What a program against Metal has.
struct Program {
    device: Retained<ProtocolObject<dyn MTLDevice>>,
    queue: Retained<ProtocolObject<dyn MTLCommandQueue>>,
    pipeline: Retained<Pipeline>,
    x: Retained<ProtocolObject<dyn MTLBuffer>>,
    y: Retained<ProtocolObject<dyn MTLBuffer>>,
}

const COUNT: u32 = 64;

fn size(width: usize) -> MTLSize {
    MTLSize { width, height: 1, depth: 1 }
}

impl Program {
    fn new() -> Self {
        autoreleasepool(|_| {
            let device = MTLCopyAllDevices().objectAtIndex(0);
            let compiled =
                Compiler::new(None, String::new()).pipeline(&device, ADD.gpu.as_ref().unwrap());
            let pipeline = compiled.unwrap_or_else(|fault| match fault {
                Fault::Compile(log) | Fault::Unsupported(log) => panic!("{log}"),
            });
            let options = MTLResourceOptions::HazardTrackingModeUntracked;
            let buffer =
                || device.newBufferWithLength_options(COUNT as usize * 4, options).unwrap();
            let (x, y) = (buffer(), buffer());
            let program = Self { queue: device.newCommandQueue().unwrap(), pipeline, x, y, device };
            program.fill(&program.x, 1);
            program
        })
    }

    fn fill(&self, buffer: &ProtocolObject<dyn MTLBuffer>, value: u32) {
        for at in 0..COUNT as usize {
            // SAFETY: the buffer has as many words.
            unsafe { buffer.contents().cast::<u32>().add(at).write(value) };
        }
    }

    fn first(&self, buffer: &ProtocolObject<dyn MTLBuffer>) -> u32 {
        // SAFETY: as above.
        unsafe { buffer.contents().cast::<u32>().read() }
    }

    fn encoder(&self) -> (Retained<ProtocolObject<dyn MTLCommandBuffer>>, Retained<Encoder>) {
        let commands = self.queue.commandBufferWithUnretainedReferences().unwrap();
        let encoder =
            commands.computeCommandEncoderWithDispatchType(MTLDispatchType::Concurrent).unwrap();
        (commands, encoder)
    }

    /// Everything that the kernel needs: `to += from`.
    fn bind(
        &self,
        encoder: &Encoder,
        from: &ProtocolObject<dyn MTLBuffer>,
        to: &ProtocolObject<dyn MTLBuffer>,
    ) {
        encoder.setComputePipelineState(&self.pipeline);
        // SAFETY: this is right; the cases below are not.
        unsafe {
            encoder.setBuffer_offset_atIndex(Some(from), 0, 0);
            encoder.setBuffer_offset_atIndex(Some(to), 0, 1);
            encoder.setBytes_length_atIndex(NonNull::from(&COUNT).cast(), 4, 2);
        }
    }

    fn dispatch(&self, encoder: &Encoder) {
        encoder.dispatchThreadgroups_threadsPerThreadgroup(size(2), size(32));
    }

    /// A command buffer with one dispatch, not committed.
    fn encoded(&self) -> Retained<ProtocolObject<dyn MTLCommandBuffer>> {
        let (commands, encoder) = self.encoder();
        self.bind(&encoder, &self.x, &self.y);
        self.dispatch(&encoder);
        encoder.endEncoding();
        commands
    }
}

type Case = (&'static str, fn(&Program));

/// What the fake must say, and what makes it.
const CASES: &[Case] = &[
    ("dispatch after endEncoding", |program| {
        let (_commands, encoder) = program.encoder();
        program.bind(&encoder, &program.x, &program.y);
        encoder.endEncoding();
        program.dispatch(&encoder);
    }),
    ("over-release of an object of class MTLBuffer", |program| {
        let buffer =
            program.device.newBufferWithLength_options(16, MTLResourceOptions::empty()).unwrap();
        // SAFETY: none: it is released twice.
        let again = unsafe { Retained::from_raw(Retained::as_ptr(&buffer).cast_mut()) };
        drop(buffer);
        drop(again);
    }),
    ("the message length was sent to an object of class MTLBuffer after its end", |program| {
        let buffer =
            program.device.newBufferWithLength_options(16, MTLResourceOptions::empty()).unwrap();
        let pointer = Retained::as_ptr(&buffer);
        drop(buffer);
        // SAFETY: none: the object has ended.
        assert_ne!(unsafe { &*pointer }.length(), 16);
    }),
    ("unknown selector: -[MTLBuffer label]", |program| drop(program.x.label())),
    ("add: buffer 0 (x) is not bound", |program| {
        let (_commands, encoder) = program.encoder();
        program.bind(&encoder, &program.x, &program.y);
        // SAFETY: none of this is right.
        unsafe { encoder.setBuffer_offset_atIndex(None, 0, 0) };
        program.dispatch(&encoder);
    }),
    ("constants 2 are not bound", |program| {
        let (_commands, encoder) = program.encoder();
        encoder.setComputePipelineState(&program.pipeline);
        // SAFETY: none of this is right.
        unsafe {
            encoder.setBuffer_offset_atIndex(Some(&program.x), 0, 0);
            encoder.setBuffer_offset_atIndex(Some(&program.y), 0, 1);
        }
        program.dispatch(&encoder);
    }),
    ("2 bytes of constants, 4 needed", |program| {
        let (_commands, encoder) = program.encoder();
        program.bind(&encoder, &program.x, &program.y);
        // SAFETY: none of this is right.
        unsafe { encoder.setBytes_length_atIndex(NonNull::from(&COUNT).cast(), 2, 2) };
        program.dispatch(&encoder);
    }),
    ("setBytes: 5000 bytes", |program| {
        let (_commands, encoder) = program.encoder();
        let bytes = [0_u8; 5000];
        // SAFETY: none of this is right.
        unsafe { encoder.setBytes_length_atIndex(NonNull::from(&bytes).cast(), bytes.len(), 2) };
    }),
    ("offset 300 in a buffer of 256 bytes", |program| {
        let (_commands, encoder) = program.encoder();
        // SAFETY: none of this is right.
        unsafe { encoder.setBuffer_offset_atIndex(Some(&program.x), 300, 0) };
    }),
    ("buffer 0 begins at byte 2, not on 4", |program| {
        let (_commands, encoder) = program.encoder();
        program.bind(&encoder, &program.x, &program.y);
        // SAFETY: none of this is right.
        unsafe { encoder.setBuffer_offset_atIndex(Some(&program.x), 2, 0) };
        program.dispatch(&encoder);
    }),
    ("buffer index 31", |program| {
        let (_commands, encoder) = program.encoder();
        // SAFETY: none of this is right.
        unsafe { encoder.setBuffer_offset_atIndex(Some(&program.x), 0, 31) };
    }),
    ("threadgroups of Size { width: 2048", |program| {
        let (_commands, encoder) = program.encoder();
        program.bind(&encoder, &program.x, &program.y);
        encoder.dispatchThreadgroups_threadsPerThreadgroup(size(1), size(2048));
    }),
    ("setThreadgroupMemoryLength: 24 bytes", |program| {
        let (_commands, encoder) = program.encoder();
        // SAFETY: none of this is right.
        unsafe { encoder.setThreadgroupMemoryLength_atIndex(24, 0) };
    }),
    ("dispatch without a pipeline", |program| program.dispatch(&program.encoder().1)),
    ("commit with an open encoder", |program| program.encoder().0.commit()),
    ("a second open encoder", |program| {
        let (commands, _encoder) = program.encoder();
        drop(commands.computeCommandEncoderWithDispatchType(MTLDispatchType::Concurrent));
    }),
    ("a command buffer was committed twice", |program| {
        let commands = program.encoded();
        commands.commit();
        commands.commit();
    }),
    ("waitUntilCompleted before commit", |program| program.encoded().waitUntilCompleted()),
    ("an encoder was released before endEncoding", |program| {
        autoreleasepool(|_| drop(program.encoder()));
    }),
    ("the times of a command buffer that has not ended", |program| {
        let commands = program.encoded();
        commands.commit();
        assert!(commands.GPUEndTime() > 0.0);
    }),
    ("a buffer of 256 bytes is in no committed residency set", |program| {
        let set = program
            .device
            .newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new())
            .unwrap();
        program.queue.addResidencySet(&set);
        set.addAllocation(ProtocolObject::from_ref(&*program.x));
        set.addAllocation(ProtocolObject::from_ref(&*program.y));
        // Not committed.
        program.encoded().commit();
    }),
    ("the host wrote to byte 0", |program| {
        let commands = program.encoded();
        commands.commit();
        program.fill(&program.y, 0);
        commands.waitUntilCompleted();
    }),
    ("a buffer of 256 bytes was released while work under way writes it", |program| {
        let commands = program.encoded();
        commands.commit();
        // SAFETY: none: the queue's work still uses it.
        drop(unsafe { Retained::from_raw(Retained::as_ptr(&program.y).cast_mut()) });
    }),
    ("was used before its init or after its end", |program| {
        let commands = program.encoded();
        commands.commit();
        // SAFETY: none: as above, of a buffer that is only read.
        drop(unsafe { Retained::from_raw(Retained::as_ptr(&program.x).cast_mut()) });
        commands.waitUntilCompleted();
    }),
    ("both must be multiples of 4096", |program| {
        let bytes = [0_u8; 64];
        let (pointer, options) = (NonNull::from(&bytes).cast(), MTLResourceOptions::empty());
        // SAFETY: none of this is right.
        drop(unsafe {
            program
                .device
                .newBufferWithBytesNoCopy_length_options_deallocator(pointer, 64, options, None)
        });
    }),
    ("a buffer of 0 bytes", |program| {
        drop(program.device.newBufferWithLength_options(0, MTLResourceOptions::empty()));
    }),
];

#[expect(clippy::disallowed_methods, reason = "the child learns which case it is")]
fn case() -> usize {
    std::env::var("FAKE_METAL_CASE").unwrap().parse().unwrap()
}

#[test]
fn every_misuse_ends_the_process_with_its_name() {
    for (case_number, (expected, _)) in CASES.iter().enumerate() {
        let number = case_number.to_string();
        let Some(output) =
            parent("misuse::every_misuse_ends_the_process_with_its_name", &[("CASE", &number)])
        else {
            let program = Program::new();
            return autoreleasepool(|_| CASES[case()].1(&program));
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected), "{expected:?} was not found: {}\n{said}", output.status);
        assert_eq!(output.status.signal(), Some(6), "{said}");
    }
}

#[test]
fn an_object_without_a_pool_ends_the_process() {
    let Some(output) = parent("misuse::an_object_without_a_pool_ends_the_process", &[]) else {
        return drop(Program::new().queue.commandBuffer());
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("autoreleased without a pool"), "{said}");
}

#[test]
fn a_leak_fails_the_process() {
    let Some(output) = parent("misuse::a_leak_fails_the_process", &[]) else {
        let never_released = Retained::into_raw(Program::new().x);
        return assert!(!never_released.is_null());
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("leaked 1 MTLBuffer"), "{said}");
    assert_eq!(output.status.code(), Some(97));
}

/// How many of these seeds give the right result.
fn right(test: &str, body: fn(&Program) -> bool) -> Option<usize> {
    let mut count = 0;
    for seed in 1..=8 {
        let Some(output) = parent(test, &[("SEED", &seed.to_string())]) else {
            let program = Program::new();
            let right = autoreleasepool(|_| body(&program));
            eprintln!("right: {right}");
            return None;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        count += usize::from(String::from_utf8_lossy(&output.stderr).contains("right: true"));
    }
    Some(count)
}

/// `y += x; x += y` from (1, 0).
fn dependent(program: &Program, barrier: bool) -> bool {
    let (commands, encoder) = program.encoder();
    program.bind(&encoder, &program.x, &program.y);
    program.dispatch(&encoder);
    if barrier {
        encoder.memoryBarrierWithScope(MTLBarrierScope::Buffers);
    }
    program.bind(&encoder, &program.y, &program.x);
    program.dispatch(&encoder);
    encoder.endEncoding();
    commands.commit();
    assert_eq!(program.first(&program.x), u32::MAX, "before it has ended there is poison");
    commands.waitUntilCompleted();
    (program.first(&program.x), program.first(&program.y)) == (2, 1)
}

#[test]
fn a_missing_barrier_gives_wrong_results() {
    let test = "misuse::a_missing_barrier_gives_wrong_results";
    if let Some(right) = right(test, |program| dependent(program, false)) {
        assert!((1..8).contains(&right), "{right} of 8");
    }
}

#[test]
fn a_barrier_gives_right_results() {
    let test = "misuse::a_barrier_gives_right_results";
    if let Some(right) = right(test, |program| dependent(program, true)) {
        assert_eq!(right, 8);
    }
}

/// The same in two command buffers.
fn in_two(program: &Program, fence: bool) -> bool {
    let order = program.device.newFence().unwrap();
    let mut all = Vec::new();
    for (from, to) in [(&program.x, &program.y), (&program.y, &program.x)] {
        let (commands, encoder) = program.encoder();
        if fence {
            encoder.waitForFence(&order);
        }
        program.bind(&encoder, from, to);
        program.dispatch(&encoder);
        if fence {
            encoder.updateFence(&order);
        }
        encoder.endEncoding();
        commands.commit();
        all.push(commands);
    }
    all.iter().for_each(|commands| commands.waitUntilCompleted());
    (program.first(&program.x), program.first(&program.y)) == (2, 1)
}

#[test]
fn a_missing_fence_gives_wrong_results() {
    if let Some(right) =
        right("misuse::a_missing_fence_gives_wrong_results", |program| in_two(program, false))
    {
        assert!((1..8).contains(&right), "{right} of 8");
    }
}

#[test]
fn a_fence_gives_right_results() {
    if let Some(right) =
        right("misuse::a_fence_gives_right_results", |program| in_two(program, true))
    {
        assert_eq!(right, 8);
    }
}
