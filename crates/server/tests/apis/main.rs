//! Anthropic's messages, OpenAI's responses and embeddings, and the description of everything, over loopback.
#[path = "../loopback/mod.rs"]
mod loopback;

mod anthropic;
mod description;
mod embeddings;
mod responses;
