//! Reference of `embed`.

/// `row * scale`.
#[must_use]
pub fn embed(row: &[f32], scale: f32) -> Vec<f32> {
    row.iter().map(|x| x * scale).collect()
}
