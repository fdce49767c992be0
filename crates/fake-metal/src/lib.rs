//! An Objective-C runtime and a Metal for Linux, so that the real driver (`hal/src/metal`) runs in tests. Never released.
//!
//! `cargo xtask fake` links the driver against this library instead of Apple's. Kernels run as on the soft device (crate
//! `msl`), and whatever Metal allows to happen in any order happens in a random one (`FAKE_METAL_SEED`):
//!
//! - Nothing runs before it is waited for. Until then, memory that committed work writes holds 0xff.
//! - Dispatches of a concurrent encoder run in any order between barriers, threadgroups too.
//! - Command buffers run in any order, but for fences and tracked buffers.
//!
//! What Apple's validation layer or a crash would tell is a message and an abort: unknown selectors, objects released too
//! often or used after their end, unbalanced pools, encoders and command buffers in the wrong state, limits, unbound or
//! non-resident buffers, host writes into memory of work under way. Objects that are still alive when the process exits are
//! counted, and turn its status into 97.
//!
//! The environment says what the GPU is and what fails: see [`settings`].
#![cfg(not(target_vendor = "apple"))]
#![expect(clippy::print_stderr, reason = "its reports are for tests, which read standard error")]

mod block;
mod buffer;
mod device;
mod foundation;
mod library;
mod pass;
mod queue;
mod runtime;
mod settings;
