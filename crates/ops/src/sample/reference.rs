//! Reference of `sample`: sorts everything, f64 throughout.
use super::Sampler;

/// What one row is sampled from.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "holds functions")]
pub struct Row<'a> {
    /// `(vocabulary)`.
    pub logits: &'a [f32],
    /// `(vocabulary)`, for a sampler that is biased.
    pub bias: &'a [f32],
    /// For a sampler that is masked.
    pub allowed: &'a dyn Fn(u32) -> bool,
    pub seen: &'a dyn Fn(u32) -> bool,
}

/// The tokens that may be drawn, most probable first, with their probabilities over all seeds.
#[must_use]
pub fn distribution(row: &Row<'_>, sampler: &Sampler) -> Vec<(u32, f64)> {
    let mut tokens = scaled(row, sampler);
    sort(&mut tokens);
    if sampler.temperature == 0.0 {
        return vec![(tokens[0].0, 1.0)];
    }
    if sampler.top_k > 0 {
        tokens.truncate(sampler.top_k as usize);
    }
    let max = tokens[0].1;
    tokens.iter_mut().for_each(|(_, x)| *x = (*x - max).exp());
    normalize(&mut tokens);
    if sampler.typical_p < 1.0 {
        typical(&mut tokens, sampler.typical_p.into());
        normalize(&mut tokens);
    }
    if sampler.top_p < 1.0 {
        let kept = fewest(&tokens, sampler.top_p.into());
        tokens.truncate(kept);
    }
    let least = f64::from(sampler.min_p) * tokens[0].1;
    tokens.retain(|(_, p)| *p >= least);
    normalize(&mut tokens);
    without_top_choices(tokens, sampler)
}

/// Scaled logits of the tokens that are allowed.
fn scaled(row: &Row<'_>, sampler: &Sampler) -> Vec<(u32, f64)> {
    let penalty = f64::from(sampler.repetition_penalty);
    let temperature = if sampler.temperature == 0.0 { 1.0 } else { f64::from(sampler.temperature) };
    let ids = (0u32..).take(row.logits.len());
    let allowed = ids.filter(|id| !sampler.masked || (row.allowed)(*id));
    let scaled = |id: u32| {
        let bias = if sampler.biased { row.bias[id as usize] } else { 0.0 };
        let x = (f64::from(row.logits[id as usize]) + f64::from(bias)) / temperature;
        let penalized = if x > 0.0 { x / penalty } else { x * penalty };
        (id, if (row.seen)(id) { penalized } else { x })
    };
    allowed.map(scaled).collect()
}

/// Larger first; equal ones by id.
fn sort(tokens: &mut [(u32, f64)]) {
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}

fn normalize(tokens: &mut [(u32, f64)]) {
    let total: f64 = tokens.iter().map(|(_, p)| p).sum();
    tokens.iter_mut().for_each(|(_, p)| *p /= total);
}

/// How many of the first tokens it takes for so much of the probability, one at least.
fn fewest(tokens: &[(u32, f64)], wanted: f64) -> usize {
    let mut before = 0.0;
    let kept = tokens.iter().take_while(|(_, p)| {
        let keep = before < wanted;
        before += p;
        keep
    });
    kept.count().max(1)
}

/// Locally typical sampling as its authors define it: by the distance of the surprise from the entropy.
fn typical(tokens: &mut Vec<(u32, f64)>, wanted: f64) {
    let surprise = |p: f64| if p > 0.0 { -p.ln() } else { f64::INFINITY };
    let possible = tokens.iter().filter(|(_, p)| *p > 0.0);
    let entropy: f64 = possible.map(|(_, p)| p * surprise(*p)).sum();
    let distance = |p: f64| (surprise(p) - entropy).abs();
    let mut nearest = tokens.clone();
    nearest.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
    let farthest = distance(nearest[fewest(&nearest, wanted) - 1].1);
    tokens.retain(|(_, p)| distance(*p) <= farthest);
}

/// XTC as its author defines it: with some probability, all of the tokens past the threshold go but the last.
fn without_top_choices(mut tokens: Vec<(u32, f64)>, sampler: &Sampler) -> Vec<(u32, f64)> {
    let threshold = f64::from(sampler.xtc_threshold);
    let choices = tokens.iter().filter(|(_, p)| *p >= threshold).count();
    if choices < 2 {
        return tokens;
    }
    let applies = f64::from(sampler.xtc_probability);
    let left: f64 = tokens[choices - 1..].iter().map(|(_, p)| p).sum();
    for (at, (_, p)) in tokens.iter_mut().enumerate() {
        let without = if at + 1 < choices { 0.0 } else { *p / left };
        *p = (1.0 - applies) * *p + applies * without;
    }
    tokens.retain(|(_, p)| *p > 0.0);
    sort(&mut tokens);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBABILITIES: [f64; 4] = [0.5, 0.25, 0.15, 0.1];

    fn expect(sampler: &Sampler, expected: &[(u32, f64)]) {
        let logits = PROBABILITIES.map(|p| crate::reference::rounded(p.ln()));
        let row = Row { logits: &logits, bias: &[], allowed: &|_| true, seen: &|_| false };
        let got = distribution(&row, &Sampler { temperature: 1.0, ..*sampler });
        assert_eq!(got.len(), expected.len(), "{got:?}");
        for (got, expected) in got.iter().zip(expected) {
            assert_eq!(got.0, expected.0);
            assert!((got.1 - expected.1).abs() < 1e-6, "{got:?} instead of {expected:?}");
        }
    }

    /// By hand: the entropy is 1.208; surprises 0.693, 1.386, 1.897 and 2.303 are 0.515, 0.178, 0.689 and 1.095 from it.
    #[test]
    fn typical_keeps_what_is_nearest_to_the_entropy() {
        let typical = |typical_p| Sampler { typical_p, ..Sampler::GREEDY };
        expect(&typical(0.2), &[(1, 1.0)]);
        expect(&typical(0.7), &[(0, 2.0 / 3.0), (1, 1.0 / 3.0)]);
        expect(&typical(0.76), &[(0, 5.0 / 9.0), (1, 2.5 / 9.0), (2, 1.5 / 9.0)]);
    }

    #[test]
    fn xtc_leaves_the_least_probable_of_the_top_choices() {
        let xtc = |xtc_probability, xtc_threshold| Sampler {
            xtc_probability,
            xtc_threshold,
            ..Sampler::GREEDY
        };
        expect(&xtc(1.0, 0.12), &[(2, 0.6), (3, 0.4)]);
        expect(&xtc(1.0, 0.2), &[(1, 0.5), (2, 0.3), (3, 0.2)]);
        expect(&xtc(1.0, 0.3), &[(0, 0.5), (1, 0.25), (2, 0.15), (3, 0.1)]);
        // In two of five it is as without: 0.2, 0.1, 0.06 + 0.6 * 0.6 and 0.04 + 0.6 * 0.4.
        expect(&xtc(0.6, 0.12), &[(2, 0.42), (3, 0.28), (0, 0.2), (1, 0.1)]);
    }
}
