//! Products of packed tiles with AVX-512 VNNI.
//!
//! One lane is one row. `vpdpbusd` multiplies 4 unsigned codes of each of the 16 rows with 4 signed codes of one token, which
//! are broadcast from memory inside the instruction. Per block of 32 columns the weights become 8 registers of codes, a
//! register of scales and perhaps one of minimums, once for all tokens of the tile; each token then costs 16 dot products (8
//! for each level of its codes), a shift, a conversion, a product and a fused multiply-add. With 16 tokens 16 registers hold
//! the sums.
//!
//! Formats whose codes are signed are made unsigned by a bias that is a power of two: the integer sum starts at minus the
//! bias times the sum of the activation's codes, which `quantize` has made, so it ends where signed codes would have ended.
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles and panels through raw pointers")]
use super::avx512_words;
use super::tiles::{PromptKernels, TileKernel};
use super::units::{self, At, Packed, PerFormat, Registers, count};
use crate::quantize::panel::TOKEN_BYTES;
use crate::simd::cache;
use std::arch::x86_64::*;

/// All rows, and the kernels of a format for tiles of 1, 2, 4, 8 and 16 tokens and for prompts.
pub(super) struct Avx512;

impl PerFormat for Avx512 {
    type Of = ([TileKernel; 5], PromptKernels);
    fn of<F: Packed>() -> Self::Of {
        let single =
            [product::<F, 1>, product::<F, 2>, product::<F, 4>, product::<F, 8>, product::<F, 16>];
        (single, avx512_words::kernels::<F>())
    }
}

/// How far ahead of the unit in use memory is asked for.
///
/// Into the first level cache where it has room for what is under way on top of what is in use: on a Zen 5 (48 KiB) the processor's
/// own prefetching falls short, and decode of SmolLM2 Q4_1 and Gemma Q4_K_M takes 1.17 and 1.12 times as long without. Into the
/// second level otherwise, and only in formats whose units are not read front to back: there the processor's own prefetching sees
/// no stream and yields a fifth of the bandwidth. In the others it yields all of it, and asking costs a quarter (Zen 4, 32 KiB).
const PREFETCH_BYTES: usize = 8192;
/// Of a first level cache with that room.
pub(super) const ROOMY_BYTES: usize = 48 << 10;

/// Up to so many tokens the blocks of a unit are unrolled: their shifts become constants, which costs code and saves time
/// where unpacking weighs more than products.
const UNROLLED_TOKENS: usize = 2;

/// Adds up one tile of weights and one tile of tokens: `out` is `(T, 16)`.
///
/// # Safety
/// The processor has the features; `tile` has `units` units, `panel` is a tile of T tokens with as many columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn product<F: Packed, const T: usize>(
    tile: *const u8,
    units: usize,
    panel: *const u8,
    out: *mut f32,
) {
    let unit_size = const { units::unit_of::<F>() };
    let blocks = unit_size.columns / 32;
    let roomy = cache::first_level_bytes() >= ROOMY_BYTES;
    let mut total = [_mm512_setzero_ps(); T];
    let mut x = panel;
    for u in 0..units {
        let unit = tile.wrapping_add(u * unit_size.bytes);
        macro_rules! block {
            ($block:expr) => {
                // SAFETY: the caller says how many units there are.
                unsafe { block::<F, T>(unit, $block, roomy, x, &mut total) };
                x = x.wrapping_add(T * TOKEN_BYTES);
            };
        }
        if const { T <= UNROLLED_TOKENS } {
            macro_rules! blocks {
                ($($block:literal)*) => { $(if $block < blocks { block!($block); })* };
            }
            blocks!(0 1 2 3 4 5 6 7);
        } else {
            for block in 0..blocks {
                block!(block);
            }
        }
    }
    for (t, total) in total.iter().enumerate() {
        // SAFETY: `out` has T rows of 16.
        unsafe { _mm512_storeu_ps(out.add(16 * t), *total) };
    }
}

/// Adds up one block of 32 columns. `roomy`: memory ahead goes to the first level cache.
///
/// # Safety
/// As for [`product`]: `unit` is a whole unit, `x` a whole block of the panel.
#[inline(always)]
unsafe fn block<F: Packed, const T: usize>(
    unit: *const u8,
    block: usize,
    roomy: bool,
    x: *const u8,
    total: &mut [__m512; T],
) {
    let unit_size = const { units::unit_of::<F>() };
    let block_bytes = unit_size.bytes * 32 / unit_size.columns;
    // SAFETY: the caller's; prefetching past the end does nothing.
    unsafe {
        if T <= 4 {
            for line in 0..block_bytes.div_ceil(64) {
                let ahead = PREFETCH_BYTES + block * block_bytes + 64 * line;
                let ahead = unit.wrapping_add(ahead);
                if roomy {
                    _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                } else if unit_size.columns > 64 {
                    cache::expect(ahead);
                }
            }
        }
        let weights = Weights {
            codes: units::codes::<Avx512, F>(At::whole(unit), block),
            scales: units::scales::<Avx512, F>(At::whole(unit), block),
            mins: units::mins::<Avx512, F>(At::whole(unit), block),
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
    codes: [__m512i; 8],
    scales: [__m512; 2],
    mins: [__m512; 2],
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
    total: __m512,
) -> __m512 {
    // SAFETY: all reads lie in one block of T tokens, t < T; only called from functions with the features.
    unsafe {
        let (high, low, words) = (x.add(32 * t), x.add(32 * (T + t)), x.add(64 * T));
        let scale = float(words, 4 * t);
        if const { units::groups(F::FORMAT) == 1 } {
            let start = bias::<F>(words, 4 * (2 * T + t));
            let zero = _mm512_setzero_si512();
            let start = next_level(start, dot::<0>(w, high, dot::<4>(w, high, zero)));
            let sum = _mm512_cvtepi32_ps(dot::<0>(w, low, dot::<4>(w, low, start)));
            let total = _mm512_fmadd_ps(sum, _mm512_mul_ps(w.scales[0], scale), total);
            if const { units::has_mins(F::FORMAT) } {
                return _mm512_fmadd_ps(w.mins[0], float(words, 4 * (T + t)), total);
            }
            return total;
        }
        let (first, second) = (4 * (3 * T + 2 * t), 4 * (3 * T + 2 * t) + 4);
        let zero = _mm512_setzero_si512();
        let a = next_level(bias::<F>(words, first), dot::<0>(w, high, zero));
        let b = next_level(bias::<F>(words, second), dot::<4>(w, high, zero));
        let a = _mm512_cvtepi32_ps(dot::<0>(w, low, a));
        let b = _mm512_cvtepi32_ps(dot::<4>(w, low, b));
        let mut sum = _mm512_fmadd_ps(b, w.scales[1], _mm512_mul_ps(a, w.scales[0]));
        if const { units::has_mins(F::FORMAT) } {
            sum = _mm512_fnmadd_ps(w.mins[0], _mm512_cvtepi32_ps(word(words, first)), sum);
            sum = _mm512_fnmadd_ps(w.mins[1], _mm512_cvtepi32_ps(word(words, second)), sum);
        }
        _mm512_fmadd_ps(sum, scale, total)
    }
}

/// The 4 bytes at `at` in all lanes.
///
/// # Safety
/// They can be read.
#[inline(always)]
pub(super) unsafe fn word(x: *const u8, at: usize) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_set1_epi32(x.add(at).cast::<i32>().read_unaligned()) }
}

/// As [`word`], an f32.
///
/// # Safety
/// It can be read.
#[inline(always)]
pub(super) unsafe fn float(x: *const u8, at: usize) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_set1_ps(x.add(at).cast::<f32>().read_unaligned()) }
}

/// Where the sum over the low level starts: `start` and 256 times the sum over the high level.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn next_level(start: __m512i, high: __m512i) -> __m512i {
    // SAFETY: register arithmetic only.
    unsafe { _mm512_add_epi32(start, _mm512_slli_epi32::<8>(high)) }
}

/// Where an integer sum starts: minus the bias times the sum of codes, from the panel's minus sum.
///
/// # Safety
/// The sum can be read.
#[inline(always)]
unsafe fn bias<F: Packed>(x: *const u8, at: usize) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        match units::bias::<Avx512>(F::FORMAT) {
            Some(shift) => _mm512_sll_epi32(word(x, at), _mm_cvtsi32_si128(shift)),
            None => _mm512_setzero_si512(),
        }
    }
}

/// Steps `FIRST` to `FIRST + 3` of a block.
///
/// # Safety
/// 32 codes can be read.
#[inline(always)]
unsafe fn dot<const FIRST: usize>(w: &Weights, codes: *const u8, mut sum: __m512i) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        sum = _mm512_dpbusd_epi32(sum, w.codes[FIRST], word(codes, 4 * FIRST));
        sum = _mm512_dpbusd_epi32(sum, w.codes[FIRST + 1], word(codes, 4 * FIRST + 4));
        sum = _mm512_dpbusd_epi32(sum, w.codes[FIRST + 2], word(codes, 4 * FIRST + 8));
        _mm512_dpbusd_epi32(sum, w.codes[FIRST + 3], word(codes, 4 * FIRST + 12))
    }
}

impl Registers for Avx512 {
    type Codes = __m512i;
    type Floats = __m512;
    const ROWS: usize = 16;
    /// `vpdpbusd` takes unsigned bytes.
    const UNSIGNED_BITS: u32 = 8;

    #[inline(always)]
    unsafe fn vector(at: *const u8) -> __m512i {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_si512(at.cast()) }
    }
    #[inline(always)]
    unsafe fn bits(v: __m512i, shift: usize, mask: u8) -> __m512i {
        // SAFETY: register arithmetic only.
        unsafe {
            let shifted = _mm512_srl_epi16(v, count(shift));
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask.cast_signed()))
        }
    }
    #[inline(always)]
    unsafe fn joined(low: __m512i, high: __m512i, up: usize) -> __m512i {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_or_si512(low, _mm512_sll_epi16(high, count(up))) }
    }
    #[inline(always)]
    unsafe fn turned(v: __m512i) -> __m512i {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_xor_si512(v, _mm512_set1_epi8(-128)) }
    }
    #[inline(always)]
    unsafe fn looked_up(v: __m512i, table: &[i8; 16]) -> __m512i {
        // SAFETY: the table has 16 bytes; otherwise register arithmetic.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, v)
        }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }
    #[inline(always)]
    unsafe fn unsigned(at: *const u8) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtepi32_ps(bytes(at)) }
    }
    #[inline(always)]
    unsafe fn signed(at: *const u8) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
    }
    #[inline(always)]
    unsafe fn two_numbers(at: *const u8) -> [__m512; 2] {
        // SAFETY: the caller's.
        unsafe {
            let both = bytes(at);
            let low = _mm512_and_si512(both, _mm512_set1_epi32(15));
            [_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(both))]
        }
    }
    #[inline(always)]
    unsafe fn power(at: *const u8) -> __m512 {
        // SAFETY: the caller's.
        unsafe {
            let (e, one) = (bytes(at), _mm512_set1_epi32(1));
            let e = _mm512_sub_epi32(_mm512_max_epi32(e, one), one);
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(e))
        }
    }

    #[inline(always)]
    unsafe fn multiply(a: __m512, b: __m512) -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn negative(a: __m512) -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_sub_ps(_mm512_setzero_ps(), a) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_setzero_ps() }
    }
}

/// A u8 of each row.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn bytes(at: *const u8) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast())) }
}
