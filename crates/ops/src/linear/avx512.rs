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
use super::pack::{Unit, unit};
use super::tiles::{PromptKernels, TileKernel};
use crate::format::{Format, iq4, mxfp4};
use crate::quantize::panel::TOKEN_BYTES;
use std::arch::x86_64::*;

/// The kernels of a format for tiles of 1, 2, 4, 8 and 16 tokens, and for prompts.
pub(super) fn kernels(format: Format) -> ([TileKernel; 5], PromptKernels) {
    match format {
        Format::Q4_0 => of::<Q4_0>(),
        Format::Q4_1 => of::<Q4_1>(),
        Format::Q5_0 => of::<Q5_0>(),
        Format::Q5_1 => of::<Q5_1>(),
        Format::Q8_0 => of::<Q8_0>(),
        Format::Q2K => of::<Q2K>(),
        Format::Q3K => of::<Q3K>(),
        Format::Q4K => of::<Q4K>(),
        Format::Q5K => of::<Q5K>(),
        Format::Q6K => of::<Q6K>(),
        Format::Iq4Nl => of::<Iq4Nl>(),
        Format::Iq4Xs => of::<Iq4Xs>(),
        Format::Mxfp4 => of::<Mxfp4>(),
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("float formats are not packed"),
    }
}

fn of<F: Codes>() -> ([TileKernel; 5], PromptKernels) {
    let single =
        [product::<F, 1>, product::<F, 2>, product::<F, 4>, product::<F, 8>, product::<F, 16>];
    (single, avx512_words::kernels::<F>())
}

/// How far ahead of the unit in use memory is asked for, into the second level cache, in formats whose units are not read front
/// to back: there the processor's own prefetching sees no stream and yields a fifth of the bandwidth. In the others it yields
/// all of it, and asking would cost a quarter.
const PREFETCH_BYTES: usize = 8192;

/// Up to so many tokens the blocks of a unit are unrolled: their shifts become constants, which costs code and saves time
/// where unpacking weighs more than products.
const UNROLLED_TOKENS: usize = 2;

/// Reads a format's unit. `block` counts blocks of 32 columns within the unit.
pub(super) trait Codes {
    const FORMAT: Format;
    /// Bits of a code.
    const BITS: u32;
    /// Groups with a scale of their own in 32 columns.
    const GROUPS: usize = 1;
    /// The codes' bias is 2 to this power.
    const BIAS: Option<i32> = None;
    /// Whether groups have a minimum: then codes have no bias.
    const MINS: bool = false;

    /// Unsigned codes of steps 0 to 7.
    unsafe fn codes(unit: *const u8, block: usize) -> [__m512i; 8];
    /// A scale per row and group; with one group the second is not used.
    unsafe fn scales(unit: *const u8, block: usize) -> [__m512; 2];
    /// What is added per row and group.
    unsafe fn mins(_unit: *const u8, _block: usize) -> [__m512; 2] {
        // SAFETY: only a register is cleared.
        unsafe { [_mm512_setzero_ps(); 2] }
    }
}

/// Adds up one tile of weights and one tile of tokens: `out` is `(T, 16)`.
///
/// # Safety
/// The processor has the features; `tile` has `units` units, `panel` is a tile of T tokens with as many columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn product<F: Codes, const T: usize>(
    tile: *const u8,
    units: usize,
    panel: *const u8,
    out: *mut f32,
) {
    let unit_size = const { unit_of::<F>() };
    let blocks = unit_size.columns / 32;
    let mut total = [_mm512_setzero_ps(); T];
    let mut x = panel;
    for u in 0..units {
        let unit = tile.wrapping_add(u * unit_size.bytes);
        macro_rules! block {
            ($block:expr) => {
                // SAFETY: the caller says how many units there are.
                unsafe { block::<F, T>(unit, $block, x, &mut total) };
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

/// Adds up one block of 32 columns.
///
/// # Safety
/// As for [`product`]: `unit` is a whole unit, `x` a whole block of the panel.
#[inline(always)]
unsafe fn block<F: Codes, const T: usize>(
    unit: *const u8,
    block: usize,
    x: *const u8,
    total: &mut [__m512; T],
) {
    let unit_size = const { unit_of::<F>() };
    let block_bytes = unit_size.bytes * 32 / unit_size.columns;
    // SAFETY: the caller's; prefetching past the end does nothing.
    unsafe {
        if T <= 4 && unit_size.columns > 64 {
            for line in 0..block_bytes.div_ceil(64) {
                let ahead = PREFETCH_BYTES + block * block_bytes + 64 * line;
                _mm_prefetch::<_MM_HINT_T1>(unit.wrapping_add(ahead).cast());
            }
        }
        let weights = Weights {
            codes: F::codes(unit, block),
            scales: F::scales(unit, block),
            mins: F::mins(unit, block),
        };
        macro_rules! tokens {
            ($($t:literal)*) => { $(if $t < T {
                total[$t % T] = token::<F, T>(&weights, x, $t, total[$t % T]);
            })* };
        }
        tokens!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
}

pub(super) const fn unit_of<F: Codes>() -> Unit {
    unit(F::FORMAT).expect("packed formats have units")
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
unsafe fn token<F: Codes, const T: usize>(
    w: &Weights,
    x: *const u8,
    t: usize,
    total: __m512,
) -> __m512 {
    // SAFETY: all reads lie in one block of T tokens, t < T; only called from functions with the features.
    unsafe {
        let (high, low, words) = (x.add(32 * t), x.add(32 * (T + t)), x.add(64 * T));
        let scale = float(words, 4 * t);
        if F::GROUPS == 1 {
            let start = bias::<F>(words, 4 * (2 * T + t));
            let zero = _mm512_setzero_si512();
            let start = next_level(start, dot::<0>(w, high, dot::<4>(w, high, zero)));
            let sum = _mm512_cvtepi32_ps(dot::<0>(w, low, dot::<4>(w, low, start)));
            let total = _mm512_fmadd_ps(sum, _mm512_mul_ps(w.scales[0], scale), total);
            if F::MINS {
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
        if F::MINS {
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
unsafe fn word(x: *const u8, at: usize) -> __m512i {
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
unsafe fn bias<F: Codes>(x: *const u8, at: usize) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        match F::BIAS {
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

/// `[f(0), .. f(7)]` or another list of indices: a macro, since a closure would be compiled without the kernel's features.
macro_rules! each {
    (|$i:ident| $value:expr) => { each!([0, 1, 2, 3, 4, 5, 6, 7], |$i| $value) };
    ([$($index:expr),*], |$i:ident| $value:expr) => { [$({ let $i = $index; $value }),*] };
}
pub(super) use each;

/// # Safety
/// 64 bytes can be read.
#[inline(always)]
unsafe fn vector(at: *const u8) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

/// 16 x f16.
///
/// # Safety
/// 32 bytes can be read.
#[inline(always)]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}

/// 16 x u8 as f32.
///
/// # Safety
/// 16 bytes can be read.
#[inline(always)]
unsafe fn unsigned(at: *const u8) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(at.cast()))) }
}

/// 16 x i8 as f32.
///
/// # Safety
/// 16 bytes can be read.
#[inline(always)]
unsafe fn signed(at: *const u8) -> __m512 {
    // SAFETY: the caller's.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))) }
}

/// Bits `shift..` of each byte under `mask`.
///
/// # Safety
/// Called from functions with the features; `shift + bits of mask <= 8`.
#[inline(always)]
unsafe fn bits(v: __m512i, shift: usize, mask: i8) -> __m512i {
    // SAFETY: register arithmetic only.
    unsafe {
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "below 8")]
        let shifted = _mm512_srl_epi16(v, _mm_cvtsi32_si128(shift as i32));
        _mm512_and_si512(shifted, _mm512_set1_epi8(mask))
    }
}

/// A block of 32 nibbles in 4 vectors: low ones are columns 0 to 15.
///
/// # Safety
/// 256 bytes can be read.
#[inline(always)]
unsafe fn near_nibbles(at: *const u8) -> [__m512i; 8] {
    // SAFETY: the caller's.
    unsafe {
        let v = each!([0, 1, 2, 3], |i| vector(at.add(64 * i)));
        each!(|i| bits(v[i % 4], 4 * (i / 4), 15))
    }
}

/// A block of 32 fields of `mask`, `shift` bits up, in 8 vectors.
///
/// # Safety
/// 512 bytes can be read.
#[inline(always)]
unsafe fn fields(at: *const u8, shift: usize, mask: i8) -> [__m512i; 8] {
    // SAFETY: the caller's.
    unsafe { each!(|i| bits(vector(at.add(64 * i)), shift, mask)) }
}

/// `codes | high << up`.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn joined(codes: [__m512i; 8], high: [__m512i; 8], up: i32) -> [__m512i; 8] {
    // SAFETY: register arithmetic only.
    unsafe {
        let up = _mm_cvtsi32_si128(up);
        each!(|i| _mm512_or_si512(codes[i], _mm512_sll_epi16(high[i], up)))
    }
}

/// Fifth bits of a block of Q5_0 and Q5_1: bit i of the plane belongs to step i.
///
/// # Safety
/// 64 bytes can be read.
#[inline(always)]
unsafe fn fifth_bits(codes: [__m512i; 8], plane: *const u8) -> [__m512i; 8] {
    // SAFETY: the caller's.
    unsafe {
        let plane = vector(plane);
        joined(codes, each!(|i| bits(plane, i, 1)), 4)
    }
}

/// Nibbles through a table of 16 values, plus a bias that makes them unsigned.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn looked_up(codes: [__m512i; 8], values: &[i8; 16], bias: u8) -> [__m512i; 8] {
    // SAFETY: the table has 16 bytes; otherwise register arithmetic.
    unsafe {
        let table = _mm512_broadcast_i32x4(_mm_loadu_si128(values.as_ptr().cast()));
        let table = _mm512_add_epi8(table, _mm512_set1_epi8(bias.cast_signed()));
        each!(|i| _mm512_shuffle_epi8(table, codes[i]))
    }
}

macro_rules! format {
    ($name:ident { $($consts:tt)* } |$unit:ident, $block:ident| codes $codes:block scales $scales:block $(mins $mins:block)?) => {
        struct $name;
        impl Codes for $name {
            $($consts)*
            #[inline(always)]
            unsafe fn codes($unit: *const u8, $block: usize) -> [__m512i; 8] {
                // SAFETY: the caller's: a whole unit can be read; the offsets are those of the unit's layout.
                unsafe { $codes }
            }
            #[inline(always)]
            unsafe fn scales($unit: *const u8, $block: usize) -> [__m512; 2] {
                // SAFETY: as above.
                unsafe { $scales }
            }
            $(
            #[inline(always)]
            unsafe fn mins($unit: *const u8, $block: usize) -> [__m512; 2] {
                // SAFETY: as above.
                unsafe { $mins }
            })?
        }
    };
}

format!(Q4_0 { const FORMAT: Format = Format::Q4_0; const BITS: u32 = 4; const BIAS: Option<i32> = Some(3); } |unit, block|
    codes { near_nibbles(unit.add(64 + 256 * block)) }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Iq4Nl { const FORMAT: Format = Format::Iq4Nl; const BITS: u32 = 8; const BIAS: Option<i32> = Some(7); } |unit, block|
    codes { looked_up(near_nibbles(unit.add(64 + 256 * block)), &iq4::VALUES, 128) }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Q4_1 { const FORMAT: Format = Format::Q4_1; const BITS: u32 = 4; const MINS: bool = true; } |unit, block|
    codes { near_nibbles(unit.add(128 + 256 * block)) }
    scales { [halves(unit.add(32 * block)); 2] }
    mins { [halves(unit.add(64 + 32 * block)); 2] }
);
format!(Q5_0 { const FORMAT: Format = Format::Q5_0; const BITS: u32 = 5; const BIAS: Option<i32> = Some(4); } |unit, block|
    codes { fifth_bits(near_nibbles(unit.add(64 + 256 * block)), unit.add(576 + 64 * block)) }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Q5_1 { const FORMAT: Format = Format::Q5_1; const BITS: u32 = 5; const MINS: bool = true; } |unit, block|
    codes { fifth_bits(near_nibbles(unit.add(128 + 256 * block)), unit.add(640 + 64 * block)) }
    scales { [halves(unit.add(32 * block)); 2] }
    mins { [halves(unit.add(64 + 32 * block)); 2] }
);
format!(Q8_0 { const FORMAT: Format = Format::Q8_0; const BITS: u32 = 8; const BIAS: Option<i32> = Some(7); } |unit, block|
    codes { each!(|i| vector(unit.add(64 + 512 * block + 64 * i))) }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Mxfp4 { const FORMAT: Format = Format::Mxfp4; const BITS: u32 = 5; const BIAS: Option<i32> = Some(4); } |unit, block|
    codes { looked_up(near_nibbles(unit.add(32 + 256 * block)), &mxfp4::VALUES, 16) }
    scales {
        // 2^(e - 128); e below 2 would be subnormal and becomes 0.
        let e = _mm512_cvtepu8_epi32(_mm_loadu_si128(unit.add(16 * block).cast()));
        let e = _mm512_sub_epi32(_mm512_max_epi32(e, _mm512_set1_epi32(1)), _mm512_set1_epi32(1));
        [_mm512_castsi512_ps(_mm512_slli_epi32::<23>(e)); 2]
    }
);
format!(Q2K {
        const FORMAT: Format = Format::Q2K; const BITS: u32 = 2; const GROUPS: usize = 2; const MINS: bool = true;
    } |unit, block|
    codes { fields(unit.add(320 + 512 * (block / 4)), 2 * (block % 4), 3) }
    scales {
        let d = halves(unit);
        each!([0, 1], |g| {
            let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(unit.add(64 + 32 * block + 16 * g).cast()));
            let scale = _mm512_and_si512(both, _mm512_set1_epi32(15));
            _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale))
        })
    }
    mins {
        // The sums in the panel are negative, and so is the minimum's share: both signs cancel in `token`, which subtracts.
        let d = _mm512_sub_ps(_mm512_setzero_ps(), halves(unit.add(32)));
        each!([0, 1], |g| {
            let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(unit.add(64 + 32 * block + 16 * g).cast()));
            _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(both)))
        })
    }
);
format!(Q3K {
        const FORMAT: Format = Format::Q3K; const BITS: u32 = 3; const GROUPS: usize = 2; const BIAS: Option<i32> = Some(2);
    } |unit, block|
    codes {
        let low = fields(unit.add(288 + 512 * (block / 4)), 2 * (block % 4), 3);
        joined(low, fields(unit.add(1312), block, 1), 2)
    }
    scales {
        let d = halves(unit);
        each!([0, 1], |g| _mm512_mul_ps(d, signed(unit.add(32 + 32 * block + 16 * g))))
    }
);
format!(Q4K { const FORMAT: Format = Format::Q4K; const BITS: u32 = 4; const MINS: bool = true; } |unit, block|
    codes { fields(unit.add(320 + 512 * (block / 2)), 4 * (block % 2), 15) }
    scales { [_mm512_mul_ps(halves(unit), unsigned(unit.add(64 + 16 * block))); 2] }
    mins {
        let d = _mm512_sub_ps(_mm512_setzero_ps(), halves(unit.add(32)));
        [_mm512_mul_ps(d, unsigned(unit.add(192 + 16 * block))); 2]
    }
);
format!(Q5K { const FORMAT: Format = Format::Q5K; const BITS: u32 = 5; const MINS: bool = true; } |unit, block|
    codes {
        let low = fields(unit.add(320 + 512 * (block / 2)), 4 * (block % 2), 15);
        joined(low, fields(unit.add(2368), block, 1), 4)
    }
    scales { [_mm512_mul_ps(halves(unit), unsigned(unit.add(64 + 16 * block))); 2] }
    mins {
        let d = _mm512_sub_ps(_mm512_setzero_ps(), halves(unit.add(32)));
        [_mm512_mul_ps(d, unsigned(unit.add(192 + 16 * block))); 2]
    }
);
format!(Q6K {
        const FORMAT: Format = Format::Q6K; const BITS: u32 = 6; const GROUPS: usize = 2; const BIAS: Option<i32> = Some(5);
    } |unit, block|
    codes {
        let (half, quarter) = (block / 4, block % 4);
        let low = fields(unit.add(320 + 1024 * half + 512 * (quarter % 2)), 4 * (quarter / 2), 15);
        joined(low, fields(unit.add(2368 + 512 * half), 2 * quarter, 3), 4)
    }
    scales {
        let d = halves(unit);
        each!([0, 1], |g| _mm512_mul_ps(d, signed(unit.add(64 + 32 * block + 16 * g))))
    }
);
format!(Iq4Xs { const FORMAT: Format = Format::Iq4Xs; const BITS: u32 = 8; const BIAS: Option<i32> = Some(7); } |unit, block|
    codes { looked_up(near_nibbles(unit.add(192 + 256 * block)), &iq4::VALUES, 128) }
    scales { [_mm512_mul_ps(halves(unit), signed(unit.add(64 + 16 * block))); 2] }
);
