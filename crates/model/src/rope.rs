//! Tables of rotary frequencies: every way to scale them, worked out once at load.
use crate::config::{RopeConfig, RopeScaling};

/// Rotations at which YaRN stops keeping and starts interpolating a frequency.
const YARN_FAST: f64 = 32.0;
const YARN_SLOW: f64 = 1.0;

/// Radians per position for each pair, for layers that see everything. `divisors` are Llama 3's or LongRoPE's factors.
#[must_use]
pub(crate) fn frequencies(rope: &RopeConfig, divisors: Option<&[f32]>) -> Vec<f32> {
    let one = |i: u32| {
        let plain =
            plain(rope.base, rope.dims, i) / divisors.map_or(1.0, |d| f64::from(d[i as usize]));
        match rope.scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / f64::from(factor),
            RopeScaling::Yarn { factor, context_before } => {
                let kept = 1.0 - yarn_ramp(rope, context_before, i);
                plain * kept + plain / f64::from(factor) * (1.0 - kept)
            }
        }
    };
    rounded((0..rope.dims / 2).map(one))
}

/// The same for layers with a window: never scaled.
#[must_use]
pub(crate) fn frequencies_local(rope: &RopeConfig) -> Vec<f32> {
    rounded((0..rope.dims / 2).map(|i| plain(rope.base_local, rope.dims, i)))
}

fn plain(base: f32, dims: u32, i: u32) -> f64 {
    f64::from(base).powf(-2.0 * f64::from(i) / f64::from(dims))
}

#[expect(clippy::cast_possible_truncation, reason = "tables are kept in f32")]
fn rounded(table: impl Iterator<Item = f64>) -> Vec<f32> {
    table.map(|x| x as f32).collect()
}

/// 0 where a frequency is kept, 1 where it is interpolated, a ramp between (Peng et al. 2023, arXiv 2309.00071, 3.2).
fn yarn_ramp(rope: &RopeConfig, context_before: u32, i: u32) -> f64 {
    let dims = f64::from(rope.dims);
    let pair_at = |rotations: f64| {
        let wavelength = f64::from(context_before) / (rotations * std::f64::consts::TAU);
        dims * wavelength.ln() / (2.0 * f64::from(rope.base).ln())
    };
    let low = pair_at(YARN_FAST).floor().max(0.0);
    let high = pair_at(YARN_SLOW).ceil().min(dims - 1.0);
    ((f64::from(i) - low) / (high - low).max(0.001)).clamp(0.0, 1.0)
}
