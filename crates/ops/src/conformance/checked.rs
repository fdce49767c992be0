//! Kernels for GPUs under the sanitizers: every access lies in a span or in threadgroup memory and is aligned, and no two threads
//! touch one place without a barrier between them. A process for each launch: few and small cases.
use super::gpus::checked;
use super::layer::{Layer, steps};
use super::{Forward, Setup, Tolerance, compare, token};
use crate::format::Format;
use crate::sample::Sampler;
use crate::{
    Activation, Attention, Cache, KvFormat, Norm, NormKind, Ops, Pairing, Rope, Weight, sample,
};
use hal::Device;
use msl::Checks;

fn check(name: &str, device: &dyn Device, setup: &Setup, forward: &impl Forward) {
    let ran = setup.run(device, |to| forward.forward(to));
    for (ran, expected) in ran.iter().zip(setup.expected(forward)) {
        for (got, want) in ran.outputs.iter().zip(&expected) {
            if let Err(difference) = compare(got, want, Tolerance::Norm(0.03)) {
                panic!("{name}: {difference}");
            }
        }
    }
}

/// The ops that a layer has not as launches of their own.
struct Rest {
    table: Weight,
    other: Weight,
}

impl Forward for Rest {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let (x, y) = (ops.embed(&self.table, 1.0), ops.embed(&self.other, 1.0));
        let x = ops.add(x, &y);
        let x = ops.activate(x, Some(&y), Activation::Gelu);
        let x = ops.softcap(x, 30.0);
        vec![ops.gather(&x)]
    }
}

fn sampled(device: &dyn Device) {
    let mut setup = Setup::new(4);
    setup.vocabulary = 300;
    let logits = Rest { table: setup.table(300), other: setup.table(300) };
    setup.seen = vec![(0, 3), (0, 299)];
    setup.biases = vec![setup.random.normals(300)];
    setup.allowed = vec![Vec::new(), vec![2, 3, 50, 299]];
    setup.step(vec![token(3, 0, 0, true), token(7, 1, 0, true)]);
    let sampler = Sampler { temperature: 0.8, repetition_penalty: 1.1, ..Sampler::GREEDY };
    let xtc = Sampler { xtc_probability: 1.0, xtc_threshold: 0.01, ..sampler };
    setup.samplers = vec![
        Sampler { top_k: 20, top_p: 0.9, biased: true, typical_p: 0.9, ..sampler },
        Sampler { min_p: 0.05, masked: true, ..xtc },
    ];
    let ran = setup.run(device, |to| {
        let tensors = logits.forward(to);
        sample::record(to, &tensors[0]);
        tensors
    });
    assert!(ran.iter().all(|ran| ran.sampled[..2].iter().all(|id| *id < 300)));
}

/// A layer in a step of several tokens, some of a prompt, and in one of one token.
fn layers(device: &dyn Device) {
    for (kv, format) in KvFormat::ALL.into_iter().zip([Format::Q4K, Format::Q8_0]) {
        let mut setup = Setup::new(6);
        let layer = Layer::new(&mut setup, format, kv == KvFormat::F16);
        setup.caches.iter_mut().for_each(|cache| cache.format = kv);
        setup.prompts_from = Some(2);
        steps(&mut setup);
        check("several", device, &setup, &layer);
        let mut single = Setup::new(6);
        let layer = Layer::new(&mut single, format, kv == KvFormat::F16);
        single.caches.iter_mut().for_each(|cache| cache.format = kv);
        (0..3).for_each(|p| single.step(vec![token(p + 4, p, 0, true)]));
        check("one", device, &single, &layer);
    }
}

/// Heads of no whole tile, a norm with a bias and a rotation of a part of each head, every op a launch of its own.
struct Odd {
    tables: [Weight; 3],
    norm: Norm,
    rope: Rope,
    attention: Attention,
}

impl Forward for Odd {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let [q, k, v] = self.tables.map(|table| ops.embed(&table, 1.0));
        let [q, k] = [q, k].map(|x| {
            let x = ops.norm(&x, &self.norm);
            ops.rope(x, &self.rope, self.attention.head_dim)
        });
        ops.write_kv(&k, &v, &self.attention);
        vec![ops.attend(&q, &self.attention)]
    }
}

/// More tokens than have partial results, then a few.
fn odd(device: &dyn Device) {
    for window in [None, Some(5)] {
        let mut setup = Setup::new(8);
        let (heads, kv_heads, head_dim) = (3, 1, 20);
        setup.caches.push(Cache { kv_heads, head_dim, format: KvFormat::F16 });
        let tables = [heads, kv_heads, kv_heads].map(|n| setup.table(n * head_dim));
        let (weight, bias) = (setup.gains(head_dim), Some(setup.bias(head_dim)));
        let norm = Norm { kind: NormKind::Layer, weight, bias, epsilon: 1e-5 };
        let frequencies = setup.floats(7, &[1.0, 0.5, 0.3, 0.1, 0.05, 0.02, 0.01]);
        let rope = Rope { pairing: Pairing::Halves, frequencies, amplitude: 1.0 };
        let attention = Attention { layer: 0, heads, kv_heads, head_dim, scale: 0.2, window };
        let prompt = setup.chunk(1, 0, 37);
        setup.step(prompt);
        let more = setup.chunk(1, 37, 3);
        setup.step(more);
        check("odd", device, &setup, &Odd { tables, norm, rope, attention });
    }
}

fn rest(device: &dyn Device) {
    let mut setup = Setup::new(3);
    let forward = Rest { table: setup.table(45), other: setup.table(45) };
    setup.batch(3);
    check("rest", device, &setup, &forward);
}

#[test]
fn accesses_lie_in_their_memory() {
    let Some(device) = checked(Checks::Memory) else { return };
    rest(&device);
    sampled(&device);
    odd(&device);
    layers(&device);
}

#[test]
fn no_two_threads_race() {
    let Some(device) = checked(Checks::Races) else { return };
    rest(&device);
    sampled(&device);
    // One step of each kind: this check is a hundred times slower.
    for tokens in [1, 3] {
        let mut setup = Setup::new(6);
        let layer = Layer::new(&mut setup, Format::Q8_0, true);
        setup.caches.iter_mut().for_each(|cache| cache.format = KvFormat::Q8_0);
        setup.prompts_from = Some(1);
        let step = setup.chunk(0, 0, tokens);
        setup.step(step);
        check("races", &device, &setup, &layer);
    }
}
