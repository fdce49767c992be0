//! The CPU, one command at a time: catches a launch that writes what it says it only reads, on which barriers rely.
use hal::cpu::{Cpu, CpuOptions};
use hal::{
    Buffer, Command, Commands, Device, Executed, Fence, Handle, Info, Kernel, Memory, Prepared,
    Program, Result, Span, Timing,
};
use std::collections::HashMap;
use std::sync::Mutex;

/// See the module.
#[derive(Debug)]
pub(super) struct Stepwise {
    cpu: Cpu,
    /// Of each prepared list its commands, prepared alone, with the spans they only read.
    singles: Mutex<HashMap<Prepared, Vec<Single>>>,
}

#[derive(Clone, Debug)]
struct Single {
    prepared: Prepared,
    only_read: Vec<Span>,
}

impl Stepwise {
    pub(super) fn open() -> Self {
        let cpu = Cpu::open(CpuOptions { threads: Some(1) }).expect("a cpu");
        Self { cpu, singles: Mutex::default() }
    }

    fn contents(&self, spans: &[Span]) -> Vec<Vec<u8>> {
        let contents = |span: &Span| {
            let mut bytes = vec![0; usize::try_from(span.bytes).expect("small")];
            self.cpu.read(*span, &mut bytes).map(|()| bytes)
        };
        spans.iter().map(|span| contents(span).expect("readable")).collect()
    }
}

fn only_read(commands: &Commands, command: &Command) -> Vec<Span> {
    let Command::Launch(launch) = command else { return Vec::new() };
    let spans = commands.spans_of(launch).iter().zip(0..);
    spans.filter(|(_, i)| launch.writes >> i & 1 == 0).map(|(span, _)| *span).collect()
}

#[expect(unsafe_code, reason = "implements the unsafe half of Device")]
impl Device for Stepwise {
    fn info(&self) -> &Info {
        self.cpu.info()
    }
    fn alloc(&self, memory: Memory) -> Result<Buffer> {
        self.cpu.alloc(memory)
    }
    fn free(&self, handle: Handle) {
        self.cpu.free(handle);
    }
    fn write(&self, target: Span, source: &[u8]) -> Result<()> {
        self.cpu.write(target, source)
    }
    fn read(&self, source: Span, target: &mut [u8]) -> Result<()> {
        self.cpu.read(source, target)
    }
    fn resident(&self, span: Span) -> Result<u64> {
        self.cpu.resident(span)
    }
    fn load(&self, program: &'static Program) -> Result<Kernel> {
        self.cpu.load(program)
    }
    unsafe fn prepare(&self, commands: &Commands) -> Result<Prepared> {
        let single = |command: &Command| {
            let alone = Commands { list: vec![command.clone()], ..commands.clone() };
            // SAFETY: the caller's promise holds for each command.
            let prepared = unsafe { self.cpu.prepare(&alone) }?;
            Ok(Single { prepared, only_read: only_read(commands, command) })
        };
        let singles = commands.list.iter().map(single).collect::<Result<Vec<_>>>()?;
        // SAFETY: as above.
        let whole = unsafe { self.cpu.prepare(commands) }?;
        self.singles.lock().expect("no panic holds this lock").insert(whole, singles);
        Ok(whole)
    }
    fn submit(&self, prepared: Prepared, timing: Timing) -> Result<Fence> {
        let singles = self.singles.lock().expect("no panic holds this lock")[&prepared].clone();
        let mut fence = Fence(0);
        for (command, single) in singles.iter().enumerate() {
            let before = self.contents(&single.only_read);
            fence = self.cpu.submit(single.prepared, timing)?;
            let unchanged = before == self.contents(&single.only_read);
            assert!(unchanged, "command {command} writes a span that it says it only reads");
        }
        Ok(fence)
    }
    fn wait(&self, fence: Fence) -> Result<()> {
        self.cpu.wait(fence)
    }
    fn executed(&self) -> Vec<Executed> {
        self.cpu.executed()
    }
}
