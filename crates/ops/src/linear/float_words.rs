//! Prompts with F16 and BF16 weights as words (see [`crate::quantize::words`]): twice the products per instruction that f32
//! allows, and more where sums replace products (`avx512_words`). A weight is rounded to 1/8188 of the largest of its
//! section of 256 columns in the row.
//!
//! Rows that continue an answer stay in f32: [`super::cpu`]. Those of prompts go the way of packed tiles, since 16 rows as in the
//! file are a tile of their own kind.
#![expect(unsafe_code, reason = "a CPU kernel: reads shared spans")]
use super::pack::TILE_ROWS;
use super::{Args, cpu, tiles};
use crate::Weight;
use crate::format::Format;
use crate::quantize::panel::Rows;
use crate::quantize::words;
use crate::simd::Family;
use hal::cpu::HostLaunch;

/// Whether a family unpacks rows as in the file.
pub(crate) const fn has_kernels(family: Family) -> bool {
    matches!(family, Family::Avx512Vnni)
}

/// Whether a family can multiply a matrix here.
pub(crate) fn fits(family: Family, weight: &Weight) -> bool {
    has_kernels(family)
        && matches!(weight.format, Format::F16 | Format::Bf16)
        && (weight.rows as usize).is_multiple_of(TILE_ROWS)
        && (weight.columns as usize).is_multiple_of(words::BLOCK)
}

pub(super) fn multiply(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    // SAFETY: spans 0 to 2 are only read by this launch.
    let (counts, x) = unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(1)) };
    // SAFETY: as above.
    let panel = unsafe { launch.slice::<u8>(2) };
    let rows = Rows::in_panel(Family::from_code(args.family), counts, args.count_index);
    let exact = Rows { all: rows.exact, ..rows };
    cpu::multiply_rows(launch, &args, (x, exact), 3);
    tiles::prompts(launch, &args, (rows, panel), 3);
}
