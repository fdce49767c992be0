//! `embed` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint rows of shared spans")]
use super::Args;
use crate::FEEDBACK;
use crate::format::Format;
use crate::linear::pack::{TILE_ROWS, unpack_row};
use hal::cpu::HostLaunch;

struct Table<'a> {
    bytes: &'a [u8],
    format: Format,
    /// Of a row, or of a tile of rows.
    stride: usize,
    packed: bool,
    rows: usize,
}

impl<'a> Table<'a> {
    fn new(bytes: &'a [u8], args: &Args) -> Self {
        let (rows, packed) = (args.rows as usize, args.packed == 1);
        let stride = bytes.len() / if packed { rows / TILE_ROWS } else { rows };
        Self { bytes, format: Format::ALL[args.format as usize], stride, packed, rows }
    }

    /// A row past the table is a bug of the caller; the last row keeps it from being a fault.
    fn dequantize(&self, row: u32, out: &mut [f32]) {
        let row = (row as usize).min(self.rows - 1);
        let at = if self.packed { row / TILE_ROWS } else { row } * self.stride;
        let bytes = &self.bytes[at..at + self.stride];
        if self.packed {
            unpack_row(self.format, bytes, row % TILE_ROWS, out);
        } else {
            self.format.dequantize(bytes, out);
        }
    }
}

pub(super) fn embed(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let columns = args.columns as usize;
    // SAFETY: spans 0 to 3 are only read by this launch.
    let (counts, tokens, sampled, table) = unsafe {
        (
            launch.slice::<u32>(0),
            launch.slice::<u32>(1),
            launch.slice::<u32>(2),
            launch.slice::<u8>(3),
        )
    };
    let table = Table::new(table, &args);
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
    // SAFETY: spans 0 to 2 are only read by this launch.
    let (counts, positions, table) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1), launch.slice::<u8>(2)) };
    let table = Table::new(table, &args);
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
