//! Rows of prompts against chunks of the cache in 16-bit words, with AVX-512 VNNI.
//!
//! [`super::part`] runs at the limit of f32 products. `vpdpwssd` does twice as many, so here queries, keys, weights and values are
//! rounded to words, as the products of prompts are (see `linear::tile_words`): `x = scale * word`, with |word| <= 8191 for
//! queries and weights and <= 4095 for keys and values; 64 products stay below 2^31 and are summed as integers. Half of the
//! products become sums where that pays, see [`crate::simd::pairs`]: what is multiplied together are numbers d and d + 2 of a head, and
//! positions p and p + 2, for d and p whose remainder by 4 is 0 or 1.
//!
//! Whatever has a scale belongs to one token: 64 numbers of a query or of a key, all values of a position. So the bits of a row
//! depend on no position that it does not see, however a prompt was cut into steps. A position's scale of values goes into its
//! weights before those are rounded, in units of the largest that the row has in the chunk.
//!
//! A tile has many rows, so that rounding a chunk of the cache costs little. In scratch, keys of a chunk are
//! `(4, head_dim / 2, 64)` pairs of numbers of 64 positions, and values `(head_dim / 64, 128, 64)` pairs of positions of 64
//! numbers: what a part of four rows reads in its inner loop is contiguous.
#![expect(unsafe_code, reason = "a CPU kernel: streams words through raw pointers")]
use super::lanes::{Avx512, Lanes};
use super::part::{Chunk, GROUPS, State, Stored, folded};
use super::{CHUNK, PROMPT_ROWS};
use crate::quantize::words::avx512::rounded;
use crate::simd::pairs::add_products;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows that share each load of keys and values.
pub(super) const PART: usize = 4;
/// What is summed as integers: numbers of a head for scores, positions for values.
const BLOCK: usize = 64;
/// Largest words: of queries and weights, and of keys and values.
const WIDE: f32 = 8191.0;
const NARROW: f32 = 4095.0;

/// One thread's memory, all of it words of four bytes.
pub(super) struct Scratch<'a> {
    /// `(rows, head_dim / 2)` pairs of words, `(rows, head_dim / 64)` scales.
    q: &'a mut [f32],
    q_scales: &'a mut [f32],
    /// As `q_scales`: where sums of products start, i32.
    q_starts: &'a mut [f32],
    /// Keys, and their scales `(head_dim / 64, CHUNK)`.
    k: &'a mut [f32],
    k_scales: &'a mut [f32],
    /// As `k_scales`.
    k_starts: &'a mut [f32],
    /// Values, and a scale per position.
    v: &'a mut [f32],
    v_scales: &'a mut [f32],
    /// `(CHUNK / 16, head_dim)`: a group's share of where sums of values start, i32.
    v_starts: &'a mut [f32],
    /// `(PART, CHUNK)`, and as pairs of words `(PART, CHUNK / 2)`.
    scores: &'a mut [f32],
    weights: &'a mut [f32],
    /// `(PART, CHUNK / 64)`
    weight_starts: &'a mut [f32],
}

/// Numbers of [`Scratch`].
pub(super) const fn scratch_len(head_dim: usize) -> usize {
    let blocks = head_dim / BLOCK;
    let q = PROMPT_ROWS * (head_dim / 2 + 2 * blocks);
    let keys_and_values = CHUNK * (head_dim + 2 * blocks + 1) + GROUPS * head_dim;
    q + keys_and_values + PART * (CHUNK + CHUNK / 2 + CHUNK / BLOCK)
}

impl<'a> Scratch<'a> {
    pub(super) fn new(scratch: &'a mut [f32], head_dim: usize) -> Self {
        let blocks = head_dim / BLOCK;
        let mut rest = scratch;
        let mut take = |count: usize| {
            let (taken, after) = std::mem::take(&mut rest).split_at_mut(count);
            rest = after;
            taken
        };
        Self {
            q: take(PROMPT_ROWS * head_dim / 2),
            q_scales: take(PROMPT_ROWS * blocks),
            q_starts: take(PROMPT_ROWS * blocks),
            k: take(CHUNK * head_dim / 2),
            k_scales: take(CHUNK * blocks),
            k_starts: take(CHUNK * blocks),
            v: take(CHUNK * head_dim / 2),
            v_scales: take(CHUNK),
            v_starts: take(GROUPS * head_dim),
            scores: take(PART * CHUNK),
            weights: take(PART * CHUNK / 2),
            weight_starts: take(PART * CHUNK / BLOCK),
        }
    }

    /// Rounds row `row` of the tile; `scale` is that of its scores.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn set_query(&mut self, row: usize, q: &[f32], scale: f32) {
        let blocks = q.len() / BLOCK;
        let to = &mut self.q[row * q.len() / 2..(row + 1) * q.len() / 2];
        let scales = &mut self.q_scales[row * blocks..(row + 1) * blocks];
        let starts = &mut self.q_starts[row * blocks..(row + 1) * blocks];
        let parts = q.as_chunks::<BLOCK>().0.iter().zip(to.as_chunks_mut::<{ BLOCK / 2 }>().0);
        for ((q, to), (to_scale, to_start)) in parts.zip(scales.iter_mut().zip(starts)) {
            let mut numbers = [_mm512_setzero_ps(); BLOCK / 16];
            for (numbers, q) in numbers.iter_mut().zip(q.as_chunks().0) {
                *numbers = Avx512::load(q);
            }
            let (words, of_words) = rounded(numbers, WIDE);
            *to_scale = of_words * scale;
            let mut products = _mm256_setzero_si256();
            for (words, to) in words.into_iter().zip(to.as_chunks_mut::<8>().0) {
                let words = _mm512_cvtepi32_epi16(words);
                products = _mm256_add_epi32(products, neighbours(words));
                store_words(words, to);
            }
            *to_start = start(products);
        }
    }

    /// Rounds the keys and values of these groups of a chunk.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn set_chunk<S: Stored>(&mut self, chunk: &Chunk<'_>, groups: Range<usize>) {
        for group in groups {
            for block in 0..chunk.head_dim / BLOCK {
                self.set_keys::<S>(chunk, group, block);
            }
            self.set_values::<S>(chunk, group);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn set_keys<S: Stored>(&mut self, chunk: &Chunk<'_>, group: usize, block: usize) {
        let numbers = block * BLOCK..(block + 1) * BLOCK;
        let mut largest = _mm512_setzero_ps();
        for d in numbers {
            largest = _mm512_max_ps(_mm512_abs_ps(key::<S>(chunk, group, d)), largest);
        }
        let (inverse, scale) = inverse(largest);
        let scales = &mut self.k_scales[block * CHUNK..(block + 1) * CHUNK];
        Avx512::store(scale, &mut scales.as_chunks_mut().0[group]);
        let first = (group / 4 * chunk.head_dim + block * BLOCK) / 2 * BLOCK + group % 4 * 16;
        let to = &mut self.k[first..first + (BLOCK / 2 - 1) * BLOCK + 16];
        let (mut before, mut start) = (_mm512_setzero_si512(), _mm512_setzero_si512());
        for (pair, to) in to.chunks_mut(BLOCK).enumerate() {
            let d = block * BLOCK + 2 * pair;
            let low = _mm512_cvtps_epi32(_mm512_mul_ps(key::<S>(chunk, group, d), inverse));
            let high = _mm512_cvtps_epi32(_mm512_mul_ps(key::<S>(chunk, group, d + 1), inverse));
            let both = joined(low, high);
            if pair % 2 == 1 {
                start = _mm512_sub_epi32(start, _mm512_madd_epi16(before, both));
            }
            before = both;
            store_integers(both, &mut to.as_chunks_mut().0[0]);
        }
        let starts = &mut self.k_starts[block * CHUNK..(block + 1) * CHUNK];
        store_integers(start, &mut starts.as_chunks_mut().0[group]);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn set_values<S: Stored>(&mut self, chunk: &Chunk<'_>, group: usize) {
        let vectors = chunk.head_dim / 16;
        let mut largest = [0.0; 16];
        for (i, largest) in largest.iter_mut().enumerate() {
            let mut most = _mm512_setzero_ps();
            for vector in 0..vectors {
                let x = value::<S>(chunk, group, i, vector);
                most = _mm512_max_ps(_mm512_abs_ps(x), most);
            }
            *largest = _mm512_reduce_max_ps(most);
        }
        let (inverse, scale) = inverse(Avx512::load(&largest));
        Avx512::store(scale, &mut self.v_scales.as_chunks_mut().0[group]);
        let inverse = Avx512::lanes(inverse);
        let starts = &mut self.v_starts[group * chunk.head_dim..][..chunk.head_dim];
        starts.fill(0.0);
        let starts = starts.as_chunks_mut().0;
        let v = self.v.as_chunks_mut().0;
        for (pair, inverse) in inverse.as_chunks::<2>().0.iter().enumerate() {
            let (low_inverse, high_inverse) =
                (_mm512_set1_ps(inverse[0]), _mm512_set1_ps(inverse[1]));
            for (vector, start) in starts.iter_mut().enumerate() {
                let low = value::<S>(chunk, group, 2 * pair, vector);
                let low = _mm512_cvtps_epi32(_mm512_mul_ps(low, low_inverse));
                let high = value::<S>(chunk, group, 2 * pair + 1, vector);
                let high = _mm512_cvtps_epi32(_mm512_mul_ps(high, high_inverse));
                let at = (vector / 4 * CHUNK / 2 + 8 * group + pair) * 4 + vector % 4;
                let both = joined(low, high);
                if pair % 2 == 1 {
                    let products = _mm512_madd_epi16(load_integers(&v[at - 4]), both);
                    store_integers(_mm512_sub_epi32(load_integers(start), products), start);
                }
                store_integers(both, &mut v[at]);
            }
        }
    }

    /// The four rows of part `part` against the chunk whose keys and values are set. `sees`: positions that each row sees;
    /// `y` `(PART, head_dim)`: sums of values under `state`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) fn part<const PAIRS: bool>(
        &mut self,
        (part, start): (usize, usize),
        sees: &[Range<usize>; PART],
        state: &mut State,
        y: &mut [f32],
    ) {
        let seen = seen(sees, start);
        if seen.is_empty() {
            return;
        }
        let head_dim = y.len() / PART;
        assert!(self.q.len() == PROMPT_ROWS * head_dim / 2 && part < PROMPT_ROWS / PART, "a part");
        let groups = seen.start / 16..seen.end.div_ceil(16);
        for block in groups.start / 4..groups.end.div_ceil(4) {
            let first = groups.start.max(4 * block);
            match groups.end.min(4 * block + 4) - first {
                1 => self.scores::<1, PAIRS>(part, head_dim, first),
                2 => self.scores::<2, PAIRS>(part, head_dim, first),
                3 => self.scores::<3, PAIRS>(part, head_dim, first),
                _ => self.scores::<4, PAIRS>(part, head_dim, first),
            }
        }
        let (more, units) = self.soften(sees, start, groups.clone());
        let [shrink, grow] = state.fold::<Avx512>(&more);
        for block in 0..head_dim / BLOCK {
            let sums = self.values::<PAIRS>(block, groups.clone());
            for (row, y) in y.chunks_exact_mut(head_dim).enumerate() {
                let unit = _mm512_set1_ps(units[row]);
                let y = y[block * BLOCK..][..BLOCK].as_chunks_mut().0;
                for (sum, y) in sums[row].into_iter().zip(y) {
                    let sum = _mm512_mul_ps(sum, unit);
                    let sum = folded::<Avx512>(Avx512::load(y), sum, shrink[row], grow[row]);
                    Avx512::store(sum, y);
                }
            }
        }
    }

    /// Scores of `P` groups of positions from `group` on, which lie in one block of 64.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn scores<const P: usize, const PAIRS: bool>(
        &mut self,
        part: usize,
        head_dim: usize,
        group: usize,
    ) {
        let q = &self.q[part * PART * head_dim / 2..][..PART * head_dim / 2];
        let k = &self.k[group / 4 * head_dim / 2 * BLOCK..][..head_dim / 2 * BLOCK];
        assert!(group % 4 + P <= 4, "groups of one block");
        let mut totals = [[_mm512_setzero_ps(); P]; PART];
        for block in 0..head_dim / BLOCK {
            let mut sums = [[_mm512_setzero_si512(); P]; PART];
            if PAIRS {
                let starts = &self.k_starts[block * CHUNK..].as_chunks().0[group..group + P];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let start = self.q_starts[(part * PART + row) * (head_dim / BLOCK) + block];
                    let start = _mm512_set1_epi32(start.to_bits().cast_signed());
                    for (sum, of_keys) in sums.iter_mut().zip(starts) {
                        *sum = _mm512_add_epi32(load_integers(of_keys), start);
                    }
                }
            }
            for step in (block * BLOCK / 2..(block + 1) * BLOCK / 2).step_by(2) {
                let mut keys = [[_mm512_setzero_si512(); 2]; P];
                for (p, keys) in keys.iter_mut().enumerate() {
                    for (i, keys) in keys.iter_mut().enumerate() {
                        let at = (step + i) * BLOCK + (group % 4 + p) * 16;
                        // SAFETY: `step + 1` is below head_dim / 2, and the groups lie in the block.
                        *keys = unsafe { _mm512_loadu_si512(k.as_ptr().add(at).cast()) };
                    }
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: there are PART rows of head_dim / 2 pairs.
                    let twos = unsafe { twos(q.as_ptr().add(row * head_dim / 2 + step)) };
                    for (sum, keys) in sums.iter_mut().zip(keys) {
                        *sum = add_products::<PAIRS>(*sum, twos, keys);
                    }
                }
            }
            let scales = &self.k_scales[block * CHUNK..].as_chunks().0[group..group + P];
            for (row, (totals, sums)) in totals.iter_mut().zip(sums).enumerate() {
                let scale = self.q_scales[(part * PART + row) * (head_dim / BLOCK) + block];
                let scale = _mm512_set1_ps(scale);
                for (p, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                    let scale = _mm512_mul_ps(Avx512::load(&scales[p]), scale);
                    *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, *total);
                }
            }
        }
        for (totals, scores) in totals.into_iter().zip(self.scores.as_chunks_mut::<CHUNK>().0) {
            let scores = &mut scores.as_chunks_mut().0[group..group + P];
            for (total, to) in totals.into_iter().zip(scores) {
                Avx512::store(total, to);
            }
        }
    }

    /// Turns the rows' scores of these groups into words: weights under their largest, times the scales of values. Returns largest
    /// scores and sums of weights in the lanes of the rows, and what a word of 1 stands for. All rows go together, so that none
    /// waits for the sums of another.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn soften(
        &mut self,
        sees: &[Range<usize>; PART],
        chunk_start: usize,
        groups: Range<usize>,
    ) -> (State, [f32; PART]) {
        assert!(groups.end <= GROUPS, "groups of a chunk");
        let scores = self.scores.as_chunks_mut::<CHUNK>().0;
        for (scores, sees) in scores.iter_mut().zip(sees) {
            // What the row does not see may be anything, even NaN: it is replaced, not multiplied.
            let end = sees.end.saturating_sub(chunk_start).min(groups.end * 16);
            let first = sees.start.saturating_sub(chunk_start).min(end);
            if groups.start * 16 < first {
                scores[groups.start * 16..first].fill(f32::NEG_INFINITY);
            }
            scores[end.max(groups.start * 16)..groups.end * 16].fill(f32::NEG_INFINITY);
        }
        let mut most = [Avx512::splat(f32::NEG_INFINITY); PART];
        for group in groups.clone() {
            for (most, scores) in most.iter_mut().zip(&*scores) {
                *most = Avx512::max(Avx512::load(&scores.as_chunks().0[group]), *most);
            }
        }
        let mut more = State::NEW;
        let mut max = [Avx512::splat(0.0); PART];
        for ((max, most), more) in max.iter_mut().zip(most).zip(&mut more.max) {
            *more = _mm512_reduce_max_ps(most);
            // A row that sees nothing here has no largest score: all its weights are to be 0.
            *max = Avx512::splat(more.max(f32::MIN));
        }
        let (mut total, mut most) = ([Avx512::splat(0.0); PART], [Avx512::splat(0.0); PART]);
        for group in groups.clone() {
            let scale = Avx512::load(&self.v_scales.as_chunks().0[group]);
            for (row, scores) in scores.iter_mut().enumerate() {
                let to = &mut scores.as_chunks_mut().0[group];
                let weight = Avx512::exp2(Avx512::sub(Avx512::load(to), max[row]));
                total[row] = Avx512::add(total[row], weight);
                let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(weight, _mm512_setzero_ps());
                let weight = _mm512_maskz_mul_ps(some, weight, scale);
                most[row] = Avx512::max(weight, most[row]);
                Avx512::store(weight, to);
            }
        }
        let mut units = [0.0; PART];
        let mut inverse = [Avx512::splat(0.0); PART];
        for row in 0..PART {
            more.total[row] = _mm512_reduce_add_ps(total[row]);
            let most = _mm512_reduce_max_ps(most[row]);
            inverse[row] = Avx512::splat(if most > 0.0 { WIDE / most } else { 0.0 });
            units[row] = most / WIDE;
        }
        self.round_weights(groups, &inverse);
        (more, units)
    }

    /// Weights of these groups as words.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn round_weights(&mut self, groups: Range<usize>, inverse: &[__m512; PART]) {
        let scores = self.scores.as_chunks::<CHUNK>().0;
        let weights = self.weights.as_chunks_mut::<{ CHUNK / 2 }>().0;
        let starts = self.weight_starts.as_chunks_mut::<{ CHUNK / BLOCK }>().0;
        for block in groups.start / 4..groups.end.div_ceil(4) {
            let mut products = [_mm256_setzero_si256(); PART];
            for group in groups.start.max(4 * block)..groups.end.min(4 * block + 4) {
                for (row, products) in products.iter_mut().enumerate() {
                    let weight = Avx512::load(&scores[row].as_chunks().0[group]);
                    let words = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(Avx512::mul(
                        weight,
                        inverse[row],
                    )));
                    *products = _mm256_add_epi32(*products, neighbours(words));
                    store_words(words, &mut weights[row].as_chunks_mut().0[group]);
                }
            }
            for (starts, products) in starts.iter_mut().zip(products) {
                starts[block] = start(products);
            }
        }
    }

    /// Sums of the values of 64 numbers, weighted with words, over the positions of these groups.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn values<const PAIRS: bool>(&self, block: usize, groups: Range<usize>) -> [[__m512; 4]; PART] {
        let v = &self.v[block * CHUNK / 2 * BLOCK..][..CHUNK / 2 * BLOCK];
        let head_dim = self.v_starts.len() / GROUPS;
        assert!(groups.end <= GROUPS && self.weights.len() == PART * CHUNK / 2, "a chunk");
        let mut totals = [[_mm512_setzero_ps(); 4]; PART];
        // Integer sums end at fixed positions.
        for positions in groups.start / 4..groups.end.div_ceil(4) {
            let groups = groups.start.max(4 * positions)..groups.end.min(4 * positions + 4);
            let mut sums = [[_mm512_setzero_si512(); 4]; PART];
            if PAIRS {
                let mut starts = [_mm512_setzero_si512(); 4];
                for group in groups.clone() {
                    let of_group = &self.v_starts[group * head_dim + block * BLOCK..][..BLOCK];
                    for (start, of_group) in starts.iter_mut().zip(of_group.as_chunks().0) {
                        *start = _mm512_add_epi32(*start, load_integers(of_group));
                    }
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let start = self.weight_starts[row * CHUNK / BLOCK + positions];
                    let start = _mm512_set1_epi32(start.to_bits().cast_signed());
                    *sums = starts.map(|of_values| _mm512_add_epi32(of_values, start));
                }
            }
            for pair in (8 * groups.start..8 * groups.end).step_by(2) {
                let mut values = [[_mm512_setzero_si512(); 2]; 4];
                for (i, values) in values.iter_mut().enumerate() {
                    for (p, values) in values.iter_mut().enumerate() {
                        let at = (pair + p) * BLOCK + 16 * i;
                        // SAFETY: `pair + 1` is within the chunk.
                        *values = unsafe { _mm512_loadu_si512(v.as_ptr().add(at).cast()) };
                    }
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: there are PART rows of weights for a whole chunk.
                    let twos = unsafe { twos(self.weights.as_ptr().add(row * CHUNK / 2 + pair)) };
                    for (sum, values) in sums.iter_mut().zip(values) {
                        *sum = add_products::<PAIRS>(*sum, twos, values);
                    }
                }
            }
            for (totals, sums) in totals.iter_mut().zip(sums) {
                for (total, sum) in totals.iter_mut().zip(sums) {
                    *total = _mm512_add_ps(_mm512_cvtepi32_ps(sum), *total);
                }
            }
        }
        totals
    }
}

/// Places of the chunk at `start` that any row sees.
fn seen(sees: &[Range<usize>; PART], start: usize) -> Range<usize> {
    let some = sees.iter().filter(|sees| sees.start < start + CHUNK && sees.end > start);
    let (first, end) = some.fold((CHUNK, 0), |(first, end), sees| {
        (first.min(sees.start.saturating_sub(start)), end.max(sees.end - start))
    });
    first..end.min(CHUNK)
}

/// Groups of the chunk at `start` that hold any of these positions.
pub(super) fn groups_of(sees: &Range<usize>, start: usize) -> Range<usize> {
    let first = sees.start.saturating_sub(start) / 16;
    first.min(GROUPS)..sees.end.saturating_sub(start).div_ceil(16).min(GROUPS)
}

/// Number `d` of the keys of a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn key<S: Stored>(chunk: &Chunk<'_>, group: usize, d: usize) -> __m512 {
    let x = chunk.keys::<S, Avx512>(group, d);
    if S::SCALED { Avx512::mul(x, chunk.scales::<Avx512>(chunk.k, group, d / 32)) } else { x }
}

/// Sixteen values of place `i` of a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn value<S: Stored>(chunk: &Chunk<'_>, group: usize, i: usize, vector: usize) -> __m512 {
    let x = chunk.values::<S, Avx512>(group, i, 16 * vector);
    if !S::SCALED {
        return x;
    }
    let scales = Avx512::lanes(chunk.scales::<Avx512>(chunk.v, group, vector / 2));
    Avx512::mul(x, Avx512::splat(scales[i]))
}

/// What turns numbers of at most `largest` into words, and what turns those back; 0 for lanes of nothing but zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn inverse(largest: __m512) -> (__m512, __m512) {
    let some = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(largest, _mm512_setzero_ps());
    let inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(NARROW), largest);
    (inverse, _mm512_mul_ps(largest, _mm512_set1_ps(1.0 / NARROW)))
}

/// Two pairs of words that follow each other, each in all lanes.
///
/// # Safety
/// Both can be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn twos(at: *const f32) -> [__m512i; 2] {
    // SAFETY: the caller's.
    unsafe { [_mm512_set1_epi32(*at.cast()), _mm512_set1_epi32(*at.add(1).cast())] }
}

/// Products of words that are multiplied together in pairs, in the first of each two lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn neighbours(words: __m256i) -> __m256i {
    _mm256_madd_epi16(words, _mm256_srli_epi64::<32>(words))
}

/// Where sums start for one side's products: minus their sum, as bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn start(products: __m256i) -> f32 {
    let sum = _mm512_reduce_add_epi32(_mm512_zextsi256_si512(products));
    f32::from_bits(sum.wrapping_neg().cast_unsigned())
}

/// Sixteen words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn store_words(words: __m256i, to: &mut [f32; 8]) {
    // SAFETY: 32 bytes, and stores need no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), words) };
}

/// Sixteen pairs of words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn joined(low: __m512i, high: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, low, _mm512_slli_epi32::<16>(high))
}

/// Sixteen integers, or pairs of words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn store_integers(integers: __m512i, to: &mut [f32; 16]) {
    Avx512::store(_mm512_castsi512_ps(integers), to);
}

/// As [`store_integers`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn load_integers(from: &[f32; 16]) -> __m512i {
    _mm512_castps_si512(Avx512::load(from))
}
