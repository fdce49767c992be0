//! Activations of prompts as 16-bit words, four tokens together, as kernels multiply them with `linear::tile_words`.
//!
//! Contract: per block of 64 columns `scale = max|x| / 8191`, `word = round(x / scale)`. A group of four tokens is a run of
//! blocks; tokens past the last are zeros:
//!
//! ```text
//!   32 x { two columns of each token: i16 x 2 x 4 }   scales: f32 x 4   starts: i32 x 4
//! ```
//!
//! Of 16 columns the steps are: 0 2, 4 6, 8 10, 12 14, then 1 3, 5 7, 9 11, 13 15. A start is minus the sum of the products of
//! columns 2 i and 2 i + 1: where the sums of AVX-512 kernels begin; of other families it is 0.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "a CPU kernel"))]
use super::panel::RowNorm;
#[cfg(target_arch = "x86_64")]
use super::panel::moments;
use crate::simd::Family;

/// Columns that share a scale.
pub(crate) const BLOCK: usize = 64;
/// Tokens of a group.
pub(crate) const TOKENS: usize = 4;
/// The largest word.
#[cfg(target_arch = "x86_64")]
const WORD_MAX: f32 = 8191.0;
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

/// How many tokens `x` has, and the mean and factor of each.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn factors(x: &[f32], columns: usize, norm: Option<RowNorm<'_>>) -> (usize, [(f32, f32); TOKENS]) {
    let tokens = x.len() / columns;
    assert!((1..=TOKENS).contains(&tokens), "one group");
    let mut factors = [(0.0, 0.0); TOKENS];
    for (factors, x) in factors.iter_mut().zip(x.chunks_exact(columns)) {
        *factors = moments(x, norm);
    }
    (tokens, factors)
}

/// Writes a block's scales, and returns the place of its starts.
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
    use super::{BLOCK, BLOCK_BYTES, TOKENS, WORD_MAX, factors, group_bytes, write_scales};
    use crate::quantize::panel::RowNorm;
    use crate::quantize::panel::avx512::normalized;
    use std::arch::x86_64::*;

    /// As [`super::quantize_group`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn group(x: &[f32], columns: usize, norm: Option<RowNorm<'_>>, to: &mut [u8]) {
        assert_eq!(to.len(), group_bytes(columns), "one group");
        let (tokens, factors) = factors(x, columns, norm);
        for (b, to) in to.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().enumerate() {
            let mut words = [[_mm512_setzero_si512(); BLOCK / 16]; TOKENS];
            let mut scales = [0.0_f32; TOKENS];
            for t in 0..tokens {
                let x = &x[t * columns + BLOCK * b..][..BLOCK];
                let mut parts = [_mm512_setzero_ps(); BLOCK / 16];
                for (i, part) in parts.iter_mut().enumerate() {
                    *part = normalized(&x[16 * i..], norm, factors[t], BLOCK * b + 16 * i);
                }
                (words[t], scales[t]) = rounded(parts, WORD_MAX);
            }
            store(words, scales, to);
        }
    }

    /// Words of at most `word_max` in 32-bit lanes, and their scale.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) fn rounded(x: [__m512; BLOCK / 16], word_max: f32) -> ([__m512i; BLOCK / 16], f32) {
        let mut largest = _mm512_setzero_ps();
        for x in x {
            largest = _mm512_max_ps(largest, _mm512_abs_ps(x));
        }
        let max = _mm512_reduce_max_ps(largest);
        let inverse = _mm512_set1_ps(if max > 0.0 { word_max / max } else { 0.0 });
        let mut words = [_mm512_setzero_si512(); BLOCK / 16];
        for (words, x) in words.iter_mut().zip(x) {
            *words = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
        }
        (words, max / word_max)
    }

    /// Joins words of 16 columns in twos: in the low half of each four columns 0 and 2, then 1 and 3.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn in_twos(words: __m512i) -> __m512i {
        let upper = _mm512_unpackhi_epi64(words, words);
        _mm512_mask_blend_epi16(0xaaaa_aaaa, words, _mm512_slli_epi32::<16>(upper))
    }

    /// Joins columns in twos and puts the tokens beside each other.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn store(
        words: [[__m512i; BLOCK / 16]; TOKENS],
        scales: [f32; TOKENS],
        to: &mut [u8; BLOCK_BYTES],
    ) {
        let mut products = _mm512_setzero_si512();
        for i in 0..BLOCK / 16 {
            let mut twos = [_mm512_setzero_si512(); TOKENS];
            for (twos, words) in twos.iter_mut().zip(&words) {
                *twos = in_twos(words[i]);
            }
            let first = _mm512_unpacklo_epi32(twos[0], twos[1]);
            let second = _mm512_unpacklo_epi32(twos[2], twos[3]);
            let even = _mm512_unpacklo_epi64(first, second);
            let odd = _mm512_unpackhi_epi64(first, second);
            products = _mm512_dpwssd_epi32(products, even, odd);
            let to = &mut to[128 * i..128 * (i + 1)];
            // SAFETY: 128 bytes, and stores need no alignment.
            unsafe {
                _mm512_storeu_si512(to.as_mut_ptr().cast(), even);
                _mm512_storeu_si512(to.as_mut_ptr().add(64).cast(), odd);
            }
        }
        let starts = write_scales(scales, to);
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
    use super::{BLOCK, BLOCK_BYTES, TOKENS, WORD_MAX, factors, group_bytes, write_scales};
    use crate::quantize::panel::RowNorm;
    use crate::quantize::panel::avx2::{largest, normalized};
    use std::arch::x86_64::*;

    /// As [`super::quantize_group`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn group(x: &[f32], columns: usize, norm: Option<RowNorm<'_>>, to: &mut [u8]) {
        assert_eq!(to.len(), group_bytes(columns), "one group");
        let (tokens, factors) = factors(x, columns, norm);
        for (b, to) in to.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().enumerate() {
            let mut words = [[_mm256_setzero_si256(); BLOCK / 8]; TOKENS];
            let mut scales = [0.0_f32; TOKENS];
            for t in 0..tokens {
                let x = &x[t * columns + BLOCK * b..][..BLOCK];
                let mut parts = [_mm256_setzero_ps(); BLOCK / 8];
                for (i, part) in parts.iter_mut().enumerate() {
                    *part = normalized(&x[8 * i..], norm, factors[t], BLOCK * b + 8 * i);
                }
                (words[t], scales[t]) = rounded(parts);
            }
            store(words, scales, to);
        }
    }

    /// Words in 32-bit lanes, and their scale.
    #[target_feature(enable = "avx2,fma")]
    fn rounded(x: [__m256; BLOCK / 8]) -> ([__m256i; BLOCK / 8], f32) {
        let max = largest(x);
        let inverse = _mm256_set1_ps(if max > 0.0 { WORD_MAX / max } else { 0.0 });
        let mut words = [_mm256_setzero_si256(); BLOCK / 8];
        for (words, x) in words.iter_mut().zip(x) {
            *words = _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
        }
        (words, max / WORD_MAX)
    }

    /// As in AVX-512, with two times four columns.
    #[target_feature(enable = "avx2,fma")]
    fn in_twos(words: __m256i) -> __m256i {
        let upper = _mm256_unpackhi_epi64(words, words);
        _mm256_blend_epi16::<0xaa>(words, _mm256_slli_epi32::<16>(upper))
    }

    /// Joins columns in twos and puts the tokens beside each other. Starts stay 0.
    #[target_feature(enable = "avx2,fma")]
    fn store(
        words: [[__m256i; BLOCK / 8]; TOKENS],
        scales: [f32; TOKENS],
        to: &mut [u8; BLOCK_BYTES],
    ) {
        for i in 0..BLOCK / 8 {
            let mut twos = [_mm256_setzero_si256(); TOKENS];
            for (twos, words) in twos.iter_mut().zip(&words) {
                *twos = in_twos(words[i]);
            }
            let first = _mm256_unpacklo_epi32(twos[0], twos[1]);
            let second = _mm256_unpacklo_epi32(twos[2], twos[3]);
            let even = _mm256_unpacklo_epi64(first, second);
            let odd = _mm256_unpackhi_epi64(first, second);
            let to = &mut to[128 * (i / 2) + 32 * (i % 2)..][..96];
            // SAFETY: 96 bytes, and stores need no alignment.
            unsafe {
                _mm256_storeu_si256(to.as_mut_ptr().cast(), even);
                _mm256_storeu_si256(to.as_mut_ptr().add(64).cast(), odd);
            }
        }
        let starts = write_scales(scales, to);
        starts.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Random;

    /// The words of token `t` in block `b` in the order of columns, and their scale.
    fn read(group: &[u8], b: usize, t: usize) -> ([i16; BLOCK], f32) {
        let block = &group[b * BLOCK_BYTES..][..BLOCK_BYTES];
        let mut words = [0; BLOCK];
        for (c, word) in words.iter_mut().enumerate() {
            let (chunk, c) = (c / 16, c % 16);
            let step = 8 * chunk + 4 * (c % 2) + c / 4;
            let at = 16 * step + 4 * t + 2 * (c / 2 % 2);
            *word = i16::from_le_bytes([block[at], block[at + 1]]);
        }
        let scale = &block[2 * TOKENS * BLOCK + 4 * t..][..4];
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
        let (columns, mut random) = (192, Random::new(5));
        for tokens in 1..=TOKENS {
            let mut x = random.normals(tokens * columns);
            x[64..128].fill(0.0);
            let mut group = vec![0xff; group_bytes(columns)];
            quantize_group(family, &x, columns, None, &mut group);
            for (t, b) in (0..TOKENS).flat_map(|t| (0..columns / BLOCK).map(move |b| (t, b))) {
                let (words, scale) = read(&group, b, t);
                let expected =
                    if t < tokens { &x[t * columns + b * BLOCK..][..BLOCK] } else { &[0.0; BLOCK] };
                let max = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                assert!((scale - max / 8191.0).abs() <= 1e-6 * scale, "{scale} {max}");
                for (word, x) in words.iter().zip(expected) {
                    assert!((f32::from(*word) * scale - x).abs() <= 0.5001 * scale, "{word} {x}");
                }
            }
        }
    }
}
