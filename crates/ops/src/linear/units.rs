//! Units of packed tiles as kernels read them: where a format's codes, scales and minimums lie (see [`super::pack`]) and how
//! they are put together, once for all families.
//!
//! Codes that a format has signed, through a table or as bytes, become unsigned by a bias that is a power of two where a family
//! wants them unsigned.
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles through raw pointers")]
use super::pack::{Unit, unit};
use crate::format::{Format, iq4, mxfp4};

/// `[f(0), .. f(7)]` or another list of indices: a macro, since a closure would be compiled without the kernel's features.
macro_rules! each {
    (|$i:ident| $value:expr) => { $crate::linear::units::each!([0, 1, 2, 3, 4, 5, 6, 7], |$i| $value) };
    ([$($index:expr),*], |$i:ident| $value:expr) => { [$({ let $i = $index; $value }),*] };
}
pub(super) use each;

/// The registers of a family. Its functions are only called from functions that enable its instructions.
pub(super) trait Registers {
    /// Four codes of each row.
    type Codes: Copy;
    /// A number of each row.
    type Floats: Copy;
    const ROWS: usize;
    /// Signed codes get a bias if they then have at most so many bits.
    const UNSIGNED_BITS: u32;

    /// # Safety
    /// `4 * ROWS` bytes can be read.
    unsafe fn vector(at: *const u8) -> Self::Codes;
    /// The low four bits of each byte, and the high ones.
    #[inline(always)]
    unsafe fn nibbles(v: Self::Codes) -> [Self::Codes; 2] {
        // SAFETY: register arithmetic only.
        unsafe { each!([0, 4], |shift| Self::bits(v, shift, 15)) }
    }
    /// Bits `shift..` of each byte under `mask`; together at most 8.
    unsafe fn bits(v: Self::Codes, shift: usize, mask: u8) -> Self::Codes;
    /// `low | high << up`, without carry from byte to byte.
    unsafe fn joined(low: Self::Codes, high: Self::Codes, up: usize) -> Self::Codes;
    /// Bytes with their highest bit turned.
    unsafe fn turned(v: Self::Codes) -> Self::Codes;
    /// Nibbles through a table.
    unsafe fn looked_up(v: Self::Codes, table: &[i8; 16]) -> Self::Codes;

    /// An f16 of each row.
    ///
    /// # Safety
    /// As many can be read; the same holds for the following.
    unsafe fn halves(at: *const u8) -> Self::Floats;
    /// A u8 of each row.
    unsafe fn unsigned(at: *const u8) -> Self::Floats;
    /// An i8 of each row.
    unsafe fn signed(at: *const u8) -> Self::Floats;
    /// The low four bits of a byte of each row, and the high ones.
    unsafe fn two_numbers(at: *const u8) -> [Self::Floats; 2];
    /// `2^(e - 128)` with a byte of each row as e; below 2 it would be subnormal and becomes 0.
    unsafe fn power(at: *const u8) -> Self::Floats;

    unsafe fn multiply(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    unsafe fn negative(a: Self::Floats) -> Self::Floats;
    unsafe fn zero() -> Self::Floats;
}

/// How far a vector of 16-bit lanes is shifted, as x86 takes it.
///
/// # Safety
/// Below 16; called from functions with a family's features.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "below 16")]
pub(super) unsafe fn count(bits: usize) -> std::arch::x86_64::__m128i {
    // SAFETY: register arithmetic only; SSE2 is part of x86-64.
    unsafe { std::arch::x86_64::_mm_cvtsi32_si128(bits as i32) }
}

/// A format that is packed.
pub(super) trait Packed {
    const FORMAT: Format;
}

pub(super) const fn unit_of<F: Packed>() -> Unit {
    unit(F::FORMAT).expect("packed formats have units")
}

/// Makes something for each packed format.
pub(super) trait PerFormat {
    type Of;
    fn of<F: Packed>() -> Self::Of;
}

macro_rules! packed {
    ($($name:ident)*) => {
        $(struct $name; impl Packed for $name { const FORMAT: Format = Format::$name; })*

        pub(super) fn of_format<K: PerFormat>(format: Format) -> K::Of {
            match format {
                $(Format::$name => K::of::<$name>(),)*
                Format::F32 | Format::F16 | Format::Bf16 => unreachable!("float formats are not packed"),
            }
        }
    };
}
packed!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K Iq4Nl Iq4Xs Mxfp4);

/// Groups with a scale of their own in 32 columns.
pub(super) const fn groups(format: Format) -> usize {
    if matches!(format, Format::Q2K | Format::Q3K | Format::Q6K) { 2 } else { 1 }
}

/// Whether groups have a minimum: then codes have no bias.
pub(super) const fn has_mins(format: Format) -> bool {
    matches!(format, Format::Q4_1 | Format::Q5_1 | Format::Q2K | Format::Q4K | Format::Q5K)
}

/// The codes' bias is 2 to this power.
pub(super) const fn bias<R: Registers>(format: Format) -> Option<i32> {
    match format {
        Format::Q3K => Some(2),
        Format::Q4_0 => Some(3),
        Format::Q5_0 => Some(4),
        Format::Q6K => Some(5),
        Format::Mxfp4 if R::UNSIGNED_BITS >= 5 => Some(4),
        Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs if R::UNSIGNED_BITS >= 8 => Some(7),
        _ => None,
    }
}

/// A place in a unit, as a register sees it that holds some of its rows.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) pointer: *const u8,
    /// Registers of rows before this one.
    pub(super) part: usize,
}

impl At {
    /// As a register sees it that holds all rows.
    #[cfg(target_arch = "x86_64")]
    pub(super) const fn whole(pointer: *const u8) -> Self {
        Self { pointer, part: 0 }
    }

    /// These rows' numbers of `size` bytes each, of those from `offset` on.
    #[inline(always)]
    fn numbers<R: Registers>(self, offset: usize, size: usize) -> *const u8 {
        self.pointer.wrapping_add(offset + size * R::ROWS * self.part)
    }
}

/// As `match F::FORMAT`, without the other arms: the compiler would inline all of them everywhere before it drops them.
macro_rules! match_format {
    ($($pattern:pat => $value:expr,)+) => {
        $(if const { matches!(F::FORMAT, $pattern) } {
            return $value;
        })+
    };
}

/// Codes of steps 0 to 7 of a block of 32 columns of the unit.
///
/// # Safety
/// A whole unit can be read; the block is in it.
#[inline(always)]
pub(super) unsafe fn codes<R: Registers, F: Packed>(unit: At, block: usize) -> [R::Codes; 8] {
    let (half, quarter) = (block / 4, block % 4);
    // SAFETY: the caller's; the offsets are those of the unit's layout.
    unsafe {
        match_format! {
            Format::Q4_0 => near_nibbles::<R>(unit, 64 + 256 * block),
            Format::Q4_1 => near_nibbles::<R>(unit, 128 + 256 * block),
            Format::Q5_0 => {
                let low = near_nibbles::<R>(unit, 64 + 256 * block);
                fifth_bits::<R>(low, R::vector(unit.numbers::<R>(576 + 64 * block, 4)))
            },
            Format::Q5_1 => {
                let low = near_nibbles::<R>(unit, 128 + 256 * block);
                fifth_bits::<R>(low, R::vector(unit.numbers::<R>(640 + 64 * block, 4)))
            },
            Format::Q8_0 => {
                let v = each!(|i| R::vector(unit.numbers::<R>(64 + 512 * block + 64 * i, 4)));
                if bias::<R>(F::FORMAT).is_some() { v } else { each!(|i| R::turned(v[i])) }
            },
            Format::Q2K => fields::<R>(unit, 320 + 512 * half, 2 * quarter, 3),
            Format::Q3K => {
                let low = fields::<R>(unit, 288 + 512 * half, 2 * quarter, 3);
                joined::<R>(low, fields::<R>(unit, 1312, block, 1), 2)
            },
            Format::Q4K => fields::<R>(unit, 320 + 512 * (block / 2), 4 * (block % 2), 15),
            Format::Q5K => {
                let low = fields::<R>(unit, 320 + 512 * (block / 2), 4 * (block % 2), 15);
                joined::<R>(low, fields::<R>(unit, 2368, block, 1), 4)
            },
            Format::Q6K => {
                let at = 320 + 1024 * half + 512 * (quarter % 2);
                let low = fields::<R>(unit, at, 4 * (quarter / 2), 15);
                joined::<R>(low, fields::<R>(unit, 2368 + 512 * half, 2 * quarter, 3), 4)
            },
            Format::Iq4Nl => looked_up::<R, F>(unit, 64 + 256 * block),
            Format::Iq4Xs => looked_up::<R, F>(unit, 192 + 256 * block),
            Format::Mxfp4 => looked_up::<R, F>(unit, 32 + 256 * block),
        }
        unreachable!("float formats are not packed")
    }
}

/// A scale per row and group of a block; with one group the second is not used.
///
/// # Safety
/// As for [`codes`].
#[inline(always)]
pub(super) unsafe fn scales<R: Registers, F: Packed>(unit: At, block: usize) -> [R::Floats; 2] {
    // SAFETY: the caller's; the offsets are those of the unit's layout.
    unsafe {
        let d = R::halves(unit.numbers::<R>(0, 2));
        match_format! {
            Format::Mxfp4 => [R::power(unit.numbers::<R>(16 * block, 1)); 2],
            Format::Q2K => each!([0, 1], |g| {
                R::multiply(d, R::two_numbers(unit.numbers::<R>(64 + 32 * block + 16 * g, 1))[0])
            }),
            Format::Q3K => each!([0, 1], |g| {
                R::multiply(d, R::signed(unit.numbers::<R>(32 + 32 * block + 16 * g, 1)))
            }),
            Format::Q6K => each!([0, 1], |g| {
                R::multiply(d, R::signed(unit.numbers::<R>(64 + 32 * block + 16 * g, 1)))
            }),
            Format::Q4K | Format::Q5K => {
                [R::multiply(d, R::unsigned(unit.numbers::<R>(64 + 16 * block, 1))); 2]
            },
            Format::Iq4Xs => [R::multiply(d, R::signed(unit.numbers::<R>(64 + 16 * block, 1))); 2],
        }
        [R::halves(unit.numbers::<R>(32 * block, 2)); 2]
    }
}

/// What is added per row and group of a block.
///
/// # Safety
/// As for [`codes`].
#[inline(always)]
pub(super) unsafe fn mins<R: Registers, F: Packed>(unit: At, block: usize) -> [R::Floats; 2] {
    // SAFETY: the caller's; the offsets are those of the unit's layout.
    unsafe {
        if const { matches!(F::FORMAT, Format::Q4_1 | Format::Q5_1) } {
            return [R::halves(unit.numbers::<R>(64 + 32 * block, 2)); 2];
        }
        if const { !has_mins(F::FORMAT) } {
            return [R::zero(); 2];
        }
        // The sums in the panel are negative, and so is the minimum's share: both signs cancel.
        let d = R::negative(R::halves(unit.numbers::<R>(32, 2)));
        if const { groups(F::FORMAT) == 1 } {
            return [R::multiply(d, R::unsigned(unit.numbers::<R>(192 + 16 * block, 1))); 2];
        }
        each!([0, 1], |g| {
            R::multiply(d, R::two_numbers(unit.numbers::<R>(64 + 32 * block + 16 * g, 1))[1])
        })
    }
}

/// A block of 32 nibbles in 4 vectors: low ones are columns 0 to 15.
///
/// # Safety
/// The vectors can be read.
#[inline(always)]
unsafe fn near_nibbles<R: Registers>(unit: At, offset: usize) -> [R::Codes; 8] {
    // SAFETY: the caller's.
    unsafe {
        let v =
            each!([0, 1, 2, 3], |i| R::nibbles(R::vector(unit.numbers::<R>(offset + 64 * i, 4))));
        each!(|i| v[i % 4][i / 4])
    }
}

/// A block of 32 fields of `mask`, `shift` bits up, in 8 vectors.
///
/// # Safety
/// The vectors can be read.
#[inline(always)]
unsafe fn fields<R: Registers>(unit: At, offset: usize, shift: usize, mask: u8) -> [R::Codes; 8] {
    // SAFETY: the caller's.
    unsafe { each!(|i| R::bits(R::vector(unit.numbers::<R>(offset + 64 * i, 4)), shift, mask)) }
}

/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn joined<R: Registers>(
    low: [R::Codes; 8],
    high: [R::Codes; 8],
    up: usize,
) -> [R::Codes; 8] {
    // SAFETY: register arithmetic only.
    unsafe { each!(|i| R::joined(low[i], high[i], up)) }
}

/// Fifth bits of a block of Q5_0 and Q5_1: bit i of the plane belongs to step i.
///
/// # Safety
/// Called from functions with the features.
#[inline(always)]
unsafe fn fifth_bits<R: Registers>(low: [R::Codes; 8], plane: R::Codes) -> [R::Codes; 8] {
    // SAFETY: register arithmetic only.
    unsafe { joined::<R>(low, each!(|i| R::bits(plane, i, 1)), 4) }
}

/// Nibbles through a table of signed values, with the format's bias if it has one.
///
/// # Safety
/// The vectors can be read.
#[inline(always)]
unsafe fn looked_up<R: Registers, F: Packed>(unit: At, offset: usize) -> [R::Codes; 8] {
    // SAFETY: the caller's.
    unsafe {
        let codes = near_nibbles::<R>(unit, offset);
        each!(|i| R::looked_up(codes[i], const { &table::<R, F>() }))
    }
}

const fn table<R: Registers, F: Packed>() -> [i8; 16] {
    let mut values = if matches!(F::FORMAT, Format::Mxfp4) { mxfp4::VALUES } else { iq4::VALUES };
    let (mut i, bias) = (0, bias::<R>(F::FORMAT));
    while i < 16 {
        if let Some(shift) = bias {
            values[i] = values[i].wrapping_add((1_u8 << shift).cast_signed());
        }
        i += 1;
    }
    values
}
