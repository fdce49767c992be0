//! Products for prompts with AVX-512 VNNI: weights and activations as 16-bit words, two tiles of weights at a time.
//!
//! `vpdpwssd` does as many products per instruction with words as two levels of bytes take from `vpdpbusd`, with nothing but one
//! conversion and two products beside 32 dot products of a block: see [`super::tile_words`].
//!
//! One broadcast of an activation feeds two tiles (32 rows) and each load of weights four tokens: three loads for four dot
//! products, which the load ports can bear.
//!
//! Half of the products become sums where that pays: see [`pairs`]. The two columns of a product are an even one and the odd one
//! beside it, which lie in steps of their own.
#![expect(unsafe_code, reason = "a CPU kernel: streams tiles and panels through raw pointers")]
use super::avx512::{Avx512, float, word};
use super::pack::TILE_ROWS;
use super::tile_words::{self, BOTH, ODD, SCALES, STARTS, STEPS, WORD_MAX, WordRegisters};
use super::tiles::{PAIR_BYTES, PromptKernels};
use super::units::{Packed, each};
use crate::format::Format;
use crate::quantize::words::{BLOCK, BLOCK_BYTES, SECTION, TOKENS};
use crate::simd::{cache, pairs};
use std::arch::x86_64::*;

pub(super) fn kernels<F: Packed>() -> PromptKernels {
    // SAFETY: kernels are only asked for where the processor has the features.
    PromptKernels { unpack: unpack::<F>, multiply: unsafe { fastest() } }
}

/// As [`tile_words::unpack`].
///
/// # Safety
/// The processor has the features; the rest as there.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack<F: Packed>(tile: *const u8, units: usize, which: usize, to: *mut u8) {
    // SAFETY: the caller's.
    unsafe { tile_words::unpack::<Avx512, F>(tile, units, which, to) }
}

impl WordRegisters for Avx512 {
    const STARTS: bool = true;

    #[inline(always)]
    unsafe fn numbers(x: f32) -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn larger_magnitude(a: __m512, b: __m512) -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)) }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn quotient_or_zero(a: __m512, b: __m512) -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe {
            let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(b, _mm512_setzero_ps());
            _mm512_maskz_div_ps(some, a, b)
        }
    }
    #[inline(always)]
    unsafe fn both_halves(x: __m512) -> __m512i {
        // SAFETY: register arithmetic only.
        unsafe {
            let x = _mm512_cvtps_epi32(x);
            _mm512_mask_blend_epi16(0xaaaa_aaaa, x, _mm512_slli_epi32::<16>(x))
        }
    }
    #[inline(always)]
    unsafe fn field(codes: __m512i, up: i32, mask: i16) -> __m512i {
        // SAFETY: register arithmetic only.
        unsafe {
            let moved = if up < 0 {
                _mm512_srl_epi16(codes, _mm_cvtsi32_si128(-up))
            } else {
                _mm512_sll_epi16(codes, _mm_cvtsi32_si128(up))
            };
            _mm512_and_si512(moved, _mm512_set1_epi16(mask))
        }
    }
    #[inline(always)]
    unsafe fn scaled(words: __m512i, scale: __m512i, offset: __m512i) -> __m512i {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_add_epi16(_mm512_mulhrs_epi16(words, scale), offset) }
    }
    #[inline(always)]
    unsafe fn add_products(sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_dpwssd_epi32(sum, a, b) }
    }
    #[inline(always)]
    unsafe fn negative_integers(x: __m512i) -> __m512i {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_sub_epi32(_mm512_setzero_si512(), x) }
    }
    #[inline(always)]
    unsafe fn integers() -> __m512i {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn store(x: __m512i, to: *mut u8) {
        // SAFETY: the caller's.
        unsafe { _mm512_store_si512(to.cast(), x) }
    }
    #[inline(always)]
    unsafe fn store_numbers(x: __m512, to: *mut u8) {
        // SAFETY: the caller's.
        unsafe { _mm512_store_ps(to.cast(), x) }
    }
}

/// What multiplies two unpacked tiles with groups of four tokens: (weights, their blocks, (groups, how many), out). `out` is
/// `(2, 16, 16)`, of which the first `4 * groups` tokens of each tile are written.
type Multiply = unsafe fn(*const u8, usize, (*const u8, usize), *mut f32);

/// The faster of the two ways to multiply, which give the same bits.
///
/// # Safety
/// The processor has the features.
unsafe fn fastest() -> Multiply {
    // SAFETY: the caller's.
    if unsafe { pairs::pay() } { multiply::<true> } else { multiply::<false> }
}

/// # Safety
/// The processor has the features; `weights` and each group have `blocks` blocks; `weights` lies on a boundary of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply<const PAIRS: bool>(
    weights: *const u8,
    blocks: usize,
    (x, groups): (*const u8, usize),
    out: *mut f32,
) {
    for group in 0..groups {
        let x = x.wrapping_add(group * blocks * BLOCK_BYTES);
        let mut total = [[_mm512_setzero_ps(); 2]; TOKENS];
        for first in (0..blocks).step_by(SECTION) {
            // SAFETY: the caller says how many blocks there are.
            unsafe {
                let of_section = (weights.add(first * PAIR_BYTES), x.add(first * BLOCK_BYTES));
                let mut sums = starts::<PAIRS>(of_section.0, of_section.1);
                for b in first..(first + SECTION).min(blocks) {
                    let (weights, x) = (weights.add(b * PAIR_BYTES), x.add(b * BLOCK_BYTES));
                    add_block::<PAIRS>(weights, x, &mut sums);
                }
                add_scaled(sums, of_section.0, of_section.1, &mut total);
            }
        }
        for (t, total) in total.iter().enumerate() {
            for (which, total) in total.iter().enumerate() {
                // SAFETY: `out` has room for 16 tokens of both tiles.
                unsafe {
                    _mm512_storeu_ps(out.add(16 * (16 * which + TOKENS * group + t)), *total);
                };
            }
        }
    }
}

/// Integer sums of a section, per token and tile.
type Sums = [[__m512i; 2]; TOKENS];

/// Where the sums of a section start; these are its first blocks.
///
/// # Safety
/// As for [`multiply`]: a block of each can be read.
#[inline(always)]
unsafe fn starts<const PAIRS: bool>(weights: *const u8, x: *const u8) -> Sums {
    // SAFETY: the caller's; only called from a function with the features.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); 2]; TOKENS];
        if PAIRS {
            let starts = of_both(weights, STARTS);
            for (t, sums) in sums.iter_mut().enumerate() {
                let start = word(x, 4 * (TOKENS * STARTS + t));
                *sums = each!([0, 1], |i| _mm512_add_epi32(starts[i], start));
            }
        }
        sums
    }
}

/// Adds the products of a block.
///
/// # Safety
/// As for [`multiply`]: a block of each can be read.
#[inline(always)]
unsafe fn add_block<const PAIRS: bool>(weights: *const u8, x: *const u8, sums: &mut Sums) {
    // SAFETY: the caller's; only called from a function with the features.
    unsafe {
        // Two steps per turn: in a longer run LLVM takes `vpdpwssd` apart into a product and a sum, for their latency.
        for step in 0..STEPS / 2 {
            let first = 2 * step - step % ODD;
            let (even, odd) = (of_both(weights, first), of_both(weights, first + ODD));
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = each!([first, first + ODD], |step| word(x, 4 * (TOKENS * step + t)));
                *sums = each!([0, 1], |i| {
                    pairs::add_products::<PAIRS>(sums[i], x, [even[i], odd[i]])
                });
            }
        }
    }
}

/// Adds the sums of a section in units of its scales, which are in its first block.
///
/// # Safety
/// As for [`multiply`]: a block of each can be read.
#[inline(always)]
unsafe fn add_scaled(
    sums: Sums,
    weights: *const u8,
    x: *const u8,
    total: &mut [[__m512; 2]; TOKENS],
) {
    // SAFETY: the caller's; only called from a function with the features.
    unsafe {
        let scales = of_both(weights, SCALES).map(|scales| _mm512_castsi512_ps(scales));
        for (t, (total, sums)) in total.iter_mut().zip(sums).enumerate() {
            let scale = float(x, 4 * (TOKENS * SCALES + t));
            *total = each!([0, 1], |i| {
                let scale = _mm512_mul_ps(scales[i], scale);
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[i]), scale, total[i])
            });
        }
    }
}

/// Vector `at` of a block of both tiles.
///
/// # Safety
/// They can be read, and lie on boundaries of 64 bytes.
#[inline(always)]
unsafe fn of_both(weights: *const u8, at: usize) -> [__m512i; 2] {
    // SAFETY: the caller's.
    unsafe {
        let at = weights.add(BOTH * at);
        [_mm512_load_si512(at.cast()), _mm512_load_si512(at.add(64).cast())]
    }
}

/// Kernels for 16 rows of F16 or BF16 numbers, which lie as in the file: a tile with units of 64 columns.
pub(super) fn float_kernels(format: Format) -> PromptKernels {
    let unpack = match format {
        Format::F16 => unpack_rows::<F16>,
        Format::Bf16 => unpack_rows::<Bf16>,
        _ => unreachable!("{format} has no words of its own"),
    };
    // SAFETY: as for the other kernels.
    PromptKernels { unpack, multiply: unsafe { fastest() } }
}

/// Numbers of 16 bits, whose order by magnitude is that of their bits without the sign.
pub(super) trait Halves {
    /// The lower halves of 32-bit lanes.
    ///
    /// # Safety
    /// Called from functions with the features.
    unsafe fn even(pairs: __m512i) -> __m512;
    /// The upper halves.
    ///
    /// # Safety
    /// Called from functions with the features.
    unsafe fn odd(pairs: __m512i) -> __m512;
}

struct F16;
pub(super) struct Bf16;

impl Halves for F16 {
    #[inline(always)]
    unsafe fn even(pairs: __m512i) -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs)) }
    }
    #[inline(always)]
    unsafe fn odd(pairs: __m512i) -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe { Self::even(_mm512_srli_epi32::<16>(pairs)) }
    }
}

impl Halves for Bf16 {
    #[inline(always)]
    unsafe fn even(pairs: __m512i) -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)) }
    }
    #[inline(always)]
    unsafe fn odd(pairs: __m512i) -> __m512 {
        // SAFETY: register arithmetic only.
        unsafe {
            let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            _mm512_castsi512_ps(_mm512_and_si512(pairs, upper))
        }
    }
}

/// As [`unpack`], of a tile that is 16 rows as in the file.
///
/// # Safety
/// As [`unpack`]; the rows have `units` times 64 numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack_rows<H: Halves>(rows: *const u8, units: usize, which: usize, to: *mut u8) {
    for first in (0..units).step_by(SECTION) {
        let section = Section {
            rows: rows.wrapping_add(2 * BLOCK * first),
            stride: 2 * BLOCK * units,
            blocks: SECTION.min(units - first),
        };
        let next_tile = rows.wrapping_add(2 * BLOCK * TILE_ROWS * (units + first));
        let to = to.wrapping_add(first * PAIR_BYTES + 64 * which);
        // SAFETY: the caller's.
        unsafe { section.unpack::<H>(next_tile, to) };
    }
}

/// Some columns of 16 rows of numbers.
#[derive(Clone, Copy)]
struct Section {
    rows: *const u8,
    /// Bytes from row to row.
    stride: usize,
    /// Of 64 columns each.
    blocks: usize,
}

impl Section {
    /// 32 columns of the rows.
    ///
    /// # Safety
    /// The rows can be read; called from functions with the features.
    #[inline(always)]
    unsafe fn half(self, half: usize) -> [__m512i; TILE_ROWS] {
        // SAFETY: the caller's.
        unsafe {
            let mut rows = [_mm512_setzero_si512(); TILE_ROWS];
            for (r, row) in rows.iter_mut().enumerate() {
                let at = self.rows.add(r * self.stride + 64 * half);
                *row = _mm512_loadu_si512(at.cast());
            }
            rows
        }
    }

    /// The largest magnitude of each row.
    ///
    /// # Safety
    /// As for [`Self::half`].
    #[inline(always)]
    unsafe fn largest<H: Halves>(self) -> __m512 {
        // SAFETY: the caller's.
        unsafe {
            let mut largest = [_mm512_setzero_si512(); TILE_ROWS];
            for half in 0..2 * self.blocks {
                for (largest, row) in largest.iter_mut().zip(self.half(half)) {
                    let magnitudes = _mm512_and_si512(row, _mm512_set1_epi16(0x7fff));
                    *largest = _mm512_max_epu16(*largest, magnitudes);
                }
            }
            let zero = _mm512_setzero_si512();
            let of_rows = transposed(largest).into_iter().fold(zero, |a, b| _mm512_max_epu16(a, b));
            _mm512_max_ps(H::even(of_rows), H::odd(of_rows))
        }
    }

    /// Everything after the transposition is done for all rows at once. At `ahead` is what will be wanted next, if anything.
    ///
    /// # Safety
    /// As for [`Self::half`]; `to` has room for as many blocks of a pair, on a boundary of 64 bytes.
    #[inline(always)]
    unsafe fn unpack<H: Halves>(self, ahead: *const u8, to: *mut u8) {
        // SAFETY: the caller's.
        unsafe {
            let largest = self.largest::<H>();
            let some = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(largest, _mm512_setzero_ps());
            let inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(WORD_MAX), largest);
            let scale = _mm512_div_ps(largest, _mm512_set1_ps(WORD_MAX));
            _mm512_store_ps(to.add(SCALES * BOTH).cast(), scale);
            let mut products = _mm512_setzero_si512();
            for half in 0..2 * self.blocks {
                let to = to.add(half / 2 * PAIR_BYTES + half % 2 * (STEPS / 2 * BOTH));
                let pairs = transposed(self.half(half));
                for (i, pairs) in pairs.as_chunks::<2>().0.iter().enumerate() {
                    // 16 rows are too many streams for the processor's own prefetching. Spread out, so that none waits for another.
                    cache::expect_all(ahead.wrapping_add(2 * 64 * (8 * half + i)), 2 * 64);
                    let words = |x| _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
                    let both = |first, second| {
                        _mm512_mask_blend_epi16(0xaaaa_aaaa, first, _mm512_slli_epi32::<16>(second))
                    };
                    let even = both(words(H::even(pairs[0])), words(H::even(pairs[1])));
                    let odd = both(words(H::odd(pairs[0])), words(H::odd(pairs[1])));
                    let step = 2 * i - i % ODD;
                    _mm512_store_si512(to.add(BOTH * step).cast(), even);
                    _mm512_store_si512(to.add(BOTH * (step + ODD)).cast(), odd);
                    products = _mm512_dpwssd_epi32(products, even, odd);
                }
            }
            Avx512::store(Avx512::negative_integers(products), to.add(STARTS * BOTH));
        }
    }
}

/// Rows of 16 pairs to pairs of 16 rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn transposed(rows: [__m512i; TILE_ROWS]) -> [__m512i; TILE_ROWS] {
    let mut a = rows;
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Now four columns of four rows in each 128 bits: b[4 i + j] has column j of rows 4 i to 4 i + 3, and of every fourth column.
    let mut b = a;
    for i in 0..4 {
        for j in 0..2 {
            b[4 * i + 2 * j] = _mm512_unpacklo_epi64(a[4 * i + j], a[4 * i + 2 + j]);
            b[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * i + j], a[4 * i + 2 + j]);
        }
    }
    let mut out = b;
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[j], b[4 + j]);
        let high = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[j], b[4 + j]);
        let low_below = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[8 + j], b[12 + j]);
        let high_below = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[8 + j], b[12 + j]);
        out[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, low_below);
        out[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, low_below);
        out[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high, high_below);
        out[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high, high_below);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Random;
    use crate::simd::Family;

    /// A whole section and half of one.
    const BLOCKS: usize = 6;

    /// What lies on a boundary of 64 bytes.
    #[repr(align(64))]
    struct Line {
        _bytes: [u8; 64],
    }

    /// A pair of tiles, or a group of tokens.
    struct Side {
        lanes: usize,
        /// `(BLOCKS, 2 * STEPS, lanes)` in the order of steps.
        words: Vec<i16>,
        scales: Vec<f32>,
    }

    impl Side {
        fn new(lanes: usize, words: impl FnMut() -> i16, scales: impl FnMut() -> f32) -> Self {
            let words = std::iter::repeat_with(words).take(BLOCKS * 2 * STEPS * lanes).collect();
            let scales = std::iter::repeat_with(scales).take(BLOCKS * lanes).collect();
            Self { lanes, words, scales }
        }

        /// Both words of a step, widened.
        fn step(&self, block: usize, step: usize, lane: usize) -> [i64; 2] {
            let at = 2 * (self.lanes * (STEPS * block + step) + lane);
            [self.words[at], self.words[at + 1]].map(i64::from)
        }

        /// Minus the products of columns of a section that lie beside each other.
        fn start(&self, first: usize, lane: usize) -> i32 {
            let even = (0..STEPS).filter(|step| step % (2 * ODD) < ODD);
            let product = |(block, step)| {
                let [a, b] = [step, step + ODD].map(|step| self.step(block, step, lane));
                a[0] * b[0] + a[1] * b[1]
            };
            let places =
                section(first).flat_map(|block| even.clone().map(move |step| (block, step)));
            i32::try_from(-places.map(product).sum::<i64>()).expect("at most 128 * 4095^2")
        }

        fn image(&self) -> Vec<Line> {
            let mut bytes = Vec::new();
            for block in 0..BLOCKS {
                let words = 2 * STEPS * self.lanes;
                let words = &self.words[block * words..(block + 1) * words];
                bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
                if block % SECTION > 0 {
                    bytes.resize(bytes.len() + 8 * self.lanes, 0x7f);
                    continue;
                }
                let scales = &self.scales[block * self.lanes..(block + 1) * self.lanes];
                bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
                let starts = (0..self.lanes).map(|lane| self.start(block, lane));
                bytes.extend(starts.flat_map(i32::to_le_bytes));
            }
            bytes.resize(bytes.len().next_multiple_of(64), 0);
            bytes.as_chunks().0.iter().map(|line| Line { _bytes: *line }).collect()
        }
    }

    fn section(first: usize) -> std::ops::Range<usize> {
        first..(first + SECTION).min(BLOCKS)
    }

    /// What the sections give.
    fn expected(weights: &Side, x: &Side, row: usize, token: usize) -> Vec<f64> {
        let of_section = |first: usize| {
            let product = |(block, step)| {
                let (w, x) = (weights.step(block, step, row), x.step(block, step, token));
                w[0] * x[0] + w[1] * x[1]
            };
            let places = section(first).flat_map(|block| (0..STEPS).map(move |step| (block, step)));
            let sum = i32::try_from(places.map(product).sum::<i64>()).expect("fits");
            let scales = (weights.scales[32 * first + row], x.scales[TOKENS * first + token]);
            f64::from(sum) * f64::from(scales.0) * f64::from(scales.1)
        };
        (0..BLOCKS).step_by(SECTION).map(of_section).collect()
    }

    fn check(weights: &Side, x: &Side) {
        let products = [multiply::<true>, multiply::<false>].map(|multiply| {
            let mut out = [f32::NAN; 2 * 16 * TILE_ROWS];
            let (weights, x) = (weights.image(), x.image());
            // SAFETY: the test asked for the features; both sides have so many blocks, and `out` room for 16 tokens.
            unsafe {
                let x = (x.as_ptr().cast(), 1);
                multiply(weights.as_ptr().cast(), BLOCKS, x, out.as_mut_ptr());
            }
            out
        });
        for (row, token) in (0..32).flat_map(|row| (0..TOKENS).map(move |token| (row, token))) {
            let at = TILE_ROWS * (16 * (row / TILE_ROWS) + token) + row % TILE_ROWS;
            let expected = expected(weights, x, row, token);
            let (sum, size) = expected.iter().fold((0.0, 0.0), |(a, b), x| (a + x, b + x.abs()));
            for products in products {
                // Each section is rounded three times, to 2^-24 of at most the size.
                let error = (f64::from(products[at]) - sum).abs();
                assert!(error <= 1e-6 * size, "{} {sum}", products[at]);
            }
            assert_eq!(products[0][at].to_bits(), products[1][at].to_bits());
        }
    }

    #[test]
    fn both_ways_give_the_products_of_the_words() {
        if !Family::Avx512Vnni.runs_here() {
            eprintln!("SKIPPED: products of words: this processor has no AVX-512 VNNI");
            return;
        }
        let random = std::cell::RefCell::new(Random::new(9));
        let word = |max: u32| {
            let random = &random;
            move || {
                let number = random.borrow_mut().below(2 * max + 1);
                i16::try_from(i64::from(number) - i64::from(max)).expect("below 2^15")
            }
        };
        let scale = || random.borrow_mut().normals(1)[0];
        for _ in 0..8 {
            check(&Side::new(32, word(4095), scale), &Side::new(TOKENS, word(2047), scale));
        }
    }

    #[test]
    fn the_largest_words_of_either_sign_fit() {
        if !Family::Avx512Vnni.runs_here() {
            eprintln!("SKIPPED: products of words: this processor has no AVX-512 VNNI");
            return;
        }
        for (w, x) in [(4095, 2047), (-4095, 2047), (4095, -2047), (-4095, -2047)] {
            check(&Side::new(32, || w, || 1e-3), &Side::new(TOKENS, || x, || 1e-3));
        }
    }
}
