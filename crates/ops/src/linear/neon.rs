//! Products of packed tiles with NEON, in quarters: 4 lanes are 4 rows of the tile.
//!
//! As in the AVX-512 family, weights of a block of 32 columns are unpacked once for all tokens. Codes multiply as signed bytes,
//! which all of them fit; how is the kernel's matter: [`Dotprod`] is here, products of small matrices are in
//! [`super::neon_i8mm`]. With dot products `sdot` adds 4 products to each lane while one lane of the activation's register goes
//! to all rows.
//! Few tokens walk the tile once, with sums for all of its rows; more walk it once a quarter, whose sums fit into registers.
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles and panels through raw pointers")]
use super::tiles::TileKernel;
use super::units::{self, At, Packed, PerFormat, Registers, each};
use crate::quantize::panel::TOKEN_BYTES;
use crate::simd::neon::widen_f16;
use std::arch::aarch64::*;
use std::arch::asm;

/// How codes are multiplied.
pub(super) trait Kernel {
    /// Whether a bias is subtracted from the 8 registers of codes rather than from the sums of each token.
    fn subtracts(tokens: usize) -> bool;

    /// Adds the products of T tokens with one block.
    ///
    /// # Safety
    /// Called from functions with the features; `x` is a block of the panel.
    unsafe fn tokens<F: Packed, const T: usize>(
        w: &Weights,
        x: *const u8,
        total: &mut [float32x4_t; T],
    );
}

/// Dot products of 4 bytes, and their kernels for tiles of 1, 2, 4, 8 and 16 tokens.
pub(super) struct Dotprod;

impl PerFormat for Dotprod {
    type Of = [TileKernel; 5];
    fn of<F: Packed>() -> Self::Of {
        [product::<F, 1>, product::<F, 2>, product::<F, 4>, product::<F, 8>, product::<F, 16>]
    }
}

impl Kernel for Dotprod {
    /// Where 8 instructions are less than 2 for each token.
    #[inline(always)]
    fn subtracts(tokens: usize) -> bool {
        tokens > 4
    }

    #[inline(always)]
    unsafe fn tokens<F: Packed, const T: usize>(
        w: &Weights,
        x: *const u8,
        total: &mut [float32x4_t; T],
    ) {
        macro_rules! tokens {
            ($($t:literal)*) => { $(if $t < T {
                // SAFETY: the caller's.
                total[$t % T] = unsafe { token::<F, T>(w, x, $t, total[$t % T]) };
            })* };
        }
        tokens!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
}

/// See [`tile`].
///
/// # Safety
/// The processor has the features; `tile` has `units` units, `panel` is a tile of T tokens with as many columns.
#[target_feature(enable = "neon,dotprod")]
unsafe fn product<F: Packed, const T: usize>(
    weights: *const u8,
    units: usize,
    panel: *const u8,
    out: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe { tile::<Dotprod, F, T>((weights, units), panel, out) }
}

/// Adds up one tile of weights and one tile of tokens: `out` is `(T, 16)`.
///
/// # Safety
/// Called from functions with the features; the tile has as many units as it says, `panel` is a tile of T tokens with as many
/// columns.
#[inline(always)]
pub(super) unsafe fn tile<K: Kernel, F: Packed, const T: usize>(
    weights: (*const u8, usize),
    panel: *const u8,
    out: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        if T <= 4 {
            quarters::<K, F, T, 4>(0, weights, panel, out);
        } else {
            for quarter in 0..4 {
                quarters::<K, F, T, 1>(quarter, weights, panel, out);
            }
        }
    }
}

/// Adds up Q quarters of the rows.
///
/// # Safety
/// As for [`tile`]; `first + Q <= 4`.
#[inline(always)]
unsafe fn quarters<K: Kernel, F: Packed, const T: usize, const Q: usize>(
    first: usize,
    (tile, units): (*const u8, usize),
    panel: *const u8,
    out: *mut f32,
) {
    let unit_size = const { units::unit_of::<F>() };
    let blocks = unit_size.columns / 32;
    // SAFETY: only a register is cleared.
    let mut total = [[unsafe { vdupq_n_f32(0.0) }; T]; Q];
    let mut x = panel;
    for u in 0..units {
        let unit = At { pointer: tile.wrapping_add(u * unit_size.bytes), part: first };
        for block in 0..blocks {
            macro_rules! quarters {
                ($($q:literal)*) => { $(if $q < Q {
                    let unit = At { part: first + $q, ..unit };
                    // SAFETY: the caller says how many units there are.
                    unsafe { block_of::<K, F, T>(unit, block, x, &mut total[$q % Q]) };
                })* };
            }
            quarters!(0 1 2 3);
            x = x.wrapping_add(T * TOKEN_BYTES);
        }
    }
    for (q, total) in total.iter().enumerate() {
        for (t, total) in total.iter().enumerate() {
            // SAFETY: `out` has T rows of 16.
            unsafe { vst1q_f32(out.add(16 * t + 4 * (first + q)), *total) };
        }
    }
}

/// Adds up one block of 32 columns.
///
/// # Safety
/// As for [`tile`]: `unit` is a whole unit, `x` a whole block of the panel.
#[inline(always)]
unsafe fn block_of<K: Kernel, F: Packed, const T: usize>(
    unit: At,
    block: usize,
    x: *const u8,
    total: &mut [float32x4_t; T],
) {
    // SAFETY: the caller's.
    unsafe {
        let mut weights = Weights {
            codes: units::codes::<Neon, F>(unit, block),
            scales: units::scales::<Neon, F>(unit, block),
            mins: units::mins::<Neon, F>(unit, block),
        };
        if let (Some(shift), true) = (units::bias::<Neon>(F::FORMAT), K::subtracts(T)) {
            let bias = vdupq_n_s8(1 << shift);
            weights.codes = each!(|i| vsubq_s8(weights.codes[i], bias));
        }
        K::tokens::<F, T>(&weights, x, total);
    }
}

/// One block of one quarter.
pub(super) struct Weights {
    pub(super) codes: [int8x16_t; 8],
    scales: [float32x4_t; 2],
    mins: [float32x4_t; 2],
}

/// Adds token `t`'s products with one block.
///
/// # Safety
/// As for [`tile`]; `x` is a block of the panel.
#[inline(always)]
unsafe fn token<F: Packed, const T: usize>(
    w: &Weights,
    x: *const u8,
    t: usize,
    total: float32x4_t,
) -> float32x4_t {
    // SAFETY: all reads lie in one block of T tokens, t < T; only called from functions with the features.
    unsafe {
        let (high, low, words) = (x.add(32 * t), x.add(32 * (T + t)), x.add(64 * T));
        let zero = vdupq_n_s32(0);
        let sums = if const { units::groups(F::FORMAT) == 1 } {
            let start = bias::<F, T>(words, 4 * (2 * T + t));
            let start = next_level(start, dot::<F, 0>(w, high, dot::<F, 4>(w, high, zero)));
            [dot::<F, 0>(w, low, dot::<F, 4>(w, low, start)), zero]
        } else {
            let at = 4 * (3 * T + 2 * t);
            let a = next_level(bias::<F, T>(words, at), dot::<F, 0>(w, high, zero));
            let b = next_level(bias::<F, T>(words, at + 4), dot::<F, 4>(w, high, zero));
            [dot::<F, 0>(w, low, a), dot::<F, 4>(w, low, b)]
        };
        scaled::<F, T>(w, words, t, sums, total)
    }
}

/// Adds token `t`'s sums of products of codes, one for each group, with their scales and minimums.
///
/// # Safety
/// `words` follow the codes of a block of the panel, `t < T`; called from functions with the features.
#[inline(always)]
pub(super) unsafe fn scaled<F: Packed, const T: usize>(
    w: &Weights,
    words: *const u8,
    t: usize,
    sums: [int32x4_t; 2],
    total: float32x4_t,
) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe {
        let scale = float(words, 4 * t);
        let [a, b] = [vcvtq_f32_s32(sums[0]), vcvtq_f32_s32(sums[1])];
        if const { units::groups(F::FORMAT) == 1 } {
            let total = vfmaq_f32(total, a, vmulq_f32(w.scales[0], scale));
            if const { units::has_mins(F::FORMAT) } {
                return vfmaq_f32(total, w.mins[0], float(words, 4 * (T + t)));
            }
            return total;
        }
        let mut sum = vfmaq_f32(vmulq_f32(a, w.scales[0]), b, w.scales[1]);
        if const { units::has_mins(F::FORMAT) } {
            let at = 4 * (3 * T + 2 * t);
            sum = vfmsq_f32(sum, w.mins[0], vcvtq_f32_s32(word(words, at)));
            sum = vfmsq_f32(sum, w.mins[1], vcvtq_f32_s32(word(words, at + 4)));
        }
        vfmaq_f32(total, sum, scale)
    }
}

/// The 4 bytes at `at` in all lanes.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn word(x: *const u8, at: usize) -> int32x4_t {
    // SAFETY: the caller's.
    unsafe { vdupq_n_s32(x.add(at).cast::<i32>().read_unaligned()) }
}

/// As [`word`], an f32.
///
/// # Safety
/// It can be read.
#[inline(always)]
unsafe fn float(x: *const u8, at: usize) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe { vdupq_n_f32(x.add(at).cast::<f32>().read_unaligned()) }
}

/// Where the sum over the low level starts: `start` and 256 times the sum over the high level.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn next_level(start: int32x4_t, high: int32x4_t) -> int32x4_t {
    // SAFETY: register arithmetic only.
    unsafe { vaddq_s32(start, vshlq_n_s32::<8>(high)) }
}

/// Where an integer sum starts: minus the bias times the sum of codes, from the panel's minus sum.
///
/// # Safety
/// The sum can be read.
#[inline(always)]
unsafe fn bias<F: Packed, const T: usize>(x: *const u8, at: usize) -> int32x4_t {
    // SAFETY: the caller's.
    unsafe {
        match units::bias::<Neon>(F::FORMAT) {
            Some(shift) if !Dotprod::subtracts(T) => vshlq_s32(word(x, at), vdupq_n_s32(shift)),
            _ => vdupq_n_s32(0),
        }
    }
}

/// Steps `FIRST` to `FIRST + 3` of a block.
///
/// # Safety
/// 32 codes can be read; called from functions with the features.
#[inline(always)]
unsafe fn dot<F: Packed, const FIRST: usize>(
    w: &Weights,
    codes: *const u8,
    sum: int32x4_t,
) -> int32x4_t {
    // SAFETY: the caller's.
    unsafe {
        let x = vld1q_s8(codes.add(4 * FIRST).cast());
        let sum = sdot::<0>(sum, w.codes[FIRST], x);
        let sum = sdot::<1>(sum, w.codes[FIRST + 1], x);
        let sum = sdot::<2>(sum, w.codes[FIRST + 2], x);
        sdot::<3>(sum, w.codes[FIRST + 3], x)
    }
}

/// `vdotq_laneq_s32`, which the standard library does not offer yet.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn sdot<const LANE: u8>(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: register arithmetic only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sum = inlateout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Quarters of rows.
pub(super) struct Neon;

impl Registers for Neon {
    type Codes = int8x16_t;
    type Floats = float32x4_t;
    const ROWS: usize = 4;
    /// Codes multiply as signed bytes.
    const UNSIGNED_BITS: u32 = 0;

    #[inline(always)]
    unsafe fn vector(at: *const u8) -> int8x16_t {
        // SAFETY: the caller's.
        unsafe { vld1q_s8(at.cast()) }
    }
    #[inline(always)]
    unsafe fn nibbles(v: int8x16_t) -> [int8x16_t; 2] {
        // SAFETY: register arithmetic only.
        unsafe {
            let high = vshrq_n_u8::<4>(vreinterpretq_u8_s8(v));
            [vandq_s8(v, vdupq_n_s8(15)), vreinterpretq_s8_u8(high)]
        }
    }
    #[inline(always)]
    unsafe fn bits(v: int8x16_t, shift: usize, mask: u8) -> int8x16_t {
        // SAFETY: register arithmetic only.
        unsafe {
            #[expect(clippy::cast_possible_truncation, reason = "below 8")]
            let down = vdupq_n_s8(-(shift as i8));
            vreinterpretq_s8_u8(vandq_u8(vshlq_u8(vreinterpretq_u8_s8(v), down), vdupq_n_u8(mask)))
        }
    }
    #[inline(always)]
    unsafe fn joined(low: int8x16_t, high: int8x16_t, up: usize) -> int8x16_t {
        // SAFETY: register arithmetic only.
        unsafe {
            #[expect(clippy::cast_possible_truncation, reason = "below 8")]
            let up = vdupq_n_s8(up as i8);
            vorrq_s8(low, vshlq_s8(high, up))
        }
    }
    #[inline(always)]
    unsafe fn turned(v: int8x16_t) -> int8x16_t {
        // SAFETY: register arithmetic only.
        unsafe { veorq_s8(v, vdupq_n_s8(-128)) }
    }
    #[inline(always)]
    unsafe fn looked_up(v: int8x16_t, table: &[i8; 16]) -> int8x16_t {
        // SAFETY: the table has 16 bytes; otherwise register arithmetic.
        unsafe { vqtbl1q_s8(vld1q_s8(table.as_ptr()), vreinterpretq_u8_s8(v)) }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe { widen_f16(vld1_u16(at.cast())) }
    }
    #[inline(always)]
    unsafe fn unsigned(at: *const u8) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe { vcvtq_f32_u32(bytes(at)) }
    }
    #[inline(always)]
    unsafe fn signed(at: *const u8) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe {
            let four = at.cast::<u32>().read_unaligned();
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four.into())))))
        }
    }
    #[inline(always)]
    unsafe fn two_numbers(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: the caller's.
        unsafe {
            let both = bytes(at);
            let low = vandq_u32(both, vdupq_n_u32(15));
            [vcvtq_f32_u32(low), vcvtq_f32_u32(vshrq_n_u32::<4>(both))]
        }
    }
    #[inline(always)]
    unsafe fn power(at: *const u8) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe {
            let e = vqsubq_u32(bytes(at), vdupq_n_u32(1));
            vreinterpretq_f32_u32(vshlq_n_u32::<23>(e))
        }
    }

    #[inline(always)]
    unsafe fn multiply(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: register arithmetic only.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn negative(a: float32x4_t) -> float32x4_t {
        // SAFETY: register arithmetic only.
        unsafe { vnegq_f32(a) }
    }
    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        // SAFETY: register arithmetic only.
        unsafe { vdupq_n_f32(0.0) }
    }
}

/// A u8 of each row.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn bytes(at: *const u8) -> uint32x4_t {
    // SAFETY: the caller's.
    unsafe {
        let four = at.cast::<u32>().read_unaligned();
        vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four.into()))))
    }
}
