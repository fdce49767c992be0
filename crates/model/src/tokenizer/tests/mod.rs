//! Token ids against llama.cpp's (fixtures/tokens, made by xtask/golden/tokens.py), what is refused,
//! and what holds for any text.

mod corrupt;
mod golden;
mod properties;

use std::path::{Path, PathBuf};

use super::{Error, Special, Tokenizer};
use crate::gguf::{Array, Gguf, Metadata, Strings, Value};

const SMOLLM2: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const GEMMA3: &str = "gemma-3-270m-Q4_K_M.gguf";

const PLAIN: Special = Special { add_special: false, parse_special: false };
const FULL: Special = Special { add_special: true, parse_special: true };

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokens")
}

/// The metadata of a real model, or a loud skip.
fn real(file: &str) -> Option<Metadata> {
    let path = std::env::home_dir()?.join(".cache/russet/models").join(file);
    if !path.exists() {
        eprintln!("SKIPPED: {} is not there (cargo xtask models fetches it)", path.display());
        return None;
    }
    Some(Gguf::open(&path).unwrap().metadata().clone())
}

/// `metadata` with some entries replaced or added, and those without a value taken out.
fn with(metadata: &Metadata, changes: &[(&str, Option<Value>)]) -> Metadata {
    let kept = metadata.iter().filter(|(key, _)| changes.iter().all(|(k, _)| k != key));
    let mut entries: Vec<_> = kept.map(|(k, v)| (k.to_owned(), v.clone())).collect();
    for (key, value) in changes {
        entries.extend(value.clone().map(|v| ((*key).to_owned(), v)));
    }
    Metadata::new(entries).unwrap()
}

fn string(text: &str) -> Option<Value> {
    Some(Value::String(text.to_owned()))
}

fn strings<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Value> {
    Some(Value::Array(Array::Strings(texts.into_iter().collect::<Strings>())))
}

fn i32s(values: Vec<i32>) -> Option<Value> {
    Some(Value::Array(Array::I32(values)))
}

fn f32s(values: Vec<f32>) -> Option<Value> {
    Some(Value::Array(Array::F32(values)))
}

/// A byte-level vocabulary of all 256 bytes in byte order, a few merges and one control token.
fn tiny_bpe() -> Metadata {
    let alphabet = super::vocab::Alphabet::new();
    let mut tokens: Vec<String> = (0..=255).map(|b| alphabet.char(b).to_string()).collect();
    tokens.extend(["Ġt", "he", "Ġthe", "Ã©", "<|end|>"].map(str::to_owned));
    let mut types = vec![1; tokens.len()];
    types[260] = 3;
    let empty = Metadata::new(Vec::new()).unwrap();
    with(
        &empty,
        &[
            ("tokenizer.ggml.model", string("gpt2")),
            ("tokenizer.ggml.pre", string("gpt-2")),
            ("tokenizer.ggml.tokens", strings(tokens.iter().map(String::as_str))),
            ("tokenizer.ggml.token_type", i32s(types)),
            ("tokenizer.ggml.merges", strings(["Ġ t", "h e", "Ġt he", "Ã ©"])),
            ("tokenizer.ggml.eos_token_id", Some(Value::U32(260))),
        ],
    )
}
