//! Compute encoders: what they record, and what they must not be told.
#![expect(unsafe_code, reason = "reads bytes that callers point to, runs kernels")]
use crate::buffer::Buffer;
use crate::device::{SCRATCH_MAX, Size};
use crate::library::{Function, Pipeline};
use crate::queue::{self, Fence};
use crate::runtime::{Object, Sel, Strong, class, count, lock, misuse};
use crate::settings;
use msl::{Argument, Job, Schedule, Workers};
use std::sync::{Arc, Mutex};

class!(ENCODER, c"MTLComputeCommandEncoder", [], [
    "setComputePipelineState:" => set_pipeline,
    "setBuffer:offset:atIndex:" => set_buffer,
    "setBytes:length:atIndex:" => set_bytes,
    "setThreadgroupMemoryLength:atIndex:" => set_scratch,
    "dispatchThreadgroups:threadsPerThreadgroup:" => dispatch,
    "memoryBarrierWithScope:" => barrier,
    "waitForFence:" => wait_for,
    "updateFence:" => update,
    "endEncoding" => end,
]);

const BUFFERS_MAX: usize = 31;
const BYTES_MAX: usize = 4096;

/// An object that a command buffer uses: retained, unless the command buffer was made without.
#[derive(Clone)]
pub(crate) struct Use {
    pub(crate) object: &'static Object,
    _kept: Option<Strong>,
}

impl Use {
    fn new(object: &'static Object, retain: bool) -> Self {
        Self { object, _kept: retain.then(|| Strong::of(object)) }
    }
}

#[derive(Clone, Default)]
enum Slot {
    #[default]
    Empty,
    Buffer(Use, usize),
    Bytes(Vec<u8>),
}

#[derive(Clone)]
pub(crate) struct Dispatch {
    pipeline: Use,
    slots: Vec<Slot>,
    scratch: usize,
    groups: Size,
    threads: Size,
}

/// What one encoder recorded.
#[derive(Default)]
pub(crate) struct Pass {
    pub(crate) concurrent: bool,
    /// Dispatches between barriers.
    pub(crate) segments: Vec<Vec<Dispatch>>,
    pub(crate) waits: Vec<Arc<Fence>>,
    pub(crate) updates: Vec<Arc<Fence>>,
}

struct Encoder {
    command_buffer: Strong,
    retain: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pipeline: Option<Use>,
    slots: Vec<Slot>,
    scratch: usize,
    pass: Pass,
    ended: bool,
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if !lock(&self.state).ended {
            misuse!("an encoder was released before endEncoding");
        }
    }
}

pub(crate) fn encoder(command_buffer: &'static Object, retain: bool, concurrent: bool) -> Strong {
    let pass = Pass { concurrent, segments: vec![Vec::new()], ..Pass::default() };
    let state = State { slots: vec![Slot::Empty; BUFFERS_MAX], pass, ..State::default() };
    Strong::new(
        &ENCODER,
        Encoder { command_buffer: Strong::of(command_buffer), retain, state: Mutex::new(state) },
    )
}

/// Tells an open encoder something.
fn tell(this: &Object, what: &str, f: impl FnOnce(&mut State, bool)) {
    let encoder = this.body::<Encoder>();
    let mut state = lock(&encoder.state);
    if state.ended {
        misuse!("{what} after endEncoding");
    }
    f(&mut state, encoder.retain);
}

fn slot(index: usize) -> usize {
    if index >= BUFFERS_MAX {
        misuse!("buffer index {index}, there are {BUFFERS_MAX}");
    }
    index
}

extern "C" fn set_pipeline(this: &Object, _: Sel, pipeline: &'static Object) {
    tell(this, "setComputePipelineState", |state, retain| {
        state.pipeline = Some(Use::new(pipeline, retain));
    });
}

extern "C" fn set_buffer(
    this: &Object,
    _: Sel,
    buffer: Option<&'static Object>,
    offset: usize,
    index: usize,
) {
    tell(this, "setBuffer", |state, retain| {
        state.slots[slot(index)] = match buffer {
            None => Slot::Empty,
            Some(buffer) => {
                let length = buffer.body::<Buffer>().length;
                if offset > length {
                    misuse!("setBuffer: offset {offset} in a buffer of {length} bytes");
                }
                Slot::Buffer(Use::new(buffer, retain), offset)
            }
        };
    });
}

unsafe extern "C" fn set_bytes(
    this: &Object,
    _: Sel,
    bytes: *const u8,
    length: usize,
    index: usize,
) {
    if length == 0 || length > BYTES_MAX {
        misuse!("setBytes: {length} bytes, 1 to {BYTES_MAX}");
    }
    // SAFETY: the selector's contract.
    let bytes = unsafe { std::slice::from_raw_parts(bytes, length) }.to_vec();
    tell(this, "setBytes", |state, _| state.slots[slot(index)] = Slot::Bytes(bytes));
}

extern "C" fn set_scratch(this: &Object, _: Sel, length: usize, index: usize) {
    if !length.is_multiple_of(16) || length > SCRATCH_MAX || index != 0 {
        misuse!(
            "setThreadgroupMemoryLength: {length} bytes at {index}; a multiple of 16 up to {SCRATCH_MAX} at 0"
        );
    }
    tell(this, "setThreadgroupMemoryLength", |state, _| state.scratch = length);
}

extern "C" fn barrier(this: &Object, _: Sel, _scope: usize) {
    count("barriers");
    tell(this, "memoryBarrier", |state, _| state.pass.segments.push(Vec::new()));
}

extern "C" fn wait_for(this: &Object, _: Sel, fence: &Object) {
    tell(this, "waitForFence", |state, _| state.pass.waits.push(fence.body()));
}

extern "C" fn update(this: &Object, _: Sel, fence: &Object) {
    tell(this, "updateFence", |state, _| state.pass.updates.push(fence.body()));
}

extern "C" fn end(this: &Object, _: Sel) {
    let encoder = this.body::<Encoder>();
    let mut pass = Pass::default();
    tell(this, "endEncoding", |state, _| {
        state.ended = true;
        pass = std::mem::take(&mut state.pass);
    });
    queue::close(encoder.command_buffer.get(), pass);
}

extern "C" fn dispatch(this: &Object, _: Sel, groups: Size, threads: Size) {
    count("dispatches");
    tell(this, "dispatch", |state, _| {
        let Some(pipeline) = state.pipeline.clone() else { misuse!("dispatch without a pipeline") };
        let new = Dispatch {
            pipeline,
            slots: state.slots.clone(),
            scratch: state.scratch,
            groups,
            threads,
        };
        new.check();
        if let Some(segment) = state.pass.segments.last_mut() {
            segment.push(new);
        }
    });
}

impl Dispatch {
    fn function(&self) -> Arc<Function> {
        self.pipeline.object.body::<Pipeline>().function()
    }

    /// Limits, and whether everything that the kernel names is bound.
    fn check(&self) {
        let function = self.function();
        let name = &function.name;
        let threads: usize = self.threads.of().iter().product();
        if threads == 0 || threads > settings::get().threads || self.groups.of().contains(&0) {
            misuse!("{name}: {:?} threadgroups of {:?} threads", self.groups, self.threads);
        }
        let Some(entry) = function.source.entry(name) else { misuse!("{name} is gone") };
        let (constant_bytes, aligned) = function.kernels.layout(name).unwrap_or_default();
        for parameter in &entry.parameters {
            match &parameter.argument {
                Argument::Buffer { index, .. } => match &self.slots[*index] {
                    Slot::Buffer(_, offset) => {
                        let align = aligned.get(*index).map_or(1, |align| (*align).max(1) as usize);
                        if !offset.is_multiple_of(align) {
                            misuse!(
                                "{name}: buffer {index} begins at byte {offset}, not on {align}"
                            );
                        }
                    }
                    Slot::Bytes(_) => misuse!("{name}: bytes are bound to device buffer {index}"),
                    Slot::Empty => {
                        misuse!("{name}: buffer {index} ({}) is not bound", parameter.name);
                    }
                },
                Argument::Constant { index } => match &self.slots[*index] {
                    Slot::Bytes(bytes) if bytes.len() < constant_bytes => {
                        misuse!(
                            "{name}: {} bytes of constants, {constant_bytes} needed",
                            bytes.len()
                        );
                    }
                    Slot::Empty => misuse!("{name}: constants {index} are not bound"),
                    _ => {}
                },
                Argument::Threadgroup { .. } if self.scratch == 0 => {
                    misuse!("{name}: its threadgroup memory has no length");
                }
                _ => {}
            }
        }
    }

    /// Calls `f` with each buffer that the kernel sees, and whether it writes it.
    pub(crate) fn buffers(&self, f: &mut dyn FnMut(&'static Object, bool)) {
        let function = self.function();
        let parameters = function.source.entry(&function.name).map(|entry| &entry.parameters);
        for parameter in parameters.into_iter().flatten() {
            match parameter.argument {
                Argument::Buffer { index, written } => {
                    if let Slot::Buffer(used, _) = &self.slots[index] {
                        f(used.object, written);
                    }
                }
                Argument::Constant { index } => {
                    if let Slot::Buffer(used, _) = &self.slots[index] {
                        f(used.object, false);
                    }
                }
                _ => {}
            }
        }
    }

    /// Runs every thread of the grid.
    pub(crate) fn run(&self, seed: u64, workers: &mut Workers) {
        let function = self.function();
        // Bytes lie where Metal would put them: aligned for any type.
        let mut copies: Vec<Vec<u128>> = Vec::new();
        let mut pointers = Vec::new();
        for slot in &self.slots {
            pointers.push(match slot {
                Slot::Empty => std::ptr::null_mut(),
                Slot::Buffer(used, offset) => used.object.body::<Buffer>().at(*offset),
                Slot::Bytes(bytes) => {
                    let mut copy = vec![0_u128; bytes.len().div_ceil(16)];
                    let start = copy.as_mut_ptr().cast::<u8>();
                    // SAFETY: the copy has room for as many bytes.
                    unsafe { start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
                    copies.push(copy);
                    start
                }
            });
        }
        let small = |size: Size| size.of().map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let job = Job {
            kernel: &function.name,
            groups: small(self.groups),
            group_size: small(self.threads),
            scratch_bytes: u32::try_from(self.scratch).unwrap_or(u32::MAX),
            schedule: Schedule::Random(seed),
        };
        // SAFETY: `check` saw every argument bound; nothing else runs.
        if let Err(fault) = unsafe { function.kernels.run(&job, &pointers, workers) } {
            misuse!("{fault}");
        }
    }
}
