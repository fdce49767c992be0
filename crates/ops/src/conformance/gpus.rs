//! The soft device under several schedules, and Metal where there is one. Opened once a process: what they have compiled is kept
//! from case to case.
use super::Subject;
use hal::{
    Buffer, Commands, Device, Error, Executed, Fence, Handle, Info, Kernel, Memory, OpenOptions,
    Prepared, Program, Result, Span, Timing,
};
use msl::{Checks, Schedule, Soft, SoftOptions};
use std::sync::{Arc, Mutex, OnceLock};

const SCHEDULES: [(&str, Schedule); 3] = [
    ("soft forward", Schedule::Forward),
    ("soft reverse", Schedule::Reverse),
    ("soft random", Schedule::Random(17)),
];

/// Without clang none of soft's, loudly.
pub(super) fn subjects() -> Vec<Subject> {
    static OPENED: OnceLock<Vec<(&str, Arc<dyn Device>)>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        // The tests of the CPU's kernels under emulation: GPUs' have run before.
        if cfg!(target_feature = "crt-static") {
            return Vec::new();
        }
        let soft = SCHEDULES.iter().filter_map(|(name, schedule)| Some((*name, open(*schedule)?)));
        soft.chain(metal().map(|device| ("metal", device))).collect()
    });
    let subject = |(name, device): &(&str, Arc<dyn Device>)| Subject {
        name: (*name).to_owned(),
        device: Box::new(Visit { device: Arc::clone(device), taken: Mutex::default() }),
        executes: true,
    };
    opened.iter().map(subject).collect()
}

fn open(schedule: Schedule) -> Option<Arc<dyn Device>> {
    Some(Arc::new(soft(SoftOptions { schedule, checks: Checks::None })?))
}

/// None, loudly, without clang.
pub(crate) fn soft(options: SoftOptions) -> Option<Soft> {
    match Soft::open(options) {
        Err(Error::Unavailable { reason, .. }) => {
            eprintln!("SKIPPED: {reason}");
            None
        }
        soft => Some(soft.expect("soft opens where clang is")),
    }
}

/// As [`soft`], in an order in which few things happen to be right.
pub(crate) fn checked(checks: Checks) -> Option<Soft> {
    soft(SoftOptions { schedule: Schedule::Random(3), checks })
}

/// None where the system has no GPU that Russet runs on: `russet devices` says why.
fn metal() -> Option<Arc<dyn Device>> {
    hal::open("metal", &OpenOptions::default()).ok().map(|selection| selection.device)
}

/// A case's use of the device: gives back what it took.
#[derive(Debug)]
struct Visit {
    device: Arc<dyn Device>,
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
            self.device.free(handle);
        }
    }
}

#[expect(unsafe_code, reason = "implements the unsafe half of Device")]
impl Device for Visit {
    fn info(&self) -> &Info {
        self.device.info()
    }
    fn alloc(&self, memory: Memory) -> Result<Buffer> {
        let buffer = self.device.alloc(memory)?;
        self.keep(Handle::Buffer(buffer));
        Ok(buffer)
    }
    fn free(&self, handle: Handle) {
        self.device.free(handle);
    }
    fn write(&self, target: Span, source: &[u8]) -> Result<()> {
        self.device.write(target, source)
    }
    fn read(&self, source: Span, target: &mut [u8]) -> Result<()> {
        self.device.read(source, target)
    }
    fn resident(&self, span: Span) -> Result<u64> {
        self.device.resident(span)
    }
    fn load(&self, program: &'static Program) -> Result<Kernel> {
        self.device.load(program)
    }
    unsafe fn prepare(&self, commands: &Commands) -> Result<Prepared> {
        // SAFETY: the caller's promise.
        let prepared = unsafe { self.device.prepare(commands) }?;
        self.keep(Handle::Prepared(prepared));
        Ok(prepared)
    }
    fn submit(&self, prepared: Prepared, timing: Timing) -> Result<Fence> {
        self.device.submit(prepared, timing)
    }
    fn wait(&self, fence: Fence) -> Result<()> {
        self.device.wait(fence)
    }
    fn executed(&self) -> Vec<Executed> {
        self.device.executed()
    }
}
