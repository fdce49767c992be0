//! The Metal driver.
//!
//! A submit is one command buffer with one concurrent compute encoder: the order inside it comes from the recorded
//! hazards, the order between command buffers from one fence. Up to [`IN_FLIGHT_MAX`] are under way, so that the next
//! step is encoded while this one runs. Every command buffer's status is looked at; what failed fails its fence, and
//! those submitted after it, and the device goes on unless Metal says that it cannot.
mod flight;
mod info;
mod library;
mod memory;
mod run;
mod steps;
#[cfg(test)]
mod tests;

use super::MetalOptions;
use crate::slots::next_owner;
use crate::{
    Buffer, Commands, Error, Executed, Fence, Handle, Info, Kernel, Memory, Prepared, Program,
};
use crate::{Result, Slots, Span, Timing};
use flight::{Failure, Flight};
use library::{Compiler, Fault, Pipeline};
use memory::{Block, Refused, Residency, length};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCommandQueue, MTLCopyAllDevices, MTLDevice, MTLFence};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use steps::Steps;

/// Command buffers that are committed and not known to have ended. Two keep a GPU busy; the third is slack.
const IN_FLIGHT_MAX: usize = 3;

/// See the module.
#[derive(Debug)]
pub(crate) struct Metal {
    info: Info,
    device: Retained<ProtocolObject<dyn MTLDevice>>,
    queue: Retained<ProtocolObject<dyn MTLCommandQueue>>,
    /// Updated by each command buffer and waited for by the next.
    order: Retained<ProtocolObject<dyn MTLFence>>,
    compiler: Mutex<Compiler>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    buffers: Slots<Block>,
    residency: Residency,
    /// Bytes in buffers, those that wait in `graves` too.
    bytes: u64,
    bytes_max: u64,
    kernels: Slots<Loaded>,
    /// By the address of their programs.
    loaded: Vec<(usize, Kernel)>,
    prepared: Slots<Arc<Steps>>,
    /// The number of the last submit, and of the last that has ended.
    submitted: u64,
    ended: u64,
    flights: VecDeque<Flight>,
    /// Freed memory that submitted work may still use.
    graves: Vec<Block>,
    failures: Vec<(u64, Failure)>,
    lost: Option<String>,
}

#[derive(Debug)]
struct Loaded {
    pipeline: Retained<Pipeline>,
    executed: Executed,
}

/// Every GPU with its facts, or why it cannot be used. The error says why there is none.
pub(crate) fn probe() -> std::result::Result<Vec<std::result::Result<Info, String>>, String> {
    autoreleasepool(|_| {
        let devices = MTLCopyAllDevices();
        if devices.is_empty() {
            return Err("macOS shows no Metal device to this process".to_owned());
        }
        Ok((0..devices.len()).map(|at| info::info(&devices.objectAtIndex(at))).collect())
    })
}

/// Opens the GPU that stands there in [`probe`]'s list. The error says why that cannot be.
pub(crate) fn open(
    index: usize,
    options: &MetalOptions,
) -> std::result::Result<Arc<dyn crate::Device>, String> {
    autoreleasepool(|_| {
        let devices = MTLCopyAllDevices();
        let count = devices.len();
        if index >= count {
            return Err(format!("macOS shows {count} Metal devices to this process"));
        }
        let device = devices.objectAtIndex(index);
        let info = info::info(&device)?;
        let queue = device.newCommandQueue().ok_or("Metal gave no command queue")?;
        let order = device.newFence().ok_or("Metal gave no fence")?;
        let owner = next_owner();
        let state = State {
            buffers: Slots::new("buffer", owner),
            residency: Residency::new(&device, &queue),
            bytes: 0,
            bytes_max: info.memory_bytes,
            kernels: Slots::new("kernel", owner),
            loaded: Vec::new(),
            prepared: Slots::new("prepared", owner),
            submitted: 0,
            ended: 0,
            flights: VecDeque::new(),
            graves: Vec::new(),
            failures: Vec::new(),
            lost: None,
        };
        let compiler =
            Compiler::new(options.cache.clone(), format!("{} {}", info.name, info.system));
        let (compiler, state) = (Mutex::new(compiler), Mutex::new(state));
        Ok(Arc::new(Metal { info, device, queue, order, compiler, state })
            as Arc<dyn crate::Device>)
    })
}

impl Metal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn name(&self) -> String {
        self.info.kind.name().to_owned()
    }

    fn refused(&self, state: &State, refused: &Refused) -> Error {
        match refused {
            Refused::Full(needed) => self.out_of_memory(state, *needed),
            Refused::TooLong { bytes, most } => Error::Unsupported {
                device: self.name(),
                what: format!("a buffer of {bytes} bytes (at most {most})"),
            },
        }
    }

    /// What is taken counts as Metal counts it, so that a second device or another library in this process is seen.
    fn bytes_free(&self, state: &State) -> u64 {
        let taken = state.bytes.max(self.device.currentAllocatedSize() as u64);
        state.bytes_max.saturating_sub(taken)
    }

    fn out_of_memory(&self, state: &State, needed: u64) -> Error {
        Error::OutOfMemory { device: self.name(), needed, free: self.bytes_free(state) }
    }

    fn compile(&self, program: &'static Program) -> Result<Loaded> {
        let Some(gpu) = &program.gpu else {
            let what = format!("program {}: it has no GPU kernel", program.name);
            return Err(Error::Unsupported { device: self.name(), what });
        };
        let mut compiler = self.compiler.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let pipeline = compiler.pipeline(&self.device, gpu).map_err(|fault| match fault {
            Fault::Compile(log) => {
                Error::Compile { device: self.name(), program: program.name, log }
            }
            Fault::Unsupported(what) => Error::Unsupported {
                device: self.name(),
                what: format!("program {}: {what}", program.name),
            },
        })?;
        let executed =
            Executed { kernel: program.name, launches: 0, time_ns: 0, timed_launches: 0 };
        Ok(Loaded { pipeline, executed })
    }
}

impl State {
    /// The window of a span's buffer that holds it, and where that begins.
    fn window(
        &mut self,
        device: &ProtocolObject<dyn MTLDevice>,
        span: Span,
    ) -> Result<(usize, u64)> {
        let block = self.buffers.get_mut(span.buffer.0)?;
        let (window, new) =
            block.window(device, (span.offset, span.bytes)).map_err(|refused| match refused {
                Refused::Full(needed) => Error::OutOfMemory {
                    device: "metal".to_owned(),
                    needed,
                    free: self.bytes_max.saturating_sub(self.bytes),
                },
                Refused::TooLong { bytes, most } => Error::Unsupported {
                    device: "metal".to_owned(),
                    what: format!("a span of {bytes} bytes (at most {most})"),
                },
            })?;
        let (buffer, first) = block.buffer(window);
        if new {
            self.residency.add(buffer);
        }
        Ok((window, first))
    }

    /// First byte and length of a span in host memory, and whether it may be written.
    fn place(&self, span: Span) -> Result<(*mut u8, usize, bool)> {
        let block = self.buffers.get(span.buffer.0)?;
        if span.offset.checked_add(span.bytes).is_none_or(|end| end > block.bytes) {
            let reason = format!("span {span:?} leaves its buffer of {} bytes", block.bytes);
            return Err(Error::BadSpan { command: 0, reason });
        }
        Ok((block.pointer().wrapping_add(length(span.offset)), length(span.bytes), block.writable))
    }

    /// Gives memory back that no work uses any more.
    fn release(&mut self, block: Block) {
        self.residency.remove(&block);
        self.bytes -= block.bytes;
        drop(block);
    }

    fn kernel_of(&self, program: &'static Program) -> Option<Kernel> {
        let address = std::ptr::from_ref(program).addr();
        self.loaded.iter().find(|(known, _)| *known == address).map(|(_, kernel)| *kernel)
    }
}

#[expect(unsafe_code, reason = "host memory behind handles")]
impl crate::Device for Metal {
    fn info(&self) -> &Info {
        &self.info
    }

    fn alloc(&self, memory: Memory) -> Result<Buffer> {
        autoreleasepool(|_| {
            let mut state = self.state();
            let needed = match &memory {
                Memory::Bytes(bytes) | Memory::Dense(bytes) => *bytes,
                Memory::Mapped(mapping) => (**mapping).as_ref().len() as u64,
            };
            if needed > self.bytes_free(&state) && !state.graves.is_empty() {
                // What was freed while work used it is free when that has ended.
                let submitted = state.submitted;
                self.end_until(&mut state, submitted);
            }
            if needed > self.bytes_free(&state) {
                return Err(self.out_of_memory(&state, needed));
            }
            let block = Block::new(&self.device, memory)
                .map_err(|refused| self.refused(&state, &refused))?;
            for buffer in block.buffers() {
                state.residency.add(buffer);
            }
            state.bytes += block.bytes;
            Ok(Buffer(state.buffers.insert(block)))
        })
    }

    fn free(&self, handle: Handle) {
        autoreleasepool(|_| {
            let mut state = self.state();
            match handle {
                Handle::Prepared(prepared) => drop(state.prepared.remove(prepared.0)),
                Handle::Buffer(buffer) => {
                    if let Some(block) = state.buffers.remove(buffer.0) {
                        if block.used > state.ended {
                            state.graves.push(block);
                        } else {
                            state.release(block);
                        }
                    }
                }
            }
        });
    }

    fn write(&self, target: Span, source: &[u8]) -> Result<()> {
        let mut state = self.state();
        let (pointer, bytes, writable) = state.place(target)?;
        if !writable || source.len() > bytes {
            let reason = format!("cannot write {} bytes to {target:?}", source.len());
            return Err(Error::BadSpan { command: 0, reason });
        }
        let used = state.buffers.get(target.buffer.0)?.used;
        self.end_until(&mut state, used);
        // SAFETY: the span was checked, the buffer may be written, and work that uses it has ended and cannot begin
        // while the state is locked.
        unsafe { pointer.copy_from_nonoverlapping(source.as_ptr(), source.len()) };
        Ok(())
    }

    fn read(&self, source: Span, target: &mut [u8]) -> Result<()> {
        let mut state = self.state();
        let (pointer, bytes, _) = state.place(source)?;
        if target.len() > bytes {
            let reason = format!("cannot read {} bytes from {source:?}", target.len());
            return Err(Error::BadSpan { command: 0, reason });
        }
        let written = state.buffers.get(source.buffer.0)?.written;
        self.end_until(&mut state, written);
        if let Some((_, failure)) = state.failures.iter().find(|(fence, _)| *fence == written) {
            return Err(self.error(&state, failure.clone()));
        }
        // SAFETY: as above; work that only reads may go on.
        unsafe { target.as_mut_ptr().copy_from_nonoverlapping(pointer, target.len()) };
        Ok(())
    }

    fn resident(&self, span: Span) -> Result<u64> {
        let state = self.state();
        state.place(span)?;
        let block = state.buffers.get(span.buffer.0)?;
        Ok(if state.residency.holds(block) { span.bytes } else { 0 })
    }

    fn load(&self, program: &'static Program) -> Result<Kernel> {
        autoreleasepool(|_| {
            if let Some(kernel) = self.state().kernel_of(program) {
                return Ok(kernel);
            }
            let loaded = self.compile(program)?;
            let mut state = self.state();
            if let Some(kernel) = state.kernel_of(program) {
                return Ok(kernel);
            }
            let kernel = Kernel(state.kernels.insert(loaded));
            state.loaded.push((std::ptr::from_ref(program).addr(), kernel));
            Ok(kernel)
        })
    }

    unsafe fn prepare(&self, commands: &Commands) -> Result<Prepared> {
        autoreleasepool(|_| {
            {
                let state = self.state();
                let facts = |block: &Block| (block.bytes, block.writable);
                commands.check(|buffer| state.buffers.get(buffer.0).map(facts))?;
            }
            let steps = self.steps(commands)?;
            Ok(Prepared(self.state().prepared.insert(Arc::new(steps))))
        })
    }

    fn submit(&self, prepared: Prepared, timing: Timing) -> Result<Fence> {
        autoreleasepool(|_| self.start(prepared, timing))
    }

    fn wait(&self, fence: Fence) -> Result<()> {
        autoreleasepool(|_| self.end(fence))
    }

    fn executed(&self) -> Vec<Executed> {
        self.state().kernels.values().map(|kernel| kernel.executed.clone()).collect()
    }
}

impl Drop for Metal {
    /// Metal must not see memory go that its work still uses.
    fn drop(&mut self) {
        autoreleasepool(|_| {
            let mut state = self.state();
            let submitted = state.submitted;
            self.end_until(&mut state, submitted);
        });
    }
}
