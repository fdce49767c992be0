//! Packing tiles with AVX-512: see [`super::pack`]. Some ten bytes a cycle.
#![expect(unsafe_code, reason = "a CPU kernel: loads and stores vectors")]
use super::pack::pack_with;
use super::turn::Turn;
use crate::format::Format;
use std::arch::x86_64::*;

struct Lanes;

/// Packs 16 rows; their lengths are right.
pub(super) fn pack(format: Format, rows: &[u8], tile: &mut [u8]) {
    // SAFETY: only families that the processor has are recorded.
    unsafe { with_features(format, rows, tile) };
}

/// # Safety
/// The processor has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn with_features(format: Format, rows: &[u8], tile: &mut [u8]) {
    pack_with::<Lanes>(format, rows, tile);
}

impl Turn for Lanes {
    #[inline(always)]
    unsafe fn turn(rows: *const u8, stride: usize, to: *mut u8) {
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
            let vectors = [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ];
            to.cast::<[__m512i; 4]>().write_unaligned(vectors);
        }
    }
}
