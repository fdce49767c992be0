//! Packing with vectors: what [`super::pack`] asks of a family, from one function that turns 16 rows into lanes.
#![expect(unsafe_code, reason = "a CPU kernel: loads and stores vectors")]
use super::pack::{Rows, Spread, TILE_ROWS, Words};
use crate::simd::cache;

/// Rows that become lanes in registers.
pub(super) trait Turn {
    /// Writes 16 bytes of each of 16 rows as 4 vectors of 4 bytes of each, 256 bytes in all.
    ///
    /// # Safety
    /// The bytes can be read and written; called from functions with the family's features.
    unsafe fn turn(rows: *const u8, stride: usize, to: *mut u8);
}

impl<T: Turn> Spread for T {
    #[inline(always)]
    fn spread(from: Rows<'_>, bytes: usize, to: &mut [u8]) {
        from.check(bytes);
        assert!(to.len() >= TILE_ROWS * bytes && bytes.is_multiple_of(16), "whole vectors");
        let (rows, to) = (from.bytes.as_ptr(), to.as_mut_ptr());
        for at in (0..bytes).step_by(16) {
            // SAFETY: 16 bytes from `at` on of each row, and their place, lie in the slices; `pack` of a family calls this from a
            // function with the features.
            unsafe {
                T::turn(rows.wrapping_add(at), from.stride, to.wrapping_add(TILE_ROWS * at));
            }
        }
    }

    #[inline(always)]
    fn words(from: Rows<'_>) -> [Words; 4] {
        from.check(16);
        let mut words = [[0; TILE_ROWS]; 4];
        // SAFETY: 16 bytes of each row can be read, and 256 written; all else as above.
        unsafe { T::turn(from.bytes.as_ptr(), from.stride, words.as_mut_ptr().cast()) };
        words
    }

    /// The rows of a tile are too many streams for a processor's own prefetching: it gets the next tile in one piece.
    #[inline(always)]
    fn expect(rows: &[u8], at: usize, bytes: usize) {
        let next = rows.as_ptr().wrapping_add(rows.len() + at);
        cache::expect_all(next, bytes);
    }
}
