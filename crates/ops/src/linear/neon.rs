//! Products of packed tiles with NEON, in quarters: 4 lanes are 4 rows of the tile.
//!
//! As in the AVX-512 family, weights of a block of 32 columns are unpacked once for all tokens. Codes multiply as signed bytes,
//! which all of them fit; how is the kernel's matter: [`Dotprod`] is here, products of small matrices are in
//! [`super::neon_i8mm`]. With dot products `sdot` adds 4 products to each lane while one lane of the activation's register goes
//! to all rows.
//! Few tokens walk the tile once, with sums for all of its rows; more walk it once a quarter, whose sums fit into registers.
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles and panels through raw pointers")]
use super::pack::{Unit, unit};
use super::tiles::TileKernel;
use crate::format::{Format, iq4, mxfp4};
use crate::quantize::panel::TOKEN_BYTES;
use crate::simd::neon::widen_f16;
use std::arch::aarch64::*;
use std::arch::asm;

/// `[f(0), .. f(7)]` or another list of indices: a macro, since a closure would be compiled without the kernel's features.
macro_rules! each {
    (|$i:ident| $value:expr) => { $crate::linear::neon::each!([0, 1, 2, 3, 4, 5, 6, 7], |$i| $value) };
    ([$($index:expr),*], |$i:ident| $value:expr) => { [$({ let $i = $index; $value }),*] };
}
pub(super) use each;

/// The kernels of a format for tiles of 1, 2, 4, 8 and 16 tokens.
pub(super) fn kernels<K: Kernel>(format: Format) -> [TileKernel; 5] {
    match format {
        Format::Q4_0 => K::of::<Q4_0>(),
        Format::Q4_1 => K::of::<Q4_1>(),
        Format::Q5_0 => K::of::<Q5_0>(),
        Format::Q5_1 => K::of::<Q5_1>(),
        Format::Q8_0 => K::of::<Q8_0>(),
        Format::Q2K => K::of::<Q2K>(),
        Format::Q3K => K::of::<Q3K>(),
        Format::Q4K => K::of::<Q4K>(),
        Format::Q5K => K::of::<Q5K>(),
        Format::Q6K => K::of::<Q6K>(),
        Format::Iq4Nl => K::of::<Iq4Nl>(),
        Format::Iq4Xs => K::of::<Iq4Xs>(),
        Format::Mxfp4 => K::of::<Mxfp4>(),
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("float formats are not packed"),
    }
}

/// How codes are multiplied.
pub(super) trait Kernel {
    /// For tiles of 1, 2, 4, 8 and 16 tokens.
    fn of<F: Codes>() -> [TileKernel; 5];

    /// Whether a bias is subtracted from the 8 registers of codes rather than from the sums of each token.
    fn subtracts(tokens: usize) -> bool;

    /// Adds the products of T tokens with one block.
    ///
    /// # Safety
    /// Called from functions with the features; `x` is a block of the panel.
    unsafe fn tokens<F: Codes, const T: usize>(
        w: &Weights,
        x: *const u8,
        total: &mut [float32x4_t; T],
    );
}

/// Dot products of 4 bytes.
pub(super) struct Dotprod;

impl Kernel for Dotprod {
    fn of<F: Codes>() -> [TileKernel; 5] {
        [product::<F, 1>, product::<F, 2>, product::<F, 4>, product::<F, 8>, product::<F, 16>]
    }

    /// Where 8 instructions are less than 2 for each token.
    #[inline(always)]
    fn subtracts(tokens: usize) -> bool {
        tokens > 4
    }

    #[inline(always)]
    unsafe fn tokens<F: Codes, const T: usize>(
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

/// A place in a unit, as one quarter of its rows sees it.
#[derive(Clone, Copy)]
pub(super) struct At {
    pointer: *const u8,
    quarter: usize,
}

impl At {
    #[inline(always)]
    fn add(self, bytes: usize) -> Self {
        Self { pointer: self.pointer.wrapping_add(bytes), ..self }
    }

    /// This quarter of 16 numbers of `size` bytes.
    #[inline(always)]
    fn numbers(self, size: usize) -> *const u8 {
        self.pointer.wrapping_add(4 * size * self.quarter)
    }
}

/// Reads a format's unit. `block` counts blocks of 32 columns within the unit.
pub(super) trait Codes {
    const FORMAT: Format;
    /// Groups with a scale of their own in 32 columns.
    const GROUPS: usize = 1;
    /// The codes' bias is 2 to this power.
    const BIAS: Option<i32> = None;
    /// Whether groups have a minimum: then codes have no bias.
    const MINS: bool = false;

    /// Codes of steps 0 to 7.
    unsafe fn codes(unit: At, block: usize) -> [int8x16_t; 8];
    /// A scale per row and group; with one group the second is not used.
    unsafe fn scales(unit: At, block: usize) -> [float32x4_t; 2];
    /// What is added per row and group.
    unsafe fn mins(_unit: At, _block: usize) -> [float32x4_t; 2] {
        // SAFETY: only a register is cleared.
        unsafe { [vdupq_n_f32(0.0); 2] }
    }
}

/// See [`tile`].
///
/// # Safety
/// The processor has the features; `tile` has `units` units, `panel` is a tile of T tokens with as many columns.
#[target_feature(enable = "neon,dotprod")]
unsafe fn product<F: Codes, const T: usize>(
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
pub(super) unsafe fn tile<K: Kernel, F: Codes, const T: usize>(
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
unsafe fn quarters<K: Kernel, F: Codes, const T: usize, const Q: usize>(
    first: usize,
    (tile, units): (*const u8, usize),
    panel: *const u8,
    out: *mut f32,
) {
    let unit_size = const { unit_of::<F>() };
    let blocks = unit_size.columns / 32;
    // SAFETY: only a register is cleared.
    let mut total = [[unsafe { vdupq_n_f32(0.0) }; T]; Q];
    let mut x = panel;
    for u in 0..units {
        let unit = At { pointer: tile.wrapping_add(u * unit_size.bytes), quarter: first };
        for block in 0..blocks {
            macro_rules! quarters {
                ($($q:literal)*) => { $(if $q < Q {
                    let unit = At { quarter: first + $q, ..unit };
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
unsafe fn block_of<K: Kernel, F: Codes, const T: usize>(
    unit: At,
    block: usize,
    x: *const u8,
    total: &mut [float32x4_t; T],
) {
    // SAFETY: the caller's.
    unsafe {
        let mut weights = Weights {
            codes: F::codes(unit, block),
            scales: F::scales(unit, block),
            mins: F::mins(unit, block),
        };
        if let (Some(shift), true) = (F::BIAS, K::subtracts(T)) {
            let bias = vdupq_n_s8(1 << shift);
            weights.codes = each!(|i| vsubq_s8(weights.codes[i], bias));
        }
        K::tokens::<F, T>(&weights, x, total);
    }
}

const fn unit_of<F: Codes>() -> Unit {
    unit(F::FORMAT).expect("packed formats have units")
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
unsafe fn token<F: Codes, const T: usize>(
    w: &Weights,
    x: *const u8,
    t: usize,
    total: float32x4_t,
) -> float32x4_t {
    // SAFETY: all reads lie in one block of T tokens, t < T; only called from functions with the features.
    unsafe {
        let (high, low, words) = (x.add(32 * t), x.add(32 * (T + t)), x.add(64 * T));
        let zero = vdupq_n_s32(0);
        let sums = if F::GROUPS == 1 {
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
pub(super) unsafe fn scaled<F: Codes, const T: usize>(
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
        if F::GROUPS == 1 {
            let total = vfmaq_f32(total, a, vmulq_f32(w.scales[0], scale));
            if F::MINS {
                return vfmaq_f32(total, w.mins[0], float(words, 4 * (T + t)));
            }
            return total;
        }
        let mut sum = vfmaq_f32(vmulq_f32(a, w.scales[0]), b, w.scales[1]);
        if F::MINS {
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
unsafe fn bias<F: Codes, const T: usize>(x: *const u8, at: usize) -> int32x4_t {
    // SAFETY: the caller's.
    unsafe {
        match F::BIAS {
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
unsafe fn dot<F: Codes, const FIRST: usize>(
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

/// Four bytes of each row.
///
/// # Safety
/// The vector of 64 bytes can be read.
#[inline(always)]
unsafe fn vector(at: At) -> uint8x16_t {
    // SAFETY: the caller's.
    unsafe { vld1q_u8(at.numbers(4)) }
}

/// An f16 of each row.
///
/// # Safety
/// All 16 can be read.
#[inline(always)]
unsafe fn halves(at: At) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe { widen_f16(vld1_u16(at.numbers(2).cast())) }
}

/// A u8 of each row.
///
/// # Safety
/// All 16 can be read.
#[inline(always)]
unsafe fn bytes(at: At) -> uint32x4_t {
    // SAFETY: the caller's.
    unsafe {
        let four = at.numbers(1).cast::<u32>().read_unaligned();
        vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four.into()))))
    }
}

/// A u8 of each row as f32.
///
/// # Safety
/// All 16 can be read.
#[inline(always)]
unsafe fn unsigned(at: At) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe { vcvtq_f32_u32(bytes(at)) }
}

/// An i8 of each row as f32.
///
/// # Safety
/// All 16 can be read.
#[inline(always)]
unsafe fn signed(at: At) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe {
        let four = at.numbers(1).cast::<u32>().read_unaligned();
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four.into())))))
    }
}

/// Bits `shift..` of each byte under `mask`.
///
/// # Safety
/// Called from functions with the features; `shift < 8`.
#[inline(always)]
unsafe fn bits(v: uint8x16_t, shift: usize, mask: u8) -> uint8x16_t {
    // SAFETY: register arithmetic only.
    unsafe {
        #[expect(clippy::cast_possible_truncation, reason = "below 8")]
        let down = vdupq_n_s8(-(shift as i8));
        vandq_u8(vshlq_u8(v, down), vdupq_n_u8(mask))
    }
}

/// The same bytes, signed.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn as_signed(codes: [uint8x16_t; 8]) -> [int8x16_t; 8] {
    // SAFETY: register arithmetic only.
    unsafe { each!(|i| vreinterpretq_s8_u8(codes[i])) }
}

/// A block of 32 nibbles in 4 vectors: low ones are columns 0 to 15.
///
/// # Safety
/// 256 bytes can be read.
#[inline(always)]
unsafe fn near_nibbles(at: At) -> [uint8x16_t; 8] {
    // SAFETY: the caller's.
    unsafe {
        let v = each!([0, 1, 2, 3], |i| vector(at.add(64 * i)));
        each!(|i| if i < 4 { vandq_u8(v[i], vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(v[i - 4]) })
    }
}

/// A block of 32 fields of `mask`, `shift` bits up, in 8 vectors.
///
/// # Safety
/// 512 bytes can be read.
#[inline(always)]
unsafe fn fields(at: At, shift: usize, mask: u8) -> [uint8x16_t; 8] {
    // SAFETY: the caller's.
    unsafe { each!(|i| bits(vector(at.add(64 * i)), shift, mask)) }
}

/// `codes | high << UP`.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn joined<const UP: i32>(codes: [uint8x16_t; 8], high: [uint8x16_t; 8]) -> [uint8x16_t; 8] {
    // SAFETY: register arithmetic only.
    unsafe { each!(|i| vorrq_u8(codes[i], vshlq_n_u8::<UP>(high[i]))) }
}

/// Fifth bits of a block of Q5_0 and Q5_1: bit i of the plane belongs to step i.
///
/// # Safety
/// 64 bytes can be read.
#[inline(always)]
unsafe fn fifth_bits(codes: [uint8x16_t; 8], plane: At) -> [uint8x16_t; 8] {
    // SAFETY: the caller's.
    unsafe {
        let plane = vector(plane);
        joined::<4>(codes, each!(|i| bits(plane, i, 1)))
    }
}

/// Nibbles through a table of 16 values.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn looked_up(codes: [uint8x16_t; 8], values: &[i8; 16]) -> [int8x16_t; 8] {
    // SAFETY: the table has 16 bytes; otherwise register arithmetic.
    unsafe {
        let table = vld1q_s8(values.as_ptr());
        each!(|i| vqtbl1q_s8(table, codes[i]))
    }
}

macro_rules! format {
    ($name:ident { $($consts:tt)* } |$unit:ident, $block:ident| codes $codes:block scales $scales:block $(mins $mins:block)?) => {
        struct $name;
        impl Codes for $name {
            $($consts)*
            #[inline(always)]
            unsafe fn codes($unit: At, $block: usize) -> [int8x16_t; 8] {
                // SAFETY: the caller's: a whole unit can be read; the offsets are those of the unit's layout.
                unsafe { $codes }
            }
            #[inline(always)]
            unsafe fn scales($unit: At, $block: usize) -> [float32x4_t; 2] {
                // SAFETY: as above.
                unsafe { $scales }
            }
            $(
            #[inline(always)]
            unsafe fn mins($unit: At, $block: usize) -> [float32x4_t; 2] {
                // SAFETY: as above.
                unsafe { $mins }
            })?
        }
    };
}

format!(Q4_0 { const FORMAT: Format = Format::Q4_0; const BIAS: Option<i32> = Some(3); } |unit, block|
    codes { as_signed(near_nibbles(unit.add(64 + 256 * block))) }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Iq4Nl { const FORMAT: Format = Format::Iq4Nl; } |unit, block|
    codes { looked_up(near_nibbles(unit.add(64 + 256 * block)), &iq4::VALUES) }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Q4_1 { const FORMAT: Format = Format::Q4_1; const MINS: bool = true; } |unit, block|
    codes { as_signed(near_nibbles(unit.add(128 + 256 * block))) }
    scales { [halves(unit.add(32 * block)); 2] }
    mins { [halves(unit.add(64 + 32 * block)); 2] }
);
format!(Q5_0 { const FORMAT: Format = Format::Q5_0; const BIAS: Option<i32> = Some(4); } |unit, block|
    codes { as_signed(fifth_bits(near_nibbles(unit.add(64 + 256 * block)), unit.add(576 + 64 * block))) }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Q5_1 { const FORMAT: Format = Format::Q5_1; const MINS: bool = true; } |unit, block|
    codes { as_signed(fifth_bits(near_nibbles(unit.add(128 + 256 * block)), unit.add(640 + 64 * block))) }
    scales { [halves(unit.add(32 * block)); 2] }
    mins { [halves(unit.add(64 + 32 * block)); 2] }
);
format!(Q8_0 { const FORMAT: Format = Format::Q8_0; } |unit, block|
    codes {
        let sign = vdupq_n_u8(128);
        as_signed(each!(|i| veorq_u8(vector(unit.add(64 + 512 * block + 64 * i)), sign)))
    }
    scales { [halves(unit.add(32 * block)); 2] }
);
format!(Mxfp4 { const FORMAT: Format = Format::Mxfp4; } |unit, block|
    codes { looked_up(near_nibbles(unit.add(32 + 256 * block)), &mxfp4::VALUES) }
    scales {
        // 2^(e - 128); e below 2 would be subnormal and becomes 0.
        let e = vqsubq_u32(bytes(unit.add(16 * block)), vdupq_n_u32(1));
        [vreinterpretq_f32_u32(vshlq_n_u32::<23>(e)); 2]
    }
);
format!(Q2K {
        const FORMAT: Format = Format::Q2K; const GROUPS: usize = 2; const MINS: bool = true;
    } |unit, block|
    codes { as_signed(fields(unit.add(320 + 512 * (block / 4)), 2 * (block % 4), 3)) }
    scales {
        let d = halves(unit);
        each!([0, 1], |g| {
            let both = bytes(unit.add(64 + 32 * block + 16 * g));
            vmulq_f32(d, vcvtq_f32_u32(vandq_u32(both, vdupq_n_u32(15))))
        })
    }
    mins {
        // The sums in the panel are negative, and so is the minimum's share: both signs cancel in `token`, which subtracts.
        let d = vnegq_f32(halves(unit.add(32)));
        each!([0, 1], |g| {
            let both = bytes(unit.add(64 + 32 * block + 16 * g));
            vmulq_f32(d, vcvtq_f32_u32(vshrq_n_u32::<4>(both)))
        })
    }
);
format!(Q3K {
        const FORMAT: Format = Format::Q3K; const GROUPS: usize = 2; const BIAS: Option<i32> = Some(2);
    } |unit, block|
    codes {
        let low = fields(unit.add(288 + 512 * (block / 4)), 2 * (block % 4), 3);
        as_signed(joined::<2>(low, fields(unit.add(1312), block, 1)))
    }
    scales {
        let d = halves(unit);
        each!([0, 1], |g| vmulq_f32(d, signed(unit.add(32 + 32 * block + 16 * g))))
    }
);
format!(Q4K { const FORMAT: Format = Format::Q4K; const MINS: bool = true; } |unit, block|
    codes { as_signed(fields(unit.add(320 + 512 * (block / 2)), 4 * (block % 2), 15)) }
    scales { [vmulq_f32(halves(unit), unsigned(unit.add(64 + 16 * block))); 2] }
    mins {
        let d = vnegq_f32(halves(unit.add(32)));
        [vmulq_f32(d, unsigned(unit.add(192 + 16 * block))); 2]
    }
);
format!(Q5K { const FORMAT: Format = Format::Q5K; const MINS: bool = true; } |unit, block|
    codes {
        let low = fields(unit.add(320 + 512 * (block / 2)), 4 * (block % 2), 15);
        as_signed(joined::<4>(low, fields(unit.add(2368), block, 1)))
    }
    scales { [vmulq_f32(halves(unit), unsigned(unit.add(64 + 16 * block))); 2] }
    mins {
        let d = vnegq_f32(halves(unit.add(32)));
        [vmulq_f32(d, unsigned(unit.add(192 + 16 * block))); 2]
    }
);
format!(Q6K {
        const FORMAT: Format = Format::Q6K; const GROUPS: usize = 2; const BIAS: Option<i32> = Some(5);
    } |unit, block|
    codes {
        let (half, quarter) = (block / 4, block % 4);
        let low = fields(unit.add(320 + 1024 * half + 512 * (quarter % 2)), 4 * (quarter / 2), 15);
        as_signed(joined::<4>(low, fields(unit.add(2368 + 512 * half), 2 * quarter, 3)))
    }
    scales {
        let d = halves(unit);
        each!([0, 1], |g| vmulq_f32(d, signed(unit.add(64 + 32 * block + 16 * g))))
    }
);
format!(Iq4Xs { const FORMAT: Format = Format::Iq4Xs; } |unit, block|
    codes { looked_up(near_nibbles(unit.add(192 + 256 * block)), &iq4::VALUES) }
    scales { [vmulq_f32(halves(unit), signed(unit.add(64 + 16 * block))); 2] }
);
