//! `attend` on the CPU.
//!
//! A tile is a few consecutive tokens of one sequence and the query heads that share one KV head: its rows read each chunk of the
//! cache once. Lanes run along positions for the scores (K lies transposed in its block) and along the head for the values.
//!
//! Chunks begin at fixed positions. Each is summed under its own largest score and then folded into what came before, in the order of
//! positions, whether one thread walks them all or several take them (Flash-Decoding, Dao et al. 2023) and the last one done folds:
//! the bits of a result depend neither on the threads nor on the rest of the batch.
//!
//! Tokens of prompts go through [`super::words`] where the family has it, in larger tiles.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint heads of shared spans")]
#[cfg(target_arch = "aarch64")]
use super::lanes::Neon;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{Lanes, Portable};
use super::part::{Chunk, GROUPS, Halves, Part, Scaled, State, Stored, folded};
#[cfg(target_arch = "x86_64")]
use super::words;
use super::{Args, CHUNK, PROMPT_ROWS, TILE_ROWS, chunks_max, padded, partial_row, words_fit};
use crate::KvFormat;
use crate::inputs::EXACT;
use crate::simd::Family;
#[cfg(target_arch = "x86_64")]
use crate::simd::pairs;
use hal::cpu::{HostLaunch, Shared};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Rows of a tile, at most.
const ROWS: usize = TILE_ROWS as usize;

/// What a launch works on.
struct Work<'a> {
    args: Args,
    /// The first so many tokens are multiplied in f32.
    exact: usize,
    positions: &'a [u32],
    sequences: &'a [u32],
    tables: &'a [u32],
    q: &'a [f32],
    k: &'a [u8],
    v: &'a [u8],
    y: Shared<'a, f32>,
    /// How many chunks of each tile that is shared are done.
    counters: Shared<'a, u32>,
    /// Of each row and chunk, see [`Work::partial`]. Empty where tiles are never shared.
    partials: Shared<'a, f32>,
}

/// Consecutive tokens of one sequence, and some of the query heads of one KV head.
#[derive(Clone)]
struct Tile {
    tokens: Range<usize>,
    /// Whether its rows are multiplied as words.
    #[cfg(target_arch = "x86_64")]
    words: bool,
    kv_head: usize,
    /// Of the whole launch.
    heads: Range<usize>,
    /// Positions that any of the tokens sees.
    sees: Range<usize>,
    chunks: Range<usize>,
}

/// How a step's rows are dealt out.
#[derive(Clone, Copy)]
struct Deal {
    tile_rows: usize,
    /// Whether several threads may take chunks of one tile.
    shared: bool,
}

pub(super) fn attend(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let family = Family::from_code(args.family);
    // SAFETY: of all spans only y, counters and partials are written by this launch.
    let (counts, positions, sequences) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1), launch.slice::<u32>(2)) };
    // SAFETY: as above.
    let (tables, q) = unsafe { (launch.slice::<u32>(3), launch.slice::<f32>(4)) };
    // SAFETY: as above.
    let (k, v) = unsafe { (launch.slice::<u8>(5), launch.slice::<u8>(6)) };
    let (y, counters, partials) = (launch.shared(7), launch.shared(8), launch.shared(9));
    let tokens = counts[0] as usize;
    let exact = if words_fit(family, args.head_dim) { counts[EXACT] as usize } else { tokens };
    let work = Work { args, exact, positions, sequences, tables, q, k, v, y, counters, partials };
    let scratch = launch.scratch::<f32>();
    // SAFETY: scratch belongs to this thread.
    let scratch = unsafe { scratch.part(0..scratch.len()) };
    let deal = Deal::new(&work, tokens, launch.threads);
    let pieces_of = |tile: &Tile| if deal.shared { tile.chunks.len() } else { 1 };
    let tiles = || work.tiles(tokens, deal.tile_rows).enumerate();
    let pieces = tiles().map(|(_, tile)| pieces_of(&tile)).sum();
    // A thread's pieces mostly follow each other: its tile, and which pieces are of that.
    let (mut rest, mut current, mut of_tile) = (tiles(), None, 0..0);
    launch.pieces(pieces, 1, |range| {
        for piece in range {
            if piece < of_tile.start {
                (rest, of_tile) = (tiles(), 0..0);
            }
            while piece >= of_tile.end {
                current = rest.next();
                let (_, tile) = current.as_ref().expect("pieces are those of all tiles");
                of_tile = of_tile.end..of_tile.end + pieces_of(tile);
            }
            let (number, tile) = current.as_ref().expect("it was just looked up");
            let part = (of_tile.len() > 1).then(|| (piece - of_tile.start, *number));
            run(family, &work, tile, part, scratch);
        }
    });
}

impl Deal {
    /// Enough pieces to keep all threads busy to the end: small tiles, or else shared ones.
    fn new(work: &Work<'_>, tokens: usize, threads: usize) -> Self {
        let busy = |rows: &usize| threads == 1 || work.tiles(tokens, *rows).count() >= 4 * threads;
        let sizes = [PROMPT_ROWS, PROMPT_ROWS / 2, ROWS, ROWS / 2, ROWS / 4];
        if let Some(tile_rows) = sizes.into_iter().find(busy) {
            return Self { tile_rows, shared: false };
        }
        let counted = work.tiles(tokens, ROWS).count() <= work.counters.len();
        let shared = counted && !work.partials.is_empty();
        Self { tile_rows: if shared { ROWS } else { ROWS / 4 }, shared }
    }
}

impl Work<'_> {
    /// All tiles of the step, of at most `rows` rows each, and of at most [`ROWS`] where they are not words.
    fn tiles(&self, tokens: usize, rows: usize) -> impl Iterator<Item = Tile> {
        let group = (self.args.heads / self.args.kv_heads) as usize;
        let parts = group.div_ceil(ROWS);
        let mut first = 0;
        let runs = std::iter::from_fn(move || {
            let start = first;
            let same = |t: &usize| self.sequences[*t] == self.sequences[start];
            let (end, rows) =
                if start < self.exact { (self.exact, rows.min(ROWS)) } else { (tokens, rows) };
            let most = end.min(start + (rows / group).max(1));
            first += (start..most).take_while(same).count();
            (start < first).then_some(start..first)
        });
        runs.flat_map(move |tokens| {
            let sees = tokens.clone().map(|t| self.sees(t));
            let (first, end) = sees.fold((usize::MAX, 0), |(first, end), sees| {
                (first.min(sees.start), end.max(sees.end))
            });
            let (sees, chunks) = (first..end, first / CHUNK..end.div_ceil(CHUNK));
            (0..self.args.kv_heads as usize * parts).map(move |i| {
                let (kv_head, part) = (i / parts, i % parts);
                let head = |part| kv_head * group + part * group / parts;
                let heads = head(part)..head(part + 1);
                let (tokens, sees, chunks) = (tokens.clone(), sees.clone(), chunks.clone());
                Tile {
                    #[cfg(target_arch = "x86_64")]
                    words: tokens.start >= self.exact,
                    tokens,
                    kv_head,
                    heads,
                    sees,
                    chunks,
                }
            })
        })
    }

    /// Positions that a token sees.
    fn sees(&self, token: usize) -> Range<usize> {
        let end = self.positions[token] as usize + 1;
        end.saturating_sub(self.args.window as usize)..end
    }

    /// A chunk of the tile's sequence. Only groups that the tile sees are looked up.
    fn chunk(&self, tile: &Tile, chunk: usize) -> Chunk<'_> {
        let (head_dim, block_tokens) =
            (self.args.head_dim as usize, self.args.block_tokens as usize);
        let table = self.sequences[tile.tokens.start] as usize * self.args.blocks as usize;
        let format = KvFormat::from_code(self.args.kv);
        let bytes = block_tokens * format.head_bytes(head_dim);
        let record = |position: usize| {
            let block = self.tables[table + position / block_tokens] as usize;
            (block * self.args.kv_heads as usize + tile.kv_head) * bytes
        };
        let (mut groups, mut next) = ([(0, 0); GROUPS], [0; GROUPS]);
        for (i, (group, next)) in groups.iter_mut().zip(&mut next).enumerate() {
            let position = chunk * CHUNK + 16 * i;
            if position + 16 > tile.sees.start && position < tile.sees.end {
                let record = record(position);
                assert!(record + bytes <= self.k.len().min(self.v.len()), "a block of the cache");
                *group = (record, position % block_tokens);
            }
            let seen = position + CHUNK < tile.sees.end;
            *next = if seen { record(position + CHUNK) } else { group.0 };
        }
        let start = chunk * CHUNK;
        Chunk { k: self.k, v: self.v, start, head_dim, block_tokens, groups, next }
    }

    /// Where a chunk's results of a tile lie: for each row its sums of values, its largest score and its total.
    fn partial(&self, tile: &Tile, chunk: usize) -> Range<usize> {
        let row = partial_row(self.args.head_dim) as usize;
        let rows_before =
            tile.tokens.start * self.args.heads as usize + tile.tokens.len() * tile.heads.start;
        let chunks = chunks_max(self.args.blocks, self.args.block_tokens) as usize;
        let first = rows_before * chunks + (chunk - tile.chunks.start) * tile.rows();
        first * row..(first + tile.rows()) * row
    }

    /// Stores a tile's result: sums of values over totals of weights.
    fn finish(&self, tile: &Tile, y: &[f32], totals: &[f32]) {
        let n = self.args.head_dim as usize;
        for (row, (y, total)) in y.chunks_exact(padded(n)).zip(totals).take(tile.rows()).enumerate()
        {
            let (t, head) = tile.row(row);
            let at = (t * self.args.heads as usize + head) * n;
            // SAFETY: each tile has its own tokens and heads, and one thread finishes it.
            let to = unsafe { self.y.part(at..at + n) };
            to.iter_mut().zip(y).for_each(|(to, y)| *to = y / total);
        }
    }
}

impl Tile {
    fn rows(&self) -> usize {
        self.tokens.len() * self.heads.len()
    }

    /// Token and head of a row.
    fn row(&self, row: usize) -> (usize, usize) {
        let heads = self.heads.len();
        (self.tokens.start + row / heads, self.heads.start + row % heads)
    }

    /// The chunks of a piece.
    fn chunks_of(&self, piece: Piece) -> Range<usize> {
        let Some((chunk, _)) = piece else { return self.chunks.clone() };
        self.chunks.start + chunk..self.chunks.start + chunk + 1
    }
}

/// Largest score and sum of weights of each row of a tile.
struct Sums {
    max: [f32; PROMPT_ROWS],
    total: [f32; PROMPT_ROWS],
}

impl Sums {
    /// Of `rows` rows; `of` says in which state, and which of its lanes, a row is.
    fn new<'a>(rows: usize, of: impl Fn(usize) -> (&'a State, usize)) -> Self {
        let mut sums = Self { max: [0.0; PROMPT_ROWS], total: [0.0; PROMPT_ROWS] };
        for row in 0..rows {
            let (state, lane) = of(row);
            (sums.max[row], sums.total[row]) = (state.max[lane], state.total[lane]);
        }
        sums
    }
}

/// `piece`: of a tile that several threads share, a chunk (counted from its first) and the tile's number.
type Piece = Option<(usize, usize)>;

fn run(family: Family, work: &Work<'_>, tile: &Tile, piece: Piece, scratch: &mut [f32]) {
    match family.instructions() {
        #[cfg(target_arch = "x86_64")]
        Family::Avx512Vnni if tile.words => {
            // SAFETY: a family is only chosen where the processor has its instructions.
            unsafe { avx512_words(work, tile, piece, scratch) }
        }
        #[cfg(target_arch = "x86_64")]
        Family::Avx512Vnni => {
            // SAFETY: as above.
            unsafe { avx512(work, tile, piece, scratch) }
        }
        #[cfg(target_arch = "x86_64")]
        Family::Avx2 => {
            // SAFETY: as above.
            unsafe { avx2(work, tile, piece, scratch) }
        }
        #[cfg(target_arch = "aarch64")]
        Family::NeonDotprod | Family::NeonI8mm => attend_tile::<Neon>(work, tile, piece, scratch),
        _ => attend_tile::<Portable>(work, tile, piece, scratch),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl")]
fn avx512(work: &Work<'_>, tile: &Tile, piece: Piece, scratch: &mut [f32]) {
    attend_tile::<Avx512>(work, tile, piece, scratch);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn avx512_words(work: &Work<'_>, tile: &Tile, piece: Piece, scratch: &mut [f32]) {
    let n = work.args.head_dim as usize;
    let (y, rest) = scratch.split_at_mut(PROMPT_ROWS * n);
    let mut scratch = words::Scratch::new(rest, n);
    let sums = match KvFormat::from_code(work.args.kv) {
        KvFormat::F16 => sum_words::<Halves>(work, tile, piece, &mut scratch, y),
        KvFormat::Q8_0 => sum_words::<Scaled>(work, tile, piece, &mut scratch, y),
    };
    leave::<Avx512>(work, tile, piece, y, &sums);
}

/// As [`sum_chunks`], in words.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn sum_words<S: Stored>(
    work: &Work<'_>,
    tile: &Tile,
    piece: Piece,
    scratch: &mut words::Scratch<'_>,
    y: &mut [f32],
) -> Sums {
    let (n, rows) = (work.args.head_dim as usize, tile.rows());
    let scale = work.args.scale * std::f32::consts::LOG2_E;
    let whole = rows.next_multiple_of(words::PART);
    let mut sees = [const { 0..0 }; PROMPT_ROWS];
    // Rows of the last part past these see nothing, whatever their queries are.
    for (row, sees) in sees[..rows].iter_mut().enumerate() {
        let (t, head) = tile.row(row);
        let q = &work.q[(t * work.args.heads as usize + head) * n..][..n];
        scratch.set_query(row, q, scale);
        *sees = work.sees(t);
    }
    y[..whole * n].fill(0.0);
    let mut states = [State::NEW; PROMPT_ROWS / words::PART];
    // SAFETY: this function has the features.
    let pairs = unsafe { pairs::pay() };
    for chunk in tile.chunks_of(piece) {
        let chunk = work.chunk(tile, chunk);
        scratch.set_chunk::<S>(&chunk, words::groups_of(&tile.sees, chunk.start));
        let parts = y[..whole * n].chunks_exact_mut(words::PART * n);
        for (part, (y, state)) in parts.zip(&mut states).enumerate() {
            let sees = sees[part * words::PART..].as_chunks().0;
            if pairs {
                scratch.part::<true>((part, chunk.start), &sees[0], state, y);
            } else {
                scratch.part::<false>((part, chunk.start), &sees[0], state, y);
            }
        }
    }
    Sums::new(rows, |row| (&states[row / words::PART], row % words::PART))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(work: &Work<'_>, tile: &Tile, piece: Piece, scratch: &mut [f32]) {
    attend_tile::<Avx2>(work, tile, piece, scratch);
}

#[inline(always)]
fn attend_tile<L: Lanes>(work: &Work<'_>, tile: &Tile, piece: Piece, scratch: &mut [f32]) {
    let n = work.args.head_dim as usize;
    let (q, rest) = scratch.split_at_mut(ROWS * n);
    let (y, weights) = rest.split_at_mut(ROWS * padded(n));
    let chunks = tile.chunks_of(piece);
    let sums = match KvFormat::from_code(work.args.kv) {
        KvFormat::F16 => sum_chunks::<Halves, L>(work, tile, chunks, q, y, weights),
        KvFormat::Q8_0 => sum_chunks::<Scaled, L>(work, tile, chunks, q, y, weights),
    };
    leave::<L>(work, tile, piece, y, &sums);
}

/// Stores what a thread has summed: a tile's result, or its part of one that others have parts of.
#[inline(always)]
fn leave<L: Lanes>(work: &Work<'_>, tile: &Tile, piece: Piece, y: &mut [f32], sums: &Sums) {
    let n = work.args.head_dim as usize;
    let Some((chunk, number)) = piece else {
        return work.finish(tile, y, &sums.total);
    };
    // SAFETY: each chunk of a tile is claimed once, and read only after it was counted as done.
    let partial = unsafe { work.partials.part(work.partial(tile, tile.chunks.start + chunk)) };
    let rows = partial.chunks_exact_mut(partial.len() / tile.rows());
    for (row, (to, y)) in rows.zip(y.chunks_exact(padded(n))).enumerate() {
        to[..padded(n)].copy_from_slice(y);
        (to[padded(n)], to[padded(n) + 1]) = (sums.max[row], sums.total[row]);
    }
    // What the others wrote before they counted is visible to the one that counts last.
    let done = work.counters.atomic(number);
    if done.fetch_add(1, Ordering::AcqRel) as usize + 1 == tile.chunks.len() {
        done.store(0, Ordering::Relaxed);
        fold_partials::<L>(work, tile, y);
    }
}

/// Sums these chunks of a tile into `y`.
#[inline(always)]
fn sum_chunks<S: Stored, L: Lanes>(
    work: &Work<'_>,
    tile: &Tile,
    chunks: Range<usize>,
    q: &mut [f32],
    y: &mut [f32],
    weights: &mut [f32],
) -> Sums {
    let (n, rows) = (work.args.head_dim as usize, tile.rows());
    let parts = rows.div_ceil(L::ROWS);
    // Parts of about one size: a single row would load as much as eight.
    let part = |i: usize| rows * i / parts..rows * (i + 1) / parts;
    let scale = work.args.scale * std::f32::consts::LOG2_E;
    for range in (0..parts).map(part) {
        let q = &mut q[range.start * n..range.end * n];
        for (r, row) in range.clone().enumerate() {
            let (t, head) = tile.row(row);
            let from = &work.q[(t * work.args.heads as usize + head) * n..][..n];
            let to = q[r..].iter_mut().step_by(range.len());
            to.zip(from).for_each(|(to, x)| *to = x * scale);
        }
    }
    y[..rows * padded(n)].fill(0.0);
    let mut sees = [const { 0..0 }; ROWS];
    for (row, sees) in sees[..rows].iter_mut().enumerate() {
        *sees = work.sees(tile.row(row).0);
    }
    let mut states = [State::NEW; ROWS];
    for chunk in chunks {
        let chunk = work.chunk(tile, chunk);
        for (range, state) in (0..parts).map(part).zip(&mut states) {
            let mut part = Part {
                q: &q[range.start * n..range.end * n],
                y: &mut y[range.start * padded(n)..range.end * padded(n)],
                weights,
                state,
                sees: &sees[range],
            };
            match part.sees.len() {
                1 => part.chunk::<S, L, 1>(&chunk),
                2 => part.chunk::<S, L, 2>(&chunk),
                3 => part.chunk::<S, L, 3>(&chunk),
                4 => part.chunk::<S, L, 4>(&chunk),
                rows => {
                    if const { L::ROWS > 4 } {
                        match rows {
                            5 => part.chunk::<S, L, 5>(&chunk),
                            6 => part.chunk::<S, L, 6>(&chunk),
                            7 => part.chunk::<S, L, 7>(&chunk),
                            _ => part.chunk::<S, L, 8>(&chunk),
                        }
                    }
                }
            }
        }
    }
    let mut sums = Sums::new(0, |_| (&State::NEW, 0));
    for (range, state) in (0..parts).map(part).zip(&states) {
        for (r, row) in range.enumerate() {
            (sums.max[row], sums.total[row]) = (state.max[r], state.total[r]);
        }
    }
    sums
}

/// Folds what several threads left of a tile, in the order of positions.
#[inline(always)]
fn fold_partials<L: Lanes>(work: &Work<'_>, tile: &Tile, y: &mut [f32]) {
    let width = padded(work.args.head_dim as usize);
    y[..tile.rows() * width].fill(0.0);
    let mut states = [State::NEW; ROWS / 16];
    for chunk in tile.chunks.clone() {
        // SAFETY: all chunks of the tile are done, and only this thread goes on with them.
        let partial = &*unsafe { work.partials.part(work.partial(tile, chunk)) };
        let row_length = partial.len() / tile.rows();
        let sixteens = partial.chunks(16 * row_length).zip(y.chunks_mut(16 * width));
        for (state, (partial, y)) in states.iter_mut().zip(sixteens) {
            let mut more = State::NEW;
            for (r, row) in partial.chunks_exact(row_length).enumerate() {
                (more.max[r], more.total[r]) = (row[width], row[width + 1]);
            }
            let [shrink, grow] = state.fold::<L>(&more);
            let rows = partial.chunks_exact(row_length).zip(y.chunks_exact_mut(width));
            for ((row, y), (shrink, grow)) in rows.zip(shrink.into_iter().zip(grow)) {
                for (more, y) in row.as_chunks().0.iter().zip(y.as_chunks_mut().0) {
                    L::store(folded::<L>(L::load(y), L::load(more), shrink, grow), y);
                }
            }
        }
    }
    let sums = Sums::new(tile.rows(), |row| (&states[row / 16], row % 16));
    work.finish(tile, y, &sums.total);
}
