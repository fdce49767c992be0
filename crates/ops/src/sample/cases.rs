//! Cases of `sample` through a device; how draws are distributed is tested beside the kernel.
use super::reference::distribution;
use super::{Sampler, record};
use crate::conformance::{Forward, Setup, token};
use crate::{Ops, Weight};

struct Logits(Weight, f32);

impl Forward for Logits {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.0, self.1);
        vec![ops.gather(&x)]
    }
}

/// Rows of several sequences with seen tokens of their own.
fn setup(seed: u64, vocabulary: u32) -> (Setup, Logits) {
    let mut setup = Setup::new(seed);
    setup.vocabulary = vocabulary;
    let logits = Logits(setup.table(vocabulary), 4.0);
    for sequence in 0..3 {
        for _ in 0..vocabulary.min(150) / 3 {
            let seen = (sequence, setup.random.below(vocabulary));
            setup.seen.push(seen);
        }
    }
    setup.step(vec![
        token(3, 0, 2, true),
        token(7, 1, 0, false),
        token(11, 2, 0, true),
        token(12, 2, 1, true),
    ]);
    setup.step(vec![token(30, 4, 1, true)]);
    (setup, logits)
}

/// Checks each row's token with `allowed(row, distribution, token)` on every device, and that devices agree.
fn check(setup: &Setup, logits: &Logits, allowed: impl Fn(&[(u32, f64)], u32) -> bool) {
    let expected = setup.expected(logits);
    let mut first: Option<Vec<Vec<u32>>> = None;
    for subject in setup.subjects().iter().filter(|subject| subject.executes) {
        let ran = setup.run(&*subject.device, |to| {
            let tensors = logits.forward(to);
            record(to, &tensors[0]);
            tensors
        });
        for (step, (ran, expected)) in ran.iter().zip(&expected).enumerate() {
            let wanted = setup.steps()[step].iter().filter(|token| token.wanted);
            for (row, (token, logits)) in wanted.zip(expected[0].rows()).enumerate() {
                let seen = |id| setup.seen.contains(&(token.sequence, id));
                let expected = distribution(logits, seen, &setup.samplers[row]);
                let sampled = ran.sampled[row];
                assert!(
                    allowed(&expected, sampled),
                    "{}, seed {}, step {step}, row {row}: {sampled}",
                    subject.name,
                    setup.seed()
                );
            }
        }
        let sampled: Vec<_> = ran.into_iter().map(|ran| ran.sampled).collect();
        assert_eq!(*first.get_or_insert_with(|| sampled.clone()), sampled, "{}", subject.name);
    }
}

#[test]
fn greedy_rows_take_the_most_probable_token() {
    for (seed, vocabulary) in (1..).zip([1, 33, 1000, 4099]) {
        for repetition_penalty in [1.0, 1.5] {
            let (mut setup, logits) = setup(seed, vocabulary);
            setup.samplers = vec![Sampler { repetition_penalty, ..Sampler::GREEDY }; 3];
            check(&setup, &logits, |expected, token| token == expected[0].0);
        }
    }
}

#[test]
fn draws_are_allowed_and_the_same_everywhere() {
    for seed in 1..20 {
        let (mut setup, logits) = setup(seed, 300);
        let sampler = Sampler { temperature: 1.0, seed, ..Sampler::GREEDY };
        setup.samplers = vec![
            Sampler { top_k: 5, draw: 1, ..sampler },
            Sampler { top_p: 0.5, repetition_penalty: 1.2, draw: 2, ..sampler },
            Sampler { min_p: 0.1, draw: 3, ..sampler },
        ];
        check(&setup, &logits, |expected, token| expected.iter().any(|(id, _)| *id == token));
    }
}
