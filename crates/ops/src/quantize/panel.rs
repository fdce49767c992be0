//! Panels: quantized activations as the kernels of packed tiles read them.
//!
//! Tokens go in tiles of 16; the last tile is as wide as the next power of two. A tile is a run of blocks of 32 columns, so a
//! kernel reads it front to back. One block of a tile that is T tokens wide:
//!
//! ```text
//!   high    i8  T x 32       the two levels of the codes that `quantize` defines
//!   low     i8  T x 32
//!   scales  f32 T
//!   sums    f32 T            scale * Σ codes: for formats with a minimum per group
//!   -Σ      i32 T            of the block's codes: for formats whose codes have a bias
//!   -Σ      i32 T x 2        of each half's codes: for groups of 16
//! ```
//!
//! Where the family's kernels for prompts read [`words`], only tokens that continue an answer go in tiles; groups of the
//! prompts' tokens follow.
//!
//! For [`Family::NeonI8mm`] tokens lie in pairs where there are more than one: 8 codes of one, 8 of the other, their next 8.
#![cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "a CPU kernel")
)]
use super::cpu::code;
use super::{BLOCK, CODE_MAX, GROUP, words};
use crate::inputs::EXACT;
use crate::record::RowsOf;
use crate::simd::Family;

/// Tokens of a full tile.
pub(crate) const TILE_TOKENS: usize = 16;
/// Bytes of one token in one block.
pub(crate) const TOKEN_BYTES: usize = 2 * 32 + 4 + 4 + 4 + 8;

/// The tokens of one tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenTile {
    pub(crate) first: usize,
    pub(crate) tokens: usize,
    /// Tokens that there is room for: those past `tokens` are zeros.
    pub(crate) width: usize,
}

/// Tile `index` of a panel of `tokens` tokens. Panics past the last tile.
pub(crate) fn token_tile(index: usize, tokens: usize) -> TokenTile {
    let first = index * TILE_TOKENS;
    let count = (tokens - first).min(TILE_TOKENS);
    TokenTile { first, tokens: count, width: count.next_power_of_two() }
}

/// Which rows of a step continue an answer and which are prompts': in a panel the first lie in tiles, the others in groups of
/// words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) all: usize,
    /// The first so many continue an answer.
    pub(crate) exact: usize,
}

impl Rows {
    /// From the step's counts, see [`crate::Inputs::counts`].
    pub(crate) fn new(counts: &[u32], count_index: u32) -> Self {
        let all = counts[count_index as usize] as usize;
        let of_tokens = count_index == RowsOf::Tokens.count_index();
        Self { all, exact: if of_tokens { counts[EXACT] as usize } else { all } }
    }

    /// As [`Self::new`], all in tiles where the family has no words, without prompts where those are multiplied as numbers.
    pub(crate) fn in_panel(family: Family, counts: &[u32], count_index: u32) -> Self {
        let rows = Self::new(counts, count_index);
        if words::are_for(family) {
            rows
        } else if family.accelerates() {
            Self { all: rows.exact, ..rows }
        } else {
            Self { exact: rows.all, ..rows }
        }
    }

    /// Tiles of the exact rows.
    pub(crate) const fn tiles(self) -> usize {
        self.exact.div_ceil(TILE_TOKENS)
    }

    /// Groups of the other rows.
    pub(crate) const fn groups(self) -> usize {
        (self.all - self.exact).div_ceil(words::TOKENS)
    }

    /// The rows of group `index`.
    pub(crate) fn group_rows(self, index: usize) -> std::ops::Range<usize> {
        let start = self.exact + index * words::TOKENS;
        start..(start + words::TOKENS).min(self.all)
    }

    /// Where group `index` starts in the panel.
    pub(crate) const fn group_offset(self, index: usize, columns: usize) -> usize {
        tile_offset(self.tiles(), columns) + index * words::group_bytes(columns)
    }
}

/// Where tile `index` starts in the panel.
pub(crate) const fn tile_offset(index: usize, columns: usize) -> usize {
    index * TILE_TOKENS * TOKEN_BYTES * (columns / BLOCK)
}

/// Bytes of one tile.
pub(crate) const fn tile_bytes(tile: TokenTile, columns: usize) -> usize {
    tile.width * TOKEN_BYTES * (columns / BLOCK)
}

/// Bytes of the tiles of up to `tokens` tokens.
pub(crate) const fn tiles_bytes(tokens: usize, columns: usize) -> usize {
    if tokens > TILE_TOKENS {
        tile_offset(tokens.div_ceil(TILE_TOKENS), columns)
    } else {
        tokens.next_power_of_two() * TOKEN_BYTES * (columns / BLOCK)
    }
}

/// Bytes of a panel of up to `tokens` tokens.
pub(crate) fn panel_bytes(family: Family, tokens: usize, columns: usize) -> usize {
    if words::are_for(family) {
        // Groups of words are smaller than tiles; both regions may end with one that is not full.
        return tile_offset(tokens.div_ceil(TILE_TOKENS) + 1, columns);
    }
    tiles_bytes(tokens, columns)
}

/// A norm with what it needs of one row: `y = (x - mean) * factor * weight + bias`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowNorm<'a> {
    pub(crate) layer: bool,
    pub(crate) epsilon: f32,
    pub(crate) weight: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
}

/// Quantizes rows of `x` `(tokens, columns)` into one tile.
pub(crate) fn quantize_tile(
    family: Family,
    x: &[f32],
    norm: Option<RowNorm<'_>>,
    tile: TokenTile,
    to: &mut [u8],
) {
    let columns = x.len() / tile.tokens;
    assert_eq!(to.len(), tile_bytes(tile, columns), "one tile");
    assert!(
        norm.is_none_or(|norm| norm.weight.len() >= columns
            && norm.bias.is_none_or(|bias| bias.len() >= columns))
    );
    if tile.tokens < tile.width {
        to.fill(0);
    }
    let family = family.instructions();
    for (t, x) in x.chunks_exact(columns).enumerate() {
        match family {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the family was found on this processor.
            Family::Avx512Vnni => unsafe { avx512::row(x, norm, tile.width, t, to) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Family::Avx2 => unsafe { avx2::row(x, norm, (tile.width, t), to) },
            #[cfg(target_arch = "aarch64")]
            Family::NeonDotprod | Family::NeonI8mm => {
                neon::row(x, norm, (tile.width, t), family == Family::NeonI8mm, to);
            }
            _ => row(x, norm, (tile.width, t), to),
        }
    }
}

/// The definition, for families without code of their own.
fn row(x: &[f32], norm: Option<RowNorm<'_>>, (width, t): (usize, usize), to: &mut [u8]) {
    let (mean, factor) = moments(x, norm);
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(to.chunks_exact_mut(width * TOKEN_BYTES));
    for (b, (x, to)) in blocks.enumerate() {
        let mut x = *x;
        if let Some(norm) = norm {
            let weight = &norm.weight[BLOCK * b..][..BLOCK];
            for (x, w) in x.iter_mut().zip(weight) {
                *x = (*x - mean) * factor * w;
            }
            if let Some(bias) = norm.bias {
                x.iter_mut().zip(&bias[BLOCK * b..]).for_each(|(x, b)| *x += b);
            }
        }
        block(&x, (width, t), to);
    }
}

fn block(x: &[f32; BLOCK], (width, t): (usize, usize), to: &mut [u8]) {
    let max = x.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let scale = max / CODE_MAX;
    let inverse = if max > 0.0 { CODE_MAX / max } else { 0.0 };
    let mut sums = [0_i32; BLOCK / GROUP];
    for (i, x) in x.iter().enumerate() {
        let code = code(x * inverse);
        let [low, _] = code.to_le_bytes();
        let [high, _] = ((code - i16::from(low.cast_signed())) >> 8).to_le_bytes();
        (to[BLOCK * t + i], to[BLOCK * (width + t) + i]) = (high, low);
        sums[i / GROUP] += i32::from(code);
    }
    words((scale, sums), (width, t), to);
}

/// Writes what comes with a token's codes: its scale, and sums in groups.
fn words((scale, sums): (f32, [i32; 2]), (width, t): (usize, usize), to: &mut [u8]) {
    #[expect(clippy::cast_precision_loss, reason = "at most 32 * 32512, below 2^24")]
    let sum = scale * (sums[0] + sums[1]) as f32;
    let words = &mut to[2 * BLOCK * width..];
    let mut word = |at: usize, bytes: [u8; 4]| words[at..at + 4].copy_from_slice(&bytes);
    word(4 * t, scale.to_le_bytes());
    word(4 * (width + t), sum.to_le_bytes());
    word(4 * (2 * width + t), (-sums[0] - sums[1]).to_le_bytes());
    word(4 * (3 * width + 2 * t), (-sums[0]).to_le_bytes());
    word(4 * (3 * width + 2 * t) + 4, (-sums[1]).to_le_bytes());
}

/// Mean (0 for RMS) and the factor of a row; without a norm what changes nothing.
#[inline(always)]
pub(crate) fn moments(x: &[f32], norm: Option<RowNorm<'_>>) -> (f32, f32) {
    let Some(norm) = norm else { return (0.0, 1.0) };
    #[expect(clippy::cast_precision_loss, reason = "a row has far fewer than 2^24 numbers")]
    let n = x.len() as f32;
    let mean = if norm.layer { sum(x, |x| x) / n } else { 0.0 };
    let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + norm.epsilon).sqrt())
}

/// Sums in 64 lanes: several vector registers, so that additions do not wait for each other.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 64];
    let (blocks, rest) = x.as_chunks::<64>();
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += f(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(*x);
    }
    lanes.iter().sum()
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512 {
    use super::{BLOCK, CODE_MAX, RowNorm, TOKEN_BYTES, moments};
    use std::arch::x86_64::*;

    /// As [`super::row`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) fn row(x: &[f32], norm: Option<RowNorm<'_>>, width: usize, t: usize, to: &mut [u8]) {
        let moments = moments(x, norm);
        for b in 0..x.len() / BLOCK {
            let at = BLOCK * b;
            let halves = [at, at + 16].map(|at| normalized(&x[at..], norm, moments, at));
            block(halves, (width, t), &mut to[b * width * TOKEN_BYTES..][..width * TOKEN_BYTES]);
        }
    }

    /// 16 numbers from column `at` on, normalized if there is a norm.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) fn normalized(
        x: &[f32],
        norm: Option<RowNorm<'_>>,
        (mean, factor): (f32, f32),
        at: usize,
    ) -> __m512 {
        let x = load(x);
        let Some(norm) = norm else { return x };
        let centred = _mm512_mul_ps(_mm512_sub_ps(x, _mm512_set1_ps(mean)), _mm512_set1_ps(factor));
        let x = _mm512_mul_ps(centred, load(&norm.weight[at..]));
        norm.bias.map_or(x, |bias| _mm512_add_ps(x, load(&bias[at..])))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn load(x: &[f32]) -> __m512 {
        let x: &[f32; 16] = x.first_chunk().expect("whole blocks");
        // SAFETY: 16 numbers, just checked.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    /// As [`super::code`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn codes(scaled: __m512) -> __m512i {
        let codes = _mm512_cvtps_epi32(scaled);
        let low = _mm512_and_si512(codes, _mm512_set1_epi32(0xff));
        let turned = _mm512_cmpeq_epi32_mask(low, _mm512_set1_epi32(0x80));
        _mm512_mask_add_epi32(codes, turned, codes, _mm512_set1_epi32(1))
    }

    /// The high level: what is left of a code without its low byte, which is signed.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn high(codes: __m512i) -> __m512i {
        _mm512_srai_epi32::<8>(_mm512_add_epi32(codes, _mm512_set1_epi32(0x80)))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn block([a, b]: [__m512; 2], (width, t): (usize, usize), to: &mut [u8]) {
        let max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        let scale = max / CODE_MAX;
        let inverse = _mm512_set1_ps(if max > 0.0 { CODE_MAX / max } else { 0.0 });
        let [a, b] = [codes(_mm512_mul_ps(a, inverse)), codes(_mm512_mul_ps(b, inverse))];
        let [high_a, high_b] = [high(a), high(b)];
        let sums = [a, b].map(|codes| _mm512_reduce_add_epi32(codes));
        #[expect(clippy::cast_precision_loss, reason = "at most 32 * 32512, below 2^24")]
        let sum = scale * (sums[0] + sums[1]) as f32;
        assert!(to.len() >= width * TOKEN_BYTES && t < width, "one block");
        // SAFETY: in bounds, as just asserted; stores need no alignment.
        unsafe {
            let high = to.as_mut_ptr().add(BLOCK * t).cast::<__m128i>();
            _mm_storeu_si128(high, _mm512_cvtepi32_epi8(high_a));
            _mm_storeu_si128(high.add(1), _mm512_cvtepi32_epi8(high_b));
            let low = to.as_mut_ptr().add(BLOCK * (width + t)).cast::<__m128i>();
            _mm_storeu_si128(low, _mm512_cvtepi32_epi8(a));
            _mm_storeu_si128(low.add(1), _mm512_cvtepi32_epi8(b));
            let words = to.as_mut_ptr().add(2 * BLOCK * width);
            words.add(4 * t).cast::<f32>().write_unaligned(scale);
            words.add(4 * (width + t)).cast::<f32>().write_unaligned(sum);
            words.add(4 * (2 * width + t)).cast::<i32>().write_unaligned(-sums[0] - sums[1]);
            words.add(4 * (3 * width + 2 * t)).cast::<[i32; 2]>().write_unaligned(sums.map(|s| -s));
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2 {
    use super::{BLOCK, CODE_MAX, RowNorm, TOKEN_BYTES, moments};
    use std::arch::x86_64::*;

    /// As [`super::row`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn row(
        x: &[f32],
        norm: Option<RowNorm<'_>>,
        (width, t): (usize, usize),
        to: &mut [u8],
    ) {
        let moments = moments(x, norm);
        for (b, to) in to.chunks_exact_mut(width * TOKEN_BYTES).take(x.len() / BLOCK).enumerate() {
            let mut parts = [_mm256_setzero_ps(); BLOCK / 8];
            for (i, part) in parts.iter_mut().enumerate() {
                let at = BLOCK * b + 8 * i;
                *part = normalized(&x[at..], norm, moments, at);
            }
            block(parts, (width, t), to);
        }
    }

    /// 8 numbers from column `at` on, normalized if there is a norm.
    #[target_feature(enable = "avx2,fma")]
    pub(crate) fn normalized(
        x: &[f32],
        norm: Option<RowNorm<'_>>,
        (mean, factor): (f32, f32),
        at: usize,
    ) -> __m256 {
        let x = load(x);
        let Some(norm) = norm else { return x };
        let centred = _mm256_mul_ps(_mm256_sub_ps(x, _mm256_set1_ps(mean)), _mm256_set1_ps(factor));
        let x = _mm256_mul_ps(centred, load(&norm.weight[at..]));
        norm.bias.map_or(x, |bias| _mm256_add_ps(x, load(&bias[at..])))
    }

    #[target_feature(enable = "avx2,fma")]
    fn load(x: &[f32]) -> __m256 {
        let x: &[f32; 8] = x.first_chunk().expect("whole blocks");
        // SAFETY: 8 numbers, just checked.
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }

    /// The largest magnitude.
    #[target_feature(enable = "avx2,fma")]
    pub(crate) fn largest<const N: usize>(x: [__m256; N]) -> f32 {
        let mut largest = _mm256_setzero_ps();
        for x in x {
            largest = _mm256_max_ps(largest, _mm256_andnot_ps(_mm256_set1_ps(-0.0), x));
        }
        let mut lanes = [0.0_f32; 8];
        // SAFETY: the array has 8 numbers.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), largest) };
        lanes.into_iter().fold(0.0, f32::max)
    }

    /// As [`super::super::cpu::code`].
    #[target_feature(enable = "avx2,fma")]
    fn codes(scaled: __m256) -> __m256i {
        let codes = _mm256_cvtps_epi32(scaled);
        let low = _mm256_and_si256(codes, _mm256_set1_epi32(0xff));
        // Where the comparison holds it is -1.
        _mm256_sub_epi32(codes, _mm256_cmpeq_epi32(low, _mm256_set1_epi32(0x80)))
    }

    #[target_feature(enable = "avx2,fma")]
    fn block(x: [__m256; BLOCK / 8], (width, t): (usize, usize), to: &mut [u8]) {
        let max = largest(x);
        let scale = max / CODE_MAX;
        let inverse = _mm256_set1_ps(if max > 0.0 { CODE_MAX / max } else { 0.0 });
        let codes = x.map(|x| codes(_mm256_mul_ps(x, inverse)));
        // What is left of a code without its low byte, which is signed.
        let high = codes
            .map(|codes| _mm256_srai_epi32::<8>(_mm256_add_epi32(codes, _mm256_set1_epi32(0x80))));
        let low = codes.map(|codes| _mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(codes)));
        let sums = [(codes[0], codes[1]), (codes[2], codes[3])].map(|(a, b)| {
            let mut lanes = [0_i32; 8];
            // SAFETY: the array has 8 integers.
            unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), _mm256_add_epi32(a, b)) };
            lanes.into_iter().sum()
        });
        assert!(to.len() >= width * TOKEN_BYTES && t < width, "one block");
        // SAFETY: in bounds, as just asserted; stores need no alignment.
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().add(BLOCK * t).cast(), bytes(high));
            _mm256_storeu_si256(to.as_mut_ptr().add(BLOCK * (width + t)).cast(), bytes(low));
        }
        super::words((scale, sums), (width, t), to);
    }

    /// 32 integers as bytes, which they fit.
    #[target_feature(enable = "avx2,fma")]
    fn bytes(x: [__m256i; BLOCK / 8]) -> __m256i {
        let words = [_mm256_packs_epi32(x[0], x[1]), _mm256_packs_epi32(x[2], x[3])];
        // Packing goes on within each 128 bits.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words[0], words[1]), order)
    }
}

/// Needs no family: NEON is part of the baseline.
#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{BLOCK, CODE_MAX, RowNorm, TOKEN_BYTES, moments};
    use std::arch::aarch64::*;

    /// Four numbers each.
    type Block = [float32x4_t; BLOCK / 4];

    /// As [`super::row`].
    pub(super) fn row(
        x: &[f32],
        norm: Option<RowNorm<'_>>,
        (width, t): (usize, usize),
        in_pairs: bool,
        to: &mut [u8],
    ) {
        let (start, step) =
            if in_pairs && width > 1 { (64 * (t / 2) + 8 * (t % 2), 16) } else { (BLOCK * t, 8) };
        let (mean, factor) = moments(x, norm);
        let blocks = x.as_chunks::<BLOCK>().0.iter().zip(to.chunks_exact_mut(width * TOKEN_BYTES));
        for (b, (x, to)) in blocks.enumerate() {
            let mut x = load(x);
            if let Some(norm) = norm {
                let part = |vector: &[f32]| {
                    load(vector[BLOCK * b..].first_chunk().expect("as many as columns"))
                };
                x = scaled(x, (mean, factor), part(norm.weight));
                if let Some(bias) = norm.bias {
                    x = added(x, part(bias));
                }
            }
            block(x, (width, t), (start, step), to);
        }
    }

    #[inline(always)]
    fn load(x: &[f32; BLOCK]) -> Block {
        let x = x.as_chunks::<4>().0;
        // SAFETY: 16 bytes can be read.
        std::array::from_fn(|i| unsafe { vld1q_f32(x[i].as_ptr()) })
    }

    /// `(x - mean) * factor * weight`
    #[inline(always)]
    fn scaled(x: Block, (mean, factor): (f32, f32), weight: Block) -> Block {
        // SAFETY: register arithmetic only.
        std::array::from_fn(|i| unsafe {
            vmulq_f32(vmulq_n_f32(vsubq_f32(x[i], vdupq_n_f32(mean)), factor), weight[i])
        })
    }

    #[inline(always)]
    fn added(x: Block, bias: Block) -> Block {
        // SAFETY: register arithmetic only.
        std::array::from_fn(|i| unsafe { vaddq_f32(x[i], bias[i]) })
    }

    /// As [`super::code`]; eight codes each.
    #[inline(always)]
    fn codes(x: Block, inverse: f32) -> [int16x8_t; BLOCK / 8] {
        // SAFETY: register arithmetic only.
        std::array::from_fn(|i| unsafe {
            let four = |i: usize| vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(x[i], inverse)));
            let codes = vcombine_s16(four(2 * i), four(2 * i + 1));
            let low = vandq_s16(codes, vdupq_n_s16(0xff));
            // Where the comparison holds it is -1.
            let turned = vceqq_s16(low, vdupq_n_s16(0x80));
            vsubq_s16(codes, vreinterpretq_s16_u16(turned))
        })
    }

    /// Codes lie from `start` on, 8 every `step`, in each level.
    #[inline(always)]
    fn block(x: Block, (width, t): (usize, usize), (start, step): (usize, usize), to: &mut [u8]) {
        // SAFETY: register arithmetic only.
        let max = unsafe {
            // The larger number, also beside a NaN.
            let max = |max, x: &float32x4_t| vmaxnmq_f32(max, vabsq_f32(*x));
            vmaxnmvq_f32(x.iter().fold(vdupq_n_f32(0.0), max))
        };
        let scale = max / CODE_MAX;
        let codes = codes(x, if max > 0.0 { CODE_MAX / max } else { 0.0 });
        assert!(to.len() >= width * TOKEN_BYTES && t < width, "one block");
        let (high, low) = to[..2 * BLOCK * width].split_at_mut(BLOCK * width);
        for (i, codes) in codes.into_iter().enumerate() {
            let at = start + step * i;
            let (high, low) = (&mut high[at..at + 8], &mut low[at..at + 8]);
            // SAFETY: 8 bytes each; the shift rounds, which makes up for a low level below 0.
            unsafe {
                vst1_s8(high.as_mut_ptr().cast(), vrshrn_n_s16::<8>(codes));
                vst1_s8(low.as_mut_ptr().cast(), vmovn_s16(codes));
            }
        }
        // SAFETY: register arithmetic only.
        let sum_of = |i: usize| unsafe { vaddlvq_s16(codes[i]) + vaddlvq_s16(codes[i + 1]) };
        super::words((scale, [sum_of(0), sum_of(2)]), (width, t), to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Random;

    #[test]
    fn tiles_follow_each_other_and_the_last_is_a_power_of_two() {
        assert_eq!(token_tile(0, 3), TokenTile { first: 0, tokens: 3, width: 4 });
        assert_eq!(token_tile(1, 37), TokenTile { first: 16, tokens: 16, width: 16 });
        assert_eq!(token_tile(2, 37), TokenTile { first: 32, tokens: 5, width: 8 });
        for tokens in 1..70_usize {
            let last = tokens.div_ceil(16) - 1;
            let end = tile_offset(last, 64) + tile_bytes(token_tile(last, tokens), 64);
            assert!(end <= tiles_bytes(tokens, 64), "{tokens}");
        }
    }

    /// Puts the codes of tokens, which lie in pairs in a tile of 4, one after the other.
    fn part_pairs(panel: &mut [u8]) {
        for block in panel.chunks_exact_mut(4 * TOKEN_BYTES) {
            for pair in block[..2 * 4 * BLOCK].as_chunks_mut::<64>().0 {
                for (i, code) in (*pair).into_iter().enumerate() {
                    pair[32 * (i / 8 % 2) + 8 * (i / 16) + i % 8] = code;
                }
            }
        }
    }

    #[test]
    fn every_family_quantizes_as_the_definition_does() {
        let mut random = Random::new(3);
        let (columns, tile) = (192, TokenTile { first: 0, tokens: 3, width: 4 });
        let mut x = random.normals(3 * columns);
        x[32..64].fill(0.0);
        let (weight, bias) = (random.normals(columns), random.normals(columns));
        let norm = |layer, bias| RowNorm { layer, epsilon: 1e-5, weight: &weight, bias };
        let norms = [None, Some(norm(false, None)), Some(norm(true, Some(bias.as_slice())))];
        for (family, norm) in Family::ALL.iter().flat_map(|f| norms.map(|n| (*f, n))) {
            if !family.runs_here() {
                continue;
            }
            let mut expected = vec![0xff; tile_bytes(tile, columns)];
            let mut found = expected.clone();
            quantize_tile(Family::Portable, &x, norm, tile, &mut expected);
            quantize_tile(family, &x, norm, tile, &mut found);
            if family.instructions() == Family::NeonI8mm {
                part_pairs(&mut found);
            }
            if norm.is_none() {
                assert_eq!(found, expected, "{family}");
                continue;
            }
            // A norm's sums may round differently, which moves a code by less than a ten thousandth of the largest.
            let blocks =
                found.chunks_exact(4 * TOKEN_BYTES).zip(expected.chunks_exact(4 * TOKEN_BYTES));
            for (found, expected) in blocks {
                let code = |block: &[u8], i: usize| {
                    let [high, low] =
                        [block[i], block[128 + i]].map(|level| i32::from(level.cast_signed()));
                    256 * high + low
                };
                for i in 0..128 {
                    let (a, b) = (code(found, i), code(expected, i));
                    assert!(a.abs_diff(b) <= 3, "{family}: {a} {b}");
                }
            }
        }
    }
}
