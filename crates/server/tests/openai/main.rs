//! OpenAI's API over loopback, with a tiny model: what goes over the wire.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod answers;
mod limits;
#[path = "../loopback/mod.rs"]
mod loopback;
mod refusals;
mod tokens;
