//! The CPU as a device that takes its time, as a large model would: long answers are under way for as long as a test looks at them.
use hal::cpu::{Cpu, CpuOptions};
use hal::{Buffer, Commands, Device, Executed, Fence, Handle, Info, Kernel, Memory};
use hal::{Prepared, Program, Result, Span, Timing};
use std::time::Duration;

/// What each step takes at least: a thousand tokens a second.
const STEP_TIME_MIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Slow(Cpu);

impl Slow {
    pub(crate) fn open() -> Self {
        Self(Cpu::open(CpuOptions { threads: Some(1) }).unwrap())
    }
}

#[expect(unsafe_code, reason = "implements the unsafe half of Device")]
impl Device for Slow {
    fn info(&self) -> &Info {
        self.0.info()
    }
    fn alloc(&self, memory: Memory) -> Result<Buffer> {
        self.0.alloc(memory)
    }
    fn free(&self, handle: Handle) {
        self.0.free(handle);
    }
    fn write(&self, target: Span, source: &[u8]) -> Result<()> {
        self.0.write(target, source)
    }
    fn read(&self, source: Span, target: &mut [u8]) -> Result<()> {
        self.0.read(source, target)
    }
    fn resident(&self, span: Span) -> Result<u64> {
        self.0.resident(span)
    }
    fn load(&self, program: &'static Program) -> Result<Kernel> {
        self.0.load(program)
    }
    unsafe fn prepare(&self, commands: &Commands) -> Result<Prepared> {
        // SAFETY: the caller's promise.
        unsafe { self.0.prepare(commands) }
    }
    #[expect(clippy::disallowed_methods, reason = "a slow device takes time")]
    fn submit(&self, prepared: Prepared, timing: Timing) -> Result<Fence> {
        std::thread::sleep(STEP_TIME_MIN);
        self.0.submit(prepared, timing)
    }
    fn wait(&self, fence: Fence) -> Result<()> {
        self.0.wait(fence)
    }
    fn executed(&self) -> Vec<Executed> {
        self.0.executed()
    }
}
