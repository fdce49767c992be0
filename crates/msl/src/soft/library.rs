//! A compiled kernel file inside this process.
#![expect(unsafe_code, reason = "loads and calls a library that clang has just made")]
use super::Schedule;
use crate::clang::{self, Checks};
use crate::compilers::defines;
use crate::error::{Error, Result};
use crate::read::Source;
use crate::{generate, system};
use hal::FunctionConstant;
use std::ffi::{CStr, CString, c_char, c_int, c_void};

/// `MslJob` of runtime/job.h.
#[repr(C)]
struct RawJob {
    kernel: *const c_char,
    buffers: *const *mut u8,
    groups: [u32; 3],
    group_size: [u32; 3],
    scratch_bytes: u32,
    order: u32,
    synced: u32,
    seed: u64,
    next_group: *mut u64,
    message: *mut u8,
}

/// `__msl_entry` of include/msl/entry.h.
#[repr(C)]
struct RawEntry {
    name: *const c_char,
    thunk: *const c_void,
    args_bytes: usize,
    align: [u32; 32],
}

type Run = unsafe extern "C" fn(*const RawJob, *mut c_void) -> c_int;
type WorkerNew = unsafe extern "C" fn() -> *mut c_void;
type WorkerFree = unsafe extern "C" fn(*mut c_void);

/// The kernels of a program, compiled into this process: what [`super::Soft`] runs, and fakes of other APIs may. Never
/// unloaded: its functions stay callable.
#[derive(Clone, Debug)]
pub struct Kernels {
    run: Run,
    worker_new: WorkerNew,
    worker_free: WorkerFree,
    entries: Vec<Facts>,
}

/// What only the compiler knows of a kernel.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    name: String,
    /// Of the image of the constants.
    pub(super) args_bytes: usize,
    /// Of what each buffer points to.
    pub(super) align: [u32; 32],
}

/// The stacks and tables with which one thread of ours runs threadgroups.
#[derive(Debug)]
struct Worker {
    raw: *mut c_void,
    free: WorkerFree,
}

// SAFETY: a worker is used by whoever holds it and knows nothing of threads.
unsafe impl Send for Worker {}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: made by `worker_new`, dropped once.
        unsafe { (self.free)(self.raw) };
    }
}

impl Kernels {
    /// Compiles every kernel of `source`.
    ///
    /// # Errors
    /// What clang says, or that it is missing.
    pub fn compile(source: &Source, constants: &[FunctionConstant]) -> Result<Self> {
        let defines = defines(constants);
        let defines: Vec<&str> = defines.iter().map(String::as_str).collect();
        let library = system::open(&clang::host(&generate::host(source), &defines, Checks::None)?)?;
        let run = library.get(c"msl_run")?;
        let (new, free) = (library.get(c"msl_worker_new")?, library.get(c"msl_worker_free")?);
        let table = library.get(c"msl_entries")?;
        // SAFETY: runtime/job.h declares these symbols with these types, and the table ends with an empty entry.
        unsafe {
            Ok(Self {
                run: std::mem::transmute::<*mut c_void, Run>(run),
                worker_new: std::mem::transmute::<*mut c_void, WorkerNew>(new),
                worker_free: std::mem::transmute::<*mut c_void, WorkerFree>(free),
                entries: entries(table.cast()),
            })
        }
    }

    pub(super) fn facts(&self, entry: &str) -> Option<&Facts> {
        self.entries.iter().find(|facts| facts.name == entry)
    }

    /// Bytes of the image of a kernel's constants, and the alignment of what each of its buffers points to.
    #[must_use]
    pub fn layout(&self, entry: &str) -> Option<(usize, [u32; 32])> {
        self.facts(entry).map(|facts| (facts.args_bytes, facts.align))
    }

    /// Runs all threadgroups of `job`; `buffers` are its arguments by their index.
    ///
    /// # Errors
    /// [`Error::Fault`]: the first one.
    ///
    /// # Safety
    /// `buffers` lead to what the kernel's arguments ask for, and nothing else uses what it writes.
    pub unsafe fn run(
        &self,
        job: &Job<'_>,
        buffers: &[*mut u8],
        Workers(workers): &mut Workers,
    ) -> Result<()> {
        let kernel = CString::new(job.kernel).unwrap_or_default();
        let wanted = if job.worth_sharing() { hal::cpu::default_threads() } else { 1 };
        while workers.len() < wanted {
            // SAFETY: takes nothing.
            workers.push(Worker { raw: unsafe { (self.worker_new)() }, free: self.worker_free });
        }
        let (order, seed) = job.schedule.order();
        let next_group = std::sync::atomic::AtomicU64::new(0);
        let buffers = Pointers(buffers);
        let run = |worker: &mut Worker| {
            let buffers = &buffers;
            let mut message = vec![0_u8; 1024];
            let raw = RawJob {
                kernel: kernel.as_ptr(),
                buffers: buffers.0.as_ptr(),
                groups: job.groups,
                group_size: job.group_size,
                scratch_bytes: job.scratch_bytes,
                order,
                synced: 0, // looked at by the race check only
                seed,
                next_group: next_group.as_ptr(),
                message: message.as_mut_ptr(),
            };
            // SAFETY: what `raw` points to lives until the call ends; each worker is used by one thread.
            if unsafe { (self.run)(&raw const raw, worker.raw) } == 0 {
                return None;
            }
            let text = CStr::from_bytes_until_nul(&message).unwrap_or_default();
            Some(text.to_string_lossy().into_owned())
        };
        let (first, others) = workers[..wanted].split_at_mut(1);
        let fault = std::thread::scope(|scope| {
            let run = &run;
            let others: Vec<_> = others.iter_mut().map(|w| scope.spawn(move || run(w))).collect();
            let own = run(&mut first[0]);
            let joined = others.into_iter().filter_map(|thread| thread.join().ok().flatten());
            own.or(joined.last())
        });
        fault.map_or(Ok(()), |fault| Err(Error::Fault(fault)))
    }
}

/// One launch, resolved.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    pub kernel: &'a str,
    /// Threadgroups.
    pub groups: [u32; 3],
    /// Threads of each.
    pub group_size: [u32; 3],
    pub scratch_bytes: u32,
    pub schedule: Schedule,
}

/// Below so many threads, starting another of ours costs more than it helps.
const THREADS_WORTH_SHARING: u64 = 8192;

impl Job<'_> {
    fn worth_sharing(&self) -> bool {
        let threads = self.groups.iter().chain(&self.group_size).map(|n| u64::from(*n)).product();
        self.schedule == Schedule::Forward && THREADS_WORTH_SHARING <= threads
    }
}

/// What threads of ours need to run kernels: kept from launch to launch, for any kernel.
#[derive(Debug, Default)]
pub struct Workers(Vec<Worker>);

struct Pointers<'a>(&'a [*mut u8]);
// SAFETY: the pointers are only handed on to kernels, whose threads may share buffers as on a GPU.
unsafe impl Sync for Pointers<'_> {}

/// # Safety
/// `table` ends with an entry without a name.
unsafe fn entries(mut table: *const RawEntry) -> Vec<Facts> {
    let mut entries = Vec::new();
    loop {
        // SAFETY: the caller says that an empty entry comes first.
        let entry = unsafe { &*table };
        if entry.name.is_null() {
            return entries;
        }
        // SAFETY: a string literal of the library.
        let name = unsafe { CStr::from_ptr(entry.name) }.to_string_lossy().into_owned();
        entries.push(Facts { name, args_bytes: entry.args_bytes, align: entry.align });
        table = table.wrapping_add(1);
    }
}
