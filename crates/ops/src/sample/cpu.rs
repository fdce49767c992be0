//! `sample` on the CPU: one thread per row, never sorts the vocabulary.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint rows of shared spans")]
use super::{Args, Sampler};
use hal::cpu::HostLaunch;
use std::cmp::Ordering;

pub(super) fn sample(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let vocabulary = args.vocabulary as usize;
    // SAFETY: all spans but the last are only read by this launch.
    let [counts, rows, sequences] = [0, 1, 2].map(|span| unsafe { launch.slice::<u32>(span) });
    // SAFETY: as above.
    let [samplers, seen, allowed] = [3, 4, 5].map(|span| unsafe { launch.slice::<u32>(span) });
    // SAFETY: as above.
    let [bias, logits] = [6, 7].map(|span| unsafe { launch.slice::<f32>(span) });
    for row in launch.part(counts[1] as usize, 1) {
        let sampler = Sampler::from_words(part(samplers, row, args.sampler_words as usize));
        let set = |sets, at| Set(part(sets, at, args.seen_words as usize));
        let given = Given {
            logits: part(logits, row, vocabulary),
            bias: sampler.biased.then(|| part(bias, row, vocabulary)),
            allowed: sampler.masked.then(|| set(allowed, row)),
            seen: set(seen, sequences[rows[row] as usize] as usize),
        };
        // SAFETY: scratch belongs to this thread; the two parts do not overlap.
        let (weights, ids) = unsafe {
            (
                launch.scratch::<f32>().part(0..vocabulary),
                launch.scratch::<u32>().part(vocabulary..2 * vocabulary),
            )
        };
        let token = one_row(&given, &sampler, (weights, ids));
        // SAFETY: each thread has its own rows.
        unsafe { launch.shared::<u32>(8).part(row..row + 1)[0] = token };
    }
}

fn part<T>(of: &[T], at: usize, length: usize) -> &[T] {
    &of[at * length..(at + 1) * length]
}

/// A set of tokens, one bit each.
struct Set<'a>(&'a [u32]);

impl Set<'_> {
    /// Those below `vocabulary`, in rising order.
    fn ids(&self, vocabulary: usize) -> impl Iterator<Item = u32> {
        let words = (0_u32..).step_by(32).zip(self.0);
        let ids = words.flat_map(|(first, bits)| {
            let rest = |bits: u32| Some(bits).filter(|bits| *bits != 0);
            std::iter::successors(rest(*bits), move |bits| rest(bits & (bits - 1)))
                .map(move |bits| first + bits.trailing_zeros())
        });
        ids.take_while(move |id| (*id as usize) < vocabulary)
    }
}

/// What a row's token is chosen from.
struct Given<'a> {
    logits: &'a [f32],
    bias: Option<&'a [f32]>,
    allowed: Option<Set<'a>>,
    seen: Set<'a>,
}

fn one_row(given: &Given<'_>, sampler: &Sampler, (x, ids): (&mut [f32], &mut [u32])) -> u32 {
    scale(given, sampler, x);
    let kept = match &given.allowed {
        None if sampler.temperature == 0.0 => return argmax(x),
        None => {
            (0..).zip(ids.iter_mut()).for_each(|(i, id)| *id = i);
            ids
        }
        Some(allowed) => {
            let stored = allowed.ids(x.len()).zip(ids.iter_mut()).map(|(id, place)| *place = id);
            let count = stored.count();
            &mut ids[..count]
        }
    };
    if sampler.temperature == 0.0 || kept.is_empty() {
        let first = by_weight(x);
        return kept.iter().copied().min_by(first).unwrap_or(0);
    }
    let kept = keep_top_k(kept, x, sampler.top_k);
    let kept = keep_typical(kept, x, sampler.typical_p);
    let max = largest(kept, x);
    for id in kept.iter() {
        x[*id as usize] = (x[*id as usize] - max).exp();
    }
    let kept = keep_top_p(kept, x, sampler.top_p);
    let kept = keep_min_p(kept, x, sampler.min_p);
    let [uniform, xtc] = sampler.uniforms();
    let excludes = xtc < sampler.xtc_probability;
    let kept = if excludes { exclude_top(kept, x, sampler.xtc_threshold) } else { kept };
    draw(kept, x, uniform)
}

/// Logits with their bias, over temperature, under the repetition penalty.
fn scale(given: &Given<'_>, sampler: &Sampler, x: &mut [f32]) {
    let temperature = if sampler.temperature == 0.0 { 1.0 } else { sampler.temperature };
    let logits = x.iter_mut().zip(given.logits);
    match given.bias {
        None => logits.for_each(|(x, logit)| *x = logit / temperature),
        Some(bias) => {
            logits.zip(bias).for_each(|((x, logit), bias)| *x = (logit + bias) / temperature);
        }
    }
    let penalty = sampler.repetition_penalty;
    if penalty != 1.0 {
        for id in given.seen.ids(x.len()) {
            let x = &mut x[id as usize];
            *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
        }
    }
}

/// The first of the largest numbers.
fn argmax(x: &[f32]) -> u32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let at = x.iter().position(|x| *x == max).unwrap_or(0);
    u32::try_from(at).expect("a vocabulary has fewer than 2^32 tokens")
}

fn largest(ids: &[u32], x: &[f32]) -> f32 {
    ids.iter().map(|id| x[*id as usize]).fold(f32::NEG_INFINITY, f32::max)
}

/// Larger first; equal ones by id.
fn by_weight(x: &[f32]) -> impl Fn(&u32, &u32) -> Ordering + '_ {
    |a, b| x[*b as usize].total_cmp(&x[*a as usize]).then(a.cmp(b))
}

/// Moves those that `keep` takes to the front.
fn retain(ids: &mut [u32], keep: impl Fn(&u32) -> bool) -> &mut [u32] {
    let mut count = 0;
    for at in 0..ids.len() {
        if keep(&ids[at]) {
            ids.swap(at, count);
            count += 1;
        }
    }
    &mut ids[..count]
}

fn keep_top_k<'a>(ids: &'a mut [u32], x: &[f32], top_k: u32) -> &'a mut [u32] {
    let k = top_k as usize;
    if k == 0 || k >= ids.len() {
        return ids;
    }
    ids.select_nth_unstable_by(k - 1, by_weight(x));
    &mut ids[..k]
}

/// The fewest first tokens in `order` that hold `wanted` of the weight, one at least, in order at the front; returns how many.
/// Sorts only a growing head of the tokens.
fn sort_until(
    ids: &mut [u32],
    order: impl Fn(&u32, &u32) -> Ordering,
    weight: impl Fn(&u32) -> f64,
    wanted: f64,
) -> usize {
    let mut head = 64.min(ids.len());
    loop {
        if head < ids.len() {
            ids.select_nth_unstable_by(head - 1, &order);
        }
        ids[..head].sort_unstable_by(&order);
        let mut before = 0.0;
        let kept = ids[..head].iter().take_while(|id| {
            let keep = before < wanted;
            before += weight(id);
            keep
        });
        let kept = kept.count().max(1);
        if kept < head || head == ids.len() {
            return kept;
        }
        head = (head * 8).min(ids.len());
    }
}

/// The tokens of the most typical surprise. With ln p = x - ln Z and the entropy H = ln Z - E[x], its distance -ln p - H is
/// E[x] - x: no logarithm is needed.
fn keep_typical<'a>(ids: &'a mut [u32], x: &[f32], typical_p: f32) -> &'a mut [u32] {
    if typical_p >= 1.0 {
        return ids;
    }
    let max = largest(ids, x);
    let below = |id: &u32| x[*id as usize] - max;
    let weight = |id: &u32| f64::from(below(id).exp());
    let (mut total, mut sum) = (0.0, 0.0);
    // An infinite logit has no weight.
    for (id, weight) in ids.iter().map(|id| (id, weight(id))).filter(|(_, weight)| *weight > 0.0) {
        total += weight;
        sum += weight * f64::from(below(id));
    }
    #[expect(clippy::cast_possible_truncation, reason = "as precise as the logits")]
    let mean = (f64::from(max) + sum / total) as f32;
    let distance = |id: &u32| (x[*id as usize] - mean).abs();
    let by_distance = |a: &u32, b: &u32| distance(a).total_cmp(&distance(b)).then(a.cmp(b));
    let kept = sort_until(ids, by_distance, weight, f64::from(typical_p) * total);
    let farthest = distance(&ids[kept - 1]);
    retain(ids, |id| distance(id) <= farthest)
}

/// The fewest most probable tokens that hold `top_p` of the weight.
fn keep_top_p<'a>(ids: &'a mut [u32], x: &[f32], top_p: f32) -> &'a mut [u32] {
    if top_p >= 1.0 {
        return ids;
    }
    let weight = |id: &u32| f64::from(x[*id as usize]);
    let wanted = f64::from(top_p) * ids.iter().map(weight).sum::<f64>();
    let kept = sort_until(ids, by_weight(x), weight, wanted);
    &mut ids[..kept]
}

/// The tokens at least `min_p` times as probable as the most probable one, whose weight is 1.
fn keep_min_p<'a>(ids: &'a mut [u32], x: &[f32], min_p: f32) -> &'a mut [u32] {
    if min_p <= 0.0 {
        return ids;
    }
    retain(ids, |id| x[*id as usize] >= min_p.min(1.0))
}

/// A GPU's smallest weight: what is less probable is never drawn there.
const WEIGHT_MIN: f64 = 1.0 / 549_755_813_888.0;

/// Without the tokens before the last one that holds `threshold` of the weight.
fn exclude_top<'a>(ids: &'a mut [u32], x: &[f32], threshold: f32) -> &'a mut [u32] {
    let weight = |id: &u32| f64::from(x[*id as usize]);
    let wanted = f64::from(threshold) * ids.iter().map(weight).sum::<f64>();
    let top = ids.iter().copied().filter(|id| weight(id) >= wanted.max(WEIGHT_MIN));
    match top.max_by(by_weight(x)) {
        Some(last) => retain(ids, |id| by_weight(x)(id, &last).is_ge()),
        None => ids,
    }
}

/// One draw, tokens in the order of their ids, so that it does not depend on how they were selected.
fn draw(ids: &mut [u32], x: &[f32], uniform: f32) -> u32 {
    ids.sort_unstable();
    let weight = |id: u32| f64::from(x[id as usize]);
    let total: f64 = ids.iter().map(|id| weight(*id)).sum();
    let mut left = f64::from(uniform) * total;
    let mut last = ids[0];
    for id in ids.iter().copied().filter(|id| weight(*id) > 0.0) {
        last = id;
        left -= weight(id);
        if left < 0.0 {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::reference::{self, distribution};
    use super::*;

    fn logits() -> Vec<f32> {
        // A few likely tokens over a long tail, with ties.
        (0u32..1000).map(|i| ((i * 7919 % 1000) as f32 / 1000.0).powi(8) * 9.0 - 3.0).collect()
    }

    /// Other tokens become the likely ones.
    fn bias() -> Vec<f32> {
        (0u32..1000).map(|i| (i * 7907 % 1000) as f32 / 100.0 - 5.0).collect()
    }

    /// Neither the most probable token nor the one with biases is.
    fn is_allowed(id: u32) -> bool {
        !id.is_multiple_of(7) && id != 321 && id != 926
    }

    fn set(is_in: impl Fn(u32) -> bool) -> Vec<u32> {
        // Bits past the vocabulary mean nothing.
        let word = |first: u32| (0..32).fold(0, |bits, i| bits | u32::from(is_in(first + i)) << i);
        (0..1024).step_by(32).map(word).collect()
    }

    fn drawn(sampler: &Sampler, seen: &[u32]) -> u32 {
        let (logits, bias) = (logits(), bias());
        let (seen, allowed) = (set(|id| seen.contains(&id)), set(is_allowed));
        let given = Given {
            logits: &logits,
            bias: sampler.biased.then_some(&bias[..]),
            allowed: sampler.masked.then_some(Set(&allowed)),
            seen: Set(&seen),
        };
        one_row(&given, sampler, (&mut vec![0.0; 1000], &mut vec![0; 1000]))
    }

    fn expected(sampler: &Sampler, seen: &[u32]) -> Vec<(u32, f64)> {
        let (logits, bias) = (logits(), bias());
        let (seen, allowed) = (|id| seen.contains(&id), is_allowed);
        let row = reference::Row { logits: &logits, bias: &bias, allowed: &allowed, seen: &seen };
        distribution(&row, sampler)
    }

    const WARM: Sampler = Sampler { temperature: 1.0, ..Sampler::GREEDY };
    const XTC: Sampler = Sampler { xtc_probability: 0.4, xtc_threshold: 0.02, ..WARM };
    const CASES: [Sampler; 14] = [
        WARM,
        Sampler { temperature: 0.7, top_k: 40, ..WARM },
        Sampler { temperature: 1.3, top_p: 0.9, ..WARM },
        Sampler { min_p: 0.1, ..WARM },
        Sampler {
            temperature: 0.8,
            top_k: 300,
            top_p: 0.95,
            min_p: 0.02,
            repetition_penalty: 1.3,
            ..WARM
        },
        Sampler { temperature: 5.0, top_p: 0.99, repetition_penalty: 0.5, ..WARM },
        Sampler { biased: true, temperature: 0.9, repetition_penalty: 1.2, ..WARM },
        Sampler { masked: true, top_k: 50, ..WARM },
        Sampler { biased: true, masked: true, top_p: 0.8, ..WARM },
        Sampler { typical_p: 0.3, ..WARM },
        Sampler { typical_p: 0.9, top_k: 200, top_p: 0.9, min_p: 0.2, ..WARM },
        XTC,
        Sampler { min_p: 0.3, biased: true, ..XTC },
        Sampler { typical_p: 0.8, masked: true, temperature: 0.6, ..XTC },
    ];

    /// Draws follow the reference's distribution: chi-squared over the likely tokens.
    #[test]
    fn frequencies_match_the_reference_distribution() {
        for (number, case) in CASES.iter().enumerate() {
            let seen = [3, 500, 999];
            let expected = expected(case, &seen);
            let draws = 20_000;
            let mut counts = vec![0_u32; 1000];
            for draw in 0..draws {
                counts[drawn(&Sampler { seed: 42, draw, ..*case }, &seen) as usize] += 1;
            }
            let allowed: Vec<u32> = expected.iter().map(|(id, _)| *id).collect();
            for (id, count) in (0u32..).zip(&counts) {
                assert!(
                    *count == 0 || allowed.contains(&id),
                    "case {number} drew the excluded token {id}"
                );
            }
            let likely = expected.iter().filter(|(_, p)| p * f64::from(draws) >= 20.0);
            let terms: Vec<f64> = likely
                .map(|(id, p)| {
                    let expected = p * f64::from(draws);
                    (f64::from(counts[*id as usize]) - expected).powi(2) / expected
                })
                .collect();
            // Mean k, variance 2k: five standard deviations are far beyond chance.
            let (chi, k) = (terms.iter().sum::<f64>(), terms.len() as f64);
            assert!(
                chi < k + 5.0 * (2.0 * k).sqrt() + 5.0,
                "case {number}: chi-squared {chi} with {k} terms"
            );
        }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest_after_bias_mask_and_penalty() {
        let mut before = Vec::new();
        for (biased, masked) in [(false, false), (true, false), (false, true), (true, true)] {
            let sampler = Sampler { biased, masked, ..Sampler::GREEDY };
            let greedy = expected(&sampler, &[])[0].0;
            assert_eq!(drawn(&sampler, &[]), greedy);
            let penalized = Sampler { repetition_penalty: 1.5, ..sampler };
            let second = expected(&penalized, &[greedy])[0].0;
            assert_eq!(drawn(&penalized, &[greedy]), second);
            assert_ne!(greedy, second);
            assert!(!before.contains(&greedy), "each changes the answer");
            before.push(greedy);
        }
    }

    #[test]
    fn a_row_that_allows_nothing_gets_token_0() {
        let given =
            Given { logits: &[1.0, 2.0], bias: None, allowed: Some(Set(&[!3])), seen: Set(&[0]) };
        for temperature in [0.0, 1.0] {
            let sampler = Sampler { masked: true, temperature, typical_p: 0.5, ..XTC };
            assert_eq!(one_row(&given, &sampler, (&mut [0.0; 2], &mut [0; 2])), 0);
        }
    }

    #[test]
    fn one_seed_gives_one_stream() {
        let sampler = |draw| Sampler { seed: 7, draw, ..WARM };
        let stream: Vec<u32> = (0..50).map(|draw| drawn(&sampler(draw), &[])).collect();
        let again: Vec<u32> = (0..50).map(|draw| drawn(&sampler(draw), &[])).collect();
        assert_eq!(stream, again);
        assert!(stream.iter().any(|token| *token != stream[0]));
    }

    #[test]
    fn a_vanishing_share_still_keeps_a_token() {
        let greedy = drawn(&Sampler::GREEDY, &[]);
        assert_eq!(drawn(&Sampler { top_p: 0.0, ..WARM }, &[]), greedy);
        let nearest = expected(&Sampler { typical_p: 1e-6, ..WARM }, &[]);
        let token = drawn(&Sampler { typical_p: 0.0, ..WARM }, &[]);
        assert!(nearest.iter().any(|(id, _)| *id == token));
    }
}
