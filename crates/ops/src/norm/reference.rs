//! Reference of `norm`: f64 throughout.
use crate::NormKind;

/// Normalizes one group.
#[must_use]
pub fn norm(
    x: &[f32],
    kind: NormKind,
    weight: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
) -> Vec<f32> {
    let n = x.len() as f64;
    let mean = match kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => x.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
    };
    let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let factor = 1.0 / (variance + f64::from(epsilon)).sqrt();
    let bias = |i: usize| bias.map_or(0.0, |bias| f64::from(bias[i]));
    let one =
        |(i, x): (usize, &f32)| (f64::from(*x) - mean) * factor * f64::from(weight[i]) + bias(i);
    x.iter().enumerate().map(|(i, x)| crate::reference::rounded(one((i, x)))).collect()
}
