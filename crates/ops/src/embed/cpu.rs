//! `embed` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint rows of shared spans")]
use super::Args;
use crate::FEEDBACK;
use crate::format::Format;
use crate::linear::pack::{TILE_ROWS, holds, unpack_row};
use hal::cpu::HostLaunch;

struct Table<'a> {
    format: Format,
    rows: usize,
    /// As in the file.
    bytes: &'a [u8],
    tiles: &'a [u8],
    /// So many tiles are packed.
    ready: usize,
}

impl<'a> Table<'a> {
    /// Span `at` is the table; its tiles and their count are two spans further.
    fn new(launch: &'a HostLaunch<'_>, args: &Args, at: usize) -> Self {
        // SAFETY: tables are only read by this launch.
        let bytes = unsafe { launch.slice::<u8>(at) };
        let (tiles, ready): (&[u8], _) = if args.packed == 1 {
            // SAFETY: as above.
            let ready = unsafe { launch.slice::<u32>(at + 3)[0] };
            // SAFETY: as above.
            (unsafe { launch.slice::<u8>(at + 2) }, ready as usize)
        } else {
            (&[], 0)
        };
        let (format, rows) = (Format::ALL[args.format as usize], args.rows as usize);
        Self { format, rows, bytes, tiles, ready }
    }

    /// A row past the table is a bug of the caller; the last row keeps it from being a fault.
    fn dequantize(&self, row: u32, out: &mut [f32]) {
        let row = (row as usize).min(self.rows - 1);
        let (tile, within) = (row / TILE_ROWS, row % TILE_ROWS);
        if tile < self.ready {
            let tile_bytes = self.tiles.len() / (self.rows / TILE_ROWS);
            let tile = &self.tiles[tile * tile_bytes..][..tile_bytes];
            if holds(self.format, tile, within) {
                return unpack_row(self.format, tile, within, out);
            }
        }
        let row_bytes = self.bytes.len() / self.rows;
        self.format.dequantize(&self.bytes[row * row_bytes..][..row_bytes], out);
    }
}

pub(super) fn embed(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let columns = args.columns as usize;
    // SAFETY: spans 0 to 2 are only read by this launch.
    let (counts, tokens, sampled) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1), launch.slice::<u32>(2)) };
    let table = Table::new(launch, &args, 3);
    for t in launch.part(counts[0] as usize, 1) {
        let word = tokens[t];
        let id = if word & FEEDBACK == 0 { word } else { sampled[(word & !FEEDBACK) as usize] };
        // SAFETY: each thread has its own tokens.
        let y = unsafe { launch.shared::<f32>(4).part(t * columns..(t + 1) * columns) };
        table.dequantize(id, y);
        if args.scale != 1.0 {
            y.iter_mut().for_each(|y| *y *= args.scale);
        }
    }
}

pub(super) fn positions(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let columns = args.columns as usize;
    // SAFETY: spans 0 and 1 are only read by this launch.
    let (counts, positions) = unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1)) };
    let table = Table::new(launch, &args, 2);
    // SAFETY: scratch belongs to this thread.
    let row = unsafe { launch.scratch::<f32>().part(0..columns) };
    for t in launch.part(counts[0] as usize, 1) {
        table.dequantize(positions[t], row);
        // SAFETY: each thread has its own tokens.
        let y = unsafe { launch.shared::<f32>(3).part(t * columns..(t + 1) * columns) };
        for (y, p) in y.iter_mut().zip(&*row) {
            *y += p;
        }
    }
}
