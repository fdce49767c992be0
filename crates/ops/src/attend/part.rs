//! Some rows of queries against one chunk of the cache: scores, softmax, values. The inner loops of `attend`.
#![expect(unsafe_code, reason = "inner loops read the cache without a check per number")]
use super::lanes::Lanes;
use super::{CHUNK, padded};
use crate::KvFormat;
use std::ops::Range;

/// Vectors of positions in a chunk.
pub(super) const GROUPS: usize = CHUNK / 16;

/// How the cache stores a number, see [`crate::write_kv`].
pub(super) trait Stored {
    type Code: Copy;
    /// Whether each [`KvFormat::GROUP`] numbers of a head have a scale.
    const SCALED: bool;

    /// Sixteen neighbouring codes as numbers.
    fn widen<L: Lanes>(from: &[Self::Code; 16]) -> L::V;
    fn zero() -> Self::Code;
}

/// F16.
pub(super) struct Halves;

impl Stored for Halves {
    type Code = u16;
    const SCALED: bool = false;

    #[inline(always)]
    fn widen<L: Lanes>(from: &[u16; 16]) -> L::V {
        L::widen(from)
    }
    fn zero() -> u16 {
        0
    }
}

/// Q8_0: codes that a scale is to be multiplied with.
pub(super) struct Scaled;

impl Stored for Scaled {
    type Code = i8;
    const SCALED: bool = true;

    #[inline(always)]
    fn widen<L: Lanes>(from: &[i8; 16]) -> L::V {
        L::widen_codes(from)
    }
    fn zero() -> i8 {
        0
    }
}

/// Where the positions of a chunk lie in the cache of one KV head.
pub(super) struct Chunk<'a> {
    pub(super) k: &'a [u8],
    pub(super) v: &'a [u8],
    /// The chunk's first position.
    pub(super) start: usize,
    pub(super) head_dim: usize,
    pub(super) block_tokens: usize,
    /// For each group of 16 positions that is read: where its block's record starts, in K and V alike, and its place in there.
    pub(super) groups: [(usize, usize); GROUPS],
    /// Where the records of the next chunk's groups start.
    pub(super) next: [usize; GROUPS],
}

impl Chunk<'_> {
    /// Sixteen numbers of K: number `d` of the positions of a group.
    #[inline(always)]
    pub(super) fn keys<S: Stored, L: Lanes>(&self, group: usize, d: usize) -> L::V {
        let (record, place) = self.groups[group];
        let at = record + (d * self.block_tokens + place) * size_of::<S::Code>();
        // SAFETY: the record is whole, as was asserted for each group; the place begins 16 of its block, and d is below the head's
        // size. A code is a plain number; records are aligned for it.
        S::widen::<L>(unsafe { &*self.k.as_ptr().add(at).cast::<[S::Code; 16]>() })
    }

    /// As long as K is read, V is brought nearer: a record is a few lines, too few for the processor to see a stream.
    #[inline(always)]
    fn expect_values<S: Stored, L: Lanes>(&self, group: usize, d: usize) {
        let (record, place) = self.groups[group];
        let at = record + (d * self.block_tokens + place) * size_of::<S::Code>();
        L::expect(self.v.as_ptr().wrapping_add(at));
    }

    /// As [`Self::expect_values`], the next chunk's K while V is read.
    #[inline(always)]
    fn expect_keys<S: Stored, L: Lanes>(&self, group: usize, i: usize, lane: usize) {
        let place = self.groups[group].1 + i;
        let at = self.next[group] + (place * self.head_dim + lane) * size_of::<S::Code>();
        L::expect(self.k.as_ptr().wrapping_add(at));
    }

    /// In K or V, the scales that the positions of a group have for 32 numbers of the head.
    #[inline(always)]
    pub(super) fn scales<L: Lanes>(&self, cache: &[u8], group: usize, numbers: usize) -> L::V {
        let (record, place) = self.groups[group];
        let codes = self.head_dim * self.block_tokens;
        let at = record + codes + 2 * (numbers * self.block_tokens + place);
        // SAFETY: as above; scales follow the codes in the record.
        L::widen(unsafe { &*cache.as_ptr().add(at).cast::<[u16; 16]>() })
    }

    /// Sixteen numbers of V, from `lane` on, of place `i` of a group; the head has as many.
    #[inline(always)]
    pub(super) fn values<S: Stored, L: Lanes>(&self, group: usize, i: usize, lane: usize) -> L::V {
        let (record, place) = self.groups[group];
        let at = record + ((place + i) * self.head_dim + lane) * size_of::<S::Code>();
        // SAFETY: as above; the lanes are within the head.
        S::widen::<L>(unsafe { &*self.v.as_ptr().add(at).cast::<[S::Code; 16]>() })
    }

    /// As [`Self::values`], with zeros past the end of the head.
    #[inline(always)]
    fn last_values<S: Stored, L: Lanes>(&self, group: usize, i: usize, lane: usize) -> L::V {
        let (record, place) = self.groups[group];
        let at = record + ((place + i) * self.head_dim + lane) * size_of::<S::Code>();
        let mut sixteen = [S::zero(); 16];
        for (i, code) in sixteen[..self.head_dim - lane].iter_mut().enumerate() {
            // SAFETY: as above.
            *code = unsafe { *self.v.as_ptr().add(at).cast::<S::Code>().add(i) };
        }
        S::widen::<L>(&sixteen)
    }
}

/// Softmax so far: a lane for each row. Scores are logarithms to base 2.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub(super) max: [f32; 16],
    pub(super) total: [f32; 16],
}

impl State {
    pub(super) const NEW: Self = Self { max: [f32::NEG_INFINITY; 16], total: [0.0; 16] };

    /// Takes in the largest score and the sum of weights of one more chunk. Returns the factors on the sums of values so far and on
    /// the chunk's: 1 and 0 for a row that sees nothing of it.
    #[inline(always)]
    pub(super) fn fold<L: Lanes>(&mut self, more: &Self) -> [[f32; 16]; 2] {
        let (before, chunk) = (L::load(&self.max), L::load(&more.max));
        let max = L::max(before, chunk);
        let shrink = L::exp2(L::sub(before, max));
        let grow = L::exp2(L::sub(chunk, max));
        let total = L::mul(L::load(&self.total), shrink);
        *self = Self {
            max: L::lanes(max),
            total: L::lanes(L::mul_add(L::load(&more.total), grow, total)),
        };
        [shrink, grow].map(L::lanes)
    }
}

/// `y * shrink + more * grow`: the one way in which sums of values come together, so that their bits do not depend on where.
#[inline(always)]
pub(super) fn folded<L: Lanes>(y: L::V, more: L::V, shrink: f32, grow: f32) -> L::V {
    L::mul_add(more, L::splat(grow), L::mul(y, L::splat(shrink)))
}

/// Some rows of a tile.
pub(super) struct Part<'a> {
    /// `(head_dim, rows)`, scaled.
    pub(super) q: &'a [f32],
    /// `(rows, padded(head_dim))`: sums of values under `state`.
    pub(super) y: &'a mut [f32],
    /// `(3, rows, CHUNK)`: scores, then weights; weights with two groups' scales.
    pub(super) weights: &'a mut [f32],
    pub(super) state: &'a mut State,
    /// Positions that each row sees.
    pub(super) sees: &'a [Range<usize>],
}

/// The body once for each index below a constant, written out: in a loop, the compiler would keep registers that are indexed by
/// the loop's variable in memory.
macro_rules! each_below {
    ($end:expr, $i:ident in [$($index:literal),*] $body:block) => {
        $(if const { $index < $end } {
            // Never out of bounds, also where this is dead code.
            let $i = $index % $end;
            $body
        })*
    };
}

/// Vectors of a row that are summed at the same time: each number of a query, each weight, is loaded once for all of them.
const fn width(sums: usize, rows: usize) -> usize {
    match sums / rows {
        0 | 1 => 1,
        2 | 3 => 2,
        _ => 4,
    }
}

impl Part<'_> {
    /// For exactly `R` rows. The order in which a row's numbers are summed is the same for every `R` and every family's width, so
    /// that a token's result does not depend on its neighbours.
    #[inline(always)]
    pub(super) fn chunk<S: Stored, L: Lanes, const R: usize>(&mut self, chunk: &Chunk<'_>) {
        let first = self.sees.iter().map(|sees| sees.start).min().unwrap_or(0).max(chunk.start);
        let end = self.sees.iter().map(|sees| sees.end).max().unwrap_or(0).min(chunk.start + CHUNK);
        if first >= end {
            return;
        }
        assert!(
            self.sees.len() == R
                && self.q.len() == R * chunk.head_dim
                && self.y.len() == R * padded(chunk.head_dim)
                && self.weights.len() >= 3 * R * CHUNK,
            "R rows"
        );
        let seen = first - chunk.start..end - chunk.start;
        let groups = seen.start / 16..seen.end.div_ceil(16);
        let mut group = groups.start;
        while group < groups.end {
            let step = width(L::SUMS, R).min(1 << (groups.end - group).ilog2());
            // Constants first: what cannot happen is not even compiled.
            if const { width(L::SUMS, R) == 4 } && step == 4 {
                self.scores::<S, L, R, 4>(chunk, group);
            } else if const { width(L::SUMS, R) >= 2 } && step == 2 {
                self.scores::<S, L, R, 2>(chunk, group);
            } else {
                self.scores::<S, L, R, 1>(chunk, group);
            }
            group += step;
        }
        let factors = self.soften::<L, R>(chunk.start, groups);
        let vectors = chunk.head_dim / 16;
        let mut vector = 0;
        while vector < vectors {
            let step = width(L::SUMS, R).min(1 << (vectors - vector).ilog2());
            if const { width(L::SUMS, R) == 4 } && step == 4 {
                self.values::<S, L, R, 4, true>(chunk, &seen, 16 * vector, &factors);
            } else if const { width(L::SUMS, R) >= 2 } && step == 2 {
                self.values::<S, L, R, 2, true>(chunk, &seen, 16 * vector, &factors);
            } else {
                self.values::<S, L, R, 1, true>(chunk, &seen, 16 * vector, &factors);
            }
            vector += step;
        }
        if !chunk.head_dim.is_multiple_of(16) {
            self.values::<S, L, R, 1, false>(chunk, &seen, 16 * vector, &factors);
        }
    }

    /// Scores of the `P` groups of positions from `group` on.
    #[inline(always)]
    fn scores<S: Stored, L: Lanes, const R: usize, const P: usize>(
        &mut self,
        chunk: &Chunk<'_>,
        group: usize,
    ) {
        let scaled = if S::SCALED { KvFormat::GROUP } else { chunk.head_dim };
        for (numbers, q) in self.q.chunks(scaled * R).enumerate() {
            let mut sums = [[L::splat(0.0); P]; R];
            for (d, q) in (numbers * scaled..).zip(q.as_chunks::<R>().0) {
                let mut keys = [L::splat(0.0); P];
                each_below!(P, p in [0, 1, 2, 3] {
                    keys[p] = chunk.keys::<S, L>(group + p, d);
                    if p.is_multiple_of(2) {
                        chunk.expect_values::<S, L>(group + p, d);
                    }
                });
                each_below!(R, r in [0, 1, 2, 3, 4, 5, 6, 7] {
                    let q = L::splat(q[r]);
                    each_below!(P, p in [0, 1, 2, 3] {
                        sums[r][p] = L::mul_add(q, keys[p], sums[r][p]);
                    });
                });
            }
            for (sums, scores) in sums.into_iter().zip(self.weights.as_chunks_mut::<CHUNK>().0) {
                let scores = &mut scores.as_chunks_mut().0[group..];
                for (p, (sum, to)) in sums.into_iter().zip(scores).enumerate() {
                    let before = if numbers == 0 { L::splat(0.0) } else { L::load(to) };
                    L::store(
                        if S::SCALED {
                            L::mul_add(sum, chunk.scales::<L>(chunk.k, group + p, numbers), before)
                        } else {
                            sum
                        },
                        to,
                    );
                }
            }
        }
    }

    /// Turns the scores of these groups into weights under their largest. Returns the factors of [`State::fold`].
    #[inline(always)]
    fn soften<L: Lanes, const R: usize>(
        &mut self,
        start: usize,
        groups: Range<usize>,
    ) -> [[f32; 16]; 2] {
        let mut more = State::NEW;
        let rows = self.weights.as_chunks_mut::<CHUNK>().0.iter_mut().zip(self.sees);
        for (r, (scores, sees)) in rows.enumerate() {
            // What the row does not see may be anything, even NaN: it is replaced, not multiplied.
            let end = sees.end.saturating_sub(start).min(groups.end * 16);
            let first = sees.start.saturating_sub(start).min(end);
            if groups.start * 16 < first {
                scores[groups.start * 16..first].fill(f32::NEG_INFINITY);
            }
            scores[end.max(groups.start * 16)..groups.end * 16].fill(f32::NEG_INFINITY);
            let scores = &mut scores.as_chunks_mut().0[groups.clone()];
            let mut most = L::splat(f32::NEG_INFINITY);
            for scores in &*scores {
                most = L::max(L::load(scores), most);
            }
            more.max[r] = L::largest(most);
            // A row that sees nothing here has no largest score: all its weights are to be 0.
            let max = L::splat(more.max[r].max(f32::MIN));
            let mut total = L::splat(0.0);
            for scores in scores {
                let weight = L::exp2(L::sub(L::load(scores), max));
                total = L::add(total, weight);
                L::store(weight, scores);
            }
            more.total[r] = L::total(total);
        }
        self.state.fold::<L>(&more)
    }

    /// Multiplies the weights with the scales that these groups of 32 numbers have in V. Where no row sees, scales may be anything.
    #[inline(always)]
    fn scale_weights<L: Lanes, const R: usize>(
        &mut self,
        chunk: &Chunk<'_>,
        groups: Range<usize>,
        numbers: Range<usize>,
    ) {
        let (weights, scaled) = self.weights.split_at_mut(R * CHUNK);
        for (numbers, scaled) in numbers.zip(scaled.chunks_exact_mut(R * CHUNK)) {
            for group in groups.clone() {
                let scales = chunk.scales::<L>(chunk.v, group, numbers);
                for row in 0..R {
                    let at = row * GROUPS + group;
                    let weight = L::load(&weights.as_chunks().0[at]);
                    L::store(L::mul(weight, scales), &mut scaled.as_chunks_mut().0[at]);
                }
            }
        }
    }

    /// Sums the weighted values of the head's `16 * D` numbers from `lane` on. `WHOLE`: the head has as many; a check in the loop would
    /// have the compiler keep sums in memory.
    #[inline(always)]
    fn values<S: Stored, L: Lanes, const R: usize, const D: usize, const WHOLE: bool>(
        &mut self,
        chunk: &Chunk<'_>,
        seen: &Range<usize>,
        lane: usize,
        [shrink, grow]: &[[f32; 16]; 2],
    ) {
        if S::SCALED {
            let groups = seen.start / 16..seen.end.div_ceil(16);
            self.scale_weights::<L, R>(chunk, groups, lane / 32..(lane / 32 + D.div_ceil(2)));
        }
        let mut sums = [[L::splat(0.0); D]; R];
        for group in seen.start / 16..seen.end.div_ceil(16) {
            let places = (16 * group).max(seen.start)..(16 * (group + 1)).min(seen.end);
            for place in places {
                let mut values = [L::splat(0.0); D];
                each_below!(D, d in [0, 1, 2, 3] {
                    values[d] = if WHOLE {
                        chunk.values::<S, L>(group, place % 16, lane + 16 * d)
                    } else {
                        chunk.last_values::<S, L>(group, place % 16, lane + 16 * d)
                    };
                    if d.is_multiple_of(2) {
                        chunk.expect_keys::<S, L>(group, place % 16, lane + 16 * d);
                    }
                });
                each_below!(R, r in [0, 1, 2, 3, 4, 5, 6, 7] {
                    each_below!(D, d in [0, 1, 2, 3] {
                        let row = if S::SCALED { (1 + d / 2) * R + r } else { r };
                        // SAFETY: there are three times R rows of CHUNK weights.
                        let weight = unsafe { *self.weights.get_unchecked(row * CHUNK + place) };
                        let weight = L::splat(weight);
                        sums[r][d] = L::mul_add(weight, values[d], sums[r][d]);
                    });
                });
            }
        }
        let rows = self.y.chunks_exact_mut(padded(chunk.head_dim));
        for (r, (sums, y)) in sums.into_iter().zip(rows).enumerate() {
            for (sum, y) in sums.into_iter().zip(y[lane..].as_chunks_mut().0) {
                L::store(folded::<L>(L::load(y), sum, shrink[r], grow[r]), y);
            }
        }
    }
}
