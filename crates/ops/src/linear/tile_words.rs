//! Tiles of weights as 16-bit words, for prompts.
//!
//! Kernels of tiles multiply an activation's two int8 levels with codes of 4 to 8 bits: exact, but each scale of 32 columns costs a
//! product and a sum beside 16 dot products, and so does each minimum. A prompt meets every weight hundreds of times, so here two
//! tiles are unpacked once per chunk of tokens into words with one scale per row and section of 256 columns, `w = scale * word`,
//! |word| <= 4095. That rounds a weight to 1/8190 of its section's largest. Sums of a section's products stay below 2^31: see
//! [`crate::quantize::words`].
//!
//! A block of 64 columns of two unpacked tiles:
//!
//! ```text
//!   32 x { words of a step: tile 0 [64], tile 1 [64] }   scale: 2 x f32 x16   start: 2 x i32 x16
//! ```
//!
//! A step is two columns of 16 rows, in the order that costs unpacking least: of each 4 columns the even ones, then the odd ones
//! (`quantize::words` has the same order). A start is minus the sum of the products of the two columns beside each other in a
//! section, for families whose kernels turn products into sums. Scales and starts are in a section's first block.
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles through raw pointers")]
use super::pack::TILE_ROWS;
use super::tiles::PAIR_BYTES;
use super::units::{At, Packed, Registers, bias, codes, each, groups, mins, scales, unit_of};
use crate::format::Format;
use crate::quantize::words::{BLOCK, SECTION};

/// Largest word of a weight before its three roundings.
pub(super) const WORD_MAX: f32 = 4094.0;
/// A vector of each tile.
pub(super) const BOTH: usize = 2 * 64;
/// Steps of a block.
pub(super) const STEPS: usize = BLOCK / 2;
/// Where scales lie behind the steps, and starts behind those, here and in groups of tokens.
pub(super) const SCALES: usize = STEPS;
pub(super) const STARTS: usize = STEPS + 1;
/// From a step of even columns to that of the odd ones beside them.
pub(super) const ODD: usize = 4;

/// What a family adds to its registers to make words. Codes are two words in each lane of a row.
///
/// # Safety
/// Of all functions: called from functions with the family's features; places are on boundaries of a register's size.
pub(super) trait WordRegisters: Registers {
    /// Whether its kernels want starts.
    const STARTS: bool;

    unsafe fn numbers(x: f32) -> Self::Floats;
    unsafe fn larger_magnitude(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn multiply_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `a / b`, 0 where b is not above 0.
    unsafe fn quotient_or_zero(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Rounds to integers below 2^15, each in both halves of its lane.
    unsafe fn both_halves(x: Self::Floats) -> Self::Codes;
    /// Words, `up` bits up or as many down, under `mask`.
    unsafe fn field(codes: Self::Codes, up: i32, mask: i16) -> Self::Codes;
    /// `offset` and the rounded top half of the product `2 * words * scale`.
    unsafe fn scaled(words: Self::Codes, scale: Self::Codes, offset: Self::Codes) -> Self::Codes;
    /// Adds the products of two words in each lane to a sum of 32 bits.
    unsafe fn add_products(sum: Self::Codes, a: Self::Codes, b: Self::Codes) -> Self::Codes;
    unsafe fn negative_integers(x: Self::Codes) -> Self::Codes;
    /// Zeros.
    unsafe fn integers() -> Self::Codes;
    unsafe fn store(x: Self::Codes, to: *mut u8);
    unsafe fn store_numbers(x: Self::Floats, to: *mut u8);
}

/// Unpacks a tile as tile `which` of a pair.
///
/// # Safety
/// Called from functions with the family's features; `tile` has `units` units, `to` room for as many columns of a pair, on a
/// boundary of 64 bytes.
#[inline(always)]
pub(super) unsafe fn unpack<R: WordRegisters, F: Packed>(
    tile: *const u8,
    units: usize,
    which: usize,
    to: *mut u8,
) {
    let of_a_unit = const { blocks_of_a_unit::<F>() };
    let blocks = units * of_a_unit;
    for first in (0..blocks).step_by(SECTION) {
        let pointer = tile.wrapping_add(first / of_a_unit * const { unit_of::<F>() }.bytes);
        let to = to.wrapping_add(first * PAIR_BYTES + 64 * which);
        for part in 0..const { TILE_ROWS / R::ROWS } {
            let (unit, to) = (At { pointer, part }, to.wrapping_add(4 * R::ROWS * part));
            // SAFETY: the caller says how many units there are, and that blocks have room.
            unsafe { unpack_section::<R, F>(unit, SECTION.min(blocks - first), to) };
        }
    }
}

/// Blocks of 64 columns of a unit.
const fn blocks_of_a_unit<F: Packed>() -> usize {
    let blocks = unit_of::<F>().columns / BLOCK;
    assert!(blocks == 1 || blocks == SECTION, "a section begins with a unit");
    blocks
}

/// Unpacks the blocks of a section, which begins with this unit.
///
/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn unpack_section<R: WordRegisters, F: Packed>(unit: At, blocks: usize, to: *mut u8) {
    // The unit that 32 columns of the section are in, and where there.
    let place = |half: usize| {
        let of_a_unit = const { 2 * blocks_of_a_unit::<F>() };
        let at = half / of_a_unit * const { unit_of::<F>() }.bytes;
        (At { pointer: unit.pointer.wrapping_add(at), ..unit }, half % of_a_unit)
    };
    // SAFETY: the caller's.
    unsafe {
        let mut of_all = R::numbers(0.0);
        for (unit, block) in (0..2 * blocks).map(place) {
            let scales = scales::<R, F>(unit, block);
            let offsets = offsets::<R, F>(unit, block, scales);
            of_all = R::larger_magnitude(of_all, largest::<R, F>(scales, offsets));
        }
        let inverse = R::quotient_or_zero(R::numbers(WORD_MAX), of_all);
        let scale = R::multiply(of_all, R::numbers(1.0 / WORD_MAX));
        R::store_numbers(scale, to.add(SCALES * BOTH));
        let mut products = R::integers();
        for i in 0..2 * blocks {
            let (unit, block) = place(i);
            let scales = scales::<R, F>(unit, block);
            let offsets = offsets::<R, F>(unit, block, scales);
            let to = to.add(i / 2 * PAIR_BYTES + i % 2 * (STEPS / 2 * BOTH));
            let codes = codes::<R, F>(unit, block);
            products = half::<R, F>(codes, scales, offsets, inverse, (to, products));
        }
        if const { R::STARTS } {
            R::store(R::negative_integers(products), to.add(STARTS * BOTH));
        }
    }
}

/// What codes of 0 stand for, per group.
///
/// # Safety
/// As for [`unpack`].
#[inline(always)]
unsafe fn offsets<R: WordRegisters, F: Packed>(
    unit: At,
    block: usize,
    scales: [R::Floats; 2],
) -> [R::Floats; 2] {
    // SAFETY: the caller's.
    unsafe {
        match bias::<R>(F::FORMAT) {
            None => mins::<R, F>(unit, block),
            Some(bias) => {
                let bias = R::numbers(-((1 << bias) as f32));
                [R::multiply(scales[0], bias), R::multiply(scales[1], bias)]
            }
        }
    }
}

/// Bits of a code.
const fn bits(format: Format) -> i32 {
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
/// As for [`unpack`].
#[inline(always)]
unsafe fn largest<R: WordRegisters, F: Packed>(
    scales: [R::Floats; 2],
    offsets: [R::Floats; 2],
) -> R::Floats {
    // SAFETY: register arithmetic only.
    unsafe {
        let code = R::numbers(((1 << bits(F::FORMAT)) - 1) as f32);
        let bound = each!([0, 1], |g| {
            R::larger_magnitude(offsets[g], R::multiply_add(scales[g], code, offsets[g]))
        });
        R::larger_magnitude(bound[0], bound[groups(F::FORMAT) - 1])
    }
}

/// Unpacks 32 columns: `word = code * scale + offset` in fixed point. A code goes to the top of 15 bits, and is multiplied with
/// the scale in units of 2^-BITS.
///
/// # Safety
/// `to` has room for 16 steps of a pair; called from functions with the features.
#[inline(always)]
unsafe fn half<R: WordRegisters, F: Packed>(
    codes: [R::Codes; 8],
    scales: [R::Floats; 2],
    offsets: [R::Floats; 2],
    inverse: R::Floats,
    (to, mut products): (*mut u8, R::Codes),
) -> R::Codes {
    // SAFETY: the caller's.
    unsafe {
        let bits = const { bits(F::FORMAT) };
        let unit = R::multiply(inverse, R::numbers((1 << bits) as f32));
        let scales = each!([0, 1], |g| R::both_halves(R::multiply(scales[g], unit)));
        let offsets = each!([0, 1], |g| R::both_halves(R::multiply(offsets[g], inverse)));
        let mask = ((1 << bits) - 1) << (15 - bits);
        for (i, codes) in codes.into_iter().enumerate() {
            let g = i / 4 % groups(F::FORMAT);
            // Of four codes the even ones begin at the bottom of a word, the odd ones 8 bits further up.
            let words = each!([15 - bits, 7 - bits], |up| {
                R::scaled(R::field(codes, up, mask), scales[g], offsets[g])
            });
            let even_step = 8 * (i / 4) + i % 4;
            R::store(words[0], to.add(BOTH * even_step));
            R::store(words[1], to.add(BOTH * (even_step + ODD)));
            if const { R::STARTS } {
                products = R::add_products(products, words[0], words[1]);
            }
        }
        products
    }
}
