//! Weights as numbers in f32, for products of matrices by [`super::accelerate`].
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles through raw pointers")]
use super::accelerate::TileNumbers;
use super::neon::Neon;
use super::pack::TILE_ROWS;
use super::units::{self, At, Packed, PerFormat, Registers, groups};
use crate::format::Format;
use crate::simd::neon::widen_f16;
use std::arch::aarch64::*;

pub(super) struct Numbers;

impl PerFormat for Numbers {
    type Of = TileNumbers;
    fn of<F: Packed>() -> Self::Of {
        numbers::<F>
    }
}

/// Rows of F16. The compiler makes vectors of the other float formats' [`Format::dequantize`], and calls of this one's.
pub(super) fn halves(file: &[u8], to: &mut [f32]) {
    let (four, rest) = file.as_chunks::<8>();
    let (to_four, to_rest) = to.as_chunks_mut::<4>();
    for (four, to) in four.iter().zip(to_four) {
        // SAFETY: four halves, four numbers.
        unsafe { vst1q_f32(to.as_mut_ptr(), widen_f16(vld1_u16(four.as_ptr().cast()))) };
    }
    Format::F16.dequantize(rest, to_rest);
}

/// See [`TileNumbers`].
///
/// # Safety
/// As there.
unsafe fn numbers<F: Packed>(tile: *const u8, units: usize, to: *mut f32, stride: usize) {
    let unit_size = const { units::unit_of::<F>() };
    for u in 0..units {
        let pointer = tile.wrapping_add(u * unit_size.bytes);
        for block in 0..unit_size.columns / 32 {
            let to = to.wrapping_add((u * unit_size.columns + 32 * block) * stride);
            for part in 0..const { TILE_ROWS / Neon::ROWS } {
                let to = to.wrapping_add(Neon::ROWS * part);
                // SAFETY: the caller says how many units there are, and that there is room for their columns.
                unsafe { quarter::<F>(At { pointer, part }, block, to, stride) };
            }
        }
    }
}

/// Four rows of a block of 32 columns: `code * scale + offset`.
///
/// # Safety
/// As for [`numbers`].
#[inline(always)]
unsafe fn quarter<F: Packed>(unit: At, block: usize, to: *mut f32, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        let codes = units::codes::<Neon, F>(unit, block);
        let scales = units::scales::<Neon, F>(unit, block);
        let offsets = units::mins::<Neon, F>(unit, block);
        let bias = units::bias::<Neon>(F::FORMAT).map_or(0, |shift| 1 << shift);
        for (step, codes) in codes.into_iter().enumerate() {
            let g = step / 4 % groups(F::FORMAT);
            for (i, codes) in columns(vsubq_s8(codes, vdupq_n_s8(bias))).into_iter().enumerate() {
                let number = vfmaq_f32(offsets[g], vcvtq_f32_s32(codes), scales[g]);
                vst1q_f32(to.add((4 * step + i) * stride), number);
            }
        }
    }
}

/// Four columns of four rows: a register for each column.
///
/// # Safety
/// Register arithmetic only.
#[inline(always)]
unsafe fn columns(codes: int8x16_t) -> [int32x4_t; 4] {
    // SAFETY: NEON is part of the baseline.
    unsafe {
        let rows = vreinterpretq_s32_s8(codes);
        [
            vshrq_n_s32::<24>(vshlq_n_s32::<24>(rows)),
            vshrq_n_s32::<24>(vshlq_n_s32::<16>(rows)),
            vshrq_n_s32::<24>(vshlq_n_s32::<8>(rows)),
            vshrq_n_s32::<24>(rows),
        ]
    }
}
