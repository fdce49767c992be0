//! Tiny models of every architecture and weight format on the CPU device, against llama.cpp on the same files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use engine::{Engine, Options};
use hal::cpu::{Cpu, CpuOptions};
use model::Model;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny")
}

fn floats(file: &Value) -> Vec<f32> {
    let bytes = std::fs::read(fixtures().join(file.as_str().unwrap())).unwrap();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Activations are 16-bit integers, K and V F16: next to exact.
const COSINE_MIN: f64 = 0.999_99;

#[test]
fn the_cpu_device_gives_llama_cpp_s_logits() {
    let entries = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    for path in entries.filter(|path| path.extension().is_some_and(|extension| extension == "json"))
    {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let expected: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let context = number(&expected["n_ctx"]);
        let model = Arc::new(Model::open(&path.with_extension("gguf"), context).unwrap());
        let tokens: Vec<u32> = expected["tokens"].as_array().unwrap().iter().map(number).collect();
        let vocabulary = number(&expected["vocab"]) as usize;
        let exact = floats(&expected["logits"][0]["file"]);
        for threads in [1, 2] {
            let device = Arc::new(Cpu::open(CpuOptions { threads: Some(threads) }).unwrap());
            let mut engine =
                Engine::new(device, Arc::clone(&model), Options::single(context)).unwrap();
            let mut rows = 0;
            engine
                .logits(&tokens, |position, logits| {
                    let theirs = &exact[position * vocabulary..(position + 1) * vocabulary];
                    let cosine = cosine(logits, theirs);
                    assert!(cosine >= COSINE_MIN, "{name} position {position}: cosine {cosine}");
                    rows += 1;
                })
                .unwrap();
            assert_eq!(rows, tokens.len());
        }
    }
}
