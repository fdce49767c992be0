//! Products of packed tiles with AVX2, in halves: 8 lanes are 8 rows of the tile.
//!
//! As in the AVX-512 family, weights of a block of 32 columns are unpacked once for all tokens. A step multiplies unsigned
//! codes with signed ones into sums of two 16-bit products (`vpmaddubsw`), which must not pass 32767: codes up to 127 never do.
//! Eight-bit codes (Q8_0, IQ4) are taken as signed ones instead; their sign moves to the activation (`vpsignb`). Sums of 4
//! products then widen to 32 bits.
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles and panels through raw pointers")]
use super::pack::{Unit, unit};
use super::tiles::TileKernel;
use crate::format::{Format, iq4, mxfp4};
use crate::quantize::panel::TOKEN_BYTES;
use std::arch::x86_64::*;

/// `[f(0), .. f(7)]` or another list of indices: a macro, since a closure would be compiled without the kernel's features.
macro_rules! each {
    (|$i:ident| $value:expr) => { each!([0, 1, 2, 3, 4, 5, 6, 7], |$i| $value) };
    ([$($index:expr),*], |$i:ident| $value:expr) => { [$({ let $i = $index; $value }),*] };
}

/// The kernels of a format for tiles of 1, 2, 4, 8 and 16 tokens.
pub(super) fn kernels(format: Format) -> [TileKernel; 5] {
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

fn of<F: Codes>() -> [TileKernel; 5] {
    [product::<F, 1>, product::<F, 2>, product::<F, 4>, product::<F, 8>, product::<F, 16>]
}

/// A place in a unit, as one half of its rows sees it.
#[derive(Clone, Copy)]
struct At {
    pointer: *const u8,
    half: usize,
}

impl At {
    #[inline(always)]
    fn add(self, bytes: usize) -> Self {
        Self { pointer: self.pointer.wrapping_add(bytes), ..self }
    }

    /// This half of 16 numbers of `size` bytes.
    #[inline(always)]
    fn numbers(self, size: usize) -> *const u8 {
        self.pointer.wrapping_add(8 * size * self.half)
    }
}

/// Reads a format's unit. `block` counts blocks of 32 columns within the unit.
trait Codes {
    const FORMAT: Format;
    /// Groups with a scale of their own in 32 columns.
    const GROUPS: usize = 1;
    /// The codes' bias is 2 to this power.
    const BIAS: Option<i32> = None;
    /// Whether groups have a minimum: then codes have no bias.
    const MINS: bool = false;
    /// Steps whose sums of two products fit in 16 bits together; 0 when codes are signed.
    const NARROW: usize = 4;

    /// Codes of steps 0 to 7.
    unsafe fn codes(unit: At, block: usize) -> [__m256i; 8];
    /// A scale per row and group; with one group the second is not used.
    unsafe fn scales(unit: At, block: usize) -> [__m256; 2];
    /// What is added per row and group.
    unsafe fn mins(_unit: At, _block: usize) -> [__m256; 2] {
        // SAFETY: only a register is cleared.
        unsafe { [_mm256_setzero_ps(); 2] }
    }
}

/// Adds up one tile of weights and one tile of tokens: `out` is `(T, 16)`.
///
/// # Safety
/// The processor has the features; `tile` has `units` units, `panel` is a tile of T tokens with as many columns.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn product<F: Codes, const T: usize>(
    tile: *const u8,
    units: usize,
    panel: *const u8,
    out: *mut f32,
) {
    let unit_size = const { unit_of::<F>() };
    let blocks = unit_size.columns / 32;
    for half in 0..2 {
        let mut total = [_mm256_setzero_ps(); T];
        let mut x = panel;
        for u in 0..units {
            let unit = At { pointer: tile.wrapping_add(u * unit_size.bytes), half };
            for block in 0..blocks {
                // SAFETY: the caller says how many units there are.
                unsafe { block_of::<F, T>(unit, block, x, &mut total) };
                x = x.wrapping_add(T * TOKEN_BYTES);
            }
        }
        for (t, total) in total.iter().enumerate() {
            // SAFETY: `out` has T rows of 16.
            unsafe { _mm256_storeu_ps(out.add(16 * t + 8 * half), *total) };
        }
    }
}

/// Adds up one block of 32 columns.
///
/// # Safety
/// As for [`product`]: `unit` is a whole unit, `x` a whole block of the panel.
#[inline(always)]
unsafe fn block_of<F: Codes, const T: usize>(
    unit: At,
    block: usize,
    x: *const u8,
    total: &mut [__m256; T],
) {
    // SAFETY: the caller's.
    unsafe {
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

const fn unit_of<F: Codes>() -> Unit {
    unit(F::FORMAT).expect("packed formats have units")
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
unsafe fn token<F: Codes, const T: usize>(
    w: &Weights,
    x: *const u8,
    t: usize,
    total: __m256,
) -> __m256 {
    // SAFETY: all reads lie in one block of T tokens, t < T; only called from functions with the features.
    unsafe {
        let (high, low, words) = (x.add(32 * t), x.add(32 * (T + t)), x.add(64 * T));
        let (scale, zero) = (float(words, 4 * t), _mm256_setzero_si256());
        if F::GROUPS == 1 {
            let start = bias::<F>(words, 4 * (2 * T + t));
            let start = next_level(start, dot::<F, 0>(w, high, dot::<F, 4>(w, high, zero)));
            let sum = _mm256_cvtepi32_ps(dot::<F, 0>(w, low, dot::<F, 4>(w, low, start)));
            let total = _mm256_fmadd_ps(sum, _mm256_mul_ps(w.scales[0], scale), total);
            if F::MINS {
                return _mm256_fmadd_ps(w.mins[0], float(words, 4 * (T + t)), total);
            }
            return total;
        }
        let (first, second) = (4 * (3 * T + 2 * t), 4 * (3 * T + 2 * t) + 4);
        let a = next_level(bias::<F>(words, first), dot::<F, 0>(w, high, zero));
        let b = next_level(bias::<F>(words, second), dot::<F, 4>(w, high, zero));
        let a = _mm256_cvtepi32_ps(dot::<F, 0>(w, low, a));
        let b = _mm256_cvtepi32_ps(dot::<F, 4>(w, low, b));
        let mut sum = _mm256_fmadd_ps(b, w.scales[1], _mm256_mul_ps(a, w.scales[0]));
        if F::MINS {
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
unsafe fn word(x: *const u8, at: usize) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_set1_epi32(x.add(at).cast::<i32>().read_unaligned()) }
}

/// As [`word`], an f32.
///
/// # Safety
/// It can be read.
#[inline(always)]
unsafe fn float(x: *const u8, at: usize) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_set1_ps(x.add(at).cast::<f32>().read_unaligned()) }
}

/// Where the sum over the low level starts: `start` and 256 times the sum over the high level.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn next_level(start: __m256i, high: __m256i) -> __m256i {
    // SAFETY: register arithmetic only.
    unsafe { _mm256_add_epi32(start, _mm256_slli_epi32::<8>(high)) }
}

/// Where an integer sum starts: minus the bias times the sum of codes, from the panel's minus sum.
///
/// # Safety
/// The sum can be read.
#[inline(always)]
unsafe fn bias<F: Codes>(x: *const u8, at: usize) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        match F::BIAS {
            Some(shift) => _mm256_sll_epi32(word(x, at), _mm_cvtsi32_si128(shift)),
            None => _mm256_setzero_si256(),
        }
    }
}

/// Steps `FIRST` to `FIRST + 3` of a block.
///
/// # Safety
/// 32 codes can be read.
#[inline(always)]
unsafe fn dot<F: Codes, const FIRST: usize>(
    w: &Weights,
    codes: *const u8,
    mut sum: __m256i,
) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        let pairs = each!([0, 1, 2, 3], |i| {
            let (w, x) = (w.codes[FIRST + i], word(codes, 4 * FIRST + 4 * i));
            if F::NARROW == 0 {
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
            } else {
                _mm256_maddubs_epi16(w, x)
            }
        });
        let ones = _mm256_set1_epi16(1);
        if F::NARROW == 0 {
            for pair in pairs {
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pair, ones));
            }
            return sum;
        }
        let first = _mm256_add_epi16(pairs[0], pairs[1]);
        let second = _mm256_add_epi16(pairs[2], pairs[3]);
        if F::NARROW == 2 {
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(first, ones));
            return _mm256_add_epi32(sum, _mm256_madd_epi16(second, ones));
        }
        _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(first, second), ones))
    }
}

/// Four bytes of each row.
///
/// # Safety
/// The vector of 64 bytes can be read.
#[inline(always)]
unsafe fn vector(at: At) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_loadu_si256(at.numbers(4).cast()) }
}

/// An f16 of each row.
///
/// # Safety
/// All 16 can be read.
#[inline(always)]
unsafe fn halves(at: At) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.numbers(2).cast())) }
}

/// A u8 of each row.
///
/// # Safety
/// All 16 can be read.
#[inline(always)]
unsafe fn bytes(at: At) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(at.numbers(1).cast())) }
}

/// A u8 of each row as f32.
///
/// # Safety
/// All 16 can be read.
#[inline(always)]
unsafe fn unsigned(at: At) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_cvtepi32_ps(bytes(at)) }
}

/// An i8 of each row as f32.
///
/// # Safety
/// All 16 can be read.
#[inline(always)]
unsafe fn signed(at: At) -> __m256 {
    // SAFETY: the caller's.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.numbers(1).cast()))) }
}

/// Bits `shift..` of each byte under `mask`.
///
/// # Safety
/// Called from functions with the features; `shift + bits of mask <= 8`.
#[inline(always)]
unsafe fn bits(v: __m256i, shift: usize, mask: i8) -> __m256i {
    // SAFETY: register arithmetic only.
    unsafe {
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "below 8")]
        let shifted = _mm256_srl_epi16(v, _mm_cvtsi32_si128(shift as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi8(mask))
    }
}

/// A block of 32 nibbles in 4 vectors: low ones are columns 0 to 15.
///
/// # Safety
/// 256 bytes can be read.
#[inline(always)]
unsafe fn near_nibbles(at: At) -> [__m256i; 8] {
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
unsafe fn fields(at: At, shift: usize, mask: i8) -> [__m256i; 8] {
    // SAFETY: the caller's.
    unsafe { each!(|i| bits(vector(at.add(64 * i)), shift, mask)) }
}

/// `codes | high << up`.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn joined(codes: [__m256i; 8], high: [__m256i; 8], up: i32) -> [__m256i; 8] {
    // SAFETY: register arithmetic only.
    unsafe {
        let up = _mm_cvtsi32_si128(up);
        each!(|i| _mm256_or_si256(codes[i], _mm256_sll_epi16(high[i], up)))
    }
}

/// Fifth bits of a block of Q5_0 and Q5_1: bit i of the plane belongs to step i.
///
/// # Safety
/// 64 bytes can be read.
#[inline(always)]
unsafe fn fifth_bits(codes: [__m256i; 8], plane: At) -> [__m256i; 8] {
    // SAFETY: the caller's.
    unsafe {
        let plane = vector(plane);
        joined(codes, each!(|i| bits(plane, i, 1)), 4)
    }
}

/// Nibbles through a table of 16 values, plus a bias that makes them unsigned, or 0.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn looked_up(codes: [__m256i; 8], values: &[i8; 16], bias: i8) -> [__m256i; 8] {
    // SAFETY: the table has 16 bytes; otherwise register arithmetic.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast()));
        let table = _mm256_add_epi8(table, _mm256_set1_epi8(bias));
        each!(|i| _mm256_shuffle_epi8(table, codes[i]))
    }
}

macro_rules! format {
    ($name:ident { $($consts:tt)* } |$unit:ident, $block:ident| codes $codes:block scales $scales:block $(mins $mins:block)?) => {
        struct $name;
        impl Codes for $name {
            $($consts)*
            #[inline(always)]
            unsafe fn codes($unit: At, $block: usize) -> [__m256i; 8] {
                // SAFETY: the caller's: a whole unit can be read; the offsets are those of the unit's layout.
                unsafe { $codes }
            }
            #[inline(always)]
            unsafe fn scales($unit: At, $block: usize) -> [__m256; 2] {
                // SAFETY: as above.
                unsafe { $scales }
            }
            $(
            #[inline(always)]
            unsafe fn mins($unit: At, $block: usize) -> [__m256; 2] {
                // SAFETY: as above.
                unsafe { $mins }
            })?
        }
    };
}

format!(Q4_0 { const FORMAT: Format = Format::Q4_0; const BIAS: Option<i32> = Some(3); } |unit, block|
    codes { near_nibbles(unit.add(64 + 256 * block)) }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Iq4Nl { const FORMAT: Format = Format::Iq4Nl; const NARROW: usize = 0; } |unit, block|
    codes { looked_up(near_nibbles(unit.add(64 + 256 * block)), &iq4::VALUES, 0) }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Q4_1 { const FORMAT: Format = Format::Q4_1; const MINS: bool = true; } |unit, block|
    codes { near_nibbles(unit.add(128 + 256 * block)) }
    scales { [halves(unit.add(32 * block)); 2] }
    mins { [halves(unit.add(64 + 32 * block)); 2] }
);
format!(Q5_0 { const FORMAT: Format = Format::Q5_0; const BIAS: Option<i32> = Some(4); } |unit, block|
    codes { fifth_bits(near_nibbles(unit.add(64 + 256 * block)), unit.add(576 + 64 * block)) }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Q5_1 { const FORMAT: Format = Format::Q5_1; const MINS: bool = true; } |unit, block|
    codes { fifth_bits(near_nibbles(unit.add(128 + 256 * block)), unit.add(640 + 64 * block)) }
    scales { [halves(unit.add(32 * block)); 2] }
    mins { [halves(unit.add(64 + 32 * block)); 2] }
);
format!(Q8_0 { const FORMAT: Format = Format::Q8_0; const NARROW: usize = 0; } |unit, block|
    codes {
        let sign = _mm256_set1_epi8(-128);
        each!(|i| _mm256_xor_si256(vector(unit.add(64 + 512 * block + 64 * i)), sign))
    }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Mxfp4 { const FORMAT: Format = Format::Mxfp4; const BIAS: Option<i32> = Some(4); } |unit, block|
    codes { looked_up(near_nibbles(unit.add(32 + 256 * block)), &mxfp4::VALUES, 16) }
    scales {
        // 2^(e - 128); e below 2 would be subnormal and becomes 0.
        let e = bytes(unit.add(16 * block));
        let e = _mm256_sub_epi32(_mm256_max_epi32(e, _mm256_set1_epi32(1)), _mm256_set1_epi32(1));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<23>(e)); 2]
    }
);
format!(Q2K {
        const FORMAT: Format = Format::Q2K; const GROUPS: usize = 2; const MINS: bool = true;
    } |unit, block|
    codes { fields(unit.add(320 + 512 * (block / 4)), 2 * (block % 4), 3) }
    scales {
        let d = halves(unit);
        each!([0, 1], |g| {
            let both = bytes(unit.add(64 + 32 * block + 16 * g));
            let scale = _mm256_and_si256(both, _mm256_set1_epi32(15));
            _mm256_mul_ps(d, _mm256_cvtepi32_ps(scale))
        })
    }
    mins {
        // The sums in the panel are negative, and so is the minimum's share: both signs cancel in `token`, which subtracts.
        let d = _mm256_sub_ps(_mm256_setzero_ps(), halves(unit.add(32)));
        each!([0, 1], |g| {
            let both = bytes(unit.add(64 + 32 * block + 16 * g));
            _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(both)))
        })
    }
);
format!(Q3K {
        const FORMAT: Format = Format::Q3K; const GROUPS: usize = 2; const BIAS: Option<i32> = Some(2);
    } |unit, block|
    codes {
        let low = fields(unit.add(288 + 512 * (block / 4)), 2 * (block % 4), 3);
        joined(low, fields(unit.add(1312), block, 1), 2)
    }
    scales {
        let d = halves(unit);
        each!([0, 1], |g| _mm256_mul_ps(d, signed(unit.add(32 + 32 * block + 16 * g))))
    }
);
format!(Q4K { const FORMAT: Format = Format::Q4K; const MINS: bool = true; } |unit, block|
    codes { fields(unit.add(320 + 512 * (block / 2)), 4 * (block % 2), 15) }
    scales { [_mm256_mul_ps(halves(unit), unsigned(unit.add(64 + 16 * block))); 2] }
    mins {
        let d = _mm256_sub_ps(_mm256_setzero_ps(), halves(unit.add(32)));
        [_mm256_mul_ps(d, unsigned(unit.add(192 + 16 * block))); 2]
    }
);
format!(Q5K { const FORMAT: Format = Format::Q5K; const MINS: bool = true; } |unit, block|
    codes {
        let low = fields(unit.add(320 + 512 * (block / 2)), 4 * (block % 2), 15);
        joined(low, fields(unit.add(2368), block, 1), 4)
    }
    scales { [_mm256_mul_ps(halves(unit), unsigned(unit.add(64 + 16 * block))); 2] }
    mins {
        let d = _mm256_sub_ps(_mm256_setzero_ps(), halves(unit.add(32)));
        [_mm256_mul_ps(d, unsigned(unit.add(192 + 16 * block))); 2]
    }
);
format!(Q6K {
        const FORMAT: Format = Format::Q6K; const GROUPS: usize = 2; const BIAS: Option<i32> = Some(5);
        const NARROW: usize = 2;
    } |unit, block|
    codes {
        let (half, quarter) = (block / 4, block % 4);
        let low = fields(unit.add(320 + 1024 * half + 512 * (quarter % 2)), 4 * (quarter / 2), 15);
        joined(low, fields(unit.add(2368 + 512 * half), 2 * quarter, 3), 4)
    }
    scales {
        let d = halves(unit);
        each!([0, 1], |g| _mm256_mul_ps(d, signed(unit.add(64 + 32 * block + 16 * g))))
    }
);
format!(Iq4Xs { const FORMAT: Format = Format::Iq4Xs; const NARROW: usize = 0; } |unit, block|
    codes { looked_up(near_nibbles(unit.add(192 + 256 * block)), &iq4::VALUES, 0) }
    scales { [_mm256_mul_ps(halves(unit), signed(unit.add(64 + 16 * block))); 2] }
);
