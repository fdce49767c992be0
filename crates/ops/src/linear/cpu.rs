//! `linear` on the CPU: each thread unpacks its rows of W once and multiplies them with every row of x.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint columns of shared spans")]
use super::blocks::{Row, unpack};
use super::pack::TILE_ROWS;
use super::{Args, PARTS, accelerate, dense, float, is_float, tiles};
use crate::Epilogue;
use crate::format::Format;
use crate::quantize::panel::Rows;
use crate::quantize::{BLOCK, GROUP};
use crate::simd::{self, Family};
use hal::cpu::{HostLaunch, Shared};
use std::ops::Range;

/// Scratch of one thread: codes, scales and offsets of an unpacked row.
pub(super) const fn scratch_bytes(columns: u32) -> u32 {
    columns.next_multiple_of(64) + 2 * 4 * (columns / 16).next_multiple_of(16)
}

/// One matrix of the launch and where its product goes.
pub(super) struct Part<'a> {
    pub(super) format: Format,
    pub(super) rows: usize,
    /// Tiles of float formats, if there are, are those of [`dense`] rows.
    pub(super) weights: Weights<'a>,
    bias: Option<&'a [f32]>,
    y: Shared<'a, f32>,
}

/// The matrices, whose spans start at `first`.
pub(super) fn parts<'a>(
    launch: &'a HostLaunch<'_>,
    args: &Args,
    first: usize,
) -> [Option<Part<'a>>; PARTS] {
    let rows = [args.rows_0, args.rows_1, args.rows_2];
    let formats = [args.format_0, args.format_1, args.format_2];
    let count = args.parts as usize;
    let mut bias_at = first + 2 * count;
    let mut part = |i: usize| {
        let has_bias = args.bias_mask >> i & 1 == 1;
        // SAFETY: weights and biases are only read by this launch.
        let bias = has_bias.then(|| unsafe { launch.slice::<f32>(bias_at) });
        bias_at += usize::from(has_bias);
        Part {
            format: Format::ALL[formats[i] as usize],
            rows: rows[i] as usize,
            weights: weights(launch, args, first, i),
            bias,
            y: launch.shared::<f32>(first + 2 * i + 1),
        }
    };
    [0, 1, 2].map(|i| (i < count).then(|| part(i)))
}

/// A matrix's weights.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    /// Packed tiles, if there are.
    pub(super) tiles: &'a [u8],
    /// Rows as in the file.
    pub(super) rows: &'a [u8],
    /// So many tiles are packed.
    pub(super) ready: usize,
}

/// Weights of matrix `i`; the spans of matrices start at `first`.
pub(super) fn weights<'a>(
    launch: &'a HostLaunch<'_>,
    args: &Args,
    first: usize,
    i: usize,
) -> Weights<'a> {
    // SAFETY: weights are only read by this launch.
    let weight = unsafe { launch.slice::<u8>(first + 2 * i) };
    if args.tiles_mask >> i & 1 == 0 {
        return Weights { tiles: &[], rows: weight, ready: 0 };
    }
    let before = (args.tiles_mask & ((1 << i) - 1)).count_ones();
    let others = 2 * (args.parts + before) + args.bias_mask.count_ones();
    let at = first + others as usize;
    // SAFETY: as above.
    let (rows, ready) = unsafe { (launch.slice::<u8>(at), launch.slice::<u32>(at + 1)[0]) };
    let first_tile = [args.first_tile_0, args.first_tile_1, args.first_tile_2][i];
    Weights { tiles: weight, rows, ready: ready.saturating_sub(first_tile) as usize }
}

pub(super) fn integer(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let n = args.columns as usize;
    // SAFETY: spans 0 to 3 are only read by this launch.
    let (counts, codes) = unsafe { (launch.slice::<u32>(0), launch.slice::<i16>(1)) };
    // SAFETY: as above.
    let (x_scales, x_sums) = unsafe { (launch.slice::<f32>(2), launch.slice::<f32>(3)) };
    let tokens = counts[args.count_index as usize] as usize;
    // SAFETY: scratch belongs to this thread; the three parts do not overlap.
    let row_codes = unsafe { launch.scratch::<i8>().part(0..n) };
    let (start, groups) = (n.next_multiple_of(64) / 4, n / GROUP);
    // SAFETY: as above.
    let row_floats = unsafe { launch.scratch::<f32>().part(start..start + 2 * groups) };
    let (scales, offsets) = row_floats.split_at_mut(groups);
    let mut row = Row { codes: row_codes, scales, offsets };
    let parts = parts(launch, &args, 4);
    for part in parts.iter().flatten() {
        let row_bytes = part.format.row_bytes(n).expect("whole blocks");
        for r in launch.part(part.rows, GROUP) {
            unpack(part.format, &part.weights.rows[r * row_bytes..(r + 1) * row_bytes], &mut row);
            for t in 0..tokens {
                let x = QuantizedRow {
                    codes: &codes[t * n..(t + 1) * n],
                    scales: &x_scales[t * n / BLOCK..(t + 1) * n / BLOCK],
                    sums: &x_sums[t * groups..(t + 1) * groups],
                };
                store(part, &args, (t, r), dot_integer(&row, &x));
            }
        }
    }
    finish(launch, &args, &parts, 0..tokens);
}

pub(super) fn multiply_float(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    // SAFETY: spans 0 and 1 are only read by this launch.
    let (counts, x) = unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(1)) };
    let rows = Rows::new(counts, args.count_index);
    multiply_rows(launch, &args, (x, rows), 2);
}

/// Products of the rows of x in f32. The spans of matrices start at `first`.
pub(super) fn multiply_rows(
    launch: &HostLaunch<'_>,
    args: &Args,
    (x, tokens): (&[f32], Rows),
    first: usize,
) {
    let n = args.columns as usize;
    // SAFETY: scratch belongs to this thread; the two parts do not overlap.
    let (row, room) = unsafe {
        let room = 4 * n..4 * n + tiles::room(args);
        (launch.scratch::<f32>().part(0..n), launch.scratch::<u8>().part(room))
    };
    let parts = parts(launch, args, first);
    let float = parts.iter().flatten().all(|part| is_float(part.format));
    assert!(float, "the recorder sends quantized formats to other programs");
    let mut of_rows = |part, prompt, tokens: Range<usize>, rows| {
        let x = &x[tokens.start * n..tokens.end * n];
        let product = FloatProduct { part, args, prompt, first_token: tokens.start, x };
        product.of_rows(rows, row, room);
    };
    let (exact, prompt) = (0..tokens.exact, tokens.exact..tokens.all);
    if !exact.is_empty() {
        // A token is waited for, so threads help the one whose memory is slow.
        let groups = sets(&parts, args).map(|(_, rows)| rows.div_ceil(GROUP)).sum();
        launch.pieces(groups, 1, |piece| {
            for (set, rows) in of_piece(sets(&parts, args), piece, GROUP) {
                for part in set.iter().flatten() {
                    of_rows(part, false, exact.clone(), rows.clone());
                }
                activate(args, set, exact.clone(), rows);
            }
        });
    }
    if !prompt.is_empty() && Family::from_code(args.family).accelerates() {
        accelerate::prompts(launch, args, (x, prompt), &parts);
    } else if !prompt.is_empty() {
        // Many tokens meet each row, in chunks that stay in the cache while all rows of a thread pass by.
        for part in parts.iter().flatten() {
            of_rows(part, true, prompt.clone(), launch.part(part.rows, GROUP));
        }
        finish(launch, args, &parts, prompt);
    }
}

/// The matrices whose rows go together, an up with its gate and any other alone, and how many rows they have.
pub(super) fn sets<'a, 'b>(
    parts: &'a [Option<Part<'b>>],
    args: &Args,
) -> impl Iterator<Item = (&'a [Option<Part<'b>>], usize)> {
    let gated = matches!(Epilogue::from_code(args.epilogue), Epilogue::Gate(_));
    let sets = parts.chunks(if gated { 2 } else { 1 });
    sets.filter_map(|set| set.first()?.as_ref().map(|first| (set, first.rows)))
}

/// What of each set is in a piece of the groups of so many rows of all sets.
pub(super) fn of_piece<S>(
    sets: impl Iterator<Item = (S, usize)>,
    piece: Range<usize>,
    group_rows: usize,
) -> impl Iterator<Item = (S, Range<usize>)> {
    let mut before = 0;
    sets.filter_map(move |(set, rows)| {
        let first = before;
        before += rows.div_ceil(group_rows);
        let bound = |group: usize| (group.clamp(first, before) - first) * group_rows;
        let rows = bound(piece.start)..bound(piece.end).min(rows);
        (!rows.is_empty()).then_some((set, rows))
    })
}

/// A matrix and rows of x, all of prompts or none.
struct FloatProduct<'a> {
    part: &'a Part<'a>,
    args: &'a Args,
    prompt: bool,
    first_token: usize,
    x: &'a [f32],
}

impl FloatProduct<'_> {
    /// `row` and `room` are scratch for a row of numbers and for rows that are packed.
    fn of_rows(&self, rows: Range<usize>, row: &mut [f32], room: &mut [u8]) {
        let (family, columns) = (Family::from_code(self.args.family), self.args.columns as usize);
        let Weights { tiles, ready, .. } = self.part.weights;
        let packed = rows.start..(ready.saturating_mul(TILE_ROWS)).clamp(rows.start, rows.end);
        for first in packed.clone().step_by(dense::ROWS) {
            let Some(quad) = dense::quad(tiles, columns, first / dense::ROWS) else {
                self.in_file(first..first + dense::ROWS, row);
                continue;
            };
            if !self.prompt && self.x.len() == columns {
                let products = dense::multiply(family, quad, self.x);
                for (r, product) in products.into_iter().enumerate() {
                    store(self.part, self.args, (self.first_token, first + r), product);
                }
            } else {
                let numbers = &mut room[..2 * dense::ROWS * columns];
                dense::expand(family, quad, 0..columns / dense::COLUMNS, numbers);
                self.multiply(first, numbers, row);
            }
        }
        self.in_file(packed.end..rows.end, row);
    }

    fn in_file(&self, rows: Range<usize>, row: &mut [f32]) {
        let row_bytes = self.part.format.row_bytes(row.len()).expect("whole blocks");
        let weight = &self.part.weights.rows[rows.start * row_bytes..rows.end * row_bytes];
        self.multiply(rows.start, weight, row);
    }

    /// Products of rows as in the file, of which the first is row `first` of the matrix.
    fn multiply(&self, first: usize, weight: &[u8], row: &mut [f32]) {
        let operands = float::Operands {
            prompt: self.prompt,
            format: self.part.format,
            weight,
            x: self.x,
            columns: row.len(),
            row,
        };
        float::multiply(Family::from_code(self.args.family), operands, &mut |(t, r), product| {
            store(self.part, self.args, (self.first_token + t, first + r), product);
        });
    }
}

impl Part<'_> {
    /// Stores the products of token t with some rows, or adds them.
    pub(super) fn store(&self, args: &Args, (t, rows): (usize, Range<usize>), products: &[f32]) {
        let at = t * self.rows;
        // SAFETY: each thread has its own rows of W, and so its own columns of y.
        let y = unsafe { self.y.part(at + rows.start..at + rows.end) };
        let bias = self.bias.map(|bias| &bias[rows]);
        let accumulate = args.epilogue == Epilogue::Accumulate.code();
        for (i, (y, product)) in y.iter_mut().zip(products).enumerate() {
            let product = product + bias.map_or(0.0, |bias| bias[i]);
            *y = if accumulate { *y + product } else { product };
        }
    }
}

fn store(part: &Part<'_>, args: &Args, (t, r): (usize, usize), product: f32) {
    part.store(args, (t, r..r + 1), &[product]);
}

/// Applies an activation to the columns of [`HostLaunch::part`], which this thread has just written.
fn finish(
    launch: &HostLaunch<'_>,
    args: &Args,
    parts: &[Option<Part<'_>>; PARTS],
    tokens: Range<usize>,
) {
    for (set, rows) in sets(parts, args) {
        activate(args, set, tokens.clone(), launch.part(rows, GROUP));
    }
}

/// Applies an activation to columns that this thread has just written.
pub(super) fn activate(
    args: &Args,
    set: &[Option<Part<'_>>],
    tokens: Range<usize>,
    columns: Range<usize>,
) {
    let (Epilogue::Gate(activation) | Epilogue::Activate(activation)) =
        Epilogue::from_code(args.epilogue)
    else {
        return;
    };
    let mut parts = set.iter().flatten();
    let Some(gate) = parts.next() else { return };
    let up = parts.next();
    for t in tokens {
        let at = t * gate.rows;
        let range = at + columns.start..at + columns.end;
        // SAFETY: as in `store`; both matrices have the same rows, so this thread wrote both parts.
        let (gate, up) = unsafe { (gate.y.part(range.clone()), up.map(|up| &*up.y.part(range))) };
        simd::activate(Family::from_code(args.family), activation, gate, up);
    }
}

/// One row of x, see [`crate::quantize`].
struct QuantizedRow<'a> {
    codes: &'a [i16],
    scales: &'a [f32],
    sums: &'a [f32],
}

fn dot_integer(w: &Row<'_>, x: &QuantizedRow<'_>) -> f32 {
    let mut total = 0.0;
    let blocks = w.codes.as_chunks::<BLOCK>().0.iter().zip(x.codes.as_chunks::<BLOCK>().0);
    let scales = w.scales.as_chunks::<2>().0.iter().zip(x.scales);
    for ((w, x), (w_scales, x_scale)) in blocks.zip(scales) {
        let [first, second] =
            [0, GROUP].map(|at| dot_group(&w[at..at + GROUP], &x[at..at + GROUP]));
        #[expect(clippy::cast_precision_loss, reason = "rounds like the sums it goes into")]
        let sum = w_scales[0] * first as f32 + w_scales[1] * second as f32;
        total += x_scale * sum;
    }
    let offset: f32 = w.offsets.iter().zip(x.sums).map(|(offset, sum)| offset * sum).sum();
    total - offset
}

fn dot_group(w: &[i8], x: &[i16]) -> i32 {
    w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum()
}
