//! The two real models on the CPU device against llama.cpp: token ids, logits, greedy answers, perplexity.
//!
//! The fixtures are made by `xtask/golden/models.py`; its docstring describes the files. The runs compared with are llama.cpp on
//! the same weights dequantized to F32: exact weights, unrounded activations.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use engine::{Engine, Event, Options, Params};
use hal::cpu::{Cpu, CpuOptions};
use model::Model;
use model::tokenizer::{Special, Tokenizer};
use ops::KvFormat;
use ops::sample::Sampler;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;

const BUCKETS: usize = 512;
const COSINE_MIN: f64 = 0.999;
/// A greedy answer may leave llama.cpp's only where its two best logits are this close.
const TIE: f64 = 0.01;
const PERPLEXITY_OFF_MAX: f64 = 0.005;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models")
}

struct Real {
    name: &'static str,
    model: Arc<Model>,
    expected: Value,
    /// `(rows, BUCKETS)`
    sketches: Vec<f32>,
}

/// None, loudly, when the model was not fetched.
#[expect(clippy::print_stderr, reason = "a skip is said")]
fn real(name: &'static str) -> Option<Real> {
    // How `cargo xtask check` has a processor run what lesser ones run.
    if let Some(features) = std::env::var_os("RUSSET_CPU_WITHOUT") {
        hal::cpu::leave_out(vec![features.into_string().unwrap()]).unwrap();
    }
    let read = |file: String| std::fs::read(fixtures().join("real").join(file)).unwrap();
    let expected: Value = serde_json::from_slice(&read(format!("{name}.json"))).unwrap();
    let file = expected["model"].as_str().unwrap();
    let cache = if std::env::consts::OS == "macos" { "Library/Caches" } else { ".cache" };
    let path = std::env::home_dir().unwrap().join(cache).join("russet/models").join(file);
    if !path.exists() {
        eprintln!("SKIPPED: {} is missing; `cargo xtask models` fetches it", path.display());
        return None;
    }
    let halves = read(format!("{name}.llama.sketch.f16"));
    let half = |b: &[u8]| half::f16::from_le_bytes([b[0], b[1]]).to_f32();
    let sketches = halves.chunks_exact(2).map(half).collect();
    Some(Real { name, model: Arc::new(Model::open(&path, 1024).unwrap()), expected, sketches })
}

fn engine(real: &Real) -> Engine {
    let device = Arc::new(Cpu::open(CpuOptions::default()).unwrap());
    Engine::new(device, Arc::clone(&real.model), Options::single(1024)).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
        .collect()
}

/// Bucket and sign of a vocabulary id in a count-sketch.
fn place(id: u64) -> (usize, f64) {
    let mut z = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let hash = z ^ z >> 31;
    (usize::try_from(hash % BUCKETS as u64).unwrap(), if hash >> 32 & 1 == 1 { -1.0 } else { 1.0 })
}

fn sketch(logits: &[f32], places: &[(usize, f64)]) -> Vec<f64> {
    let mut sketch = vec![0.0; BUCKETS];
    for (logit, (bucket, sign)) in logits.iter().zip(places) {
        sketch[*bucket] += sign * f64::from(*logit);
    }
    sketch
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn check_prompts(real: &Real) {
    let tokenizer = Tokenizer::from_gguf(real.model.gguf.metadata()).unwrap();
    let places: Vec<(usize, f64)> =
        (0..u64::from(real.model.config.vocabulary)).map(place).collect();
    let mut engine = engine(real);
    let prompts = real.expected["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 8);
    let mut least = 1.0_f64;
    for prompt in prompts {
        let tokens = ids(&prompt["tokens"]);
        let text = prompt["text"].as_str().unwrap();
        let special = Special { add_special: true, parse_special: true };
        assert_eq!(tokenizer.encode(text, special).unwrap(), tokens, "{}: {text:?}", real.name);
        let first = usize::try_from(prompt["row"].as_u64().unwrap()).unwrap();
        engine
            .logits(&tokens, |position, logits| {
                let at = (first + position) * BUCKETS;
                let theirs: Vec<f64> =
                    real.sketches[at..at + BUCKETS].iter().map(|x| f64::from(*x)).collect();
                least = least.min(cosine(&sketch(logits, &places), &theirs));
            })
            .unwrap();
        check_greedy(real, &mut engine, &tokens, &prompt["runs"]["llama"]["greedy"]);
    }
    assert!(least >= COSINE_MIN, "{}: least cosine of a row of logits {least}", real.name);
}

/// Compares the greedy answer with llama.cpp's, up to the first real tie.
fn check_greedy(real: &Real, engine: &mut Engine, prompt: &[u32], expected: &Value) {
    let theirs = ids(&expected["tokens"]);
    let params = Params::new(Sampler::GREEDY, 64);
    let id = engine.start(prompt, params).unwrap();
    let mut ours = Vec::new();
    loop {
        let (_, events) = engine.step().unwrap();
        ours.extend(events.iter().filter_map(|event| match event {
            Event::Token { token, .. } => Some(*token),
            Event::End { .. } => None,
        }));
        if events.iter().any(|event| matches!(event, Event::End { .. })) {
            break;
        }
    }
    engine.release(id);
    assert_eq!((ours.len(), theirs.len()), (64, 64));
    if let Some(at) = (0..64).find(|i| ours[*i] != theirs[*i]) {
        let logits = expected["logits"][at].as_array().unwrap();
        let [best, second] = [0, 1].map(|i| logits[i].as_f64().unwrap());
        let gap = (best - second) / best.abs();
        assert!(
            gap <= TIE,
            "{}: token {at} is {}, llama.cpp's {} leads by {gap}",
            real.name,
            ours[at],
            theirs[at]
        );
    }
}

fn check_perplexity(real: &Real) {
    let expected = &real.expected["perplexity"];
    let tokens = ids(&expected["tokens"]);
    let mut total = 0.0;
    engine(real)
        .logits(&tokens, |position, logits| {
            let Some(next) = tokens.get(position + 1) else { return };
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
            total += sum.ln() - f64::from(logits[*next as usize] - max);
        })
        .unwrap();
    let ours = (total / (tokens.len() - 1) as f64).exp();
    let theirs = expected["runs"]["llama"]["perplexity"].as_f64().unwrap();
    let off = (ours / theirs - 1.0).abs();
    assert!(off <= PERPLEXITY_OFF_MAX, "{}: perplexity {ours}, llama.cpp's {theirs}", real.name);
}

/// Least and mean cosine of rows of logits with a Q8_0 cache to those with F16, as llama.cpp 0.3.36's Python package has them itself
/// (`type_k` and `type_v`, flash attention, SmolLM2, the tokens of the perplexity): 0.98594 and 0.99948.
const KV_Q8_0_COSINES: [f64; 2] = [0.985, 0.9994];

#[test]
fn a_cache_in_q8_0_moves_logits_no_further_than_in_llama_cpp() {
    let Some(real) = real("smollm2") else { return };
    let tokens = ids(&real.expected["perplexity"]["tokens"]);
    let run = |kv| {
        let device = Arc::new(Cpu::open(CpuOptions::default()).unwrap());
        let options = Options { kv, ..Options::single(1024) };
        let mut engine = Engine::new(device, Arc::clone(&real.model), options).unwrap();
        let mut rows = Vec::new();
        let keep = |_, row: &[f32]| rows.push(row.iter().copied().map(f64::from).collect());
        engine.logits(&tokens, keep).unwrap();
        rows
    };
    let [halves, codes]: [Vec<Vec<f64>>; 2] = [KvFormat::F16, KvFormat::Q8_0].map(run);
    let cosines: Vec<f64> = halves.iter().zip(&codes).map(|(a, b)| cosine(a, b)).collect();
    let least = cosines.iter().copied().fold(1.0, f64::min);
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    assert!(least < 1.0, "the cache was not in Q8_0");
    assert!(least >= KV_Q8_0_COSINES[0] && mean >= KV_Q8_0_COSINES[1], "{least}, mean {mean}");
}

#[test]
fn smollm2_agrees_with_llama_cpp() {
    if let Some(real) = real("smollm2") {
        check_prompts(&real);
        check_perplexity(&real);
    }
}

#[test]
fn gemma_3_agrees_with_llama_cpp() {
    if let Some(real) = real("gemma3") {
        check_prompts(&real);
        check_perplexity(&real);
    }
}
