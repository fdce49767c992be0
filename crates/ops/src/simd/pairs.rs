//! Sums of products of 16-bit words with sums in the place of half of the products.
//!
//! Winograd ("A New Algorithm for Inner Product", IEEE Transactions on Computers C-17, 1968): of two products
//!
//! ```text
//!   x0 w0 + x1 w1 = (x0 + w1) (x1 + w0) - x0 x1 - w0 w1
//! ```
//!
//! the last two terms belong to one side alone, so they are computed once for all that it meets, and a sum of products starts with
//! them. Words must leave room for their sums: |x| + |w| < 2^15. Sums of products need not fit in 32 bits: they wrap, and where
//! what comes out fits it is the same integer as without the trick.
//!
//! A core of AMD's Zen 4 multiplies on two of its four 256-bit ports and adds on all of them, so three instructions for what took
//! two run in three quarters of the time: 157 instead of 118 products per nanosecond, where 118 is the limit of `vpdpwssd`.
//! Where all 512-bit ports multiply, as in Intel's servers, it would cost time: [`pay`] finds out.
#![expect(unsafe_code, reason = "calls functions that need features of the processor")]
use std::arch::x86_64::*;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Adds `x[0] w[0] + x[1] w[1]`, two words in each lane, to a sum. With PAIRS the sum must have started at minus
/// `x[0] x[1] + w[0] w[1]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) fn add_products<const PAIRS: bool>(
    sum: __m512i,
    x: [__m512i; 2],
    w: [__m512i; 2],
) -> __m512i {
    if PAIRS {
        _mm512_dpwssd_epi32(sum, _mm512_add_epi16(x[0], w[1]), _mm512_add_epi16(x[1], w[0]))
    } else {
        _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(sum, x[0], w[0]), x[1], w[1])
    }
}

/// Runs of each way before one is chosen, of a microsecond or two.
const RACES: usize = 16;

/// Whether pairs are the faster way on this processor. Both ways, which give the same integers, are run when first asked.
///
/// # Safety
/// The processor has AVX-512 F, BW and VNNI.
pub(crate) unsafe fn pay() -> bool {
    static PAY: OnceLock<bool> = OnceLock::new();
    *PAY.get_or_init(|| {
        let mut times = [Duration::MAX; 2];
        for _ in 0..RACES {
            // SAFETY: the caller's.
            let both = unsafe { [time::<true>(), time::<false>()] };
            times = [times[0].min(both[0]), times[1].min(both[1])];
        }
        times[0] <= times[1]
    })
}

/// As many products as fit in registers beside each other, as the kernels have them: 4 by 2.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn time<const PAIRS: bool>() -> Duration {
    let start = Instant::now();
    let (x, w) = ([[_mm512_setzero_si512(); 2]; 4], [[_mm512_setzero_si512(); 2]; 2]);
    let mut sums = [[_mm512_setzero_si512(); 2]; 4];
    for _ in 0..256 {
        // Read again each time, as a kernel would: sums of what stays the same would leave the loop.
        let (x, w) = (black_box(&x), black_box(&w));
        for (sums, x) in sums.iter_mut().zip(x) {
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = add_products::<PAIRS>(*sum, *x, *w);
            }
        }
    }
    black_box(sums);
    start.elapsed()
}
