//! Anthropic's messages, OpenAI's responses and embeddings, and the description of everything, over loopback.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#[expect(dead_code, reason = "the other test binary uses the rest")]
#[path = "../loopback/mod.rs"]
mod loopback;

mod anthropic;
mod description;
mod embeddings;
mod responses;
