//! Prompts through Accelerate (see [`hal::cpu::accelerate`]): weights become f32 numbers, 64 rows at a time, and the library
//! multiplies them with the matrix units of Apple's processors.
//!
//! On an M1 such a unit takes 256 products of f32 a cycle, for all cores of a cluster (github.com/corsix/amx). Four cores take as many
//! of bytes with dot products, of which activations of 16 bits need two each, and 64 of f32. So every format goes this way. Each
//! thread of the pool makes numbers of its own rows and calls the library for itself: while one unpacks and the library
//! rearranges, another's product keeps the unit busy.
//!
//! All calls have the same shape, 32 tokens, the last ones filled up with zeros, so that a token's sums do not depend on how many
//! tokens stand beside it. Rows that continue an answer take the kernels of packed tiles or rows in f32, as elsewhere.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint columns of shared spans")]
use super::cpu::{Part, activate, of_piece, parts, sets};
use super::pack::TILE_ROWS;
use super::tiles::{tile_at, unit_of};
use super::{Args, is_float, tiles};
use crate::format::Format;
use crate::quantize::panel::Rows;
use crate::simd::Family;
use hal::cpu::HostLaunch;
use hal::cpu::accelerate::{self, Factor};
use std::ops::Range;

/// Rows of one call: their numbers stay in the second level cache while all tokens pass by.
const ROWS: usize = 64;
/// Tokens of one call.
const TOKENS: usize = 32;

/// Writes a tile's numbers: (tile, its units, where to, stride), where column c's 16 rows go to `c * stride`.
///
/// # Safety
/// The tile is whole, and there is room for all its columns.
pub(super) type TileNumbers = unsafe fn(*const u8, usize, *mut f32, usize);

fn tile_numbers(family: Family, format: Format) -> TileNumbers {
    match family {
        #[cfg(target_arch = "aarch64")]
        Family::NeonDotprodAccelerate | Family::NeonI8mmAccelerate => {
            super::units::of_format::<super::neon_numbers::Numbers>(format)
        }
        _ => panic!("{family} does not call Accelerate for {format}: the recorder asks first"),
    }
}

/// Writes numbers of rows as in the file.
fn row_numbers(format: Format, file: &[u8], to: &mut [f32]) {
    match format {
        #[cfg(target_arch = "aarch64")]
        Format::F16 => super::neon_numbers::halves(file, to),
        _ => format.dequantize(file, to),
    }
}

/// Scratch of one thread: numbers of rows of W, of tokens, and of their products.
pub(super) fn scratch_bytes(family: Family, columns: u32) -> u32 {
    let numbers = (ROWS + TOKENS) * columns as usize + TOKENS * ROWS;
    if family.accelerates() { u32::try_from(4 * numbers).expect("a few rows") } else { 0 }
}

/// Spans: counts, x, a panel of the rows that continue an answer, then matrices, which all have tiles.
pub(super) fn multiply(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    // SAFETY: spans 0 to 2 are only read by this launch.
    let (counts, x) = unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(1)) };
    // SAFETY: as above.
    let panel = unsafe { launch.slice::<u8>(2) };
    let rows = Rows::new(counts, args.count_index);
    tiles::answers(launch, &args, (rows, panel), 3);
    prompts(launch, &args, (x, rows.exact..rows.all), &parts(launch, &args, 3));
}

/// Products of some rows of x, all of prompts.
pub(super) fn prompts(
    launch: &HostLaunch<'_>,
    args: &Args,
    (x, tokens): (&[f32], Range<usize>),
    parts: &[Option<Part<'_>>],
) {
    if tokens.is_empty() {
        return;
    }
    let mut work = Work::new(launch, args, x, tokens);
    let blocks = sets(parts, args).map(|(_, rows)| rows.div_ceil(ROWS)).sum();
    launch.pieces(blocks, 1, |piece| {
        for (set, rows) in of_piece(sets(parts, args), piece, ROWS) {
            for first in rows.clone().step_by(ROWS) {
                let rows = first..(first + ROWS).min(rows.end);
                for part in set.iter().flatten() {
                    work.multiply(part, rows.clone());
                }
                activate(args, set, work.tokens.clone(), rows);
            }
        }
    });
}

/// One launch as this thread sees it.
struct Work<'a> {
    args: &'a Args,
    family: Family,
    columns: usize,
    x: &'a [f32],
    tokens: Range<usize>,
    /// Room for a tile that is not packed.
    room: &'a mut [u8],
    weights: &'a mut [f32],
    /// The last tokens, if they are fewer than [`TOKENS`], and zeros.
    filled_up: &'a [f32],
    products: &'a mut [f32],
}

impl<'a> Work<'a> {
    fn new(launch: &'a HostLaunch<'_>, args: &'a Args, x: &'a [f32], tokens: Range<usize>) -> Self {
        let columns = args.columns as usize;
        let room = tiles::room(args);
        let numbers = room / 4..room / 4 + (ROWS + TOKENS) * columns + TOKENS * ROWS;
        // SAFETY: scratch belongs to this thread; the two parts do not overlap.
        let (room, numbers) = unsafe {
            (launch.scratch::<u8>().part(0..room), launch.scratch::<f32>().part(numbers))
        };
        let (weights, numbers) = numbers.split_at_mut(ROWS * columns);
        let (filled_up, products) = numbers.split_at_mut(TOKENS * columns);
        let last = &x[(tokens.end - tokens.len() % TOKENS) * columns..tokens.end * columns];
        let (live, rest) = filled_up.split_at_mut(last.len());
        live.copy_from_slice(last);
        rest.fill(0.0);
        let family = Family::from_code(args.family);
        Self { args, family, columns, x, tokens, room, weights, filled_up, products }
    }

    /// Products of some rows of a matrix, at most [`ROWS`], with all tokens.
    fn multiply(&mut self, part: &Part<'_>, rows: Range<usize>) {
        self.read(part, rows.clone());
        let numbers = &self.weights[..rows.len() * self.columns];
        let numbers =
            if is_float(part.format) { Factor::ByRow(numbers) } else { Factor::ByColumn(numbers) };
        for first in self.tokens.clone().step_by(TOKENS) {
            let last = (first + TOKENS).min(self.tokens.end);
            let x = match last - first {
                TOKENS => &self.x[first * self.columns..last * self.columns],
                _ => self.filled_up,
            };
            let products = &mut self.products[..TOKENS * rows.len()];
            accelerate::multiply(x, numbers, self.columns, products);
            for (t, products) in (first..last).zip(products.chunks_exact_mut(rows.len())) {
                part.store(self.args, (t, rows.clone()), products);
            }
        }
    }

    /// Makes numbers of some rows of a matrix.
    fn read(&mut self, part: &Part<'_>, rows: Range<usize>) {
        let (format, columns) = (part.format, self.columns);
        let to = &mut self.weights[..rows.len() * columns];
        if is_float(format) {
            let row_bytes = format.row_bytes(columns).expect("rows of any length");
            let file = &part.weights.rows[rows.start * row_bytes..rows.end * row_bytes];
            return row_numbers(format, file, to);
        }
        assert!(rows.len().is_multiple_of(TILE_ROWS), "matrices with tiles have whole ones");
        let (numbers, units) =
            (tile_numbers(self.family, format), columns / unit_of(format).columns);
        for tile in 0..rows.len() / TILE_ROWS {
            let to = &mut to[TILE_ROWS * tile..];
            let index = (rows.start / TILE_ROWS + tile, part.rows / TILE_ROWS);
            let tile = tile_at(&part.weights, (self.family, format, columns), index, self.room);
            // SAFETY: the tile is whole; 16 numbers of its last column are the last of these rows'.
            unsafe { numbers(tile.as_ptr(), units, to.as_mut_ptr(), rows.len()) };
        }
    }
}
