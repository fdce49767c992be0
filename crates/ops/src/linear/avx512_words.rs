//! Products for prompts with AVX-512 VNNI: weights and activations as 16-bit words, two tiles of weights at a time.
//!
//! [`super::avx512`] multiplies an activation's two int8 levels with codes of 4 to 8 bits: exact, but each scale of 32 columns
//! costs a product and a sum beside 16 dot products, and so does each minimum. A prompt meets every weight hundreds of times,
//! so here two tiles are unpacked once per chunk of tokens into words with one scale per row and 64 columns,
//! `w = scale * word`, |word| <= 4095, and `vpdpwssd` does as many products per instruction as two levels of bytes do, with
//! nothing but one conversion and two products beside 32 dot products. That rounds a weight to 1/8190 of its block's largest
//! and an activation to 1/16382 (see [`crate::quantize::words`]); 4095 * 8191 * 64 stays below 2^31.
//!
//! One broadcast of an activation feeds two tiles (32 rows) and each load of weights four tokens: three loads for four dot
//! products, which the load ports can bear. A block of 64 columns of two unpacked tiles:
//!
//! ```text
//!   32 x { words of a step: tile 0 [64], tile 1 [64] }   scale: 2 x f32 x16
//! ```
//!
//! A step is two columns of 16 rows, in the order that costs unpacking least: of each 4 columns the even ones, then the odd ones
//! (`quantize::words` has the same order).
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles and panels through raw pointers")]
use super::avx512::{Avx512, float};
use super::pack::TILE_ROWS;
use super::tiles::{PAIR_BYTES, PromptKernels};
use super::units::{At, Packed, bias, codes, each, groups, mins, scales, unit_of};
use crate::format::Format;
use crate::quantize::words::avx512::{in_twos, rounded};
use crate::quantize::words::{BLOCK, BLOCK_BYTES, TOKENS};
use crate::simd::Vector;
use std::arch::x86_64::*;

/// Largest word of a weight before its three roundings.
const WORD_MAX: f32 = 4094.0;
/// A vector of each tile.
const BOTH: usize = 2 * 64;
/// Steps of a block.
const STEPS: usize = BLOCK / 2;

pub(super) fn kernels<F: Packed>() -> PromptKernels {
    PromptKernels { unpack: unpack::<F>, multiply }
}

/// Unpacks a tile as tile `which` of a pair.
///
/// # Safety
/// The processor has the features; `tile` has `units` units, `to` room for as many columns of a pair, on a boundary of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack<F: Packed>(tile: *const u8, units: usize, which: usize, to: *mut u8) {
    let unit_size = const { unit_of::<F>() };
    let mut to = to.wrapping_add(64 * which);
    for u in 0..units {
        let unit = tile.wrapping_add(u * unit_size.bytes);
        for block in (0..unit_size.columns / 32).step_by(2) {
            // SAFETY: the caller says how many units there are, and that blocks have room.
            unsafe { unpack_block::<F>(At::whole(unit), block, to) };
            to = to.wrapping_add(PAIR_BYTES);
        }
    }
}

/// Unpacks 64 columns from block `block` of 32 columns on.
///
/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn unpack_block<F: Packed>(unit: At, block: usize, to: *mut u8) {
    // SAFETY: the caller's; only called from a function with the features.
    unsafe {
        let (scales_a, scales_b) =
            (scales::<Avx512, F>(unit, block), scales::<Avx512, F>(unit, block + 1));
        let (offsets_a, offsets_b) =
            (offsets::<F>(unit, block, scales_a), offsets::<F>(unit, block + 1, scales_b));
        let largest =
            _mm512_max_ps(largest::<F>(scales_a, offsets_a), largest::<F>(scales_b, offsets_b));
        let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, _mm512_setzero_ps());
        let inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(WORD_MAX), largest);
        let scale = _mm512_mul_ps(largest, _mm512_set1_ps(1.0 / WORD_MAX));
        _mm512_store_ps(to.add(STEPS * BOTH).cast(), scale);
        half::<F>(codes::<Avx512, F>(unit, block), scales_a, offsets_a, inverse, to);
        let to = to.add(STEPS / 2 * BOTH);
        half::<F>(codes::<Avx512, F>(unit, block + 1), scales_b, offsets_b, inverse, to);
    }
}

/// What codes of 0 stand for, per group.
///
/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn offsets<F: Packed>(unit: At, block: usize, scales: [__m512; 2]) -> [__m512; 2] {
    // SAFETY: the caller's.
    unsafe {
        match bias::<Avx512>(F::FORMAT) {
            None => mins::<Avx512, F>(unit, block),
            Some(bias) => {
                let bias = _mm512_set1_ps(-((1 << bias) as f32));
                [_mm512_mul_ps(scales[0], bias), _mm512_mul_ps(scales[1], bias)]
            }
        }
    }
}

/// Bits of a code.
const fn bits(format: Format) -> u32 {
    match format {
        Format::Q2K => 2,
        Format::Q3K => 3,
        Format::Q5_0 | Format::Q5_1 | Format::Q5K | Format::Mxfp4 => 5,
        Format::Q6K => 6,
        Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs => 8,
        _ => 4,
    }
}

/// A bound of the magnitude of 32 columns' weights: codes of 0 and the largest code.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn largest<F: Packed>(scales: [__m512; 2], offsets: [__m512; 2]) -> __m512 {
    // SAFETY: register arithmetic only.
    unsafe {
        let code = _mm512_set1_ps(((1 << bits(F::FORMAT)) - 1) as f32);
        let bound = each!([0, 1], |g| {
            let top = _mm512_abs_ps(_mm512_fmadd_ps(scales[g], code, offsets[g]));
            _mm512_max_ps(_mm512_abs_ps(offsets[g]), top)
        });
        _mm512_max_ps(bound[0], bound[groups(F::FORMAT) - 1])
    }
}

/// Unpacks 32 columns: `word = code * scale + offset` in fixed point. A code goes to the top of 15 bits, and `vpmulhrsw` takes
/// the rounded top half of its product with the scale in units of 2^-BITS.
///
/// # Safety
/// `to` has room for 16 steps of a pair; called from functions with the features.
#[inline(always)]
unsafe fn half<F: Packed>(
    codes: [__m512i; 8],
    scales: [__m512; 2],
    offsets: [__m512; 2],
    inverse: __m512,
    to: *mut u8,
) {
    // SAFETY: the caller's.
    unsafe {
        let unit = _mm512_mul_ps(inverse, _mm512_set1_ps((1 << bits(F::FORMAT)) as f32));
        let scales = each!([0, 1], |g| both_halves(_mm512_mul_ps(scales[g], unit)));
        let offsets = each!([0, 1], |g| both_halves(_mm512_mul_ps(offsets[g], inverse)));
        let mask = _mm512_set1_epi16(((1 << bits(F::FORMAT)) - 1) << (15 - bits(F::FORMAT)));
        for (i, codes) in codes.into_iter().enumerate() {
            let g = i / 4 % groups(F::FORMAT);
            let even = _mm512_sll_epi16(codes, _mm_cvtsi32_si128(15 - bits(F::FORMAT) as i32));
            let odd = match bits(F::FORMAT) {
                8 => _mm512_srli_epi16::<1>(codes),
                bits => _mm512_sll_epi16(codes, _mm_cvtsi32_si128(7 - bits as i32)),
            };
            for (odd_columns, top) in [even, odd].into_iter().enumerate() {
                let product = _mm512_mulhrs_epi16(_mm512_and_si512(top, mask), scales[g]);
                let words = _mm512_add_epi16(product, offsets[g]);
                let step = 8 * (i / 4) + 4 * odd_columns + i % 4;
                _mm512_store_si512(to.add(BOTH * step).cast(), words);
            }
        }
    }
}

/// Rounds to integers below 2^15, each in both halves of its lane.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn both_halves(x: __m512) -> __m512i {
    // SAFETY: register arithmetic only.
    unsafe {
        let x = _mm512_cvtps_epi32(x);
        _mm512_mask_blend_epi16(0xaaaa_aaaa, x, _mm512_slli_epi32::<16>(x))
    }
}

/// Multiplies two unpacked tiles with groups of four tokens, one after the other: `out` is `(2, 16, 16)`, of which the first
/// `4 * groups` tokens of each tile are written.
///
/// # Safety
/// The processor has the features; `weights` and each group have `blocks` blocks; `weights` lies on a boundary of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(
    weights: *const u8,
    blocks: usize,
    (x, groups): (*const u8, usize),
    out: *mut f32,
) {
    for group in 0..groups {
        let x = x.wrapping_add(group * blocks * BLOCK_BYTES);
        let mut total = [[_mm512_setzero_ps(); 2]; TOKENS];
        for b in 0..blocks {
            // SAFETY: the caller says how many blocks there are.
            unsafe {
                block(weights.add(b * PAIR_BYTES), x.add(b * BLOCK_BYTES), &mut total);
            }
        }
        for (t, total) in total.iter().enumerate() {
            for (which, total) in total.iter().enumerate() {
                // SAFETY: `out` has room for 16 tokens of both tiles.
                unsafe {
                    _mm512_storeu_ps(out.add(16 * (16 * which + TOKENS * group + t)), *total);
                };
            }
        }
    }
}

/// # Safety
/// As for [`multiply`]: a block of each can be read.
#[inline(always)]
unsafe fn block(weights: *const u8, x: *const u8, total: &mut [[__m512; 2]; TOKENS]) {
    // SAFETY: the caller's; only called from a function with the features.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); 2]; TOKENS];
        // One step per turn: in a longer run LLVM takes `vpdpwssd` apart into a product and a sum, for their latency.
        for step in 0..STEPS {
            let at = weights.add(BOTH * step);
            let words = [_mm512_load_si512(at.cast()), _mm512_load_si512(at.add(64).cast())];
            for (t, sums) in sums.iter_mut().enumerate() {
                let two = x.add(4 * (TOKENS * step + t)).cast::<i32>().read_unaligned();
                let two = _mm512_set1_epi32(two);
                *sums = [
                    _mm512_dpwssd_epi32(sums[0], words[0], two),
                    _mm512_dpwssd_epi32(sums[1], words[1], two),
                ];
            }
        }
        let at = weights.add(BOTH * STEPS);
        let scales = [_mm512_load_ps(at.cast()), _mm512_load_ps(at.add(64).cast())];
        for t in 0..TOKENS {
            let scale = float(x, 4 * (TOKENS * STEPS + t));
            for which in 0..2 {
                let product = _mm512_mul_ps(scales[which], scale);
                let sum = _mm512_cvtepi32_ps(sums[t][which]);
                total[t][which] = _mm512_fmadd_ps(sum, product, total[t][which]);
            }
        }
    }
}

/// Unpacks 16 rows of F16 or BF16 numbers, which lie as in the file, as tile `which` of a pair.
///
/// # Safety
/// The processor has the features; 16 rows of `columns` numbers can be read, `to` has room for as many columns of a pair, on a
/// boundary of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn unpack_rows(
    format: Format,
    rows: *const u8,
    columns: usize,
    which: usize,
    to: *mut u8,
) {
    for block in 0..columns / BLOCK {
        let to = to.wrapping_add(block * PAIR_BYTES + 64 * which);
        let mut twos = [[_mm512_setzero_si512(); TILE_ROWS]; 2];
        let mut scales = [0.0; TILE_ROWS];
        for (r, scale) in scales.iter_mut().enumerate() {
            let mut numbers = [_mm512_setzero_ps(); BLOCK / 16];
            for (i, numbers) in numbers.iter_mut().enumerate() {
                let at = rows.wrapping_add(2 * (r * columns + BLOCK * block + 16 * i)).cast();
                // SAFETY: the caller's.
                *numbers = unsafe {
                    match format {
                        Format::F16 => Vector::widen_f16(at),
                        _ => Vector::widen_bf16(at),
                    }
                };
            }
            let (words, of_words) = rounded(numbers, WORD_MAX);
            *scale = of_words;
            for half in 0..2 {
                twos[half][r] = steps(words[2 * half], words[2 * half + 1]);
            }
        }
        for (half, twos) in twos.into_iter().enumerate() {
            for (step, vector) in transposed(twos).into_iter().enumerate() {
                let at = to.wrapping_add(BOTH * (STEPS / 2 * half + step));
                // SAFETY: the caller's.
                unsafe { _mm512_store_si512(at.cast(), vector) };
            }
        }
        // SAFETY: the caller's.
        unsafe {
            _mm512_store_ps(to.add(STEPS * BOTH).cast(), _mm512_loadu_ps(scales.as_ptr()));
        }
    }
}

/// The 16 steps of one row's 32 columns, from words in 32-bit lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn steps(first: __m512i, second: __m512i) -> __m512i {
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 16, 20, 24, 28, 17, 21, 25, 29);
    _mm512_permutex2var_epi32(in_twos(first), order, in_twos(second))
}

/// Rows of 16 steps to steps of 16 rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn transposed(rows: [__m512i; TILE_ROWS]) -> [__m512i; TILE_ROWS] {
    let mut a = rows;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Now four columns of four rows in each 128 bits: b[4 i + j] has column j of rows 4 i to 4 i + 3, and of every fourth column.
    let mut b = a;
    for i in 0..4 {
        for j in 0..2 {
            b[4 * i + 2 * j] = _mm512_unpacklo_epi64(a[4 * i + j], a[4 * i + 2 + j]);
            b[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * i + j], a[4 * i + 2 + j]);
        }
    }
    let mut out = b;
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[j], b[4 + j]);
        let high = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[j], b[4 + j]);
        let low_below = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[8 + j], b[12 + j]);
        let high_below = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[8 + j], b[12 + j]);
        out[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, low_below);
        out[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, low_below);
        out[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high, high_below);
        out[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high, high_below);
    }
    out
}
