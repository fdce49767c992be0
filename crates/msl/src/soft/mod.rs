//! The soft device: GPU kernels on the CPU, every thread of a grid for itself.
mod child;
mod launch;
mod library;

use crate::clang::{self, Checks};
use crate::compilers::defines;
use crate::error::Error as MslError;
use crate::read::Source;
use crate::{generate, lint};
use hal::cpu::HostBuffers;
use hal::{Buffer, Command, Commands, Device, Error, Executed, Fence, Handle, Info, Kernel, Kind};
use hal::{Launch, Memory, Prepared, Program, Result, Slots, Span, Timing};
pub use library::{Job, Kernels, Workers};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// The order in which threads, SIMD groups and threadgroups run as far as barriers and collectives let them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Schedule {
    /// First to last. Several threadgroups run at the same time.
    #[default]
    Forward,
    /// Last to first.
    Reverse,
    /// Any next, the same for the same seed.
    Random(u64),
}

impl Schedule {
    /// The numbers of runtime/job.h: order and seed.
    fn order(self) -> (u32, u64) {
        match self {
            Self::Forward => (0, 0),
            Self::Reverse => (1, 0),
            Self::Random(seed) => (2, seed),
        }
    }
}

/// How to open the soft device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SoftOptions {
    pub schedule: Schedule,
    pub checks: Checks,
}

/// See the module. A fault (divergence, a finding of a sanitizer) is [`Error::Lost`], and says where.
#[derive(Debug)]
pub struct Soft {
    info: Info,
    options: SoftOptions,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    buffers: HostBuffers,
    kernels: Slots<Loaded>,
    loaded: Vec<Kernel>,
    prepared: Slots<Commands>,
    workers: Workers,
    lost: Option<String>,
}

/// A program that was compiled.
#[derive(Debug)]
struct Loaded {
    program: &'static Program,
    source: Source,
    library: Kernels,
    /// With checks: the program that runs one job.
    runner: Option<PathBuf>,
    executed: Executed,
}

impl Soft {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when clang is missing, or libraries cannot be loaded: a test then skips, loudly.
    pub fn open(options: SoftOptions) -> Result<Self> {
        let unavailable = |reason| Error::Unavailable { device: "soft".to_owned(), reason };
        if cfg!(target_feature = "crt-static") {
            let reason = "kernels are libraries, which a statically linked program cannot load";
            return Err(unavailable(reason.to_owned()));
        }
        clang::clang().map_err(|error| unavailable(error.to_string()))?;
        let owner = hal::next_owner();
        let state = State {
            buffers: HostBuffers::new("soft", owner),
            kernels: Slots::new("kernel", owner),
            loaded: Vec::new(),
            prepared: Slots::new("prepared", owner),
            workers: Workers::default(),
            lost: None,
        };
        let info = Info { simd_width: 32, ..Info::new(Kind::Soft) };
        Ok(Self { info, options, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn compile(&self, program: &'static Program) -> Result<Loaded> {
        let Some(gpu) = &program.gpu else {
            let what = format!("program {}: it has no GPU kernel", program.name);
            return Err(Error::Unsupported { device: "soft".to_owned(), what });
        };
        let refused = |error: MslError| Error::Compile {
            device: "soft".to_owned(),
            program: program.name,
            log: error.to_string(),
        };
        let source = Source::new(gpu.texts);
        let complaint =
            |what| refused(MslError::Refused { compiler: "soft".to_owned(), log: what });
        lint(&source).map_err(refused)?;
        if source.entry(gpu.entry).is_none() {
            return Err(complaint(format!("there is no kernel {}", gpu.entry)));
        }
        let value = |index| gpu.constants.iter().find(|constant| constant.index == index);
        for declared in &source.constants {
            let of_type = value(declared.index).map(|constant| constant.value.type_name());
            if of_type != Some(declared.of_type.as_str()) {
                let name = &declared.name;
                let what = format!(
                    "function constant {name} is {}, the program says {of_type:?}",
                    declared.of_type
                );
                return Err(complaint(what));
            }
        }
        let library = Kernels::compile(&source, gpu.constants).map_err(refused)?;
        let checks = self.options.checks;
        let runner = match checks {
            Checks::None => None,
            Checks::Memory | Checks::Races => {
                let defines = defines(gpu.constants);
                let defines: Vec<&str> = defines.iter().map(String::as_str).collect();
                let unit = generate::host(&source);
                Some(clang::host(&unit, &defines, checks).map_err(refused)?)
            }
        };
        let executed =
            Executed { kernel: program.name, launches: 0, time_ns: 0, timed_launches: 0 };
        Ok(Loaded { program, source, library, runner, executed })
    }
}

impl State {
    /// The address of a span that was checked when it was prepared, while its buffer lives.
    fn pointer(&self, span: Span) -> Result<*mut u8> {
        self.buffers.place(span).map(|(pointer, _)| pointer)
    }
}

/// Bytes of a span on this host.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[expect(unsafe_code, reason = "raw host memory behind handles")]
impl Device for Soft {
    fn info(&self) -> &Info {
        &self.info
    }

    fn alloc(&self, memory: Memory) -> Result<Buffer> {
        self.state().buffers.alloc(memory)
    }

    fn free(&self, handle: Handle) {
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
        let known = |state: &State| {
            let same = |kernel: &&Kernel| {
                state.kernels.get(kernel.0).is_ok_and(|it| std::ptr::eq(it.program, program))
            };
            state.loaded.iter().find(same).copied()
        };
        if let Some(kernel) = known(&self.state()) {
            return Ok(kernel);
        }
        let loaded = self.compile(program)?;
        let mut state = self.state();
        if let Some(kernel) = known(&state) {
            return Ok(kernel);
        }
        let kernel = Kernel(state.kernels.insert(loaded));
        state.loaded.push(kernel);
        Ok(kernel)
    }

    unsafe fn prepare(&self, commands: &Commands) -> Result<Prepared> {
        let mut state = self.state();
        state.buffers.check(commands)?;
        for (command, entry) in commands.list.iter().enumerate() {
            if let Command::Launch(launch) = entry {
                let checked = launch::check(&state, self.options.checks, commands, launch)?;
                checked.map_err(|reason| Error::BadSpan { command, reason })?;
            }
        }
        Ok(Prepared(state.prepared.insert(commands.clone())))
    }

    fn submit(&self, prepared: Prepared, timing: Timing) -> Result<Fence> {
        let mut state = self.state();
        if let Some(reason) = state.lost.clone() {
            return Err(Error::Lost { device: "soft".to_owned(), reason });
        }
        let commands = state.prepared.get(prepared.0)?.clone();
        // All buffers must still live before anything runs.
        state.buffers.check(&commands)?;
        for command in &commands.list {
            match command {
                Command::Launch(launch) => self.launch(&mut state, &commands, launch, timing)?,
                Command::Copy { source, target } => {
                    let (from, to) = (state.pointer(*source)?, state.pointer(*target)?);
                    // SAFETY: both spans lie in live buffers, have one length and do not overlap: see `prepare`.
                    unsafe { to.copy_from_nonoverlapping(from, length(source.bytes)) };
                }
                Command::Fill { target, byte } => {
                    let pointer = state.pointer(*target)?;
                    // SAFETY: the span lies in a live buffer that may be written: see `prepare`.
                    unsafe { pointer.write_bytes(*byte, length(target.bytes)) };
                }
            }
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

impl Soft {
    fn launch(
        &self,
        state: &mut State,
        commands: &Commands,
        launch: &Launch,
        timing: Timing,
    ) -> Result<()> {
        let since = Instant::now();
        let faults = launch::run(state, self.options, commands, launch)?;
        if let Err(reason) = faults {
            state.lost = Some(reason.clone());
            return Err(Error::Lost { device: "soft".to_owned(), reason });
        }
        let executed = &mut state.kernels.get_mut(launch.kernel.0)?.executed;
        executed.launches += 1;
        if timing == Timing::PerKernel {
            executed.time_ns += u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            executed.timed_launches += 1;
        }
        Ok(())
    }
}
