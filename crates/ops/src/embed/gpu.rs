//! `embed` and `positions` on GPUs.
use crate::Weight;
use crate::format::FORMATS;
use crate::gpu::Variants;
use crate::record::{Grid, Operand, Recorder};
use hal::{Text, Value};

hal::args! {
    /// Arguments of both kernels.
    pub struct TableArgs {
        pub columns: u32,
        pub rows: u32,
        pub scale: f32,
    }
}

/// Of both kernels.
pub(super) const TEXTS: &[Text] = &[FORMATS, TableArgs::MSL, hal::msl!("kernel.metal")];

/// Spans: as [`super::EMBED`].
pub(super) static EMBED: Variants = Variants::new("embed", TEXTS);
/// Spans: as [`super::POSITIONS`].
pub(super) static POSITIONS: Variants = Variants::new("positions", TEXTS);

/// Threads of a token.
const THREADS: u32 = 128;

pub(super) fn launch(
    to: &mut Recorder<'_>,
    variants: &Variants,
    operands: &[Operand],
    table: &Weight,
    scale: f32,
) {
    let format = table.format;
    let program = variants
        .program(&[Value::Uint(format as u32)], || format!("{}_{}", variants.entry, format.name()));
    let args = TableArgs { columns: table.columns, rows: table.rows, scale };
    let groups = [to.bucket.tokens, 1, 1];
    let grid = Grid { groups, threads: [THREADS, 1, 1], scratch_bytes: 0 };
    to.launch_grid(program, operands, grid, |image| args.write_to(image));
}
