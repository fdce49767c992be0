//! Models end to end on the soft device, which runs the kernels for GPUs on the CPU, and on Metal where there is one: tiny models of
//! every architecture against llama.cpp, a real one against the CPU device.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use engine::{Engine, Event, Options, Params};
use hal::cpu::{Cpu, CpuOptions};
use hal::{Device, Error, OpenOptions};
use model::Model;
use msl::{Soft, SoftOptions};
use ops::sample::Sampler;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny")
}

/// Without clang soft is missing, loudly.
#[expect(clippy::print_stderr, reason = "a skip is said")]
fn gpus() -> Vec<Arc<dyn Device>> {
    let soft: Option<Arc<dyn Device>> = match Soft::open(SoftOptions::default()) {
        Err(Error::Unavailable { reason, .. }) => {
            eprintln!("SKIPPED: {reason}");
            None
        }
        soft => Some(Arc::new(soft.unwrap())),
    };
    let metal = hal::open("metal", &OpenOptions::default()).ok();
    soft.into_iter().chain(metal.map(|selection| selection.device)).collect()
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

/// These steps hold prompts: their products have inputs and weights in F16, as K and V are.
const COSINE_MIN: f64 = 0.999_9;

/// Least cosine of the logits with llama.cpp's, over all positions of a fixture's tokens.
fn least_cosine(device: &Arc<dyn Device>, path: &Path) -> f64 {
    let expected: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let context = number(&expected["n_ctx"]);
    let model = Arc::new(Model::open(&path.with_extension("gguf"), context).unwrap());
    let tokens: Vec<u32> = expected["tokens"].as_array().unwrap().iter().map(number).collect();
    let vocabulary = number(&expected["vocab"]) as usize;
    let file = expected["logits"][0]["file"].as_str().unwrap();
    let bytes = std::fs::read(fixtures().join(file)).unwrap();
    let exact: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut engine = Engine::new(Arc::clone(device), model, Options::single(context)).unwrap();
    let (mut rows, mut least) = (0, 1.0_f64);
    engine
        .logits(&tokens, |position, logits| {
            let theirs = &exact[position * vocabulary..(position + 1) * vocabulary];
            least = least.min(cosine(logits, theirs));
            rows += 1;
        })
        .unwrap();
    assert_eq!(rows, tokens.len());
    least
}

#[test]
fn tiny_models_give_llama_cpp_s_logits() {
    let devices = gpus();
    let paths = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    let mut wrong = Vec::new();
    for (device, path) in devices.iter().flat_map(|device| paths.iter().map(move |p| (device, p))) {
        let least = least_cosine(device, path);
        // Also when it is NaN.
        if !least.ge(&COSINE_MIN) {
            let (kind, name) = (device.info().kind.name(), path.file_stem().unwrap().display());
            wrong.push(format!("{name} on {kind}: {least}"));
        }
    }
    assert!(!paths.is_empty() && wrong.is_empty(), "least cosines: {wrong:#?}");
}

fn engine(device: &Arc<dyn Device>, name: &str, options: Options) -> Engine {
    let model = Arc::new(Model::open(&fixtures().join(name), options.context).unwrap());
    Engine::new(Arc::clone(device), model, options).unwrap()
}

/// The first sequence's answer; the others only keep it company.
fn answer(engine: &mut Engine, prompts: &[&[u32]], params: &Params) -> Vec<u32> {
    let ids: Vec<_> =
        prompts.iter().map(|prompt| engine.start(prompt, params.clone()).unwrap()).collect();
    let mut tokens = Vec::new();
    let mut ended = false;
    while !ended {
        let (_, events) = engine.step().unwrap();
        for event in events {
            match event {
                Event::Token { sequence, token } if *sequence == ids[0] => tokens.push(*token),
                Event::End { sequence, .. } if *sequence == ids[0] => ended = true,
                _ => {}
            }
        }
    }
    ids.into_iter().for_each(|id| engine.release(id));
    tokens
}

const PROMPT: [u32; 9] = [5, 9, 33, 2, 2, 61, 7, 40, 18];

#[test]
fn a_sequence_s_tokens_are_the_same_alone_and_in_a_batch() {
    let devices = gpus();
    let small = |sequences| Options { sequences, prompt_chunk: 16, ..Options::single(128) };
    let sampler = Sampler { temperature: 1.0, top_k: 40, top_p: 0.95, seed: 7, ..Sampler::GREEDY };
    let params = Params::new(sampler, 12);
    let names = ["llama-q4_1.gguf", "gemma3.gguf", "qwen3.gguf"];
    for (device, name) in devices.iter().flat_map(|device| names.map(|name| (device, name))) {
        let mut alone = engine(device, name, small(1));
        let expected = answer(&mut alone, &[&PROMPT], &params);
        assert_eq!(expected.len(), 12);
        let mut batch = engine(device, name, small(5));
        for others in 1..5 {
            let prompts: Vec<&[u32]> =
                (0..=others).map(|i| if i == 0 { &PROMPT[..] } else { &PROMPT[i..] }).collect();
            assert_eq!(answer(&mut batch, &prompts, &params), expected, "{name}, {others} others");
        }
    }
}

/// A real model, or None, loudly, when it was not fetched.
#[expect(clippy::print_stderr, reason = "a skip is said")]
fn real(file: &str) -> Option<Arc<Model>> {
    let cache = if std::env::consts::OS == "macos" { "Library/Caches" } else { ".cache" };
    let path = std::env::home_dir().unwrap().join(cache).join("russet/models").join(file);
    if !path.exists() {
        eprintln!("SKIPPED: {} is missing; `cargo xtask models` fetches it", path.display());
        return None;
    }
    Some(Arc::new(Model::open(&path, 64).unwrap()))
}

#[test]
fn smollm2_answers_as_on_the_cpu() {
    let Some(model) = real("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let greedy = Params::new(Sampler::GREEDY, 8);
    // "The capital of France is", with SmolLM2's vocabulary.
    let prompt = [504, 3575, 282, 4649, 314];
    let options = Options { prompt_chunk: 8, ..Options::single(64) };
    let cpu: Arc<dyn Device> = Arc::new(Cpu::open(CpuOptions::default()).unwrap());
    let answer_on = |device| {
        let mut engine = Engine::new(device, Arc::clone(&model), options).unwrap();
        answer(&mut engine, &[&prompt], &greedy)
    };
    let expected = answer_on(cpu);
    assert_eq!(expected.len(), 8);
    for device in gpus() {
        let kind = device.info().kind.name();
        assert_eq!(answer_on(device), expected, "{kind}");
    }
}
