//! Cases of `sample` through a device; how draws are distributed is tested beside the kernel.
use super::reference::{Row, distribution};
use super::{Sampler, VOCABULARY_SMALL, record};
use crate::conformance::{Forward, Setup, VOCABULARY, token};
use crate::{Ops, Weight};

struct Logits(Weight, f32);

impl Forward for Logits {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.0, self.1);
        vec![ops.gather(&x)]
    }
}

/// Rows of several sequences with seen tokens of their own, with biases and masks for samplers that want them.
fn setup(seed: u64, vocabulary: u32) -> (Setup, Logits) {
    let mut setup = Setup::new(seed);
    setup.vocabulary = vocabulary;
    let logits = Logits(setup.table(vocabulary), 4.0);
    for sequence in 0..3 {
        for _ in 0..vocabulary.min(150) / 3 {
            let seen = (sequence, setup.random.below(vocabulary));
            setup.seen.push(seen);
        }
        let bias = setup.random.normals(vocabulary as usize);
        setup.biases.push(bias.iter().map(|x| 3.0 * x).collect());
        let one = setup.random.below(vocabulary);
        let allowed = (0..vocabulary).filter(|id| *id == one || setup.random.below(3) == 0);
        setup.allowed.push(allowed.collect());
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
                let allows = |id| setup.allowed[row].binary_search(&id).is_ok();
                let bias = &setup.biases[row];
                let given = Row { logits, bias, allowed: &allows, seen: &seen };
                let expected = distribution(&given, &setup.samplers[row]);
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
            let sampler = Sampler { repetition_penalty, ..Sampler::GREEDY };
            setup.samplers = vec![
                sampler,
                Sampler { biased: true, ..sampler },
                Sampler { masked: true, biased: seed % 2 == 0, ..sampler },
            ];
            setup.samplers.rotate_left(usize::from(repetition_penalty > 1.0));
            check(&setup, &logits, |expected, token| token == expected[0].0);
        }
    }
}

const WARM: Sampler = Sampler { temperature: 1.0, ..Sampler::GREEDY };

/// Shares and thresholds that no sum comes near: devices round exponentials and the mean logit differently.
const DRAWN: [Sampler; 10] = [
    Sampler { top_k: 5, ..WARM },
    Sampler { top_p: 0.5, repetition_penalty: 1.2, ..WARM },
    Sampler { min_p: 0.1, ..WARM },
    Sampler { typical_p: 0.61, ..WARM },
    // The most probable tokens are the least typical: what min-p is relative to changes.
    Sampler { typical_p: 0.37, min_p: 0.7, temperature: 5.0, ..WARM },
    Sampler { typical_p: 0.37, top_k: 23, top_p: 0.8, masked: true, temperature: 2.0, ..WARM },
    Sampler { xtc_probability: 1.0, xtc_threshold: 0.013, biased: true, ..WARM },
    Sampler { xtc_probability: 0.5, xtc_threshold: 0.07, min_p: 0.03, temperature: 3.0, ..WARM },
    Sampler { masked: true, biased: true, repetition_penalty: 0.8, top_p: 0.93, ..WARM },
    Sampler {
        typical_p: 0.93,
        top_k: 200,
        top_p: 0.97,
        min_p: 0.01,
        xtc_probability: 1.0,
        xtc_threshold: 0.017,
        biased: true,
        masked: true,
        temperature: 4.0,
        ..WARM
    },
];

/// Three of the samplers, one a row.
fn drawing(first: usize, seed: u64) -> Vec<Sampler> {
    let drawn = DRAWN.iter().cycle().skip(first).zip(1..4);
    drawn.map(|(sampler, draw)| Sampler { seed, draw, ..*sampler }).collect()
}

fn is_possible(expected: &[(u32, f64)], token: u32) -> bool {
    expected.iter().any(|(id, _)| *id == token)
}

#[test]
fn draws_are_allowed_and_the_same_everywhere() {
    for seed in 1..37 {
        let (mut setup, logits) = setup(seed, 300);
        setup.samplers = drawing(usize::try_from(seed).unwrap(), seed);
        check(&setup, &logits, is_possible);
    }
}

#[test]
fn draws_from_many_tokens_are_allowed_and_the_same_everywhere() {
    for (seed, first) in (1..).zip([0, 3, 6, 9]) {
        let (mut setup, logits) = setup(seed, VOCABULARY_SMALL + 5);
        setup.samplers = drawing(first, seed);
        check(&setup, &logits, is_possible);
    }
}

/// Logits of a few levels only, so that every bound falls among equal tokens.
#[test]
fn draws_from_equal_tokens_are_allowed_and_the_same_everywhere() {
    for seed in 1..10 {
        let (mut setup, _) = setup(seed, 300);
        let levels = (0..VOCABULARY * 300).map(|_| 0.25 * setup.random.below(9) as f32);
        let levels: Vec<f32> = levels.collect();
        let logits = Logits(setup.floats(300, &levels), 4.0);
        setup.samplers = drawing(usize::try_from(seed).unwrap(), seed);
        setup.biases.iter_mut().flatten().for_each(|bias| *bias = bias.round());
        check(&setup, &logits, is_possible);
    }
}

#[test]
fn a_row_that_allows_nothing_gets_token_0() {
    let (mut setup, logits) = setup(1, 300);
    setup.allowed.iter_mut().for_each(Vec::clear);
    let sampler = Sampler { masked: true, ..DRAWN[9] };
    setup.samplers = vec![sampler, Sampler { masked: true, ..Sampler::GREEDY }, sampler];
    for subject in setup.subjects().iter().filter(|subject| subject.executes) {
        let ran = setup.run(&*subject.device, |to| {
            let tensors = logits.forward(to);
            record(to, &tensors[0]);
            tensors
        });
        assert_eq!(ran[0].sampled[..3], [0; 3], "{}", subject.name);
    }
}
