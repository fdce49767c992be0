//! The engine: sequences of tokens through a model on a device, one step at a time.
//!
//! Invariant: no clock, no network, no async, no unsafe but the one call that prepares recorded commands.
//! Invariant: after warm-up a step allocates nothing.

mod blocks;
mod error;
pub mod grammar;
mod hash;
mod load;
mod memory;
mod pack;
mod plan;
mod plan_summary;
mod schedule;
mod sequence;
mod step;
mod stop;

pub use error::Error;
pub use hash::LogitsHash;
pub use memory::{MemoryPlan, context_that_fits, token_bytes};
pub use plan_summary::StepSummary;
pub use schedule::{Budget, Progress, Work, schedule};
pub use sequence::{End, Params, SequenceId};
pub use step::{Engine, Event, Options, Report};
pub use stop::{Found, StopStrings};
