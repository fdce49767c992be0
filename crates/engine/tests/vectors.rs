//! Embeddings and log probabilities on the CPU device against llama.cpp's for the same token ids. `xtask/golden/embeddings.py` makes
//! the fixtures; its docstring describes them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use engine::{Embedding, Engine, Event, Options, Params, Pooling, SequenceId};
use hal::cpu::{Cpu, CpuOptions};
use model::Model;
use ops::sample::Sampler;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CONTEXT: u32 = 256;
const POOLINGS: [(&str, Pooling); 3] =
    [("mean", Pooling::Mean), ("cls", Pooling::Cls), ("last", Pooling::Last)];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join(name)).unwrap()).unwrap()
}

fn engine(path: &Path, sequences: u32) -> Engine {
    let model = Arc::new(Model::open(path, CONTEXT).unwrap());
    let device = Arc::new(Cpu::open(CpuOptions { threads: Some(2) }).unwrap());
    let cache_tokens = CONTEXT * sequences;
    let options = Options { sequences, cache_tokens, ..Options::single(CONTEXT) };
    Engine::new(device, model, options).unwrap()
}

fn tiny(name: &str, sequences: u32) -> Engine {
    engine(&fixtures().join("tiny").join(name), sequences)
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn advance(engine: &mut Engine, text: &mut Embedding) -> (Vec<f32>, usize) {
    for pieces in 1.. {
        if let Some(vector) = engine.advance(text).unwrap() {
            return (vector, pieces);
        }
    }
    unreachable!("a text has an end")
}

/// Both have the length 1.
fn cosine(ours: &[f32], theirs: &[f64]) -> f64 {
    let length: f64 = ours.iter().map(|x| f64::from(*x).powi(2)).sum();
    assert!(ours.len() == theirs.len() && (length - 1.0).abs() < 1e-5, "{} {length}", ours.len());
    ours.iter().zip(theirs).map(|(ours, theirs)| f64::from(*ours) * theirs).sum()
}

fn check(model: &Value, path: &Path, cosine_min: f64) {
    let mut engine = engine(path, 1);
    for text in model["texts"].as_array().unwrap() {
        let tokens = ids(&text["tokens"]);
        for (name, pooling) in POOLINGS {
            let mut embedding = engine.embedding(&tokens, pooling).unwrap();
            let (ours, pieces) = advance(&mut engine, &mut embedding);
            assert_eq!(pieces > 1, tokens.len() > 64);
            let cosine = cosine(&ours, &numbers(&text["vectors"][name]));
            assert!(cosine >= cosine_min, "{} {name}: cosine {cosine}", model["model"]);
        }
    }
}

#[test]
fn embeddings_are_llama_cpp_s() {
    let cache = if std::env::consts::OS == "macos" { "Library/Caches" } else { ".cache" };
    let fetched = std::env::home_dir().unwrap().join(cache).join("russet/models");
    let expected = expected("embeddings.json");
    let models = expected["models"].as_array().unwrap();
    assert_eq!(models.len(), 4);
    for model in models {
        let file = model["model"].as_str().unwrap();
        if model["real"] == false {
            check(model, &fixtures().join("tiny").join(file), 0.9999);
        } else if fetched.join(file).exists() {
            check(model, &fetched.join(file), 0.999);
        } else {
            eprintln!("SKIPPED: {file} is missing; `cargo xtask models` fetches it");
        }
    }
}

fn tokens(events: &[Event], id: SequenceId) -> Vec<u32> {
    let of = |event: &Event| match *event {
        Event::Token { sequence, token } if sequence == id => Some(token),
        _ => None,
    };
    events.iter().filter_map(of).collect()
}

#[test]
fn log_probabilities_are_llama_cpp_s() {
    let expected = expected("logprobs.json");
    let top = u32::try_from(expected["top"].as_u64().unwrap()).unwrap();
    let mut engine = tiny(expected["model"].as_str().unwrap(), 1);
    let close = |ours: f32, theirs: f64| {
        assert!((f64::from(ours) - theirs).abs() < 5e-3, "{ours} {theirs}");
    };
    let prompts = expected["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 3);
    for prompt in prompts {
        let answer = ids(&prompt["answer"]);
        let theirs = numbers(&prompt["logprobs"]);
        let most = u32::try_from(answer.len()).unwrap();
        let params = Params { logprobs: Some(top), ..Params::new(Sampler::GREEDY, most) };
        let id = engine.start(&ids(&prompt["tokens"]), params).unwrap();
        let mut at = 0;
        while at < answer.len() {
            let sampled = tokens(engine.step().unwrap().1, id);
            let Some(token) = sampled.first() else { continue };
            assert_eq!((sampled.len(), *token), (1, answer[at]));
            let ours = engine.logprobs(id).unwrap();
            close(ours.logprob, theirs[at]);
            let ranked: Vec<u32> = ours.top.iter().map(|(id, _)| *id).collect();
            assert_eq!(ranked, ids(&prompt["top_ids"][at]));
            let ranked = ours.top.iter().zip(numbers(&prompt["top_logprobs"][at]));
            ranked.for_each(|((_, ours), theirs)| close(*ours, theirs));
            at += 1;
        }
        engine.release(id);
    }
}

#[test]
fn an_embedding_between_steps_changes_no_token_and_no_number() {
    let text: Vec<u32> = (0..200).map(|i| 3 + i * 7 % 60).collect();
    let answers = |engine: &mut Engine, beside: Option<Pooling>| {
        let sampler = Sampler { temperature: 1.0, seed: 5, ..Sampler::GREEDY };
        let ids: [SequenceId; 2] =
            [30, 90].map(|n| engine.start(&text[n..2 * n], Params::new(sampler, 40)).unwrap());
        let mut embedding = beside.map(|pooling| engine.embedding(&text, pooling).unwrap());
        let (mut answers, mut vector) = ([Vec::new(), Vec::new()], None);
        while answers.iter().any(|answer| answer.len() < 40) {
            let (_, events) = engine.step().unwrap();
            for (answer, id) in answers.iter_mut().zip(ids) {
                answer.extend(tokens(events, id));
            }
            if let (Some(embedding), None) = (&mut embedding, &vector) {
                vector = engine.advance(embedding).unwrap();
            }
        }
        (answers, vector)
    };
    for name in ["llama-q4_1.gguf", "gemma3.gguf"] {
        let (alone, _) = answers(&mut tiny(name, 2), None);
        let mut idle = tiny(name, 2);
        let mut embedding = idle.embedding(&text, Pooling::Mean).unwrap();
        let (vector, pieces) = advance(&mut idle, &mut embedding);
        assert_eq!(pieces, 4);
        let (beside, between) = answers(&mut tiny(name, 2), Some(Pooling::Mean));
        assert_eq!(beside, alone, "{name}");
        assert_eq!(between, Some(vector), "{name}");
    }
}
