//! Products of packed tiles with AVX2, in halves: 8 lanes are 8 rows of the tile.
//!
//! As in the AVX-512 family, weights of a block of 32 columns are unpacked once for all tokens. A step multiplies unsigned
//! codes with signed ones into sums of two 16-bit products (`vpmaddubsw`), which must not pass 32767: codes up to 127 never do.
//! Eight-bit codes (Q8_0, IQ4) are taken as signed ones instead; their sign moves to the activation (`vpsignb`). As many steps as 16 bits
//! have room for are added up before sums widen to 32 bits, those of the high level with a factor of 256 on the way (`vpmaddwd`).
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles and panels through raw pointers")]
use super::avx2_words;
use super::tiles::{PromptKernels, TileKernel};
use super::units::{self, At, Packed, PerFormat, Registers, count};
use crate::format::Format;
use crate::quantize::panel::TOKEN_BYTES;
use crate::simd::cache;
use std::arch::x86_64::*;

/// Halves of rows, with unsigned codes of at most so many bits. Those of 8 would not fit the sums of two products, words have
/// room for them.
pub(super) struct Avx2<const UNSIGNED_BITS: u32 = 7>;

/// The kernels of a format for tiles of 1, 2, 4, 8 and 16 tokens and for prompts.
impl PerFormat for Avx2 {
    type Of = ([TileKernel; 5], PromptKernels);
    fn of<F: Packed>() -> Self::Of {
        let single =
            [product::<F, 1>, product::<F, 2>, product::<F, 4>, product::<F, 8>, product::<F, 16>];
        (single, avx2_words::kernels::<F>())
    }
}

/// Whether codes of 8 bits are taken as signed ones.
const fn is_signed(format: Format) -> bool {
    matches!(format, Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs)
}

/// Steps whose sums of two products fit in 16 bits together: two codes times 127 each.
const fn narrow(format: Format) -> usize {
    match format {
        Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs => 1,
        Format::Q6K => 2,
        Format::Q5_0 | Format::Q5_1 | Format::Q5K | Format::Mxfp4 => 4,
        _ => 8,
    }
}

/// How far ahead of the unit in use memory is asked for, into the second level cache, where halves are joined. So many instructions
/// stand between two loads that the processor's own prefetching falls behind: decode takes 1.3 (SmolLM2 Q4_1) and 1.4 times (Gemma
/// Q4_K_M) as long without (Zen 4).
const AHEAD_BYTES: usize = 8192;

/// Up to so many tokens both halves are multiplied block by block, so that a tile is read front to back as memory yields it; the
/// sums of more would not fit in registers.
const JOINED_TOKENS: usize = 2;

/// Adds up one tile of weights and one tile of tokens: `out` is `(T, 16)`.
///
/// # Safety
/// The processor has the features; `tile` has `units` units, `panel` is a tile of T tokens with as many columns.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn product<F: Packed, const T: usize>(
    tile: *const u8,
    units: usize,
    panel: *const u8,
    out: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        if const { T <= JOINED_TOKENS } {
            halves::<F, T, 2>(tile, units, panel, out, 0);
        } else {
            halves::<F, T, 1>(tile, units, panel, out, 0);
            halves::<F, T, 1>(tile, units, panel, out, 1);
        }
    }
}

/// Adds up H halves from `first` on.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
unsafe fn halves<F: Packed, const T: usize, const H: usize>(
    tile: *const u8,
    units: usize,
    panel: *const u8,
    out: *mut f32,
    first: usize,
) {
    let unit_size = const { units::unit_of::<F>() };
    let blocks = unit_size.columns / 32;
    // SAFETY: the caller says how many units there are, and `out` has T rows of 16.
    unsafe {
        let mut total = [[_mm256_setzero_ps(); T]; H];
        let mut x = panel;
        for u in 0..units {
            let pointer = tile.wrapping_add(u * unit_size.bytes);
            if const { H > 1 } {
                cache::expect_all(pointer.wrapping_add(AHEAD_BYTES), unit_size.bytes);
            }
            for block in 0..blocks {
                for (half, total) in total.iter_mut().enumerate() {
                    block_of::<F, T>(At { pointer, part: first + half }, block, x, total);
                }
                x = x.wrapping_add(T * TOKEN_BYTES);
            }
        }
        for (half, total) in total.iter().enumerate() {
            for (t, total) in total.iter().enumerate() {
                _mm256_storeu_ps(out.add(16 * t + 8 * (first + half)), *total);
            }
        }
    }
}

/// Adds up one block of 32 columns.
///
/// # Safety
/// As for [`product`]: `unit` is a whole unit, `x` a whole block of the panel.
#[inline(always)]
unsafe fn block_of<F: Packed, const T: usize>(
    unit: At,
    block: usize,
    x: *const u8,
    total: &mut [__m256; T],
) {
    // SAFETY: the caller's.
    unsafe {
        let weights = Weights {
            codes: units::codes::<Avx2, F>(unit, block),
            scales: units::scales::<Avx2, F>(unit, block),
            mins: units::mins::<Avx2, F>(unit, block),
        };
        macro_rules! tokens {
            ($($t:literal)*) => { $(if $t < T {
                total[$t % T] = token::<F, T>(&weights, x, $t, total[$t % T]);
            })* };
        }
        tokens!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
}

struct Weights {
    codes: [__m256i; 8],
    scales: [__m256; 2],
    mins: [__m256; 2],
}

/// Adds token `t`'s products with one block.
///
/// # Safety
/// As for [`product`]; `x` is a block of the panel.
#[inline(always)]
unsafe fn token<F: Packed, const T: usize>(
    w: &Weights,
    x: *const u8,
    t: usize,
    total: __m256,
) -> __m256 {
    // SAFETY: all reads lie in one block of T tokens, t < T; only called from functions with the features.
    unsafe {
        let (levels, words) = ([x.add(32 * t), x.add(32 * (T + t))], x.add(64 * T));
        let scale = float(words, 4 * t);
        if const { units::groups(F::FORMAT) == 1 } {
            let start = bias::<F>(words, 4 * (2 * T + t));
            let sum = _mm256_cvtepi32_ps(dot::<F, 0, 8>(w, levels, start));
            let total = _mm256_fmadd_ps(sum, _mm256_mul_ps(w.scales[0], scale), total);
            if const { units::has_mins(F::FORMAT) } {
                return _mm256_fmadd_ps(w.mins[0], float(words, 4 * (T + t)), total);
            }
            return total;
        }
        let (first, second) = (4 * (3 * T + 2 * t), 4 * (3 * T + 2 * t) + 4);
        let a = _mm256_cvtepi32_ps(dot::<F, 0, 4>(w, levels, bias::<F>(words, first)));
        let b = _mm256_cvtepi32_ps(dot::<F, 4, 4>(w, levels, bias::<F>(words, second)));
        let mut sum = _mm256_fmadd_ps(b, w.scales[1], _mm256_mul_ps(a, w.scales[0]));
        if const { units::has_mins(F::FORMAT) } {
            sum = _mm256_fnmadd_ps(w.mins[0], _mm256_cvtepi32_ps(word(words, first)), sum);
            sum = _mm256_fnmadd_ps(w.mins[1], _mm256_cvtepi32_ps(word(words, second)), sum);
        }
        _mm256_fmadd_ps(sum, scale, total)
    }
}

/// The 4 bytes at `at` in all lanes.
///
/// # Safety
/// They can be read.
#[inline(always)]
pub(super) unsafe fn word(x: *const u8, at: usize) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_set1_epi32(x.add(at).cast::<i32>().read_unaligned()) }
}

/// As [`word`], an f32.
///
/// # Safety
/// It can be read.
#[inline(always)]
pub(super) unsafe fn float(x: *const u8, at: usize) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_set1_ps(x.add(at).cast::<f32>().read_unaligned()) }
}

/// Where an integer sum starts: minus the bias times the sum of codes, from the panel's minus sum.
///
/// # Safety
/// The sum can be read.
#[inline(always)]
unsafe fn bias<F: Packed>(x: *const u8, at: usize) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        match units::bias::<Avx2>(F::FORMAT) {
            Some(shift) => _mm256_sll_epi32(word(x, at), _mm_cvtsi32_si128(shift)),
            None => _mm256_setzero_si256(),
        }
    }
}

/// N steps of a block from step FIRST on: `sum`, 256 times the products with the high level, and those with the low one.
///
/// # Safety
/// 32 codes of each level can be read.
#[inline(always)]
unsafe fn dot<F: Packed, const FIRST: usize, const N: usize>(
    w: &Weights,
    levels: [*const u8; 2],
    mut sum: __m256i,
) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        let units = [_mm256_set1_epi16(256), _mm256_set1_epi16(1)];
        let together = const { if narrow(F::FORMAT) < N { narrow(F::FORMAT) } else { N } };
        let mut narrow = [_mm256_setzero_si256(); 2];
        for step in 0..N {
            let weights = w.codes[FIRST + step];
            for ((narrow, codes), unit) in narrow.iter_mut().zip(levels).zip(units) {
                let pairs = products::<F>(weights, word(codes, 4 * (FIRST + step)));
                *narrow =
                    if step % together == 0 { pairs } else { _mm256_add_epi16(*narrow, pairs) };
                if step % together == together - 1 {
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(*narrow, unit));
                }
            }
        }
        sum
    }
}

/// Sums of two products of codes with codes.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn products<F: Packed>(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: register arithmetic only.
    unsafe {
        if is_signed(F::FORMAT) {
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        } else {
            _mm256_maddubs_epi16(w, x)
        }
    }
}

impl<const UNSIGNED_BITS: u32> Registers for Avx2<UNSIGNED_BITS> {
    type Codes = __m256i;
    type Floats = __m256;
    const ROWS: usize = 8;
    const UNSIGNED_BITS: u32 = UNSIGNED_BITS;

    #[inline(always)]
    unsafe fn vector(at: *const u8) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_si256(at.cast()) }
    }
    #[inline(always)]
    unsafe fn bits(v: __m256i, shift: usize, mask: u8) -> __m256i {
        // SAFETY: register arithmetic only.
        unsafe {
            let shifted = _mm256_srl_epi16(v, count(shift));
            _mm256_and_si256(shifted, _mm256_set1_epi8(mask.cast_signed()))
        }
    }
    #[inline(always)]
    unsafe fn joined(low: __m256i, high: __m256i, up: usize) -> __m256i {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_or_si256(low, _mm256_sll_epi16(high, count(up))) }
    }
    #[inline(always)]
    unsafe fn turned(v: __m256i) -> __m256i {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_xor_si256(v, _mm256_set1_epi8(-128)) }
    }
    #[inline(always)]
    unsafe fn looked_up(v: __m256i, table: &[i8; 16]) -> __m256i {
        // SAFETY: the table has 16 bytes; otherwise register arithmetic.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, v)
        }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }
    #[inline(always)]
    unsafe fn unsigned(at: *const u8) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_cvtepi32_ps(bytes(at)) }
    }
    #[inline(always)]
    unsafe fn signed(at: *const u8) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))) }
    }
    #[inline(always)]
    unsafe fn two_numbers(at: *const u8) -> [__m256; 2] {
        // SAFETY: the caller's.
        unsafe {
            let both = bytes(at);
            let low = _mm256_and_si256(both, _mm256_set1_epi32(15));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(both))]
        }
    }
    #[inline(always)]
    unsafe fn power(at: *const u8) -> __m256 {
        // SAFETY: the caller's.
        unsafe {
            let (e, one) = (bytes(at), _mm256_set1_epi32(1));
            let e = _mm256_sub_epi32(_mm256_max_epi32(e, one), one);
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e))
        }
    }

    #[inline(always)]
    unsafe fn multiply(a: __m256, b: __m256) -> __m256 {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn negative(a: __m256) -> __m256 {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_sub_ps(_mm256_setzero_ps(), a) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: register arithmetic only.
        unsafe { _mm256_setzero_ps() }
    }
}

/// A u8 of each row.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn bytes(at: *const u8) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.cast())) }
}
