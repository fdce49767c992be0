//! Models: weight files, tokenizer, chat template, configuration and the one forward pass.
//!
//! Invariant: nothing here knows a device.
pub mod chat;
mod config;
mod error;
mod forward;
pub mod gguf;
mod loaded;
mod rope;
pub mod tokenizer;

pub use config::{Config, ROWS, RopeConfig, RopeScaling, Row};
pub use error::Error;
pub use forward::{forward, hidden};
pub use loaded::{Layer, Model, Source, Tensor};
