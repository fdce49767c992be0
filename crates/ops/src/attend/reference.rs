//! Reference of `attend`: the textbook formula in f64.

/// One head of one token: `keys` and `values` are what the token may see, oldest first.
#[must_use]
pub fn attend(q: &[f32], keys: &[&[f32]], values: &[&[f32]], scale: f32) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let scores: Vec<f64> = keys.iter().map(|k| f64::from(scale) * dot(q, k)).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    let component = |i: usize| {
        weights.iter().zip(values).map(|(w, v)| w * f64::from(v[i])).sum::<f64>() / total
    };
    (0..q.len()).map(|i| crate::reference::rounded(component(i))).collect()
}
