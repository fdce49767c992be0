//! Work under way: encoding, waiting, and what a command buffer says when it ends.
#![expect(unsafe_code, reason = "binds buffers and bytes")]
use super::memory::Block;
use super::steps::{BUFFERS_MAX, Binding, Dispatch, Steps};
use super::{IN_FLIGHT_MAX, Metal, State};
use crate::{Error, Fence, Kernel, Prepared, Result, Timing};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{
    MTLBarrierScope, MTLCommandBuffer, MTLCommandBufferError, MTLCommandBufferStatus,
    MTLCommandEncoder as _, MTLCommandQueue as _, MTLComputeCommandEncoder, MTLDispatchType,
};
use std::ptr::NonNull;
use std::sync::Arc;

type CommandBuffer = ProtocolObject<dyn MTLCommandBuffer>;
type Encoder = ProtocolObject<dyn MTLComputeCommandEncoder>;

/// A committed command buffer.
pub(super) struct Flight {
    fence: u64,
    buffer: Retained<CommandBuffer>,
    steps: Arc<Steps>,
}

// SAFETY: once committed, a command buffer is only waited for and asked, which Metal allows from any thread.
unsafe impl Send for Flight {}

impl std::fmt::Debug for Flight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Flight({})", self.fence)
    }
}

/// Why work failed, kept until its fence is waited for.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    OutOfMemory { needed: u64 },
    Failed(String),
    Lost(String),
}

/// Failures that nobody asked for are forgotten, oldest first, beyond so many.
const FAILURES_MAX: usize = 64;

impl Metal {
    /// Encodes and commits.
    pub(super) fn start(&self, prepared: Prepared, timing: Timing) -> Result<Fence> {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(reason) = state.lost.clone() {
            return Err(Error::Lost { device: self.name(), reason });
        }
        let steps = Arc::clone(state.prepared.get(prepared.0)?);
        // All buffers must still live before anything is encoded.
        for table in &steps.tables {
            state.buffers.get(table.buffer.0)?;
        }
        while state.flights.len() >= IN_FLIGHT_MAX {
            self.end_first(state);
        }
        state.residency.settle();
        let fence = state.submitted + 1;
        if timing == Timing::PerKernel {
            self.start_timed(state, &steps, fence)?;
        } else {
            let buffer = self.encode(state, &steps, &steps.list)?;
            buffer.commit();
            state.flights.push_back(Flight { fence, buffer, steps: Arc::clone(&steps) });
        }
        state.submitted = fence;
        for table in &steps.tables {
            let block = state.buffers.get_mut(table.buffer.0)?;
            block.used = fence;
            if table.written {
                block.written = fence;
            }
        }
        Ok(Fence(fence))
    }

    /// One command buffer a launch, each waited for: Apple's GPUs read their clock at the ends of an encoder only, so a
    /// launch that shares one has no time of its own. The times hold no overlap of launches.
    fn start_timed(&self, state: &mut State, steps: &Arc<Steps>, fence: u64) -> Result<()> {
        let submitted = state.submitted;
        self.end_until(state, submitted);
        for dispatch in &steps.list {
            let buffer = self.encode(state, steps, std::slice::from_ref(dispatch))?;
            buffer.commit();
            buffer.waitUntilCompleted();
            if let Some(failure) = failure(&buffer, state, steps) {
                state.fail(fence, failure);
                break;
            }
            let time_ns = nanoseconds(buffer.GPUEndTime() - buffer.GPUStartTime());
            let executed = &mut state.kernels.get_mut(dispatch.kernel.0)?.executed;
            executed.launches += 1;
            executed.timed_launches += 1;
            executed.time_ns += time_ns;
        }
        state.ended = fence;
        Ok(())
    }

    fn encode(
        &self,
        state: &State,
        steps: &Steps,
        list: &[Dispatch],
    ) -> Result<Retained<CommandBuffer>> {
        let lost = |reason: &str| Error::Lost { device: self.name(), reason: reason.to_owned() };
        // Buffers live until the fence has passed (`State::graves`): Metal need not retain each.
        let buffer = self
            .queue
            .commandBufferWithUnretainedReferences()
            .ok_or_else(|| lost("Metal gave no command buffer"))?;
        let encoder = buffer
            .computeCommandEncoderWithDispatchType(MTLDispatchType::Concurrent)
            .ok_or_else(|| lost("Metal gave no encoder"))?;
        encoder.waitForFence(&self.order);
        let mut bound = Bound::default();
        for dispatch in list {
            bound.dispatch(&encoder, (state, steps), dispatch)?;
        }
        encoder.updateFence(&self.order);
        encoder.endEncoding();
        Ok(buffer)
    }

    /// Waits until everything up to `fence` has ended, keeping the lock.
    pub(super) fn end_until(&self, state: &mut State, fence: u64) {
        while state.ended < fence && !state.flights.is_empty() {
            self.end_first(state);
        }
    }

    fn end_first(&self, state: &mut State) {
        if let Some(flight) = state.flights.pop_front() {
            autoreleasepool(|_| {
                flight.buffer.waitUntilCompleted();
                state.ended(&flight);
            });
        }
    }

    /// Waits for one fence. Others may submit meanwhile.
    pub(super) fn end(&self, Fence(fence): Fence) -> Result<()> {
        loop {
            let mut state = self.state();
            if fence > state.submitted {
                return Err(Error::Stale { what: "fence" });
            }
            if let Some(at) = state.failures.iter().position(|(failed, _)| *failed == fence) {
                let (_, failure) = state.failures.remove(at);
                return Err(self.error(&state, failure));
            }
            let Some((number, buffer)) =
                state.flights.front().map(|first| (first.fence, first.buffer.clone()))
            else {
                return Ok(());
            };
            if fence <= state.ended {
                return Ok(());
            }
            drop(state);
            buffer.waitUntilCompleted();
            let mut state = self.state();
            if state.flights.front().is_some_and(|first| first.fence == number) {
                self.end_first(&mut state);
            }
        }
    }

    pub(super) fn error(&self, state: &State, failure: Failure) -> Error {
        let device = self.name();
        match failure {
            Failure::OutOfMemory { needed } => self.out_of_memory(state, needed),
            Failure::Failed(reason) => Error::Failed { device, reason },
            Failure::Lost(reason) => Error::Lost { device, reason },
        }
    }
}

impl State {
    /// Takes note of the end of the oldest work.
    fn ended(&mut self, flight: &Flight) {
        self.ended = flight.fence;
        if let Some(failure) = failure(&flight.buffer, self, &flight.steps) {
            self.fail(flight.fence, failure);
        } else {
            for (kernel, count) in &flight.steps.counts {
                if let Ok(loaded) = self.kernels.get_mut(kernel.0) {
                    loaded.executed.launches += count;
                }
            }
        }
        let (gone, kept): (Vec<Block>, Vec<Block>) = std::mem::take(&mut self.graves)
            .into_iter()
            .partition(|block| block.used <= self.ended);
        self.graves = kept;
        for block in gone {
            self.release(block);
        }
    }

    /// Work that was submitted after what failed has read its results.
    fn fail(&mut self, fence: u64, failure: Failure) {
        if let Failure::Lost(reason) = &failure {
            self.lost = Some(reason.clone());
        }
        let after = self.flights.iter().map(|flight| flight.fence);
        let after: Vec<u64> =
            after.filter(|later| self.failures.iter().all(|(known, _)| known != later)).collect();
        if self.failures.iter().all(|(known, _)| *known != fence) {
            self.failures.push((fence, failure));
        }
        let reason = "it was computed from the results of work that failed";
        self.failures
            .extend(after.into_iter().map(|later| (later, Failure::Failed(reason.to_owned()))));
        let surplus = self.failures.len().saturating_sub(FAILURES_MAX);
        self.failures.drain(..surplus);
    }
}

/// What a command buffer that has ended complains about.
fn failure(buffer: &CommandBuffer, state: &State, steps: &Steps) -> Option<Failure> {
    if buffer.status() == MTLCommandBufferStatus::Completed {
        return None;
    }
    let Some(error) = buffer.error() else {
        return Some(Failure::Failed(format!(
            "a command buffer ended with status {}",
            buffer.status().0
        )));
    };
    let code =
        usize::try_from(error.code()).map_or(MTLCommandBufferError::None, MTLCommandBufferError);
    let said = error.localizedDescription();
    Some(match code {
        MTLCommandBufferError::OutOfMemory => {
            let bytes = |table: &super::steps::Table| {
                state.buffers.get(table.buffer.0).map_or(0, |block| block.bytes)
            };
            Failure::OutOfMemory { needed: steps.tables.iter().map(bytes).sum() }
        }
        MTLCommandBufferError::Timeout => {
            Failure::Failed(format!("the GPU took too long and was stopped ({said})"))
        }
        MTLCommandBufferError::PageFault => {
            Failure::Failed(format!("a kernel left its memory ({said})"))
        }
        MTLCommandBufferError::StackOverflow => {
            Failure::Failed(format!("a kernel's stack overflowed ({said})"))
        }
        MTLCommandBufferError::NotPermitted => {
            Failure::Failed(format!("the system lets this process not use the GPU now ({said})"))
        }
        MTLCommandBufferError::AccessRevoked => {
            Failure::Lost(format!("the system ignores this process after earlier errors ({said})"))
        }
        MTLCommandBufferError::DeviceRemoved => {
            Failure::Lost(format!("the GPU was removed ({said})"))
        }
        MTLCommandBufferError(code) => Failure::Failed(format!("{said} (code {code})")),
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a duration, rounded")]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1e9) as u64
}

/// What an encoder was told last, so that it is told again only what changes.
#[derive(Default)]
struct Bound {
    kernel: Option<Kernel>,
    buffers: [Option<Binding>; BUFFERS_MAX],
    scratch_bytes: usize,
}

impl Bound {
    fn dispatch(
        &mut self,
        encoder: &Encoder,
        (state, steps): (&State, &Steps),
        dispatch: &Dispatch,
    ) -> Result<()> {
        if dispatch.barrier {
            encoder.memoryBarrierWithScope(MTLBarrierScope::Buffers);
        }
        if self.kernel != Some(dispatch.kernel) {
            encoder.setComputePipelineState(&state.kernels.get(dispatch.kernel.0)?.pipeline);
            self.kernel = Some(dispatch.kernel);
        }
        let bindings = &steps.bindings[dispatch.bindings.clone()];
        for (index, binding) in bindings.iter().enumerate() {
            if self.buffers[index] != Some(*binding) {
                let table = &steps.tables[binding.table];
                let (buffer, _) = state.buffers.get(table.buffer.0)?.buffer(table.window);
                // SAFETY: `prepare` checked the span against its buffer, and the buffer lives until the fence.
                unsafe { encoder.setBuffer_offset_atIndex(Some(buffer), binding.offset, index) };
                self.buffers[index] = Some(*binding);
            }
        }
        let constants = &steps.constants[dispatch.constants.clone()];
        if !constants.is_empty() {
            let index = bindings.len();
            let first = NonNull::from(constants).cast();
            // SAFETY: Metal copies the bytes, of which there are at most 4096: `prepare` checked.
            unsafe { encoder.setBytes_length_atIndex(first, constants.len(), index) };
            self.buffers[index] = None;
        }
        if dispatch.scratch_bytes > 0 && dispatch.scratch_bytes != self.scratch_bytes {
            // SAFETY: a multiple of 16 within the device's limit: `prepare` checked.
            unsafe { encoder.setThreadgroupMemoryLength_atIndex(dispatch.scratch_bytes, 0) };
            self.scratch_bytes = dispatch.scratch_bytes;
        }
        encoder.dispatchThreadgroups_threadsPerThreadgroup(dispatch.groups, dispatch.threads);
        Ok(())
    }
}
