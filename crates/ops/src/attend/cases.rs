//! Cases of `write_kv`, `attend` and `rope_kv`: several sequences in shuffled blocks, chunked prompts, then single tokens.
use super::words_fit;
use crate::conformance::{
    FLOAT, Forward, Setup, Subject, Tolerance, check, check_on, subjects, token,
};
use crate::simd::Family;
use crate::{Attention, Cache, Heads, KvFormat, Norm, NormKind, Ops, Pairing, Rope, Weight};
use std::collections::BTreeMap;

/// The reference keeps K and V in f32, so these cases give it numbers that F16 holds exactly: what is left is f32 rounding
/// of scores of a few units.
const EXACT: &[Tolerance] = &[FLOAT];
/// Where K and V are computed, F16 rounds each by up to 5e-4 and scores of a few units move likewise.
const ROUNDED: &[Tolerance] = &[Tolerance::Max(2e-3)];

/// Words: of 64 normal numbers the largest is about 2.4 sigma, so keys and values round by `2.4 / 4095 / sqrt(12)`, 1.7e-4 sigma, and
/// queries by half of that; a score of about 1 moves by as much, and so does a weight. Three times their sum in quadrature.
const WORDS: &[Tolerance] = &[Tolerance::Norm(1e-3)];

/// Where K and V are computed, rounding moves a number in thousands over the border between two codes, 8e-3 of the largest apart.
const CODED: &[Tolerance] = &[Tolerance::Max(1e-2)];

struct Attend {
    tables: [Weight; 3],
    heads: Heads,
    attention: Attention,
    /// A second layer, whose cache must stay apart: there K and V change places.
    second: Attention,
}

impl Forward for Attend {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let one = |ops: &mut O, [q, k, v]: [&Weight; 3], attention: &Attention| {
            let qkv = [ops.embed(q, 1.0), ops.embed(k, 1.0), ops.embed(v, 1.0)];
            let q = ops.rope_kv(qkv, &self.heads, attention);
            ops.attend(&q, attention)
        };
        let [q, k, v] = &self.tables;
        vec![one(ops, [q, k, v], &self.attention), one(ops, [q, v, k], &self.second)]
    }
}

fn forward(
    setup: &mut Setup,
    [heads, kv_heads, head_dim]: [u32; 3],
    window: Option<u32>,
) -> Attend {
    let cache = Cache { kv_heads, head_dim, format: KvFormat::F16 };
    setup.caches = vec![cache, cache];
    let scale = 1.0 / (head_dim as f32).sqrt();
    let attention = Attention { layer: 0, heads, kv_heads, head_dim, scale, window };
    Attend {
        tables: [heads, kv_heads, kv_heads].map(|heads| setup.half_table(heads * head_dim)),
        heads: Heads { q_norm: None, k_norm: None, rope: None },
        attention,
        // A sliding layer beside a full one, as in Gemma.
        second: Attention { layer: 1, window: Some(4), ..attention },
    }
}

/// A prompt in two chunks beside another sequence, then both a token at a time, over the ends of blocks.
fn steps(setup: &mut Setup) {
    let mut tokens = setup.chunk(0, 0, 13);
    tokens.extend(setup.chunk(2, 0, 3));
    setup.step(tokens);
    let mut tokens = setup.chunk(2, 3, 1);
    tokens.extend(setup.chunk(0, 13, 20));
    tokens.extend(setup.chunk(1, 0, 17));
    setup.step(tokens);
    for i in 0..3 {
        setup.step(vec![
            token(5 + i, 17 + i, 1, true),
            token(30 - i, 33 + i, 0, true),
            token(9 + i, 4 + i, 2, true),
        ]);
    }
    // A step of a single token, and places that are written a second time after a sequence was cut short.
    setup.step(vec![token(1, 36, 0, true)]);
    setup.step(vec![token(2, 20, 0, true), token(3, 21, 0, true)]);
}

/// Heads, KV heads, size of a head: ratios 1, 3, 4.
const HEADS: [[u32; 3]; 6] =
    [[4, 4, 16], [9, 3, 64], [4, 1, 256], [8, 2, 80], [3, 1, 2], [1, 1, 7]];

/// Makes the caches of a case hold another format.
fn keep_in(setup: &mut Setup, format: KvFormat) {
    setup.caches.iter_mut().for_each(|cache| cache.format = format);
}

#[test]
fn sequences_in_blocks() {
    let cases = KvFormat::ALL.into_iter().flat_map(|kv| HEADS.map(|heads| (kv, heads)));
    let cases = cases.filter(|(kv, [.., head_dim])| kv.takes(*head_dim));
    for (seed, (family, (kv, heads))) in
        (1..).zip(families().flat_map(|family| cases.clone().map(move |case| (family, case))))
    {
        let windows = [
            (None, 16),
            (None, 48),
            (Some(1), 16),
            (Some(5), 32),
            (Some(16), 16),
            (Some(1000), 32),
        ];
        for (window, block_tokens) in windows {
            let mut setup = Setup::new(seed);
            setup.block_tokens = block_tokens;
            setup.packed_for = Some(family);
            let forward = forward(&mut setup, heads, window);
            keep_in(&mut setup, kv);
            steps(&mut setup);
            let name =
                format!("{family}, {kv:?} {heads:?}, window {window:?}, blocks of {block_tokens}");
            check(&name, &setup, &forward, EXACT);
        }
    }
}

/// Families that multiply prompts as words.
fn families_of_words() -> Vec<Family> {
    let families: Vec<_> = families().filter(|family| words_fit(*family, 64)).collect();
    if families.is_empty() {
        eprintln!("SKIPPED: attention in words: no family of this processor has kernels for it");
    }
    families
}

#[test]
fn prompts_are_close_and_tokens_beside_them_stay_exact() {
    let cases = KvFormat::ALL.into_iter().flat_map(|kv| {
        [[9, 3, 64], [4, 1, 256], [2, 2, 128], [40, 1, 64]].map(|heads| (kv, heads))
    });
    let cases = cases.flat_map(|case| [(case, None), (case, Some(5)), (case, Some(150))]);
    for (seed, (family, ((kv, heads), window))) in (1..).zip(
        families_of_words()
            .into_iter()
            .flat_map(|family| cases.clone().map(move |case| (family, case))),
    ) {
        let setup = |prompts_from| {
            let mut setup = Setup::new(seed);
            setup.packed_for = Some(family);
            setup.prompts_from = prompts_from;
            let forward = forward(&mut setup, heads, window);
            keep_in(&mut setup, kv);
            // Tokens 0 and 1 of each step continue answers where prompts begin after them.
            for first in [0, 140] {
                let mut tokens = setup.chunk(1, first / 140, 1);
                tokens.extend(setup.chunk(2, first / 140, 1));
                tokens.extend(setup.chunk(0, first, 140));
                tokens.extend(setup.chunk(3, first / 140 * 33, 33));
                setup.step(tokens);
            }
            (setup, forward)
        };
        let name = format!("{family}, {kv:?} {heads:?}, window {window:?}");
        let (all, _) = setup(None);
        let (mixed, forward) = setup(Some(2));
        check(&name, &mixed, &forward, WORDS);
        let on_cpu = |s: &&Subject| s.executes && !s.device.info().kind.is_gpu();
        for subject in subjects().iter().filter(on_cpu) {
            let found = rows(&mixed, &forward, &*subject.device);
            let expected = rows(&all, &forward, &*subject.device);
            let answers = |at: &(usize, u32, u32)| [1, 2].contains(&at.1);
            assert!(found.keys().any(answers), "{name}: answers are there");
            assert!(found != expected, "{name}: prompts are words");
            for (at, row) in found.iter().filter(|(at, _)| answers(at)) {
                assert_eq!(row, &expected[at], "{name}: {at:?}");
            }
        }
    }
}

fn families() -> impl Iterator<Item = Family> {
    Family::ALL.into_iter().filter(|family| family.runs_here() && family.instructions() == *family)
}

/// By output, sequence and position.
type Rows = BTreeMap<(usize, u32, u32), Vec<f32>>;

fn rows(setup: &Setup, forward: &Attend, device: &dyn hal::Device) -> Rows {
    let ran = setup.run(device, |to| forward.forward(to));
    let mut rows = Rows::new();
    for (tokens, ran) in setup.steps().iter().zip(ran) {
        for (output, numbers) in ran.outputs.iter().enumerate() {
            for (token, row) in tokens.iter().zip(numbers.chunks(numbers.len() / tokens.len())) {
                rows.insert((output, token.sequence, token.position), row.to_vec());
            }
        }
    }
    rows
}

/// Steps of few tokens over several chunks, whose tiles threads share, against the reference; then the same tokens in other steps
/// and with other threads, bit for bit.
#[test]
fn bits_depend_on_neither_threads_nor_batch() {
    let exact = [
        ([9, 3, 64], None, KvFormat::F16, None),
        ([4, 1, 32], Some(260), KvFormat::Q8_0, None),
        ([40, 1, 16], None, KvFormat::F16, None),
        ([7, 1, 20], Some(260), KvFormat::F16, None),
    ];
    let words = [
        ([9, 3, 64], None, KvFormat::F16, Some(0)),
        ([4, 1, 128], Some(260), KvFormat::Q8_0, Some(0)),
    ];
    let exact = families().flat_map(|family| exact.map(|case| (family, case)));
    let words = families_of_words().into_iter().flat_map(|f| words.map(|case| (f, case)));
    for (seed, (family, (heads, window, kv, prompts_from))) in (1..).zip(exact.chain(words)) {
        let name = format!("{family}, {kv:?} {heads:?}, window {window:?}, {prompts_from:?}");
        let with = |steps: &dyn Fn(&mut Setup)| {
            let mut setup = Setup::new(seed);
            setup.packed_for = Some(family);
            setup.prompts_from = prompts_from;
            let forward = forward(&mut setup, heads, window);
            keep_in(&mut setup, kv);
            steps(&mut setup);
            (setup, forward)
        };
        let id = |position: u32| position * 7 % 40;
        let tokens = |sequence, range: std::ops::Range<u32>| {
            range.map(move |p| token(id(p + sequence), p, sequence, true))
        };
        let (apart, forward) = with(&|setup| {
            (0..300).step_by(30).for_each(|p| setup.step(tokens(0, p..p + 30).collect()));
            setup.step(tokens(0, 300..301).collect());
            setup.step(tokens(0, 301..303).chain(tokens(1, 0..2)).collect());
        });
        check(&name, &apart, &forward, if prompts_from.is_some() { WORDS } else { EXACT });
        let (together, _) = with(&|setup| {
            setup.step(tokens(1, 0..2).chain(tokens(0, 0..270)).collect());
            setup.step(tokens(0, 270..303).collect());
        });
        let mut kinds: Vec<Vec<Subject>> = Vec::new();
        for subject in apart.subjects().into_iter().filter(|subject| subject.executes) {
            let kind = |devices: &&mut Vec<Subject>| {
                devices[0].device.info().kind == subject.device.info().kind
            };
            match kinds.iter_mut().find(kind) {
                Some(devices) => devices.push(subject),
                None => kinds.push(vec![subject]),
            }
        }
        for devices in kinds {
            let expected = rows(&apart, &forward, &*devices[0].device);
            let others = rows(&together, &forward, &*devices[0].device);
            assert!(others == expected, "{name}, {}: larger steps", devices[0].name);
            for other in &devices[1..] {
                let bits = rows(&apart, &forward, &*other.device);
                assert!(bits == expected, "{name}: {} and {}", devices[0].name, other.name);
            }
        }
    }
}

/// Prompts' tokens, of which GPUs' products round queries to F16: of several sequences in one tile of eight, beside tokens that
/// continue an answer, which must not change a bit for that.
#[test]
fn prompts_beside_answers() {
    let all = KvFormat::ALL.into_iter().flat_map(|kv| HEADS.map(|heads| (kv, heads)));
    for (seed, (kv, heads)) in (1..).zip(all.filter(|(kv, [.., n])| kv.takes(*n))) {
        for (window, prompts_from) in [(None, 2), (Some(5), 0), (Some(40), 1)] {
            let with = |prompts_from| {
                let mut setup = Setup::new(seed);
                setup.block_tokens = 32;
                setup.prompts_from = prompts_from;
                let forward = forward(&mut setup, heads, window);
                keep_in(&mut setup, kv);
                for step in 0..2 {
                    let counts = [(3, 2), (0, 45), (1, 3), (2, 11)];
                    let chunk = |(s, count)| setup.chunk(s, step * count, count);
                    let tokens = counts.into_iter().flat_map(chunk).collect();
                    setup.step(tokens);
                }
                (setup, forward)
            };
            let (setup, forward) = with(Some(prompts_from));
            let name = format!("{kv:?} {heads:?}, window {window:?}, prompts from {prompts_from}");
            let is_gpu = |subject: &Subject| subject.device.info().kind.is_gpu();
            let (gpus, cpus): (Vec<_>, Vec<_>) = setup.subjects().into_iter().partition(is_gpu);
            check_on(gpus, &name, &setup, &forward, EXACT);
            check_on(cpus, &name, &setup, &forward, WORDS);
        }
    }
}

/// Steps of one token, in which a launch for GPUs does all that happens to q, k and v: against the reference, and bit for bit against
/// steps of several tokens.
#[test]
fn one_token_at_a_time() {
    let cases = [
        ([9, 3, 64], None, 40),
        ([8, 1, 32], Some(260), 270),
        ([4, 4, 80], Some(7), 20),
        ([10, 1, 32], None, 20),
    ];
    let all = KvFormat::ALL.into_iter().flat_map(|kv| cases.map(|case| (kv, case)));
    for (seed, (kv, (heads, window, last))) in
        (1..).zip(all.filter(|(kv, ([.., n], ..))| kv.takes(*n)))
    {
        let with = |step: u32| {
            // An odd seed would make room for one token more.
            let mut setup = Setup::new(2 * seed);
            let mut forward = forward(&mut setup, heads, window);
            forward.heads = finished(&mut setup, heads[2], (true, true));
            keep_in(&mut setup, kv);
            for first in (0..last).step_by(step as usize) {
                let tokens = (first..last.min(first + step)).map(|p| token(p * 7 % 40, p, 0, true));
                setup.step(tokens.collect());
            }
            (setup, forward)
        };
        let (single, forward) = with(1);
        let name = format!("{kv:?} {heads:?}, window {window:?}, one at a time");
        check(&name, &single, &forward, if kv == KvFormat::F16 { ROUNDED } else { CODED });
        let (several, _) = with(33);
        for subject in single.subjects().iter().filter(|subject| subject.executes) {
            let same = rows(&single, &forward, &*subject.device)
                == rows(&several, &forward, &*subject.device);
            assert!(same, "{name} on {}", subject.name);
        }
    }
}

/// Many blocks, with a window that begins inside one.
#[test]
fn a_longer_context() {
    for (seed, window) in (1..).zip([None, Some(50), Some(64)]) {
        let mut setup = Setup::new(seed);
        let forward = forward(&mut setup, [6, 2, 32], window);
        for first in [0, 100, 200] {
            let chunk = setup.chunk(0, first, 100);
            setup.step(chunk);
        }
        setup.step(vec![token(4, 300, 0, true)]);
        check(&format!("long context, window {window:?}"), &setup, &forward, EXACT);
    }
}

/// Scores in the hundreds: the softmax must subtract its maximum, in whichever block that comes.
#[test]
fn scores_that_would_overflow() {
    let mut setup = Setup::new(1);
    let mut forward = forward(&mut setup, [4, 2, 16], None);
    forward.attention.scale = 40.0;
    forward.second.scale = 40.0;
    steps(&mut setup);
    // f32 rounds a score of 500 by 3e-5, and its weight by as much.
    check("large scores", &setup, &forward, &[Tolerance::Max(2e-4)]);
}

/// What is to be done to heads of q and k.
fn finished(setup: &mut Setup, head_dim: u32, (normed, rotated): (bool, bool)) -> Heads {
    let norm = |setup: &mut Setup| Norm {
        kind: NormKind::Rms,
        weight: setup.gains(head_dim),
        bias: None,
        epsilon: 1e-6,
    };
    let frequencies: Vec<f32> = (0..head_dim / 2).map(|i| 0.7_f32.powi(i.cast_signed())).collect();
    let rope = Rope {
        pairing: Pairing::Halves,
        frequencies: setup.floats(head_dim / 2, &frequencies),
        amplitude: 1.0,
    };
    Heads {
        q_norm: normed.then(|| norm(setup)),
        k_norm: normed.then(|| norm(setup)),
        rope: rotated.then_some(rope),
    }
}

/// Norms of the heads and rotation before the cache.
#[test]
fn heads_are_finished_before_the_cache() {
    for (seed, (normed, rotated)) in (1..).zip([(true, true), (false, true), (true, false)]) {
        let mut setup = Setup::new(seed);
        let mut forward = forward(&mut setup, [6, 2, 64], None);
        forward.heads = finished(&mut setup, 64, (normed, rotated));
        steps(&mut setup);
        check(&format!("norm {normed}, rope {rotated}"), &setup, &forward, ROUNDED);
        keep_in(&mut setup, KvFormat::Q8_0);
        check(&format!("norm {normed}, rope {rotated}, Q8_0"), &setup, &forward, CODED);
    }
}
