//! Products of F32, F16 and BF16 weights with AVX-512: f32 throughout, rows as in the file.
//!
//! One token: one row at a time, so that a thread reads one stream, with four sums to hide the latency of the
//! multiply-adds. More tokens: blocks of 4 rows by 4 tokens, 16 sums in registers, tokens in chunks that stay in the cache.
#![expect(unsafe_code, reason = "a CPU kernel: reads rows through raw pointers")]
use crate::format::Format;
use std::arch::x86_64::*;

/// Rows of weights as bytes and rows of x, `columns` each.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub(super) weight: &'a [u8],
    pub(super) x: &'a [f32],
    pub(super) columns: usize,
}

/// Calls `emit((token, row), product)` for every pair. The processor must have AVX-512 F, BW and VL, and F16C.
///
/// # Panics
/// When the operands are no whole rows, or `format` is no float format.
pub(super) fn multiply(
    format: Format,
    operands: Operands<'_>,
    emit: &mut impl FnMut((usize, usize), f32),
) {
    // SAFETY: the caller says that the processor has the features.
    unsafe {
        match format {
            Format::F32 => all::<F32>(operands, emit),
            Format::F16 => all::<F16>(operands, emit),
            Format::Bf16 => all::<Bf16>(operands, emit),
            _ => unreachable!("only float formats come here"),
        }
    }
}

trait Load {
    const BYTES: usize;
    /// The numbers under `mask`, 0 elsewhere.
    ///
    /// # Safety
    /// The numbers under `mask` can be read; the processor has the features.
    unsafe fn load(at: *const u8, mask: __mmask16) -> __m512;
}

struct F32;
struct F16;
struct Bf16;

impl Load for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load(at: *const u8, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_maskz_loadu_ps(mask, at.cast()) }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load(at: *const u8, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, at.cast())) }
    }
}

impl Load for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load(at: *const u8, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's.
        unsafe {
            let upper = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(upper))
        }
    }
}

/// x of so many bytes stays in a core's second level cache while all rows pass by.
const X_BYTES_IN_CACHE: usize = 384 << 10;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
fn all<W: Load>(operands: Operands<'_>, emit: &mut impl FnMut((usize, usize), f32)) {
    let Operands { weight, x, columns } = operands;
    let row_bytes = columns * W::BYTES;
    assert!(weight.len().is_multiple_of(row_bytes) && x.len().is_multiple_of(columns));
    let (rows, tokens) = (weight.len() / row_bytes, x.len() / columns);
    let step = if tokens > 1 { 4 } else { 1 };
    let chunk = (X_BYTES_IN_CACHE / (4 * columns)).next_multiple_of(4);
    for first in (0..tokens).step_by(chunk) {
        let last = (first + chunk).min(tokens);
        let mut r = 0;
        while r < rows {
            let height = if rows - r >= step { step } else { 1 };
            for t in (first..last).step_by(4) {
                let mut emit = |token, row, product| emit((t + token, r + row), product);
                let at = Block {
                    weight: weight[r * row_bytes..].as_ptr(),
                    x: x[t * columns..].as_ptr(),
                    columns,
                };
                // SAFETY: `height` rows and as many tokens as the block has follow the pointers.
                unsafe {
                    match (height, last - t) {
                        (1, 1) => block::<W, 1, 1, 4>(at, &mut emit),
                        (1, 2) => block::<W, 1, 2, 1>(at, &mut emit),
                        (1, 3) => block::<W, 1, 3, 1>(at, &mut emit),
                        (1, _) => block::<W, 1, 4, 1>(at, &mut emit),
                        (_, 1) => block::<W, 4, 1, 1>(at, &mut emit),
                        (_, 2) => block::<W, 4, 2, 1>(at, &mut emit),
                        (_, 3) => block::<W, 4, 3, 1>(at, &mut emit),
                        (_, _) => block::<W, 4, 4, 1>(at, &mut emit),
                    }
                }
            }
            r += height;
        }
    }
}

/// Where a block of rows and tokens starts.
#[derive(Clone, Copy)]
struct Block {
    weight: *const u8,
    x: *const f32,
    columns: usize,
}

/// Products of R rows with T tokens, U x 16 columns at a time.
///
/// # Safety
/// R rows and T tokens can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,f16c")]
unsafe fn block<W: Load, const R: usize, const T: usize, const U: usize>(
    at: Block,
    emit: &mut impl FnMut(usize, usize, f32),
) {
    let mut sums = [[[_mm512_setzero_ps(); U]; T]; R];
    let whole = at.columns - at.columns % (16 * U);
    let mut c = 0;
    while c < whole {
        // SAFETY: 16 * U columns are left.
        unsafe { step::<W, R, T, U>(at, c, !0, &mut sums) };
        c += 16 * U;
    }
    while c < at.columns {
        let left = (at.columns - c).min(16);
        let mask = !0_u16 >> (16 - left);
        let mut rest = [[[_mm512_setzero_ps(); 1]; T]; R];
        // SAFETY: `left` columns are left, and no more are read.
        unsafe { step::<W, R, T, 1>(at, c, mask, &mut rest) };
        for r in 0..R {
            for t in 0..T {
                sums[r][t][0] = _mm512_add_ps(sums[r][t][0], rest[r][t][0]);
            }
        }
        c += 16;
    }
    for (r, sums) in sums.iter().enumerate() {
        for (t, sums) in sums.iter().enumerate() {
            let mut sum = sums[0];
            for other in &sums[1..] {
                sum = _mm512_add_ps(sum, *other);
            }
            emit(t, r, _mm512_reduce_add_ps(sum));
        }
    }
}

/// # Safety
/// The numbers under `mask` from column `c` on, U times, can be read; the processor has the features.
#[inline(always)]
unsafe fn step<W: Load, const R: usize, const T: usize, const U: usize>(
    at: Block,
    c: usize,
    mask: __mmask16,
    sums: &mut [[[__m512; U]; T]; R],
) {
    for u in 0..U {
        let c = c + 16 * u;
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's.
            let w = unsafe { W::load(at.weight.add((r * at.columns + c) * W::BYTES), mask) };
            for (t, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's.
                unsafe {
                    let x = _mm512_maskz_loadu_ps(mask, at.x.add(t * at.columns + c));
                    sums[u] = _mm512_fmadd_ps(w, x, sums[u]);
                }
            }
        }
    }
}
