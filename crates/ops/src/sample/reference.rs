//! Reference of `sample`: sorts everything, f64 throughout.
use super::Sampler;

/// The tokens that may be drawn, most probable first, with their probabilities.
#[must_use]
pub fn distribution(
    logits: &[f32],
    seen: impl Fn(u32) -> bool,
    sampler: &Sampler,
) -> Vec<(u32, f64)> {
    let penalty = f64::from(sampler.repetition_penalty);
    let temperature = if sampler.temperature == 0.0 { 1.0 } else { f64::from(sampler.temperature) };
    let mut tokens: Vec<(u32, f64)> = Vec::new();
    for (id, logit) in (0u32..).zip(logits) {
        let x = f64::from(*logit) / temperature;
        let penalized = if x > 0.0 { x / penalty } else { x * penalty };
        tokens.push((id, if seen(id) { penalized } else { x }));
    }
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if sampler.temperature == 0.0 {
        return vec![(tokens[0].0, 1.0)];
    }
    if sampler.top_k > 0 {
        tokens.truncate(sampler.top_k as usize);
    }
    let max = tokens[0].1;
    tokens.iter_mut().for_each(|(_, x)| *x = (*x - max).exp());
    let total: f64 = tokens.iter().map(|(_, x)| x).sum();
    if sampler.top_p < 1.0 {
        let mut before = 0.0;
        let kept = tokens.iter().take_while(|(_, x)| {
            let keep = before < f64::from(sampler.top_p) * total;
            before += x;
            keep
        });
        let kept = kept.count().max(1);
        tokens.truncate(kept);
    }
    tokens.retain(|(_, x)| *x >= f64::from(sampler.min_p));
    let total: f64 = tokens.iter().map(|(_, x)| x).sum();
    tokens.iter_mut().for_each(|(_, x)| *x /= total);
    tokens
}
