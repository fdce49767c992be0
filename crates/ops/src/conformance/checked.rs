//! Kernels for GPUs under the sanitizers: every access lies in a span or in threadgroup memory and is aligned, and no two threads
//! touch one place without a barrier between them. A process for each launch: few and small cases.
use super::layer::{Layer, steps};
use super::{Forward, Setup, Tolerance, compare, token};
use crate::format::Format;
use crate::sample::Sampler;
use crate::{Activation, KvFormat, Ops, Weight, sample};
use hal::{Device, Error};
use msl::{Checks, Schedule, Soft, SoftOptions};

fn open(checks: Checks) -> Option<Soft> {
    match Soft::open(SoftOptions { schedule: Schedule::Random(3), checks }) {
        Err(Error::Unavailable { reason, .. }) => {
            eprintln!("SKIPPED: {reason}");
            None
        }
        soft => Some(soft.expect("soft opens where clang is")),
    }
}

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
    setup.step(vec![token(3, 0, 0, true), token(7, 1, 0, true)]);
    let sampler = Sampler { temperature: 0.8, repetition_penalty: 1.1, ..Sampler::GREEDY };
    setup.samplers =
        vec![Sampler { top_k: 20, top_p: 0.9, ..sampler }, Sampler { min_p: 0.05, ..sampler }];
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

fn rest(device: &dyn Device) {
    let mut setup = Setup::new(3);
    let forward = Rest { table: setup.table(45), other: setup.table(45) };
    setup.batch(3);
    check("rest", device, &setup, &forward);
}

#[test]
fn accesses_lie_in_their_memory() {
    let Some(device) = open(Checks::Memory) else { return };
    rest(&device);
    sampled(&device);
    layers(&device);
}

#[test]
fn no_two_threads_race() {
    let Some(device) = open(Checks::Races) else { return };
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
