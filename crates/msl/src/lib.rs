//! Kernels in the Metal Shading Language without a Mac: read, held to a dialect, given to the compilers of every GPU,
//! and run on the CPU. For tests and tools; never linked into what is released.
//!
//! A kernel is a `kernel void` function in a file beside its op, with its argument struct from [`hal::args!`]:
//!
//! ```text
//! pub static ADD: hal::Program = hal::Program {
//!     name: "add",
//!     host: Some(cpu::add),
//!     gpu: Some(hal::Gpu { texts: &[Add::MSL, hal::msl!("kernel.metal")], entry: "add", constants: &[] }),
//! };
//! ```
//!
//! The signature follows from the launch ([`hal::Gpu`] says how), and the soft device refuses a launch that does not
//! fit it: pointers are `device const T*` exactly where the launch does not write.
//!
//! An op's test needs clang; where it is missing the test says so and passes:
//!
//! ```text
//! let device = match Soft::open(SoftOptions { schedule: Schedule::Random(1), checks: Checks::None }) {
//!     Err(hal::Error::Unavailable { reason, .. }) => { eprintln!("SKIPPED: {reason}"); return }
//!     device => device.unwrap(),
//! };
//! ```
//!
//! From there it is a [`hal::Device`] like any other. What to run, from cheap to dear:
//!
//! - [`Checks::None`] under [`Schedule::Forward`], [`Schedule::Reverse`] and some [`Schedule::Random`]: missing barriers
//!   (threadgroup memory begins as NaN), divergence, Metal's limits. Forward uses every core: a whole model runs so.
//! - [`Checks::Memory`]: each launch in a process of its own under AddressSanitizer and UBSan; each span is an allocation,
//!   so one element past its end is found, and so is a write into a span that the launch only reads.
//! - [`Checks::Races`]: the same under ThreadSanitizer, up to 192 threads a threadgroup; use small shapes. It is the only
//!   one that finds a barrier with weak or wrong flags: `mem_device` orders device memory only. Collectives order no memory here: only barriers do.
//!
//! A fault is [`hal::Error::Lost`] with the kernel, the thread and the line. [`check`] asks every compiler. [`Trial`] is
//! one launch without a recorder. `cargo xtask msl FILE` does all of this for a file by itself.
//!
//! How it works: [`Source`] reads entries, `generate` rewrites a few declarations in place and adds an entry per kernel,
//! `include/` is Metal's standard library for four compilers, `runtime/` runs a fiber per thread.
//!
//! What none of this can say: whether Apple's own compiler accepts a kernel, its registers and occupancy, its speed, fast
//! math, and the weak order of memory on the hardware.

mod args;
mod clang;
mod compilers;
mod error;
mod generate;
mod lint;
mod nvrtc;
mod read;
mod soft;
mod system;
mod token;
mod trial;

pub use args::args_of;
pub use clang::{Checks, clang};
pub use compilers::{Compiler, any_constants, check};
pub use error::{Complaint, Error, Result};
pub use lint::lint;
pub use read::{Argument, Constant, Entry, Parameter, Piece, Source};
pub use soft::{Job, Kernels, Schedule, Soft, SoftOptions, Workers};
pub use trial::Trial;
