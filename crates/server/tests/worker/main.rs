//! A server on loopback with tiny models, asked by a client that knows nothing but sockets: the worker API's contract, limits, TLS,
//! swaps of models, metrics, and many clients at once.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod client;
mod control;
mod execute;
mod gates;
mod metrics;
mod server;
mod slow;
mod storm;
mod swap;
mod tls;
