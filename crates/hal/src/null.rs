//! Executes nothing and remembers everything: the driver for golden tests and dry runs.
use crate::slots::next_owner;
use crate::{Buffer, Commands, Device, Executed, Fence, Handle, Info, Kernel, Kind, Memory};
use crate::{Prepared, Program, Result, Slots, Span, Timing};
use std::sync::{Mutex, MutexGuard};

/// See the module.
#[derive(Debug)]
pub struct Null {
    info: Info,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    buffers: Slots<u64>,
    kernels: Slots<&'static Program>,
    loaded: Vec<Kernel>,
    prepared: Slots<Commands>,
}

impl Default for Null {
    fn default() -> Self {
        let owner = next_owner();
        let buffers = Slots::new("buffer", owner);
        let (kernels, prepared) = (Slots::new("kernel", owner), Slots::new("prepared", owner));
        let info = Info { name: "null".to_owned(), ..Info::new(Kind::Null) };
        Self { info, state: Mutex::new(State { buffers, kernels, loaded: Vec::new(), prepared }) }
    }
}

impl Null {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds this lock")
    }

    /// What was prepared, for tests and plans to look at.
    pub fn commands(&self, prepared: Prepared) -> Result<Commands> {
        self.state().prepared.get(prepared.0).cloned()
    }
}

#[expect(unsafe_code, reason = "implements the unsafe half of Device")]
impl Device for Null {
    fn info(&self) -> &Info {
        &self.info
    }
    fn alloc(&self, memory: Memory) -> Result<Buffer> {
        let bytes = match memory {
            Memory::Bytes(bytes) | Memory::Dense(bytes) => bytes,
            Memory::Mapped(mapping) => (*mapping).as_ref().len() as u64,
        };
        Ok(Buffer(self.state().buffers.insert(bytes)))
    }
    fn free(&self, handle: Handle) {
        match handle {
            Handle::Buffer(buffer) => drop(self.state().buffers.remove(buffer.0)),
            Handle::Prepared(prepared) => drop(self.state().prepared.remove(prepared.0)),
        }
    }
    fn write(&self, target: Span, _: &[u8]) -> Result<()> {
        self.state().buffers.get(target.buffer.0).map(drop)
    }
    fn read(&self, source: Span, target: &mut [u8]) -> Result<()> {
        target.fill(0);
        self.state().buffers.get(source.buffer.0).map(drop)
    }
    fn resident(&self, span: Span) -> Result<u64> {
        self.state().buffers.get(span.buffer.0).map(|_| span.bytes)
    }
    fn load(&self, program: &'static Program) -> Result<Kernel> {
        let mut state = self.state();
        for kernel in &state.loaded {
            if std::ptr::eq(*state.kernels.get(kernel.0)?, program) {
                return Ok(*kernel);
            }
        }
        let kernel = Kernel(state.kernels.insert(program));
        state.loaded.push(kernel);
        Ok(kernel)
    }
    unsafe fn prepare(&self, commands: &Commands) -> Result<Prepared> {
        let mut state = self.state();
        commands.check(|buffer| state.buffers.get(buffer.0).map(|bytes| (*bytes, true)))?;
        Ok(Prepared(state.prepared.insert(commands.clone())))
    }
    fn submit(&self, prepared: Prepared, _: Timing) -> Result<Fence> {
        self.state().prepared.get(prepared.0).map(|_| Fence(0))
    }
    fn wait(&self, _: Fence) -> Result<()> {
        Ok(())
    }
    fn executed(&self) -> Vec<Executed> {
        Vec::new()
    }
}
