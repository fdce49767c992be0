//! Products for prompts with AVX2: weights and activations as 16-bit words, see [`super::tile_words`].
//!
//! `vpmaddwd` and a sum do for 32 products what two levels of bytes take four instructions for, and their scales. Eight sums, four
//! tokens by the 16 rows of a tile, leave room in 16 registers for weights and activations.
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles and panels through raw pointers")]
use super::avx2::{Avx2, float, word};
use super::tile_words::{self, BOTH, SCALES, STEPS, WordRegisters};
use super::tiles::{PAIR_BYTES, PromptKernels};
use super::units::{Packed, each};
use crate::quantize::words::{BLOCK_BYTES, SECTION, TOKENS};
use std::arch::x86_64::*;

/// With room for codes of 8 bits.
type Words = Avx2<8>;

pub(super) fn kernels<F: Packed>() -> PromptKernels {
    PromptKernels { unpack: unpack::<F>, multiply }
}

/// As [`tile_words::unpack`].
///
/// # Safety
/// The processor has the features; the rest as there.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack<F: Packed>(tile: *const u8, units: usize, which: usize, to: *mut u8) {
    // SAFETY: the caller's.
    unsafe { tile_words::unpack::<Words, F>(tile, units, which, to) }
}

/// # Safety
/// The processor has the features; `weights` and each group have `blocks` blocks; `weights` lies on a boundary of 64 bytes;
/// `out` is `(2, 16, 16)`, of which the first `4 * groups` tokens of each tile are written.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply(
    weights: *const u8,
    blocks: usize,
    (x, groups): (*const u8, usize),
    out: *mut f32,
) {
    for (group, which) in (0..groups).flat_map(|group| [(group, 0), (group, 1)]) {
        let (weights, x) =
            (weights.wrapping_add(64 * which), x.wrapping_add(group * blocks * BLOCK_BYTES));
        let mut total = [[_mm256_setzero_ps(); 2]; TOKENS];
        for first in (0..blocks).step_by(SECTION) {
            // SAFETY: the caller says how many blocks there are.
            unsafe {
                let mut sums = [[_mm256_setzero_si256(); 2]; TOKENS];
                for b in first..(first + SECTION).min(blocks) {
                    add_block(weights.add(b * PAIR_BYTES), x.add(b * BLOCK_BYTES), &mut sums);
                }
                let (weights, x) = (weights.add(first * PAIR_BYTES), x.add(first * BLOCK_BYTES));
                add_scaled(sums, weights, x, &mut total);
            }
        }
        for (t, total) in total.iter().enumerate() {
            for (half, total) in total.iter().enumerate() {
                let at = 16 * (16 * which + TOKENS * group + t) + 8 * half;
                // SAFETY: `out` has room for 16 tokens of both tiles.
                unsafe { _mm256_storeu_ps(out.add(at), *total) };
            }
        }
    }
}

/// Integer sums of a section of one tile, per token and half of the rows.
type Sums = [[__m256i; 2]; TOKENS];

/// Adds the products of a block.
///
/// # Safety
/// As for [`multiply`]: a block of each can be read.
#[inline(always)]
unsafe fn add_block(weights: *const u8, x: *const u8, sums: &mut Sums) {
    // SAFETY: the caller's; only called from a function with the features.
    unsafe {
        for step in 0..STEPS {
            let w = halves(weights, step);
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = word(x, 4 * (TOKENS * step + t));
                *sums = each!([0, 1], |i| Words::add_products(sums[i], w[i], x));
            }
        }
    }
}

/// Adds the sums of a section in units of its scales, which are in its first block.
///
/// # Safety
/// As for [`add_block`].
#[inline(always)]
unsafe fn add_scaled(
    sums: Sums,
    weights: *const u8,
    x: *const u8,
    total: &mut [[__m256; 2]; TOKENS],
) {
    // SAFETY: the caller's; only called from a function with the features.
    unsafe {
        let scales = halves(weights, SCALES).map(|scales| _mm256_castsi256_ps(scales));
        for (t, (total, sums)) in total.iter_mut().zip(sums).enumerate() {
            let scale = float(x, 4 * (TOKENS * SCALES + t));
            *total = each!([0, 1], |i| {
                let scale = _mm256_mul_ps(scales[i], scale);
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[i]), scale, total[i])
            });
        }
    }
}

/// Vector `at` of a block of a tile.
///
/// # Safety
/// It can be read, and lies on a boundary of 64 bytes.
#[inline(always)]
unsafe fn halves(weights: *const u8, at: usize) -> [__m256i; 2] {
    // SAFETY: the caller's.
    unsafe {
        let at = weights.add(BOTH * at);
        [_mm256_load_si256(at.cast()), _mm256_load_si256(at.add(32).cast())]
    }
}

impl WordRegisters for Words {
    const STARTS: bool = false;

    #[inline(always)]
    unsafe fn numbers(x: f32) -> __m256 {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn larger_magnitude(a: __m256, b: __m256) -> __m256 {
        // SAFETY: register arithmetic only.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            _mm256_max_ps(_mm256_andnot_ps(sign, a), _mm256_andnot_ps(sign, b))
        }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn quotient_or_zero(a: __m256, b: __m256) -> __m256 {
        // SAFETY: register arithmetic only.
        unsafe {
            let some = _mm256_cmp_ps::<_CMP_GT_OQ>(b, _mm256_setzero_ps());
            _mm256_and_ps(some, _mm256_div_ps(a, b))
        }
    }
    #[inline(always)]
    unsafe fn both_halves(x: __m256) -> __m256i {
        // SAFETY: register arithmetic only.
        unsafe {
            let x = _mm256_cvtps_epi32(x);
            _mm256_blend_epi16::<0xaa>(x, _mm256_slli_epi32::<16>(x))
        }
    }
    #[inline(always)]
    unsafe fn field(codes: __m256i, up: i32, mask: i16) -> __m256i {
        // SAFETY: register arithmetic only.
        unsafe {
            let moved = if up < 0 {
                _mm256_srl_epi16(codes, _mm_cvtsi32_si128(-up))
            } else {
                _mm256_sll_epi16(codes, _mm_cvtsi32_si128(up))
            };
            _mm256_and_si256(moved, _mm256_set1_epi16(mask))
        }
    }
    #[inline(always)]
    unsafe fn scaled(words: __m256i, scale: __m256i, offset: __m256i) -> __m256i {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_add_epi16(_mm256_mulhrs_epi16(words, scale), offset) }
    }
    #[inline(always)]
    unsafe fn add_products(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
    }
    #[inline(always)]
    unsafe fn negative_integers(x: __m256i) -> __m256i {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_sub_epi32(_mm256_setzero_si256(), x) }
    }
    #[inline(always)]
    unsafe fn integers() -> __m256i {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    unsafe fn store(x: __m256i, to: *mut u8) {
        // SAFETY: the caller's.
        unsafe { _mm256_store_si256(to.cast(), x) }
    }
    #[inline(always)]
    unsafe fn store_numbers(x: __m256, to: *mut u8) {
        // SAFETY: the caller's.
        unsafe { _mm256_store_ps(to.cast(), x) }
    }
}
