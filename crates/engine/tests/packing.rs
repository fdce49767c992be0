//! Weights move from the file into packed tiles while answers are written, and no bit of an answer tells.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use engine::{Engine, Options, Params};
use hal::cpu::{Cpu, CpuOptions};
use model::Model;
use ops::sample::Sampler;
use std::path::PathBuf;
use std::sync::Arc;

const FORMATS: [&str; 10] =
    ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "q2_k", "q4_k", "q5_k", "q6_k"];
/// More than the steps beside which weights are packed.
const TOKENS: u32 = 40;

fn engine(format: &str) -> Engine {
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny");
    let model = Model::open(&tiny.join(format!("llama-{format}.gguf")), 64).unwrap();
    let device = Cpu::open(CpuOptions { threads: Some(2) }).unwrap();
    let options = Options { hash_logits: true, ..Options::single(64) };
    Engine::new(Arc::new(device), Arc::new(model), options).unwrap()
}

/// A greedy answer's tokens and the hash of its logits.
fn answer(engine: &mut Engine) -> (Vec<u32>, u64) {
    let prompt: Vec<u32> = (5..17).collect();
    let id = engine.start(&prompt, Params::new(Sampler::GREEDY, TOKENS)).unwrap();
    while engine.step().unwrap().0.sampled > 0 {}
    (engine.tokens(id).unwrap().to_vec(), engine.logits_hash())
}

#[test]
fn an_answer_has_the_same_bits_while_weights_are_packed() {
    for format in FORMATS {
        let mut settled = engine(format);
        let mut pieces = 0;
        while settled.settle().unwrap() {
            pieces += 1;
        }
        let mut moving = engine(format);
        assert_eq!(answer(&mut moving), answer(&mut settled), "{format}");
        assert!(!moving.settle().unwrap(), "{format}: all is packed beside {TOKENS} tokens");
        assert!(pieces > 0, "{format}: an engine begins with the file");
    }
}
