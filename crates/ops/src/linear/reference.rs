//! Reference of `linear`: dequantized weights, f64 sums.

/// One row of x against one row of W.
#[must_use]
pub fn dot(x: &[f32], w: &[f32]) -> f64 {
    x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
}
