//! `add`: `x += y`, row by row.
#[cfg(test)]
mod cases;
mod cpu;

use crate::record::{Recorder, Spread, Tensor, read, write};

/// Spans: counts, y, x (updated).
pub static ADD: hal::Program = hal::Program {
    name: "add",
    host: Some(cpu::add),
    gpu: Some(hal::Gpu {
        texts: &[Args::MSL, hal::msl!("kernel.metal")],
        entry: "add",
        constants: &[],
    }),
};

hal::args! {
    /// Arguments of [`ADD`].
    pub struct Args {
        pub columns: u32,
        pub count_index: u32,
    }
}

pub(crate) fn record(to: &mut Recorder<'_>, x: &Tensor, y: &Tensor) {
    assert_eq!((x.columns, x.rows_of), (y.columns, y.rows_of), "only equal shapes are added");
    let args = Args { columns: x.columns, count_index: x.rows_of.count_index() };
    let operands = [to.counts(), read(y.room.place()), write(x.room.place())];
    let spread = Spread::over(to.capacity(x.rows_of) * x.columns);
    to.launch(&ADD, &operands, spread, |image| args.write_to(image));
}
