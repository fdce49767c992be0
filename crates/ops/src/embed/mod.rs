//! `embed`: rows of the embedding table for the batch's tokens; `positions`: adds learned position embeddings.
//!
//! Contract: `y (T, dim) = table[token] * scale`. A token word with [`crate::FEEDBACK`] names a row of the last step's samples.
#[cfg(test)]
mod cases;
mod cpu;
mod gpu;
pub mod reference;

use crate::Weight;
use crate::record::{Operand, Recorder, RowsOf, Spread, Tensor, read, write};

/// Spans: counts, tokens, sampled, table, y, and of a packed table its tiles and the word that tells how many are ready.
pub static EMBED: hal::Program = hal::Program { name: "embed", host: Some(cpu::embed), gpu: None };
/// Spans: counts, positions, table, y (updated), then as [`EMBED`].
pub static POSITIONS: hal::Program =
    hal::Program { name: "positions", host: Some(cpu::positions), gpu: None };

hal::args! {
    /// Arguments of both programs.
    pub struct Args {
        pub columns: u32,
        pub format: u32,
        pub rows: u32,
        /// 1 when the table has packed tiles.
        pub packed: u32,
        pub scale: f32,
    }
}

fn args(to: &Recorder<'_>, table: &Weight, scale: f32) -> Args {
    let (format, packed) = (table.format as u32, u32::from(to.tiles(table).is_some()));
    Args { columns: table.columns, format, rows: table.rows, packed, scale }
}

fn tiles(to: &Recorder<'_>, table: &Weight) -> impl Iterator<Item = Operand> + use<> {
    to.tiles(table).into_iter().flat_map(|(tiles, ready)| [read(tiles), read(ready)])
}

pub(crate) fn record(to: &mut Recorder<'_>, table: &Weight, scale: f32) -> Tensor {
    let y = to.tensor(RowsOf::Tokens, table.columns);
    let mut operands = vec![
        to.counts(),
        read(to.resources.inputs.tokens()),
        read(to.resources.sampled),
        read(to.weight(table)),
        write(y.room.place()),
    ];
    if to.for_gpu() {
        gpu::launch(to, &gpu::EMBED, &operands, table, scale);
        return y;
    }
    operands.extend(tiles(to, table));
    let spread = Spread { groups: to.bucket.tokens, ..Spread::default() };
    let args = args(to, table, scale);
    to.launch(&EMBED, &operands, spread, |image| args.write_to(image));
    y
}

pub(crate) fn record_positions(to: &mut Recorder<'_>, x: &Tensor, table: &Weight) {
    let mut operands = vec![
        to.counts(),
        read(to.resources.inputs.positions()),
        read(to.weight(table)),
        write(x.room.place()),
    ];
    if to.for_gpu() {
        gpu::launch(to, &gpu::POSITIONS, &operands, table, 1.0);
        return;
    }
    operands.extend(tiles(to, table));
    let scratch_bytes = 4 * table.columns;
    let spread = Spread { groups: to.bucket.tokens, scratch_bytes };
    let args = args(to, table, 1.0);
    to.launch(&POSITIONS, &operands, spread, |image| args.write_to(image));
}
