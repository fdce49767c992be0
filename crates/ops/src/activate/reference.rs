//! Reference of `activate`: f64 throughout.
use crate::Activation;

/// One number.
#[must_use]
pub fn activate(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::ReluSquared => x.max(0.0).powi(2),
    }
}
