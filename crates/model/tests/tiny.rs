//! Tiny seeded models of every architecture and weight format, through the reference reader, against llama.cpp and numpy.
//!
//! The fixtures are made by `xtask/golden/models.py`; its docstring describes the files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use model::{Model, Tensor, forward};
use ops::{Batch, Limits, Reference, Token};
use serde_json::Value;
use std::path::PathBuf;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

/// Logits of all positions, fed in chunks of the given sizes, the last one repeated.
fn logits(model: &Model, tokens: &[u32], chunks: &[usize]) -> Vec<f32> {
    let count = u32::try_from(tokens.len()).unwrap();
    let limits = Limits {
        tokens: count,
        rows: count,
        sequences: 1,
        blocks: 1,
        block_tokens: count,
        vocabulary: model.config.vocabulary,
    };
    let bytes = |tensor| model.slice(tensor);
    let tensors = model.tensors.iter().map(bytes).collect();
    let mut reference = Reference::new(tensors, Batch::new(limits));
    let (mut all, mut at, mut number) = (Vec::new(), 0, 0);
    while at < tokens.len() {
        let size = chunks[number.min(chunks.len() - 1)].min(tokens.len() - at);
        reference.batch.clear();
        for (position, id) in tokens.iter().enumerate().skip(at).take(size) {
            let position = u32::try_from(position).unwrap();
            reference.batch.push(Token { id: *id, position, sequence: 0, wanted: true });
        }
        all.extend(forward(&mut reference, model).data);
        (at, number) = (at + size, number + 1);
    }
    all
}

fn check(name: &str, expected: &Value) {
    let n_ctx = number(&expected["n_ctx"]);
    let model = Model::open(&fixtures().join(format!("{name}.gguf")), n_ctx).unwrap();
    let tokens: Vec<u32> = expected["tokens"].as_array().unwrap().iter().map(number).collect();
    for chunks in [&[usize::MAX][..], &[7, 1, 9, 7], &[1]] {
        let ours = logits(&model, &tokens, chunks);
        for run in expected["logits"].as_array().unwrap() {
            // The stored run rounds activations; the reference does not, so it is held to the exact ones.
            if run["run"] == "stored" {
                continue;
            }
            let file = std::fs::read(fixtures().join(run["file"].as_str().unwrap())).unwrap();
            let tolerance = run["tolerance_abs"].as_f64().unwrap_or(2e-4);
            let theirs = floats(&file);
            assert_eq!(ours.len(), theirs.len());
            let worst =
                ours.iter().zip(&theirs).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
            assert!(worst <= tolerance, "{name} against {}: {worst} > {tolerance}", run["run"]);
        }
    }
}

#[test]
fn every_architecture_and_format_gives_llama_cpp_s_logits() {
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    assert!(names.len() >= 28, "only {} tiny models", names.len());
    for path in names {
        let expected: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        check(path.file_stem().unwrap().to_str().unwrap(), &expected);
    }
}

#[test]
fn every_tensor_of_a_file_is_used() {
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "gguf") {
            continue;
        }
        let model = Model::open(&path, 64).unwrap();
        let used = |name: &str| model.tensors.iter().any(|tensor: &Tensor| tensor.name == name);
        for info in model.gguf.tensors() {
            let factors = info.name.starts_with("rope_");
            assert!(factors || used(&info.name), "{}: {} is not used", path.display(), info.name);
        }
    }
}
