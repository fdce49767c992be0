//! Packing tiles with AVX2: see [`super::pack`]. Eight rows at a time.
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
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn with_features(format: Format, rows: &[u8], tile: &mut [u8]) {
    pack_with::<Lanes>(format, rows, tile);
}

impl Turn for Lanes {
    #[inline(always)]
    unsafe fn turn(rows: *const u8, stride: usize, to: *mut u8) {
        for half in 0..2 {
            // SAFETY: the caller's.
            unsafe {
                let rows = rows.wrapping_add(8 * half * stride);
                // Rows i and i + 4 of these eight.
                macro_rules! two {
                    ($i:literal) => {{
                        let row = rows.wrapping_add($i * stride);
                        _mm256_loadu2_m128i(row.wrapping_add(4 * stride).cast(), row.cast())
                    }};
                }
                let [a, b, c, d] = [two!(0), two!(1), two!(2), two!(3)];
                let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
                let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
                let vectors = [
                    _mm256_unpacklo_epi64(ab, cd),
                    _mm256_unpackhi_epi64(ab, cd),
                    _mm256_unpacklo_epi64(ab_high, cd_high),
                    _mm256_unpackhi_epi64(ab_high, cd_high),
                ];
                for (i, vector) in vectors.into_iter().enumerate() {
                    _mm256_storeu_si256(to.wrapping_add(64 * i + 32 * half).cast(), vector);
                }
            }
        }
    }
}
