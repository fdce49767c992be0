//! Models: weight files, tokenizer, chat template, configuration and the one forward pass.
pub mod chat;
pub mod gguf;
pub mod tokenizer;
