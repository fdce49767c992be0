//! `sample` on the CPU: one thread per row, never sorts the vocabulary.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint rows of shared spans")]
use super::{Args, Sampler};
use crate::inputs::SAMPLER_WORDS;
use hal::cpu::HostLaunch;

pub(super) fn sample(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let vocabulary = args.vocabulary as usize;
    // SAFETY: all spans but the last are only read by this launch.
    let (counts, rows, sequences) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1), launch.slice::<u32>(2)) };
    // SAFETY: as above.
    let (samplers, seen) = unsafe { (launch.slice::<u32>(3), launch.slice::<u32>(4)) };
    // SAFETY: as above.
    let logits = unsafe { launch.slice::<f32>(5) };
    for row in launch.part(counts[1] as usize, 1) {
        let words = SAMPLER_WORDS as usize;
        let sampler = Sampler::from_words(&samplers[row * words..(row + 1) * words]);
        let sequence = sequences[rows[row] as usize] as usize;
        let seen_words = args.seen_words as usize;
        let seen = Seen(&seen[sequence * seen_words..(sequence + 1) * seen_words]);
        let logits = &logits[row * vocabulary..(row + 1) * vocabulary];
        // SAFETY: scratch belongs to this thread; the two parts do not overlap.
        let (weights, ids) = unsafe {
            (
                launch.scratch::<f32>().part(0..vocabulary),
                launch.scratch::<u32>().part(vocabulary..2 * vocabulary),
            )
        };
        let token = one_row(logits, &seen, &sampler, (weights, ids));
        // SAFETY: each thread has its own rows.
        unsafe { launch.shared::<u32>(6).part(row..row + 1)[0] = token };
    }
}

/// A set of tokens, one bit each.
struct Seen<'a>(&'a [u32]);

impl Seen<'_> {
    /// Calls `f` for each token in the set.
    fn each(&self, mut f: impl FnMut(usize)) {
        for (word, bits) in self.0.iter().enumerate() {
            let mut bits = *bits;
            while bits != 0 {
                f(word * 32 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }
}

fn one_row(
    logits: &[f32],
    seen: &Seen<'_>,
    sampler: &Sampler,
    (x, ids): (&mut [f32], &mut [u32]),
) -> u32 {
    let temperature = if sampler.temperature == 0.0 { 1.0 } else { sampler.temperature };
    x.iter_mut().zip(logits).for_each(|(x, logit)| *x = logit / temperature);
    if sampler.repetition_penalty != 1.0 {
        seen.each(|id| {
            if let Some(x) = x.get_mut(id) {
                *x = if *x > 0.0 {
                    *x / sampler.repetition_penalty
                } else {
                    *x * sampler.repetition_penalty
                };
            }
        });
    }
    if sampler.temperature == 0.0 {
        return argmax(x);
    }
    (0..).zip(ids.iter_mut()).for_each(|(i, id)| *id = i);
    let kept = keep_top_k(ids, x, sampler.top_k);
    let max = kept.iter().map(|id| x[*id as usize]).fold(f32::NEG_INFINITY, f32::max);
    for id in kept.iter() {
        x[*id as usize] = (x[*id as usize] - max).exp();
    }
    let kept = keep_top_p(kept, x, sampler.top_p);
    draw(kept, x, sampler)
}

/// The first of the largest numbers.
fn argmax(x: &[f32]) -> u32 {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let at = x.iter().position(|x| *x == max).unwrap_or(0);
    u32::try_from(at).expect("a vocabulary has fewer than 2^32 tokens")
}

/// Larger first; equal ones by id.
fn by_weight(x: &[f32]) -> impl Fn(&u32, &u32) -> std::cmp::Ordering + '_ {
    |a, b| x[*b as usize].total_cmp(&x[*a as usize]).then(a.cmp(b))
}

fn keep_top_k<'a>(ids: &'a mut [u32], x: &[f32], top_k: u32) -> &'a mut [u32] {
    let k = top_k as usize;
    if k == 0 || k >= ids.len() {
        return ids;
    }
    ids.select_nth_unstable_by(k - 1, by_weight(x));
    &mut ids[..k]
}

/// The fewest most probable tokens that hold `top_p` of the weight: sorts only a growing head of the tokens.
fn keep_top_p<'a>(ids: &'a mut [u32], x: &[f32], top_p: f32) -> &'a mut [u32] {
    if top_p >= 1.0 {
        return ids;
    }
    let weight = |id: &u32| f64::from(x[*id as usize]);
    let wanted = f64::from(top_p) * ids.iter().map(weight).sum::<f64>();
    let mut head = 64.min(ids.len());
    loop {
        if head < ids.len() {
            ids.select_nth_unstable_by(head - 1, by_weight(x));
        }
        ids[..head].sort_unstable_by(by_weight(x));
        let mut before = 0.0;
        let kept = ids[..head].iter().take_while(|id| {
            let keep = before < wanted;
            before += weight(id);
            keep
        });
        let kept = kept.count().max(1);
        if kept < head || head == ids.len() {
            return &mut ids[..kept];
        }
        head = (head * 8).min(ids.len());
    }
}

/// One draw, tokens in the order of their ids, so that it does not depend on how they were selected.
fn draw(ids: &mut [u32], x: &[f32], sampler: &Sampler) -> u32 {
    ids.sort_unstable();
    let weight = |id: u32| {
        Some(f64::from(x[id as usize])).filter(|w| *w >= f64::from(sampler.min_p)).unwrap_or(0.0)
    };
    let total: f64 = ids.iter().map(|id| weight(*id)).sum();
    let mut left = f64::from(sampler.uniform()) * total;
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
    use super::super::reference::distribution;
    use super::*;

    fn logits() -> Vec<f32> {
        // A few likely tokens over a long tail, with ties.
        (0u32..1000).map(|i| ((i * 7919 % 1000) as f32 / 1000.0).powi(8) * 9.0 - 3.0).collect()
    }

    fn drawn(sampler: &Sampler, seen: &[u32]) -> u32 {
        let logits = logits();
        let mut set = vec![0; 32];
        seen.iter().for_each(|id| set[*id as usize / 32] |= 1 << (id % 32));
        one_row(&logits, &Seen(&set), sampler, (&mut vec![0.0; 1000], &mut vec![0; 1000]))
    }

    const CASES: [Sampler; 6] = [
        Sampler { temperature: 1.0, ..Sampler::GREEDY },
        Sampler { temperature: 0.7, top_k: 40, ..Sampler::GREEDY },
        Sampler { temperature: 1.3, top_p: 0.9, ..Sampler::GREEDY },
        Sampler { temperature: 1.0, min_p: 0.1, ..Sampler::GREEDY },
        Sampler {
            temperature: 0.8,
            top_k: 300,
            top_p: 0.95,
            min_p: 0.02,
            repetition_penalty: 1.3,
            ..Sampler::GREEDY
        },
        Sampler { temperature: 5.0, top_p: 0.99, repetition_penalty: 0.5, ..Sampler::GREEDY },
    ];

    /// Draws follow the reference's distribution: chi-squared over the likely tokens.
    #[test]
    fn frequencies_match_the_reference_distribution() {
        for (number, case) in CASES.iter().enumerate() {
            let seen = [3, 500, 999];
            let expected = distribution(&logits(), |id| seen.contains(&id), case);
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
    fn greedy_takes_the_first_of_the_largest_after_the_penalty() {
        let greedy = distribution(&logits(), |_| false, &Sampler::GREEDY)[0].0;
        assert_eq!(drawn(&Sampler::GREEDY, &[]), greedy);
        let penalized = Sampler { repetition_penalty: 1.5, ..Sampler::GREEDY };
        let second = distribution(&logits(), |id| id == greedy, &penalized)[0].0;
        assert_eq!(drawn(&penalized, &[greedy]), second);
        assert_ne!(greedy, second);
    }

    #[test]
    fn one_seed_gives_one_stream() {
        let sampler = |draw| Sampler { seed: 7, draw, ..CASES[0] };
        let stream: Vec<u32> = (0..50).map(|draw| drawn(&sampler(draw), &[])).collect();
        let again: Vec<u32> = (0..50).map(|draw| drawn(&sampler(draw), &[])).collect();
        assert_eq!(stream, again);
        assert!(stream.iter().any(|token| *token != stream[0]));
    }

    #[test]
    fn a_vanishing_top_p_still_keeps_one_token() {
        let sampler = Sampler { temperature: 1.0, top_p: 0.0, ..Sampler::GREEDY };
        assert_eq!(drawn(&sampler, &[]), drawn(&Sampler::GREEDY, &[]));
    }
}
