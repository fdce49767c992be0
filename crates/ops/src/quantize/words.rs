//! Activations of prompts as 16-bit words, four tokens together, as kernels multiply them with `linear::tile_words`.
//!
//! Contract: per section of 256 columns, or what is left of them at the end of a row,
//! `scale = max(max|x| / 8191, norm(x) / 32752)`, `word = round(x / scale)`. A section's products with words of at most 4095 stay below
//! 2^31, by the inequality of Cauchy and Schwarz: (32752 + 8) * 16 * 4095, where 8 is the norm of what 256 words are rounded by at
//! most. So sums need no more bits than the numbers do: the largest decides where a few stand out, the norm where all are much alike.
//!
//! A group of four tokens is a run of blocks of 64 columns; tokens past the last are zeros:
//!
//! ```text
//!   32 x { two columns of each token: i16 x 2 x 4 }   scales: f32 x 4   starts: i32 x 4
//! ```
//!
//! Of 16 columns the steps are: 0 2, 4 6, 8 10, 12 14, then 1 3, 5 7, 9 11, 13 15. A start is minus the sum of the products of
//! columns 2 i and 2 i + 1 of the section: where the sums of AVX-512 kernels begin; of other families it is 0. Scales and starts are
//! in a section's first block; those of its other blocks are never read.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "a CPU kernel"))]
use super::panel::RowNorm;
#[cfg(target_arch = "x86_64")]
use super::panel::moments;
use crate::simd::Family;

/// Columns of a block.
pub(crate) const BLOCK: usize = 64;
/// Blocks that share a scale, and whose products are summed as integers. The last of a row may be fewer.
pub(crate) const SECTION: usize = 4;
/// Tokens of a group.
pub(crate) const TOKENS: usize = 4;
/// The largest word.
#[cfg(target_arch = "x86_64")]
const WORD_MAX: f32 = 8191.0;
/// The largest norm of a section's words before they are rounded.
#[cfg(target_arch = "x86_64")]
const NORM_MAX: f32 = 32752.0;
/// Bytes of a group's block.
pub(crate) const BLOCK_BYTES: usize = TOKENS * (2 * BLOCK + 4 + 4);

/// Whether a family's kernels for prompts read words.
pub(crate) fn are_for(family: Family) -> bool {
    matches!(family, Family::Avx2 | Family::Avx512Vnni)
}

/// Bytes of a group.
pub(crate) const fn group_bytes(columns: usize) -> usize {
    columns / BLOCK * BLOCK_BYTES
}

/// Quantizes up to four rows of `x` `(tokens, columns)` into one group.
///
/// # Panics
/// When the family has no words, or the shapes do not fit.
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "no family here has words")
)]
pub(crate) fn quantize_group(
    family: Family,
    x: &[f32],
    columns: usize,
    norm: Option<RowNorm<'_>>,
    to: &mut [u8],
) {
    assert!(are_for(family), "{family} has no kernels for words");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the family was found on this processor.
    unsafe {
        match family {
            Family::Avx2 => avx2::group(x, columns, norm, to),
            _ => avx512::group(x, columns, norm, to),
        }
    }
}

/// A section of up to four tokens.
#[cfg(target_arch = "x86_64")]
struct Tokens<'a> {
    /// `(tokens, columns)`
    x: &'a [f32],
    columns: usize,
    norm: Option<RowNorm<'a>>,
    /// The mean and factor of each token.
    factors: [(f32, f32); TOKENS],
    /// Where the section begins.
    first: usize,
}

#[cfg(target_arch = "x86_64")]
impl<'a> Tokens<'a> {
    /// Each token from the section on.
    #[inline(always)]
    fn rows(&self) -> impl Iterator<Item = &'a [f32]> {
        let first = self.first;
        self.x.chunks_exact(self.columns).map(move |row| &row[first..])
    }
}

/// The mean and factor of each token of `x`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn factors(x: &[f32], columns: usize, norm: Option<RowNorm<'_>>) -> [(f32, f32); TOKENS] {
    assert!((1..=TOKENS).contains(&(x.len() / columns)), "one group");
    let mut factors = [(0.0, 0.0); TOKENS];
    for (factors, x) in factors.iter_mut().zip(x.chunks_exact(columns)) {
        *factors = moments(x, norm);
    }
    factors
}

/// The scale of a section whose largest magnitude is `max`; `squares` is the sum of squares of its numbers in units of that, in
/// which nothing overflows.
#[cfg(target_arch = "x86_64")]
fn scale(max: f32, squares: f32) -> f32 {
    max * (1.0 / WORD_MAX).max(squares.sqrt() / NORM_MAX)
}

/// 0 for 0.
#[cfg(target_arch = "x86_64")]
fn reciprocal(x: f32) -> f32 {
    if x > 0.0 { 1.0 / x } else { 0.0 }
}

/// Writes a section's scales in its first block, and returns the place of its starts.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn write_scales(scales: [f32; TOKENS], to: &mut [u8; BLOCK_BYTES]) -> &mut [u8] {
    let (of_words, starts) = to[2 * TOKENS * BLOCK..].split_at_mut(4 * TOKENS);
    for (to, scale) in of_words.as_chunks_mut::<4>().0.iter_mut().zip(scales) {
        *to = scale.to_le_bytes();
    }
    starts
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512 {
    use super::{
        BLOCK, BLOCK_BYTES, SECTION, TOKENS, Tokens, factors, group_bytes, reciprocal, scale,
        write_scales,
    };
    use crate::quantize::panel::RowNorm;
    use crate::quantize::panel::avx512::normalized;
    use std::arch::x86_64::*;

    /// As [`super::quantize_group`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn group(x: &[f32], columns: usize, norm: Option<RowNorm<'_>>, to: &mut [u8]) {
        assert_eq!(to.len(), group_bytes(columns), "one group");
        let factors = factors(x, columns, norm);
        for (s, to) in to.chunks_mut(SECTION * BLOCK_BYTES).enumerate() {
            let tokens = Tokens { x, columns, norm, factors, first: SECTION * BLOCK * s };
            match to.len() / BLOCK_BYTES {
                1 => section::<{ BLOCK / 16 }>(&tokens, to),
                2 => section::<{ 2 * BLOCK / 16 }>(&tokens, to),
                3 => section::<{ 3 * BLOCK / 16 }>(&tokens, to),
                _ => section::<{ SECTION * BLOCK / 16 }>(&tokens, to),
            }
        }
    }

    /// Quantizes a section of N times 16 columns of each token.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn section<const N: usize>(tokens: &Tokens<'_>, to: &mut [u8]) {
        let Tokens { norm, factors, first, .. } = *tokens;
        let mut twos = [[_mm512_setzero_si512(); TOKENS]; N];
        let mut scales = [0.0_f32; TOKENS];
        for (t, x) in tokens.rows().enumerate() {
            let x = &x[..16 * N];
            let mut parts = [_mm512_setzero_ps(); N];
            for (i, part) in parts.iter_mut().enumerate() {
                *part = normalized(&x[16 * i..], norm, factors[t], first + 16 * i);
            }
            let (words, scale) = words(parts);
            scales[t] = scale;
            for (twos, words) in twos.iter_mut().zip(words) {
                twos[t] = in_twos(words);
            }
        }
        let (blocks, mut products) = (to.as_chunks_mut::<BLOCK_BYTES>().0, _mm512_setzero_si512());
        for (twos, to) in twos.as_chunks::<{ BLOCK / 16 }>().0.iter().zip(&mut *blocks) {
            for (twos, to) in twos.iter().zip(to.as_chunks_mut().0) {
                products = store(twos, products, to);
            }
        }
        store_starts(products, write_scales(scales, &mut blocks[0]));
    }

    /// The words of a section in 32-bit lanes, and their scale.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn words<const N: usize>(x: [__m512; N]) -> ([__m512i; N], f32) {
        let max = largest(x);
        let (unit, mut squares) = (_mm512_set1_ps(reciprocal(max)), _mm512_setzero_ps());
        for x in x {
            let x = _mm512_mul_ps(x, unit);
            squares = _mm512_fmadd_ps(x, x, squares);
        }
        let scale = scale(max, _mm512_reduce_add_ps(squares));
        (integers(x, reciprocal(scale)), scale)
    }

    #[target_feature(enable = "avx512f")]
    fn largest<const N: usize>(x: [__m512; N]) -> f32 {
        let mut largest = _mm512_setzero_ps();
        for x in x {
            largest = _mm512_max_ps(largest, _mm512_abs_ps(x));
        }
        _mm512_reduce_max_ps(largest)
    }

    #[target_feature(enable = "avx512f")]
    fn integers<const N: usize>(x: [__m512; N], factor: f32) -> [__m512i; N] {
        let (factor, mut words) = (_mm512_set1_ps(factor), [_mm512_setzero_si512(); N]);
        for (words, x) in words.iter_mut().zip(x) {
            *words = _mm512_cvtps_epi32(_mm512_mul_ps(x, factor));
        }
        words
    }

    /// Words of at most `word_max` in 32-bit lanes, and their scale.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) fn rounded<const N: usize>(x: [__m512; N], word_max: f32) -> ([__m512i; N], f32) {
        let max = largest(x);
        let factor = if max > 0.0 { word_max / max } else { 0.0 };
        (integers(x, factor), max / word_max)
    }

    /// Joins words of 16 columns in twos: in the low half of each four columns 0 and 2, then 1 and 3.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn in_twos(words: __m512i) -> __m512i {
        let upper = _mm512_unpackhi_epi64(words, words);
        _mm512_mask_blend_epi16(0xaaaa_aaaa, words, _mm512_slli_epi32::<16>(upper))
    }

    /// Puts 16 columns of the tokens beside each other, and adds the products of neighbours.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn store(twos: &[__m512i; TOKENS], products: __m512i, to: &mut [u8; 128]) -> __m512i {
        let first = _mm512_unpacklo_epi32(twos[0], twos[1]);
        let second = _mm512_unpacklo_epi32(twos[2], twos[3]);
        let even = _mm512_unpacklo_epi64(first, second);
        let odd = _mm512_unpackhi_epi64(first, second);
        // SAFETY: 128 bytes, and stores need no alignment.
        unsafe {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), even);
            _mm512_storeu_si512(to.as_mut_ptr().add(64).cast(), odd);
        }
        _mm512_dpwssd_epi32(products, even, odd)
    }

    /// Writes minus the sum of each token's lanes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn store_starts(products: __m512i, starts: &mut [u8]) {
        let starts = &mut starts[..4 * TOKENS];
        let products = _mm256_add_epi32(
            _mm512_castsi512_si256(products),
            _mm512_extracti64x4_epi64::<1>(products),
        );
        let products = _mm_add_epi32(
            _mm256_castsi256_si128(products),
            _mm256_extracti128_si256::<1>(products),
        );
        let minus = _mm_sub_epi32(_mm_setzero_si128(), products);
        // SAFETY: 16 bytes, and stores need no alignment.
        unsafe { _mm_storeu_si128(starts.as_mut_ptr().cast(), minus) };
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{
        BLOCK, BLOCK_BYTES, SECTION, TOKENS, Tokens, factors, group_bytes, reciprocal, scale,
        write_scales,
    };
    use crate::quantize::panel::RowNorm;
    use crate::quantize::panel::avx2::{largest, normalized};
    use std::arch::x86_64::*;

    /// As [`super::quantize_group`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn group(x: &[f32], columns: usize, norm: Option<RowNorm<'_>>, to: &mut [u8]) {
        assert_eq!(to.len(), group_bytes(columns), "one group");
        let factors = factors(x, columns, norm);
        for (s, to) in to.chunks_mut(SECTION * BLOCK_BYTES).enumerate() {
            let tokens = Tokens { x, columns, norm, factors, first: SECTION * BLOCK * s };
            match to.len() / BLOCK_BYTES {
                1 => section::<{ BLOCK / 8 }>(&tokens, to),
                2 => section::<{ 2 * BLOCK / 8 }>(&tokens, to),
                3 => section::<{ 3 * BLOCK / 8 }>(&tokens, to),
                _ => section::<{ SECTION * BLOCK / 8 }>(&tokens, to),
            }
        }
    }

    /// Quantizes a section of N times 8 columns of each token. Starts are 0.
    #[target_feature(enable = "avx2,fma")]
    fn section<const N: usize>(tokens: &Tokens<'_>, to: &mut [u8]) {
        let Tokens { norm, factors, first, .. } = *tokens;
        let mut twos = [[_mm256_setzero_si256(); TOKENS]; N];
        let mut scales = [0.0_f32; TOKENS];
        for (t, x) in tokens.rows().enumerate() {
            let x = &x[..8 * N];
            let mut parts = [_mm256_setzero_ps(); N];
            for (i, part) in parts.iter_mut().enumerate() {
                *part = normalized(&x[8 * i..], norm, factors[t], first + 8 * i);
            }
            let (words, scale) = words(parts);
            scales[t] = scale;
            for (twos, words) in twos.iter_mut().zip(words) {
                twos[t] = in_twos(words);
            }
        }
        let blocks = to.as_chunks_mut::<BLOCK_BYTES>().0;
        for (twos, to) in twos.as_chunks::<{ BLOCK / 8 }>().0.iter().zip(&mut *blocks) {
            for (i, twos) in twos.iter().enumerate() {
                store(twos, &mut to[128 * (i / 2) + 32 * (i % 2)..]);
            }
        }
        write_scales(scales, &mut blocks[0]).fill(0);
    }

    /// The words of a section in 32-bit lanes, and their scale.
    #[target_feature(enable = "avx2,fma")]
    fn words<const N: usize>(x: [__m256; N]) -> ([__m256i; N], f32) {
        let max = largest(x);
        let (unit, mut squares) = (_mm256_set1_ps(reciprocal(max)), _mm256_setzero_ps());
        for x in x {
            let x = _mm256_mul_ps(x, unit);
            squares = _mm256_fmadd_ps(x, x, squares);
        }
        let mut lanes = [0.0_f32; 8];
        // SAFETY: the array has 8 numbers.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), squares) };
        let scale = scale(max, lanes.into_iter().sum());
        let (factor, mut words) = (_mm256_set1_ps(reciprocal(scale)), [_mm256_setzero_si256(); N]);
        for (words, x) in words.iter_mut().zip(x) {
            *words = _mm256_cvtps_epi32(_mm256_mul_ps(x, factor));
        }
        (words, scale)
    }

    /// As in AVX-512, with two times four columns.
    #[target_feature(enable = "avx2,fma")]
    fn in_twos(words: __m256i) -> __m256i {
        let upper = _mm256_unpackhi_epi64(words, words);
        _mm256_blend_epi16::<0xaa>(words, _mm256_slli_epi32::<16>(upper))
    }

    /// Puts 8 columns of the tokens beside each other.
    #[target_feature(enable = "avx2,fma")]
    fn store(twos: &[__m256i; TOKENS], to: &mut [u8]) {
        let first = _mm256_unpacklo_epi32(twos[0], twos[1]);
        let second = _mm256_unpacklo_epi32(twos[2], twos[3]);
        let even = _mm256_unpacklo_epi64(first, second);
        let odd = _mm256_unpackhi_epi64(first, second);
        let to = &mut to[..96];
        // SAFETY: 96 bytes, and stores need no alignment.
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), even);
            _mm256_storeu_si256(to.as_mut_ptr().add(64).cast(), odd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Random;

    /// The words of token `t` in block `b` in the order of columns, and their scale.
    fn read(group: &[u8], b: usize, t: usize) -> ([i16; BLOCK], f32) {
        let of_section = &group[b / 4 * 4 * BLOCK_BYTES..][..BLOCK_BYTES];
        let block = &group[b * BLOCK_BYTES..][..BLOCK_BYTES];
        let mut words = [0; BLOCK];
        for (c, word) in words.iter_mut().enumerate() {
            let (chunk, c) = (c / 16, c % 16);
            let step = 8 * chunk + 4 * (c % 2) + c / 4;
            let at = 16 * step + 4 * t + 2 * (c / 2 % 2);
            *word = i16::from_le_bytes([block[at], block[at + 1]]);
        }
        let scale = &of_section[2 * TOKENS * BLOCK + 4 * t..][..4];
        (words, f32::from_le_bytes(scale.try_into().expect("four bytes")))
    }

    #[test]
    fn words_are_the_columns_in_units_of_the_largest() {
        let families = Family::ALL.into_iter().filter(|family| are_for(*family));
        let families: Vec<_> = families.filter(|family| family.runs_here()).collect();
        if families.is_empty() {
            eprintln!("SKIPPED: words of prompts: no family here has kernels for them");
        }
        families.into_iter().for_each(check_words);
    }

    fn check_words(family: Family) {
        // Of the first token a section in which one number stands out, one of zeros, and two blocks that are much alike.
        let (columns, mut random) = (640, Random::new(5));
        for tokens in 1..=TOKENS {
            let mut x = random.normals(tokens * columns);
            x[3] = 50.0;
            x[256..512].fill(0.0);
            x[512..640].iter_mut().for_each(|x| *x = x.signum());
            let mut group = vec![0xff; group_bytes(columns)];
            quantize_group(family, &x, columns, None, &mut group);
            for (t, b) in (0..TOKENS).flat_map(|t| (0..columns / BLOCK).map(move |b| (t, b))) {
                let (words, scale) = read(&group, b, t);
                let row = if t < tokens { &x[t * columns..][..columns] } else { &[0.0; 640] };
                let (section, expected) =
                    (&row[b / 4 * 256..columns.min((b / 4 + 1) * 256)], &row[b * BLOCK..][..BLOCK]);
                let max = section.iter().fold(0.0_f64, |max, x| max.max(f64::from(x.abs())));
                let norm = section.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let expected_scale = (max / 8191.0).max(norm / 32752.0);
                let off = (f64::from(scale) - expected_scale).abs();
                assert!(off <= 1e-6 * expected_scale, "{scale} {max} {norm}");
                for (word, x) in words.iter().zip(expected) {
                    assert!((f32::from(*word) * scale - x).abs() <= 0.5001 * scale, "{word} {x}");
                }
            }
        }
    }
}
