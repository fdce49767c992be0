//! Products of F32, F16 and BF16 weights: f32 throughout, rows as in the file.
//!
//! Tokens that continue an answer: one row at a time, so that a thread reads one stream, with several sums to hide the latency
//! of the multiply-adds; long rows in fours, since each reads all of x, which then no longer comes from the first level cache
//! and delays the loads of weights from memory. Prompts: blocks of rows by tokens whose sums stay in registers, tokens in
//! chunks that stay in the cache.
//! Either way a product is summed in an order that does not depend on how many tokens there are.
//! The loop is written once, over [`Vector`]; a family compiles it with its instructions and the block that fits its registers.
#![expect(unsafe_code, reason = "a CPU kernel: reads rows through raw pointers")]
use crate::format::Format;
use crate::simd::{Family, Vector, cache};

/// Rows of weights as bytes and rows of x, `columns` each; `row` has room for one row of numbers.
pub(super) struct Operands<'a> {
    /// Whether the tokens are a prompt's.
    pub(super) prompt: bool,
    pub(super) format: Format,
    pub(super) weight: &'a [u8],
    pub(super) x: &'a [f32],
    pub(super) columns: usize,
    pub(super) row: &'a mut [f32],
}

/// Calls `emit((token, row), product)` for every pair.
///
/// # Panics
/// When the operands are no whole rows, or `format` is no float format.
pub(super) fn multiply(
    family: Family,
    operands: Operands<'_>,
    emit: &mut impl FnMut((usize, usize), f32),
) {
    // SAFETY: a family is only chosen where the processor has its instructions.
    unsafe {
        match family.instructions() {
            #[cfg(target_arch = "x86_64")]
            Family::Avx512Vnni => all::<Avx512, 4, 4, 4>(operands, emit),
            // 16 registers hold 8 sums, 4 rows, 2 tokens.
            #[cfg(target_arch = "x86_64")]
            Family::Avx2 => all::<Avx2, 4, 2, 2>(operands, emit),
            #[cfg(target_arch = "aarch64")]
            Family::NeonDotprod | Family::NeonI8mm => all::<Neon, 4, 4, 4>(operands, emit),
            _ => portable(operands, emit),
        }
    }
}

/// Compiles [`block`] with a family's instructions.
trait Compiled {
    /// # Safety
    /// As [`block`]; the processor has the family's instructions.
    unsafe fn block<W: Load, const R: usize, const T: usize, const U: usize>(
        at: Block,
        emit: &mut impl FnMut(usize, usize, f32),
    );
}

macro_rules! compiled {
    ($name:ident, $vector:ty, $features:literal) => {
        struct $name;
        impl Compiled for $name {
            #[target_feature(enable = $features)]
            unsafe fn block<W: Load, const R: usize, const T: usize, const U: usize>(
                at: Block,
                emit: &mut impl FnMut(usize, usize, f32),
            ) {
                // SAFETY: the caller's.
                unsafe { block::<$vector, W, R, T, U>(at, emit) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
compiled!(Avx512, std::arch::x86_64::__m512, "avx512f,avx512bw,avx512vl,f16c");
#[cfg(target_arch = "x86_64")]
compiled!(Avx2, std::arch::x86_64::__m256, "avx2,fma,f16c");
#[cfg(target_arch = "aarch64")]
compiled!(Neon, std::arch::aarch64::float32x4_t, "neon");

fn portable(operands: Operands<'_>, emit: &mut impl FnMut((usize, usize), f32)) {
    let Operands { format, weight, x, columns, row, .. } = operands;
    let row_bytes = format.row_bytes(columns).expect("float formats have rows of any length");
    for (r, bytes) in weight.chunks_exact(row_bytes).enumerate() {
        format.dequantize(bytes, row);
        for (t, x) in x.chunks_exact(columns).enumerate() {
            emit((t, r), dot(row, x));
        }
    }
}

fn dot(w: &[f32], x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let ((w, w_rest), (x, x_rest)) = (w.as_chunks::<16>(), x.as_chunks::<16>());
    for (w, x) in w.iter().zip(x) {
        for ((lane, w), x) in lanes.iter_mut().zip(w).zip(x) {
            *lane += w * x;
        }
    }
    let rest: f32 = w_rest.iter().zip(x_rest).map(|(w, x)| w * x).sum();
    lanes.iter().sum::<f32>() + rest
}

/// So far ahead of a row that continues an answer memory is asked for: a processor's own prefetching stops at every page.
const AHEAD_BYTES: usize = 4096;

/// How a format's numbers are read.
trait Load {
    const BYTES: usize;
    /// # Safety
    /// As many numbers as V has lanes can be read.
    unsafe fn load<V: Vector>(at: *const u8) -> V;
}

struct F32;
struct F16;
struct Bf16;

impl Load for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<V: Vector>(at: *const u8) -> V {
        // SAFETY: the caller's.
        unsafe { V::load(at.cast()) }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Vector>(at: *const u8) -> V {
        // SAFETY: the caller's.
        unsafe { V::widen_f16(at.cast()) }
    }
}

impl Load for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<V: Vector>(at: *const u8) -> V {
        // SAFETY: the caller's.
        unsafe { V::widen_bf16(at.cast()) }
    }
}

/// x of so many bytes stays in a core's second level cache while all rows pass by.
const X_BYTES_IN_CACHE: usize = 384 << 10;

/// x of so many bytes stays in a core's first level cache, beside the rows that pass by: half of 32 KiB.
const X_BYTES_IN_FIRST_CACHE: usize = 16 << 10;

/// Blocks of R rows by T tokens in prompts; U sums for each product otherwise.
///
/// # Safety
/// The processor has the instructions of K.
unsafe fn all<K: Compiled, const R: usize, const T: usize, const U: usize>(
    operands: Operands<'_>,
    emit: &mut impl FnMut((usize, usize), f32),
) {
    // SAFETY: the caller's.
    unsafe {
        match operands.format {
            Format::F32 => rows::<K, F32, R, T, U>(operands, emit),
            Format::F16 => rows::<K, F16, R, T, U>(operands, emit),
            Format::Bf16 => rows::<K, Bf16, R, T, U>(operands, emit),
            _ => unreachable!("only float formats come here"),
        }
    }
}

/// # Safety
/// The processor has the instructions of K.
unsafe fn rows<K: Compiled, W: Load, const R: usize, const T: usize, const U: usize>(
    Operands { prompt, weight, x, columns, .. }: Operands<'_>,
    emit: &mut impl FnMut((usize, usize), f32),
) {
    const { assert!(T <= 4, "an arm for each number of tokens") };
    let row_bytes = columns * W::BYTES;
    assert!(weight.len().is_multiple_of(row_bytes) && x.len().is_multiple_of(columns));
    let (rows, tokens) = (weight.len() / row_bytes, x.len() / columns);
    let (step, width) = match prompt {
        true => (R, T),
        false if 4 * columns > X_BYTES_IN_FIRST_CACHE => (R, 1),
        false => (1, 2),
    };
    let chunk = (X_BYTES_IN_CACHE / (4 * columns)).max(1).next_multiple_of(width);
    for first in (0..tokens).step_by(chunk) {
        let last = (first + chunk).min(tokens);
        let mut r = 0;
        while r < rows {
            let height = if rows - r >= step { step } else { 1 };
            for t in (first..last).step_by(width) {
                let mut emit = |row, token, product| emit((t + token, r + row), product);
                let at = Block {
                    weight: weight[r * row_bytes..].as_ptr(),
                    x: x[t * columns..].as_ptr(),
                    columns,
                };
                // SAFETY: `height` rows and as many tokens as the block has follow the pointers; the caller's.
                unsafe {
                    match (height, (last - t).min(width)) {
                        (1, 1) if !prompt => K::block::<W, 1, 1, U>(at, &mut emit),
                        (1, _) if !prompt => K::block::<W, 1, 2, U>(at, &mut emit),
                        (_, 1) if !prompt => K::block::<W, R, 1, U>(at, &mut emit),
                        (1, 1) => K::block::<W, 1, 1, 1>(at, &mut emit),
                        (1, 2) => K::block::<W, 1, 2, 1>(at, &mut emit),
                        (1, 3) => K::block::<W, 1, 3, 1>(at, &mut emit),
                        (1, _) => K::block::<W, 1, T, 1>(at, &mut emit),
                        (_, 1) => K::block::<W, R, 1, 1>(at, &mut emit),
                        (_, 2) => K::block::<W, R, 2, 1>(at, &mut emit),
                        (_, 3) => K::block::<W, R, 3, 1>(at, &mut emit),
                        (_, _) => K::block::<W, R, T, 1>(at, &mut emit),
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

/// Products of R rows with T tokens, U registers of columns at a time: calls `emit(row, token, product)`.
///
/// # Safety
/// R rows and T tokens can be read.
#[inline(always)]
unsafe fn block<V: Vector, W: Load, const R: usize, const T: usize, const U: usize>(
    at: Block,
    emit: &mut impl FnMut(usize, usize, f32),
) {
    let mut sums = [[[V::zero(); T]; R]; U];
    let mut c = 0;
    let whole = at.columns - at.columns % (V::LANES * U);
    while c < whole {
        if U > 1 {
            for r in 0..R {
                let weight = at.weight.wrapping_add((r * at.columns + c) * W::BYTES);
                cache::expect_all(weight.wrapping_add(AHEAD_BYTES), V::LANES * U * W::BYTES);
            }
        }
        for (u, sums) in sums.iter_mut().enumerate() {
            // SAFETY: U registers of columns are left.
            unsafe { step::<V, W, R, T>(at, c + V::LANES * u, V::LANES, sums) };
        }
        c += V::LANES * U;
    }
    if U > 1 {
        while at.columns - c >= V::LANES {
            // SAFETY: a register of columns is left.
            unsafe { step::<V, W, R, T>(at, c, V::LANES, &mut sums[0]) };
            c += V::LANES;
        }
    }
    if c < at.columns {
        // SAFETY: so many columns are left.
        unsafe { step::<V, W, R, T>(at, c, at.columns - c, &mut sums[0]) };
    }
    let (first, others) = sums.split_first().expect("at least one");
    for (r, sums) in first.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            let sum = others.iter().fold(*sum, |sum, other| sum.add(other[r][t]));
            emit(r, t, sum.total());
        }
    }
}

/// Adds the products of `count` columns from column `c` on.
///
/// # Safety
/// R rows and T tokens can be read, up to these columns.
#[inline(always)]
unsafe fn step<V: Vector, W: Load, const R: usize, const T: usize>(
    at: Block,
    c: usize,
    count: usize,
    sums: &mut [[V; T]; R],
) {
    for (r, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's.
        let w: V = unsafe { load::<V, W>(at.weight.add((r * at.columns + c) * W::BYTES), count) };
        for (t, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's.
            let x = unsafe { load::<V, F32>(at.x.add(t * at.columns + c).cast(), count) };
            *sum = w.mul_add(x, *sum);
        }
    }
}

/// `count` numbers, and zeros in lanes past them.
///
/// # Safety
/// They can be read.
#[inline(always)]
unsafe fn load<V: Vector, W: Load>(at: *const u8, count: usize) -> V {
    // SAFETY: the caller's; a register has at most 64 bytes.
    unsafe {
        if count >= V::LANES { W::load(at) } else { W::load(padded(at, count * W::BYTES).as_ptr()) }
    }
}

/// Not inlined: copies among the multiply-adds make the compiler spill sums in the loop before them.
///
/// # Safety
/// So many bytes can be read, at most 64.
#[cold]
#[inline(never)]
unsafe fn padded(at: *const u8, bytes: usize) -> [u8; 64] {
    let mut all = [0; 64];
    // SAFETY: the caller's.
    unsafe { at.copy_to_nonoverlapping(all.as_mut_ptr(), bytes) };
    all
}
