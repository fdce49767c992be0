//! `attend` on the CPU.
//!
//! A tile is a few consecutive tokens of one sequence and the query heads that share one KV head: its rows read each KV
//! block once. Lanes run along positions for the scores (K lies transposed in its block) and along the head for the values.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint heads of shared spans")]
#[cfg(target_arch = "aarch64")]
use super::lanes::Neon;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Portable};
use super::{Args, TILE_ROWS};
use crate::simd::{Family, exp};
use hal::cpu::{HostLaunch, Shared};
use std::ops::Range;

/// Rows whose accumulators fit into registers together.
const ROWS: usize = 8;

/// What a launch works on.
struct Work<'a> {
    args: Args,
    positions: &'a [u32],
    sequences: &'a [u32],
    tables: &'a [u32],
    q: &'a [f32],
    k: &'a [u16],
    v: &'a [u16],
    y: Shared<'a, f32>,
}

/// Consecutive tokens of one sequence, and some of the query heads of one KV head.
#[derive(Clone)]
struct Tile {
    tokens: Range<usize>,
    kv_head: usize,
    /// Of the whole launch.
    heads: Range<usize>,
}

pub(super) fn attend(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let family = Family::from_code(args.family);
    // SAFETY: all spans but the last are only read by this launch.
    let (counts, positions, sequences) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1), launch.slice::<u32>(2)) };
    // SAFETY: as above.
    let (tables, q) = unsafe { (launch.slice::<u32>(3), launch.slice::<f32>(4)) };
    // SAFETY: as above.
    let (k, v) = unsafe { (launch.slice::<u16>(5), launch.slice::<u16>(6)) };
    let work = Work { args, positions, sequences, tables, q, k, v, y: launch.shared::<f32>(7) };
    let scratch = launch.scratch::<f32>();
    // SAFETY: scratch belongs to this thread.
    let scratch = unsafe { scratch.part(0..scratch.len()) };
    let tokens = counts[0] as usize;
    let mut number = 0;
    let mut first = 0;
    while first < tokens {
        let end = work.tile_end(first, tokens);
        for kv_head in 0..work.args.kv_heads as usize {
            for heads in work.head_parts(tokens, kv_head, launch.threads) {
                // Later tokens see more: dealing tiles out in turn keeps the threads even.
                if number % launch.threads == launch.thread {
                    let tile = Tile { tokens: first..end, kv_head, heads };
                    run(family, &work, &tile, scratch);
                }
                number += 1;
            }
        }
        first = end;
    }
}

impl Work<'_> {
    fn group(&self) -> usize {
        (self.args.heads / self.args.kv_heads) as usize
    }

    /// The tile's tokens stay in one sequence and within the rows that scratch has room for.
    fn tile_end(&self, first: usize, tokens: usize) -> usize {
        let most = (TILE_ROWS as usize / self.group()).max(1);
        let same = |t: &usize| self.sequences[*t] == self.sequences[first];
        first + (first..tokens.min(first + most)).take_while(same).count()
    }

    /// The heads of a KV head, in one part, or in several when there would be too few tiles for all threads.
    fn head_parts(
        &self,
        tokens: usize,
        kv_head: usize,
        threads: usize,
    ) -> impl Iterator<Item = Range<usize>> {
        let group = self.group();
        let tiles =
            tokens.div_ceil((TILE_ROWS as usize / group).max(1)) * self.args.kv_heads as usize;
        let splits = (1..=group)
            .find(|s| group.is_multiple_of(*s) && tiles * s >= 2 * threads)
            .unwrap_or(group);
        let (size, start) = (group / splits, kv_head * group);
        (0..splits).map(move |part| start + part * size..start + (part + 1) * size)
    }
}

fn run(family: Family, work: &Work<'_>, tile: &Tile, scratch: &mut [f32]) {
    match family {
        #[cfg(target_arch = "x86_64")]
        Family::Avx512Vnni => {
            // SAFETY: a family is only chosen where the processor has its instructions.
            unsafe { avx512(work, tile, scratch) }
        }
        #[cfg(target_arch = "x86_64")]
        Family::Avx2 => {
            // SAFETY: as above.
            unsafe { avx2(work, tile, scratch) }
        }
        #[cfg(target_arch = "aarch64")]
        Family::NeonDotprod | Family::NeonI8mm => attend_tile::<Neon>(work, tile, scratch),
        _ => attend_tile::<Portable>(work, tile, scratch),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn avx512(work: &Work<'_>, tile: &Tile, scratch: &mut [f32]) {
    attend_tile::<Avx512>(work, tile, scratch);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(work: &Work<'_>, tile: &Tile, scratch: &mut [f32]) {
    attend_tile::<Avx2>(work, tile, scratch);
}

/// One row of a tile: a token's head.
#[derive(Clone, Copy)]
struct RowState {
    max: f32,
    total: f32,
    /// Positions it sees.
    first: usize,
    end: usize,
}

#[inline(always)]
fn attend_tile<L: Lanes>(work: &Work<'_>, tile: &Tile, scratch: &mut [f32]) {
    let (n, block_tokens) = (work.args.head_dim as usize, work.args.block_tokens as usize);
    let rows = tile.tokens.len() * tile.heads.len();
    let (q, rest) = scratch.split_at_mut(TILE_ROWS as usize * n);
    let (y, weights) = rest.split_at_mut(TILE_ROWS as usize * padded(n));
    let mut states =
        [RowState { max: f32::NEG_INFINITY, total: 0.0, first: 0, end: 0 }; TILE_ROWS as usize];
    y[..rows * padded(n)].fill(0.0);
    for (row, state) in states[..rows].iter_mut().enumerate() {
        let (t, head) =
            (tile.tokens.start + row / tile.heads.len(), tile.heads.start + row % tile.heads.len());
        let from = &work.q[(t * work.args.heads as usize + head) * n..][..n];
        q[row * n..(row + 1) * n]
            .iter_mut()
            .zip(from)
            .for_each(|(to, x)| *to = x * work.args.scale);
        state.end = work.positions[t] as usize + 1;
        state.first = state.end.saturating_sub(work.args.window as usize);
    }
    let states = &mut states[..rows];
    let first = states.iter().map(|state| state.first).min().unwrap_or(0);
    let end = states.iter().map(|state| state.end).max().unwrap_or(0);
    for block in first / block_tokens..end.div_ceil(block_tokens) {
        let start = block * block_tokens;
        let seen = first.max(start)..end.min(start + block_tokens);
        let (k, v) = work.block(tile, block);
        let mut at = 0;
        while at < rows {
            let count = ROWS.min(1 << (rows - at).ilog2());
            let part = Part {
                q: &q[at * n..(at + count) * n],
                y: &mut y[at * padded(n)..(at + count) * padded(n)],
                weights: &mut weights[..count * block_tokens],
                states: &mut states[at..at + count],
                n,
                start,
                seen: seen.clone(),
            };
            match count {
                8 => part.block::<L, 8, 1, 2>(k, v),
                4 => part.block::<L, 4, 1, 4>(k, v),
                2 => part.block::<L, 2, 2, 4>(k, v),
                _ => part.block::<L, 1, 2, 4>(k, v),
            }
            at += count;
        }
    }
    for (row, state) in states.iter().enumerate() {
        let (t, head) =
            (tile.tokens.start + row / tile.heads.len(), tile.heads.start + row % tile.heads.len());
        let at = (t * work.args.heads as usize + head) * n;
        // SAFETY: each tile has its own tokens and heads, and each thread its own tiles.
        let to = unsafe { work.y.part(at..at + n) };
        let from = &y[row * padded(n)..];
        to.iter_mut().zip(from).for_each(|(to, y)| *to = y / state.total);
    }
}

/// A head's row of sums takes whole lanes.
pub(super) const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

impl Work<'_> {
    /// K `(head_dim, block_tokens)` and V `(block_tokens, head_dim)` of one block of the tile's sequence.
    #[inline(always)]
    fn block(&self, tile: &Tile, block: usize) -> (&[u16], &[u16]) {
        let sequence = self.sequences[tile.tokens.start] as usize;
        let physical = self.tables[sequence * self.args.blocks as usize + block] as usize;
        let size = self.args.block_tokens as usize * self.args.head_dim as usize;
        let at = (physical * self.args.kv_heads as usize + tile.kv_head) * size;
        (&self.k[at..at + size], &self.v[at..at + size])
    }
}

/// Some rows of a tile against one block.
struct Part<'a> {
    /// `(rows, n)`, scaled
    q: &'a [f32],
    /// `(rows, padded(n))`
    y: &'a mut [f32],
    /// `(rows, block_tokens)`: scores, then weights
    weights: &'a mut [f32],
    states: &'a mut [RowState],
    n: usize,
    /// Position of the block's first token.
    start: usize,
    /// Positions of the block that any row of the tile sees; others may hold anything.
    seen: Range<usize>,
}

/// The number at `index`, without a check: the inner loops below read one per multiplication.
///
/// # Safety
/// `index` is below the slice's length.
#[inline(always)]
unsafe fn at(x: &[f32], index: usize) -> f32 {
    debug_assert!(index < x.len(), "the caller's promise");
    // SAFETY: the caller's promise.
    unsafe { *x.get_unchecked(index) }
}

#[inline(always)]
fn lanes_at(x: &[f32], index: usize) -> &[f32; 16] {
    x[index..index + 16].first_chunk().expect("sixteen numbers")
}

#[inline(always)]
fn halves_at(x: &[u16], index: usize) -> &[u16; 16] {
    x[index..index + 16].first_chunk().expect("sixteen numbers")
}

#[inline(always)]
fn lanes_at_mut(x: &mut [f32], index: usize) -> &mut [f32; 16] {
    x[index..index + 16].first_chunk_mut().expect("sixteen numbers")
}

/// The body once for each index below a constant, written out: in a loop, the compiler would keep registers that are indexed by
/// the loop's variable in memory.
macro_rules! each_below {
    ($end:expr, $i:ident in [$($index:literal),*] $body:block) => {
        $(if $index < $end {
            // Never out of bounds, also where this is dead code.
            let $i = $index % $end;
            $body
        })*
    };
}

impl Part<'_> {
    /// Scores, softmax so far, values: for exactly `R` rows, with `P` vectors of positions and `D` vectors of a head's numbers
    /// in registers. Few rows take more of both, or each multiplication would wait for the one before; the order in which a
    /// row's numbers are summed is the same for every `R`, so that a token's result does not depend on its neighbours.
    #[inline(always)]
    fn block<L: Lanes, const R: usize, const P: usize, const D: usize>(
        mut self,
        k: &[u16],
        v: &[u16],
    ) {
        let block_tokens = self.weights.len() / R;
        assert!(
            self.q.len() == R * self.n && k.len() == block_tokens * self.n,
            "whole rows and blocks"
        );
        let mut lane = 0;
        while lane < block_tokens {
            if lane + 16 * P <= block_tokens {
                self.scores::<L, R, P>(k, lane);
                lane += 16 * P;
            } else {
                self.scores::<L, R, 1>(k, lane);
                lane += 16;
            }
        }
        self.soften::<L>();
        let mut lane = 0;
        while lane < self.n {
            if lane + 16 * D <= self.n {
                self.values::<L, R, D>(v, lane);
                lane += 16 * D;
            } else {
                self.values::<L, R, 1>(v, lane);
                lane += 16;
            }
        }
    }

    /// Scores of the `16 * P` positions from `lane` on: two sums each, over the even and over the odd numbers of a head.
    #[inline(always)]
    fn scores<L: Lanes, const R: usize, const P: usize>(&mut self, k: &[u16], lane: usize) {
        let block_tokens = self.weights.len() / R;
        let (mut even, mut odd) = ([[L::splat(0.0); P]; R], [[L::splat(0.0); P]; R]);
        macro_rules! step {
            ($sums:ident, $d:expr, $k:expr) => {
                let first = L::widen(halves_at($k, lane));
                let last = if P > 1 { L::widen(halves_at($k, lane + 16 * (P - 1))) } else { first };
                each_below!(R, r in [0, 1, 2, 3, 4, 5, 6, 7] {
                    // SAFETY: q has R rows of n numbers and d is below n.
                    let q = L::splat(unsafe { at(self.q, r * self.n + $d) });
                    $sums[r][0] = L::mul_add(q, first, $sums[r][0]);
                    if P > 1 {
                        $sums[r][P - 1] = L::mul_add(q, last, $sums[r][P - 1]);
                    }
                });
            };
        }
        let pairs = k.chunks_exact(2 * block_tokens);
        let rest = pairs.remainder();
        for (i, pair) in pairs.enumerate() {
            step!(even, 2 * i, pair);
            step!(odd, 2 * i + 1, &pair[block_tokens..]);
        }
        if !rest.is_empty() {
            step!(even, self.n - 1, rest);
        }
        for (r, (even, odd)) in even.into_iter().zip(odd).enumerate() {
            for (p, (even, odd)) in even.into_iter().zip(odd).enumerate() {
                let total = L::add(even, odd);
                L::store(total, lanes_at_mut(self.weights, r * block_tokens + lane + 16 * p));
            }
        }
    }

    /// Turns scores into weights under the largest score so far, and shrinks what was summed under a smaller one.
    #[inline(always)]
    fn soften<L: Lanes>(&mut self) {
        let (block_tokens, width) = (self.weights.len() / self.states.len(), padded(self.n));
        let rows = self.weights.chunks_exact_mut(block_tokens).zip(self.y.chunks_exact_mut(width));
        for (state, (weights, y)) in self.states.iter_mut().zip(rows) {
            // What the row does not see may be anything, even NaN: it is replaced, not multiplied.
            let first = state.first.saturating_sub(self.start).min(block_tokens);
            let end = state.end.saturating_sub(self.start).min(block_tokens).max(first);
            weights[..first].fill(f32::NEG_INFINITY);
            weights[end..].fill(f32::NEG_INFINITY);
            let mut most = L::splat(state.max);
            for at in (0..block_tokens).step_by(16) {
                most = L::max(L::load(lanes_at(weights, at)), most);
            }
            let max = L::largest(most);
            if max == f32::NEG_INFINITY {
                weights.fill(0.0);
                continue;
            }
            let (shrink, minus) = (exp(state.max - max), L::splat(-max));
            let mut total = L::splat(0.0);
            for at in (0..block_tokens).step_by(16) {
                // The exponential of minus infinity is clamped to the least normal number; weights that small vanish.
                let weight = L::exp(L::add(L::load(lanes_at(weights, at)), minus));
                total = L::add(total, weight);
                L::store(weight, lanes_at_mut(weights, at));
            }
            (state.max, state.total) = (max, state.total * shrink + L::total(total));
            if shrink != 1.0 {
                y.iter_mut().for_each(|y| *y *= shrink);
            }
        }
    }

    /// Adds the weighted values of the head's `16 * D` numbers from `lane` on.
    #[inline(always)]
    fn values<L: Lanes, const R: usize, const D: usize>(&mut self, v: &[u16], lane: usize) {
        let (block_tokens, width) = (self.weights.len() / R, padded(self.n));
        let seen = self.seen.start - self.start..self.seen.end - self.start;
        assert!(seen.end <= block_tokens, "seen positions lie in the block");
        let mut sums = [[L::splat(0.0); D]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (d, sum) in sums.iter_mut().enumerate() {
                *sum = L::load(lanes_at(self.y, r * width + lane + 16 * d));
            }
        }
        for place in seen {
            let row = &v[place * self.n..(place + 1) * self.n];
            let mut values = [L::splat(0.0); D];
            each_below!(D, d in [0, 1, 2, 3] {
                let at = lane + 16 * d;
                values[d] =
                    if at + 16 <= self.n { L::widen(halves_at(row, at)) } else { L::widen(&tail(row, at)) };
            });
            each_below!(R, r in [0, 1, 2, 3, 4, 5, 6, 7] {
                // SAFETY: there are R rows of weights and the place lies in the block.
                let weight = L::splat(unsafe { at(self.weights, r * block_tokens + place) });
                each_below!(D, d in [0, 1, 2, 3] {
                    sums[r][d] = L::mul_add(weight, values[d], sums[r][d]);
                });
            });
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (d, sum) in sums.into_iter().enumerate() {
                L::store(sum, lanes_at_mut(self.y, r * width + lane + 16 * d));
            }
        }
    }
}

/// The last numbers of a row, from `at` on, and zeros.
#[inline(always)]
fn tail(row: &[u16], at: usize) -> [u16; 16] {
    let mut sixteen = [0; 16];
    sixteen[..row.len() - at].copy_from_slice(&row[at..]);
    sixteen
}
