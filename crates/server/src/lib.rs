//! HTTP: many clients, one or several models, each on an engine of its own thread.
//!
//! [`Service`] owns an engine and turns jobs into streams of text; everything HTTP stands above it. What a client asked for in
//! one API's words becomes a [`Job`]; what the service answers becomes that API's words again.
//!
//! Invariant: tokio and axum live here only. Invariant: a client that goes away takes its sequence with it.

mod ask;
pub mod http;
mod metrics;
mod models;
mod page;
mod service;

pub use http::{App, Options, Stop, Tls, serve, stop};
pub use metrics::Metrics;
pub use models::{Facts, LoadError, Loaded, Loader, Models, Served};
pub use service::{
    Answer, Ended, Failure, Job, Piece, Reason, Service, Status, TokenFacts, Update, Usage,
};

/// 64 bits of the system's randomness, by way of the standard library's hasher.
pub(crate) fn drawn() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

pub(crate) fn seconds_since_1970() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}
