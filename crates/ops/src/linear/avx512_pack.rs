//! Packing tiles with AVX-512: see [`super::pack`]. Rows become lanes in registers, at some ten bytes a cycle.
#![expect(unsafe_code, reason = "a CPU kernel: loads and stores vectors")]
use super::pack::{Rows, Spread, TILE_ROWS, pack_with};
use crate::format::Format;
use std::arch::x86_64::*;

struct Turned;

/// Packs 16 rows; their lengths are right.
pub(super) fn pack(format: Format, rows: &[u8], tile: &mut [u8]) {
    // SAFETY: only families that the processor has are recorded.
    unsafe { with_features(format, rows, tile) };
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn with_features(format: Format, rows: &[u8], tile: &mut [u8]) {
    pack_with::<Turned>(format, rows, tile);
}

impl Spread for Turned {
    #[inline(always)]
    fn spread(from: Rows<'_>, bytes: usize, to: &mut [u8]) {
        check(from, bytes);
        assert!(to.len() >= TILE_ROWS * bytes && bytes.is_multiple_of(16), "whole vectors");
        for at in (0..bytes).step_by(16) {
            // SAFETY: 16 bytes from `at` on of each row, and their place, lie in the slices; this is called from a function with
            // the features.
            unsafe {
                let vectors = turned(from.bytes.as_ptr().wrapping_add(at), from.stride);
                to.as_mut_ptr()
                    .wrapping_add(TILE_ROWS * at)
                    .cast::<[__m512i; 4]>()
                    .write_unaligned(vectors);
            }
        }
    }

    #[inline(always)]
    fn words(from: Rows<'_>) -> [[u32; TILE_ROWS]; 4] {
        check(from, 16);
        // SAFETY: 16 bytes of each row can be read; vectors are plain bytes.
        unsafe { std::mem::transmute(turned(from.bytes.as_ptr(), from.stride)) }
    }

    /// The rows of a tile are too many streams for the processor's own prefetching: it gets the next tile in one piece.
    #[inline(always)]
    fn expect(rows: &[u8], at: usize, bytes: usize) {
        let next = rows.as_ptr().wrapping_add(rows.len() + at);
        for line in (0..bytes).step_by(64) {
            // SAFETY: prefetching past the end does nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(line).cast()) };
        }
    }
}

#[inline(always)]
fn check(from: Rows<'_>, bytes: usize) {
    assert!(from.bytes.len() >= (TILE_ROWS - 1) * from.stride + bytes, "rows are whole");
}

/// 16 bytes of each of 16 rows as 4 vectors of 4 bytes of each.
///
/// # Safety
/// The bytes can be read; called from functions with the features.
#[inline(always)]
unsafe fn turned(rows: *const u8, stride: usize) -> [__m512i; 4] {
    // SAFETY: the caller's.
    unsafe {
        // Rows i, i + 4, i + 8 and i + 12.
        macro_rules! four {
            ($i:literal) => {{
                let row = rows.wrapping_add($i * stride);
                let (a, b) = (row, row.wrapping_add(4 * stride));
                let (c, d) = (row.wrapping_add(8 * stride), row.wrapping_add(12 * stride));
                let low = _mm256_loadu2_m128i(b.cast(), a.cast());
                let high = _mm256_loadu2_m128i(d.cast(), c.cast());
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
            }};
        }
        let [a, b, c, d] = [four!(0), four!(1), four!(2), four!(3)];
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}
