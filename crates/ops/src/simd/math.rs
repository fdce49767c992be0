//! Elementary functions over slices, written without branches so that the compiler vectorizes them.
#![cfg_attr(
    target_arch = "x86_64",
    expect(
        unsafe_code,
        reason = "calls functions compiled for the instructions of the chosen family"
    )
)]
use super::per_family;
use crate::Activation;

/// Past this, `exp` is close to the end of the range of f32.
const EXP_MAX: f32 = 88.0;
/// Below this, `exp` is close to the least normal f32.
const EXP_MIN: f32 = -87.0;

/// `e^x` within 2 ulp on `EXP_MIN..EXP_MAX`, clamped outside.
///
/// `x = k ln 2 + r` with `ln 2` in two parts (Cody and Waite 1980), then a polynomial of degree 6 for `e^r` on
/// `|r| <= ln 2 / 2` (the Taylor terms: the last is below 2^-26 of the result) and k in the exponent.
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(EXP_MIN, EXP_MAX);
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    let r = multiply_add::<FUSED>(k, -LN_2_LOW, multiply_add::<FUSED>(k, -LN_2_HIGH, x));
    let mut p = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        p = multiply_add::<FUSED>(p, r, coefficient);
    }
    let p = multiply_add::<FUSED>(p, r * r, r) + 1.0;
    // The low bits of `shifted` hold k, which the clamp keeps between -126 and 127: 2^k is a normal number.
    let k = shifted.to_bits().cast_signed() - ROUND.to_bits().cast_signed();
    p * f32::from_bits(((k + 127) << 23).cast_unsigned())
}

/// `a * b + c`, in one instruction where there is one: elsewhere it would become a call.
#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn silu<const FUSED: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FUSED>(-x))
}

/// Tanh form, through `0.5 * (1 + tanh(y)) = 1 / (1 + exp(-2y))`.
#[inline(always)]
fn gelu<const FUSED: bool>(x: f32) -> f32 {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769;
    let twice = TWO_SQRT_2_OVER_PI * x * multiply_add::<FUSED>(0.044_715 * x, x, 1.0);
    x / (1.0 + exp::<FUSED>(-twice))
}

#[inline(always)]
fn relu_squared(x: f32) -> f32 {
    x.max(0.0) * x.max(0.0)
}

per_family! {
    fn silu_all(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = silu::<FUSED>(*x));
    }
}
per_family! {
    fn gelu_all(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = gelu::<FUSED>(*x));
    }
}
per_family! {
    fn relu_squared_all(x: &mut [f32]) {
        x.iter_mut().for_each(|x| *x = relu_squared(*x));
    }
}
per_family! {
    /// `x *= y`.
    pub(crate) fn multiply(x: &mut [f32], y: &[f32]) {
        x.iter_mut().zip(y).for_each(|(x, y)| *x *= y);
    }
}

/// `gate = activation(gate) * up`.
pub(crate) fn activate(
    family: super::Family,
    activation: Activation,
    gate: &mut [f32],
    up: Option<&[f32]>,
) {
    match activation {
        Activation::Silu => silu_all(family, gate),
        Activation::Gelu => gelu_all(family, gate),
        Activation::ReluSquared => relu_squared_all(family, gate),
    }
    if let Some(up) = up {
        multiply(family, gate, up);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Family;
    use super::*;

    /// Distance from the exact value, in units in the last place of the exact value rounded to f32.
    #[expect(clippy::cast_possible_truncation, reason = "rounds the exact value")]
    fn ulps(found: f32, exact: f64) -> f64 {
        let rounded = (exact as f32).abs().max(f32::MIN_POSITIVE);
        let ulp = f64::from(f32::from_bits(rounded.to_bits() + 1)) - f64::from(rounded);
        (f64::from(found) - exact).abs() / ulp
    }

    fn families() -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| family.runs_here())
    }

    /// Many numbers over the whole range, steps that are no round fractions.
    fn numbers(limit: f32) -> Vec<f32> {
        (-100_000_i32..=100_000).map(|i| i as f32 / 100_000.0 * limit).collect()
    }

    #[test]
    fn exp_is_within_two_ulps() {
        for exp in [exp::<false>, exp::<true>] {
            for x in numbers(86.9) {
                assert!(ulps(exp(x), f64::from(x).exp()) <= 2.0, "exp({x}) = {}", exp(x));
            }
            assert_eq!(exp(0.0), 1.0);
            assert!(exp(-1e30) < 2e-38 && exp(1e30) > 1e38 && exp(1e30).is_finite());
        }
    }

    #[test]
    fn activations_agree_with_their_definitions_in_every_family() {
        let all = [Activation::Silu, Activation::Gelu, Activation::ReluSquared];
        for (family, activation) in families().flat_map(|f| all.map(|a| (f, a))) {
            let x = numbers(30.0);
            let mut y = x.clone();
            activate(family, activation, &mut y, None);
            for (x, y) in x.iter().zip(&y) {
                let exact = crate::activate::reference::activate(f64::from(*x), activation);
                let error = (f64::from(*y) - exact).abs();
                // GELU's argument grows with x cubed, and its rounding with it; far from 0 the result is x or nothing.
                let tolerance = 4e-6 * exact.abs() + 1e-9;

                assert!(error <= tolerance, "{family} {activation:?}({x}) = {y}, not {exact}");
            }
        }
    }

    #[test]
    fn activate_multiplies_with_up() {
        for family in families() {
            let mut gate = vec![2.0; 19];
            let up: Vec<f32> = (0..19_u8).map(f32::from).collect();
            activate(family, Activation::ReluSquared, &mut gate, Some(&up));
            assert!(gate.iter().zip(&up).all(|(gate, up)| *gate == 4.0 * up), "{family}");
        }
    }
}
