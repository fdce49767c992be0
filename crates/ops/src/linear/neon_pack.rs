//! Packing tiles with NEON: see [`super::pack`]. Four rows at a time.
#![expect(unsafe_code, reason = "a CPU kernel: loads and stores vectors")]
use super::pack::{TILE_ROWS, pack_with};
use super::turn::Turn;
use crate::format::Format;
use std::arch::aarch64::*;

struct Lanes;

/// Packs 16 rows; their lengths are right.
pub(super) fn pack(format: Format, rows: &[u8], tile: &mut [u8]) {
    pack_with::<Lanes>(format, rows, tile);
}

impl Turn for Lanes {
    #[inline(always)]
    unsafe fn turn(rows: *const u8, stride: usize, to: *mut u8) {
        for four in 0..TILE_ROWS / 4 {
            // SAFETY: the caller's; every processor of this architecture has NEON.
            unsafe {
                let row = |i: usize| vld1q_u32(rows.wrapping_add((4 * four + i) * stride).cast());
                let (ac, bd) = (vzipq_u32(row(0), row(2)), vzipq_u32(row(1), row(3)));
                let (low, high) = (vzipq_u32(ac.0, bd.0), vzipq_u32(ac.1, bd.1));
                for (i, vector) in [low.0, low.1, high.0, high.1].into_iter().enumerate() {
                    vst1q_u32(to.wrapping_add(64 * i + 16 * four).cast(), vector);
                }
            }
        }
    }
}
