//! The engine: sequences of tokens through a model on a device, one step at a time.
//!
//! Invariant: no clock, no network, no async, no unsafe but the one call that prepares recorded commands.
//! Invariant: after warm-up a step allocates nothing.

mod adjust;
mod blocks;
mod embed;
mod engine;
mod error;
pub mod grammar;
mod hash;
mod load;
mod logprobs;
mod memory;
mod pace;
mod pack;
mod plan;
mod plan_summary;
mod rows;
mod schedule;
mod sequence;
mod speculate;
mod step;
mod stop;

pub use embed::Embedding;
pub use engine::{Engine, Event, Options, Report, Status};
pub use error::Error;
pub use hash::LogitsHash;
pub use memory::{MemoryPlan, cache_that_fits, context_that_fits, token_bytes};
pub use pace::Pace;
pub use plan_summary::StepSummary;
pub use sequence::{Dry, End, Logprobs, Params, Penalties, Pooling, Reuse, SequenceId, WhenFull};
pub use stop::{Found, StopStrings};
