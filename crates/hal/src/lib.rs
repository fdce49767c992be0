//! The device layer: one contract, several drivers.
//!
//! Invariant: nothing here knows what a tensor, a weight format or a model is.
//! Invariant: work reaches a device only as recorded [`Commands`], which are plain data.
//! Invariant: hazards, handles and bounds are checked here once, above the drivers.

mod args;
mod commands;
pub mod cpu;
mod gpu;
mod hazards;
mod info;
mod metal;
pub mod null;
mod open;
mod slots;

pub use commands::{Command, Commands, Launch, Span};
pub use gpu::{FunctionConstant, Gpu, Text, Value};
pub use hazards::barriers;
pub use info::{Info, Kind, MatrixUnits, Row};
pub use metal::MetalOptions;
pub use open::{OpenOptions, Selection, open, probe};
pub use slots::{Id, Slots, next_owner};

use std::fmt;
use std::sync::Arc;

/// An opened processor. Object safe: drivers are chosen at run time.
///
/// Handles are small ids with a generation. A stale or foreign one is [`Error::Stale`], never undefined behaviour.
pub trait Device: Send + Sync + fmt::Debug {
    /// What this device is. Constant while it is open.
    fn info(&self) -> &Info;
    /// Takes memory, zeroed unless it is a mapping.
    fn alloc(&self, memory: Memory) -> Result<Buffer>;
    /// Gives a buffer or prepared commands back, once no submitted work uses them. A stale handle is ignored.
    fn free(&self, handle: Handle);
    /// Copies `source` to the start of `target`; it must fit.
    fn write(&self, target: Span, source: &[u8]) -> Result<()>;
    /// Copies the start of `source` out; it must hold as many bytes.
    fn read(&self, source: Span, target: &mut [u8]) -> Result<()>;
    /// How many bytes of a span lie where the device computes from, now: pages that were swapped out, or are a file's and were
    /// let go, do not.
    fn resident(&self, span: Span) -> Result<u64>;
    /// Makes a program callable. Loading one twice returns the same kernel.
    fn load(&self, program: &'static Program) -> Result<Kernel>;
    /// Checks and translates commands once, so that they can be submitted at every step.
    ///
    /// # Safety
    ///
    /// The spans and constants of each launch must be what its program's contract asks for: a kernel trusts them.
    #[expect(unsafe_code, reason = "a kernel reads and writes what its launch names")]
    unsafe fn prepare(&self, commands: &Commands) -> Result<Prepared>;
    /// Starts prepared work. It may return before the work ends: see [`Device::wait`].
    fn submit(&self, prepared: Prepared, timing: Timing) -> Result<Fence>;
    /// Waits until the work behind `fence` has ended.
    fn wait(&self, fence: Fence) -> Result<()>;
    /// What has been executed since the device was opened, per kernel: the base of receipts.
    fn executed(&self) -> Vec<Executed>;
}

/// Memory to take.
#[derive(Clone)]
pub enum Memory {
    /// So many zeroed bytes, readable and writable by kernels.
    Bytes(u64),
    /// As [`Memory::Bytes`], when all of it will be used: in larger pages where there are some.
    Dense(u64),
    /// Bytes that the host already holds (a mapped file): read only, not copied where the device can avoid it.
    Mapped(Arc<dyn AsRef<[u8]> + Send + Sync>),
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({bytes})"),
            Self::Dense(bytes) => write!(f, "Dense({bytes})"),
            Self::Mapped(mapping) => write!(f, "Mapped({} bytes)", (**mapping).as_ref().len()),
        }
    }
}

/// Device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Buffer(pub Id);

/// Commands that a device has translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prepared(pub Id);

/// A program loaded on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel(pub Id);

/// The end of submitted work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(pub u64);

/// What [`Device::free`] takes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handle {
    Buffer(Buffer),
    Prepared(Prepared),
}

/// Whether a submit measures each kernel. It costs a clock reading per launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Timing {
    #[default]
    Off,
    PerKernel,
}

/// One row of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    pub kernel: &'static str,
    pub launches: u64,
    /// Time in launches that ran under [`Timing::PerKernel`].
    pub time_ns: u64,
    /// How many of `launches` were timed.
    pub timed_launches: u64,
}

/// The sources of one kernel, for every driver.
#[derive(Debug)]
pub struct Program {
    pub name: &'static str,
    /// The CPU device runs this on all its threads at once; each takes its part of the work. None: for GPUs only.
    pub host: Option<cpu::Host>,
    /// What every GPU runs. None: for the CPU only.
    pub gpu: Option<Gpu>,
}

pub type Result<T> = std::result::Result<T, Error>;

/// Split by what a caller does about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Ask for less, or free something first.
    #[error("out of memory on {device}: {needed} bytes needed, {free} bytes free")]
    OutOfMemory { device: String, needed: u64, free: u64 },
    /// The device is in no state to go on: open it anew.
    #[error("device {device} failed: {reason}")]
    Lost { device: String, reason: String },
    /// This work failed and its results are void; the device goes on.
    #[error("work on {device} failed: {reason}")]
    Failed { device: String, reason: String },
    /// The request can never work on this device.
    #[error("{device}: {what} is not supported")]
    Unsupported { device: String, what: String },
    /// The program's text is at fault: a bug in the kernel.
    #[error("{program} does not compile for {device}:\n{log}")]
    Compile { device: String, program: &'static str, log: String },
    /// The device cannot be opened here.
    #[error("device {device} cannot be opened: {reason}")]
    Unavailable { device: String, reason: String },
    /// A handle that was freed, or that belongs to another device.
    #[error("stale or foreign {what} handle")]
    Stale { what: &'static str },
    /// A span that leaves its buffer, or a write into read-only memory: a bug in the caller.
    #[error("command {command}: {reason}")]
    BadSpan { command: usize, reason: String },
}
