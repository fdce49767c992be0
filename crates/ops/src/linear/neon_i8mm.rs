//! Products of packed tiles with NEON's products of small matrices.
//!
//! `smmla` adds the 4 products of 2 rows with 2 tokens, 8 columns each: twice the work of `sdot`. The tile stays as it is:
//! 8 columns of rows 0 and 2, and of rows 1 and 3, are transposed out of two vectors of 4 columns, once for all tokens. Panels
//! hold tokens in pairs (see [`crate::quantize::panel`]), so they are read as they lie. Sums of both pairs of rows are
//! transposed back into a vector for each token, and what follows is as with dot products. One token takes those.
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles and panels through raw pointers")]
use super::neon::{Dotprod, Kernel, Weights, scaled, tile};
use super::tiles::TileKernel;
use super::units::{Packed, PerFormat, each, groups};
use std::arch::aarch64::*;
use std::arch::asm;

pub(super) struct I8mm;

impl PerFormat for I8mm {
    type Of = [TileKernel; 5];
    fn of<F: Packed>() -> Self::Of {
        let [one, ..] = Dotprod::of::<F>();
        [one, product::<F, 2>, product::<F, 4>, product::<F, 8>, product::<F, 16>]
    }
}

impl Kernel for I8mm {
    #[inline(always)]
    fn subtracts(_tokens: usize) -> bool {
        true
    }

    #[inline(always)]
    unsafe fn tokens<F: Packed, const T: usize>(
        w: &Weights,
        x: *const u8,
        total: &mut [float32x4_t; T],
    ) {
        // SAFETY: the caller's; `2 * p + 1 < T`, since T is even.
        unsafe {
            let four = each!(|i| vreinterpretq_s32_s8(w.codes[i]));
            let rows = each!([0, 2, 4, 6], |i| [
                vreinterpretq_s8_s32(vtrn1q_s32(four[i], four[i + 1])),
                vreinterpretq_s8_s32(vtrn2q_s32(four[i], four[i + 1])),
            ]);
            let words = x.add(64 * T);
            macro_rules! pairs {
                ($($p:literal)*) => { $(if 2 * $p < T {
                    let (t, sums) = (2 * $p % T, pair::<F, T>(&rows, x, $p));
                    total[t] = scaled::<F, T>(w, words, t, sums[0], total[t]);
                    total[t + 1] = scaled::<F, T>(w, words, t + 1, sums[1], total[t + 1]);
                })* };
            }
            pairs!(0 1 2 3 4 5 6 7);
        }
    }
}

/// See [`tile`].
///
/// # Safety
/// The processor has the features; `weights` has `units` units, `panel` is a tile of T tokens with as many columns.
#[target_feature(enable = "neon,i8mm")]
unsafe fn product<F: Packed, const T: usize>(
    weights: *const u8,
    units: usize,
    panel: *const u8,
    out: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe { tile::<I8mm, F, T>((weights, units), panel, out) }
}

/// Eight columns of rows 0 and 2, and of rows 1 and 3.
type Rows = [int8x16_t; 2];

/// # Safety
/// Called from functions with the features; T tokens can be read from `x`.
#[inline(always)]
unsafe fn pair<F: Packed, const T: usize>(
    rows: &[Rows; 4],
    x: *const u8,
    p: usize,
) -> [[int32x4_t; 2]; 2] {
    // SAFETY: the caller's.
    unsafe {
        let levels = [x.add(64 * p), x.add(32 * T + 64 * p)];
        if const { groups(F::FORMAT) == 1 } {
            let [a, b] = dot(rows, levels);
            return [[a; 2], [b; 2]];
        }
        let first = dot(&[rows[0], rows[1]], levels);
        let second = dot(&[rows[2], rows[3]], each!([0, 1], |i| levels[i].add(32)));
        each!([0, 1], |t| [first[t], second[t]])
    }
}

/// N steps of 8 columns of both levels: the sums of 4 rows for each token of a pair.
///
/// # Safety
/// Called from functions with the features; 16 * N codes of each level can be read.
#[inline(always)]
unsafe fn dot<const N: usize>(rows: &[Rows; N], [high, low]: [*const u8; 2]) -> [int32x4_t; 2] {
    // SAFETY: the caller's.
    unsafe {
        let sums = level(rows, high, [vdupq_n_s32(0); 2]);
        let [even, odd] = level(rows, low, each!([0, 1], |i| vshlq_n_s32::<8>(sums[i])));
        [vtrn1q_s32(even, odd), vtrn2q_s32(even, odd)]
    }
}

/// # Safety
/// As for [`dot`].
#[inline(always)]
unsafe fn level<const N: usize>(
    rows: &[Rows; N],
    codes: *const u8,
    mut sums: [int32x4_t; 2],
) -> [int32x4_t; 2] {
    for (step, rows) in rows.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe {
            let x = vld1q_s8(codes.add(16 * step).cast());
            sums = each!([0, 1], |i| smmla(sums[i], rows[i], x));
        }
    }
    sums
}

/// `vmmlaq_s32`, which the standard library does not offer yet: `[w0 x0, w0 x1, w1 x0, w1 x1]` of two rows of 8 codes each.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn smmla(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "smmla {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inlateout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
