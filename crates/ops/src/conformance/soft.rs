//! The soft device under several schedules, opened once a process: what it has compiled is kept from case to case.
use super::Subject;
use hal::{
    Buffer, Commands, Device, Error, Executed, Fence, Handle, Info, Kernel, Memory, Prepared,
    Program, Result, Span, Timing,
};
use msl::{Checks, Schedule, Soft, SoftOptions};
use std::sync::{Mutex, OnceLock};

const SCHEDULES: [(&str, Schedule); 3] = [
    ("soft forward", Schedule::Forward),
    ("soft reverse", Schedule::Reverse),
    ("soft random", Schedule::Random(17)),
];

/// None, loudly, without clang.
pub(super) fn subjects() -> Vec<Subject> {
    static OPENED: OnceLock<Vec<Soft>> = OnceLock::new();
    let opened = OPENED
        .get_or_init(|| SCHEDULES.iter().filter_map(|(_, schedule)| open(*schedule)).collect());
    let subject = |((name, _), soft): (&(&str, Schedule), &'static Soft)| Subject {
        name: (*name).to_owned(),
        device: Box::new(Visit { soft, taken: Mutex::default() }),
        executes: true,
    };
    SCHEDULES.iter().zip(opened).map(subject).collect()
}

fn open(schedule: Schedule) -> Option<Soft> {
    match Soft::open(SoftOptions { schedule, checks: Checks::None }) {
        Err(Error::Unavailable { reason, .. }) => {
            eprintln!("SKIPPED on soft: {reason}");
            None
        }
        soft => Some(soft.expect("soft opens where clang is")),
    }
}

/// A case's use of the device: gives back what it took.
#[derive(Debug)]
struct Visit {
    soft: &'static Soft,
    taken: Mutex<Vec<Handle>>,
}

impl Visit {
    fn keep(&self, handle: Handle) {
        self.taken.lock().expect("no panic holds this lock").push(handle);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        for handle in self.taken.get_mut().expect("no panic holds this lock").drain(..) {
            self.soft.free(handle);
        }
    }
}

#[expect(unsafe_code, reason = "implements the unsafe half of Device")]
impl Device for Visit {
    fn info(&self) -> &Info {
        self.soft.info()
    }
    fn alloc(&self, memory: Memory) -> Result<Buffer> {
        let buffer = self.soft.alloc(memory)?;
        self.keep(Handle::Buffer(buffer));
        Ok(buffer)
    }
    fn free(&self, handle: Handle) {
        self.soft.free(handle);
    }
    fn write(&self, target: Span, source: &[u8]) -> Result<()> {
        self.soft.write(target, source)
    }
    fn read(&self, source: Span, target: &mut [u8]) -> Result<()> {
        self.soft.read(source, target)
    }
    fn load(&self, program: &'static Program) -> Result<Kernel> {
        self.soft.load(program)
    }
    unsafe fn prepare(&self, commands: &Commands) -> Result<Prepared> {
        // SAFETY: the caller's promise.
        let prepared = unsafe { self.soft.prepare(commands) }?;
        self.keep(Handle::Prepared(prepared));
        Ok(prepared)
    }
    fn submit(&self, prepared: Prepared, timing: Timing) -> Result<Fence> {
        self.soft.submit(prepared, timing)
    }
    fn wait(&self, fence: Fence) -> Result<()> {
        self.soft.wait(fence)
    }
    fn executed(&self) -> Vec<Executed> {
        self.soft.executed()
    }
}
