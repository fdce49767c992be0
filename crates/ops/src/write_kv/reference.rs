//! Reference of `write_kv`: what a cache in Q8_0 keeps of a head.
use half::f16;

/// F16 scale and int8 codes of 32 numbers.
#[must_use]
pub fn quantize(x: &[f32]) -> (f16, Vec<i8>) {
    let largest = x.iter().fold(0.0_f64, |largest, x| largest.max(f64::from(x.abs())));
    let step = crate::reference::rounded(largest / 127.0);
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    #[expect(clippy::cast_possible_truncation, reason = "rounds to a code")]
    let codes = x.iter().map(|x| (x * inverse).round() as i8).collect();
    (f16::from_f32(step), codes)
}

/// A head as the cache keeps it.
#[must_use]
pub fn rounded(head: &[f32]) -> Vec<f32> {
    let group = |x: &[f32]| {
        let (scale, codes) = quantize(x);
        codes.into_iter().map(move |code| scale.to_f32() * f32::from(code))
    };
    head.chunks(32).flat_map(group).collect()
}
