//! `gather`: the rows of `x (T, dim)` whose logits are wanted -> `(S, dim)`.
#[cfg(test)]
mod cases;
mod cpu;

use crate::record::{Recorder, RowsOf, Spread, Tensor, read, write};

/// Spans: counts, rows, x, y (written).
pub static GATHER: hal::Program = hal::Program {
    name: "gather",
    host: Some(cpu::gather),
    gpu: Some(hal::Gpu {
        texts: &[Args::MSL, hal::msl!("kernel.metal")],
        entry: "gather",
        constants: &[],
    }),
};

hal::args! {
    /// Arguments of [`GATHER`].
    pub struct Args {
        pub columns: u32,
    }
}

pub(crate) fn record(to: &mut Recorder<'_>, x: &Tensor) -> Tensor {
    let y = to.tensor(RowsOf::Wanted, x.columns);
    let rows = read(to.resources.inputs.rows());
    let operands = [to.counts(), rows, read(x.room.place()), write(y.room.place())];
    let spread = Spread::over(to.bucket.rows * x.columns);
    to.launch(&GATHER, &operands, spread, |image| Args { columns: x.columns }.write_to(image));
    y
}
