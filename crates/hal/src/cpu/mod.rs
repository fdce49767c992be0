//! The CPU as a device: programs are Rust functions, run on a persistent pool of threads.
pub mod accelerate;
mod apple;
mod cgroup;
mod host;
mod info;
mod measure;
mod memory;
mod pieces;
mod pool;
mod resident;
mod threads;

pub use host::{Host, HostLaunch, Plain, Shared};
pub use info::{info, leave_out, memory_bytes_free, memory_bytes_used};
pub use measure::{int8_ops_per_second, read_bytes_per_second};
pub use threads::default_threads;

use crate::slots::next_owner;
use crate::{Buffer, Command, Commands, Device, Error, Executed, Fence, Handle, Info, Kernel};
use crate::{Memory, Prepared, Program, Result, Slots, Span, Timing};
use host::HostSpan;
pub use memory::HostBuffers;
use memory::HostMemory;
use pieces::Cursor;
use pool::{Barrier, Pool};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// How to open the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads, or as many as [`default_threads`].
    pub threads: Option<usize>,
}

/// See the module.
#[derive(Debug)]
pub struct Cpu {
    info: Info,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    /// One for each thread of the pool.
    cursors: Vec<Cursor>,
    buffers: HostBuffers,
    kernels: Slots<KernelState>,
    prepared: Slots<Steps>,
    lost: bool,
}

#[derive(Debug)]
struct KernelState {
    id: Option<Kernel>,
    program: &'static Program,
    host: Host,
    executed: Executed,
}

/// Prepared commands: handles resolved to pointers.
#[derive(Debug)]
struct Steps {
    list: Vec<Step>,
    spans: Vec<HostSpan>,
    constants: Vec<u8>,
    scratch_bytes: usize,
    /// Each buffer that the pointers lead to: all must still live when the steps are submitted.
    buffers: Vec<Buffer>,
    /// One memory block per thread.
    scratch: HostMemory,
    /// Launches of each kernel in one submit.
    counts: Vec<(Kernel, u64)>,
}

#[derive(Debug)]
struct Step {
    barrier: bool,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Launch {
        kernel: Kernel,
        host: Host,
        spans: std::ops::Range<usize>,
        constants: std::ops::Range<usize>,
    },
    Copy {
        source: HostSpan,
        target: HostSpan,
    },
    Fill {
        target: HostSpan,
        byte: u8,
    },
}

#[expect(unsafe_code, reason = "pointers into buffers that the device owns")]
// SAFETY: the pointers lead into buffers that live as long as the steps may run (checked at submit); who may use
// which part at which time is fixed by the hazards computed in `prepare`.
unsafe impl Send for Steps {}
#[expect(unsafe_code, reason = "pointers into buffers that the device owns")]
// SAFETY: as above.
unsafe impl Sync for Steps {}

impl Cpu {
    /// Starts the pool.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when threads cannot be started.
    pub fn open(options: CpuOptions) -> Result<Self> {
        let info = info(options.threads.map(|threads| threads.max(1)));
        let threads = info.threads as usize;
        let pool = Pool::new(threads).map_err(|error| Error::Unavailable {
            device: "cpu".to_owned(),
            reason: format!("cannot start {threads} threads: {error}"),
        })?;
        let owner = next_owner();
        let state = State {
            pool,
            cursors: (0..threads).map(|_| Cursor::default()).collect(),
            buffers: HostBuffers::new("cpu", owner),
            kernels: Slots::new("kernel", owner),
            prepared: Slots::new("prepared", owner),
            lost: false,
        };
        Ok(Self { info, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("kernel panics are caught before they reach this lock")
    }
}

impl State {
    fn span(&self, span: Span) -> Result<HostSpan> {
        let (pointer, bytes) = self.buffers.place(span)?;
        Ok(HostSpan { pointer, bytes })
    }

    fn action(
        &self,
        commands: &Commands,
        command: &Command,
        spans: &mut Vec<HostSpan>,
    ) -> Result<Action> {
        Ok(match command {
            Command::Launch(launch) => {
                let start = spans.len();
                for span in commands.spans_of(launch) {
                    spans.push(self.span(*span)?);
                }
                let host = self.kernels.get(launch.kernel.0)?.host;
                let constants = launch.constants.start as usize..launch.constants.end as usize;
                Action::Launch { kernel: launch.kernel, host, spans: start..spans.len(), constants }
            }
            Command::Copy { source, target } => {
                Action::Copy { source: self.span(*source)?, target: self.span(*target)? }
            }
            Command::Fill { target, byte } => {
                Action::Fill { target: self.span(*target)?, byte: *byte }
            }
        })
    }

    fn steps(&self, commands: &Commands) -> Result<Steps> {
        let mut spans = Vec::with_capacity(commands.spans.len());
        let mut list = Vec::with_capacity(commands.list.len());
        let mut counts: Vec<(Kernel, u64)> = Vec::new();
        let mut scratch_bytes = 0;
        for (command, barrier) in commands.list.iter().zip(crate::barriers(commands)) {
            list.push(Step { barrier, action: self.action(commands, command, &mut spans)? });
            if let Command::Launch(launch) = command {
                scratch_bytes = scratch_bytes.max(launch.scratch_bytes as usize);
                match counts.iter_mut().find(|(kernel, _)| *kernel == launch.kernel) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((launch.kernel, 1)),
                }
            }
        }
        let mut buffers: Vec<Buffer> = Vec::new();
        for command in &commands.list {
            commands.accesses(command, |span, _| buffers.push(span.buffer));
        }
        buffers.sort_unstable();
        buffers.dedup();
        // Whole pages per thread: no two threads share a cache line.
        let scratch_bytes = scratch_bytes.next_multiple_of(4096);
        let scratch = self.buffers.zeroed((scratch_bytes * self.pool.threads()) as u64, false)?;
        let constants = commands.constants.clone();
        Ok(Steps { list, spans, constants, scratch_bytes, buffers, scratch, counts })
    }
}

#[expect(unsafe_code, reason = "raw host memory behind handles")]
impl Device for Cpu {
    fn info(&self) -> &Info {
        &self.info
    }

    fn alloc(&self, memory: Memory) -> Result<Buffer> {
        self.state().buffers.alloc(memory)
    }

    fn free(&self, handle: Handle) {
        // Submitted work has ended when `submit` returns, so nothing can still use the memory.
        match handle {
            Handle::Buffer(buffer) => self.state().buffers.free(buffer),
            Handle::Prepared(prepared) => drop(self.state().prepared.remove(prepared.0)),
        }
    }

    fn write(&self, target: Span, source: &[u8]) -> Result<()> {
        // SAFETY: no work runs while the state is locked.
        unsafe { self.state().buffers.write(target, source) }
    }

    fn read(&self, source: Span, target: &mut [u8]) -> Result<()> {
        // SAFETY: no work runs while the state is locked.
        unsafe { self.state().buffers.read(source, target) }
    }

    fn resident(&self, span: Span) -> Result<u64> {
        self.state().buffers.resident(span)
    }

    fn load(&self, program: &'static Program) -> Result<Kernel> {
        let mut state = self.state();
        let known = state.kernels.values().find(|kernel| std::ptr::eq(kernel.program, program));
        if let Some(id) = known.and_then(|kernel| kernel.id) {
            return Ok(id);
        }
        let Some(host) = program.host else {
            let what = format!("program {}: it has no CPU kernel", program.name);
            return Err(Error::Unsupported { device: "cpu".to_owned(), what });
        };
        let executed =
            Executed { kernel: program.name, launches: 0, time_ns: 0, timed_launches: 0 };
        let id = Kernel(state.kernels.insert(KernelState { id: None, program, host, executed }));
        state.kernels.get_mut(id.0)?.id = Some(id);
        Ok(id)
    }

    unsafe fn prepare(&self, commands: &Commands) -> Result<Prepared> {
        let mut state = self.state();
        state.buffers.check(commands)?;
        let steps = state.steps(commands)?;
        Ok(Prepared(state.prepared.insert(steps)))
    }

    fn submit(&self, prepared: Prepared, timing: Timing) -> Result<Fence> {
        let mut state = self.state();
        let state = &mut *state;
        let lost =
            |reason: &str| Error::Lost { device: "cpu".to_owned(), reason: reason.to_owned() };
        if state.lost {
            return Err(lost("a kernel panicked earlier"));
        }
        let steps = state.prepared.get(prepared.0)?;
        for buffer in &steps.buffers {
            state.buffers.live(*buffer)?;
        }
        let mut clock = Clock { kernels: &mut state.kernels, timing };
        if run((&state.pool, &state.cursors), steps, &mut clock).is_err() {
            state.lost = true;
            return Err(lost("a kernel panicked; see the message above"));
        }
        for (kernel, count) in &steps.counts {
            state.kernels.get_mut(kernel.0)?.executed.launches += count;
        }
        Ok(Fence(0))
    }

    fn wait(&self, _: Fence) -> Result<()> {
        Ok(())
    }

    fn executed(&self) -> Vec<Executed> {
        self.state().kernels.values().map(|kernel| kernel.executed.clone()).collect()
    }
}

/// Adds the time between barriers to the kernel that ran, on thread 0.
struct Clock<'a> {
    kernels: &'a mut Slots<KernelState>,
    timing: Timing,
}

impl Clock<'_> {
    fn add(&mut self, kernel: Kernel, since: Instant) {
        if let Ok(state) = self.kernels.get_mut(kernel.0) {
            let elapsed = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            state.executed.time_ns += elapsed;
            state.executed.timed_launches += 1;
        }
    }
}

/// Every thread walks the whole list; a barrier keeps them together where the hazards ask for it.
fn run(
    (pool, cursors): (&Pool, &[Cursor]),
    steps: &Steps,
    clock: &mut Clock<'_>,
) -> std::result::Result<(), pool::Panicked> {
    let barrier = Barrier::default();
    cursors.iter().for_each(Cursor::reset);
    let failed = AtomicBool::new(false);
    let threads = pool.threads();
    let timed = clock.timing == Timing::PerKernel;
    let clock = Mutex::new(clock);
    let result = pool.run(&|thread| {
        for (index, step) in steps.list.iter().enumerate() {
            // A timed step is fenced on both sides, so that a kernel is charged with its slowest thread.
            if step.barrier || timed {
                barrier.wait(threads);
            }
            let since = (timed && thread == 0).then(Instant::now);
            if !failed.load(Ordering::Relaxed) {
                // Caught here and not in the pool, since the others wait for this thread at the next barrier.
                let act = std::panic::AssertUnwindSafe(|| act(steps, index, thread, cursors));
                if std::panic::catch_unwind(act).is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
            }
            if timed {
                barrier.wait(threads);
            }
            if let (Some(since), Action::Launch { kernel, .. }) = (since, &step.action) {
                clock.lock().expect("only thread 0 takes it").add(*kernel, since);
            }
        }
    });
    if failed.load(Ordering::Relaxed) { Err(pool::Panicked) } else { result }
}

#[expect(unsafe_code, reason = "copies between checked spans")]
fn act(steps: &Steps, index: usize, thread: usize, cursors: &[Cursor]) {
    match &steps.list[index].action {
        Action::Launch { host, spans, constants, .. } => {
            let offset = thread * steps.scratch_bytes;
            let scratch = HostSpan {
                pointer: steps.scratch.pointer().wrapping_add(offset),
                bytes: steps.scratch_bytes,
            };
            host(&HostLaunch {
                spans: &steps.spans[spans.clone()],
                constants: &steps.constants[constants.clone()],
                scratch,
                cursors,
                index,
                rounds: Cell::new(0),
                thread,
                threads: cursors.len(),
            });
        }
        Action::Copy { source, target } if thread == 0 => {
            // SAFETY: `prepare` checked that both spans lie in live buffers, have one length and do not overlap.
            unsafe { target.pointer.copy_from_nonoverlapping(source.pointer, source.bytes) };
        }
        Action::Fill { target, byte } if thread == 0 => {
            // SAFETY: `prepare` checked the span.
            unsafe { target.pointer.write_bytes(*byte, target.bytes) };
        }
        Action::Copy { .. } | Action::Fill { .. } => {}
    }
}

#[cfg(test)]
mod tests;
