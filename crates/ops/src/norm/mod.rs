//! `norm`: RMSNorm or LayerNorm of each group of a row.
//!
//! Contract: for each row and each group of `n = weight.columns` numbers `y = normalized(x) * weight + bias`, or
//! `y += ...` when accumulating (a norm after a projection, added to the residual).
#[cfg(test)]
mod cases;
mod cpu;
pub mod reference;

pub(crate) use cpu::normalize;

use crate::record::{Recorder, Spread, Tensor, read, write};
use crate::{Norm, NormKind};

/// Spans: counts, x, y (written), weight, bias (anything where there is none).
pub static NORM: hal::Program = hal::Program {
    name: "norm",
    host: Some(cpu::norm),
    gpu: Some(hal::Gpu {
        texts: &[Args::MSL, hal::msl!("kernel.metal")],
        entry: "normalize",
        constants: &[],
    }),
};

hal::args! {
    /// Arguments of [`NORM`].
    pub struct Args {
        pub columns: u32,
        pub group: u32,
        pub count_index: u32,
        pub layer: u32,
        pub bias: u32,
        pub accumulate: u32,
        pub epsilon: f32,
    }
}

pub(crate) fn record(to: &mut Recorder<'_>, x: &Tensor, norm: &Norm, y: &Tensor, accumulate: bool) {
    assert_eq!((x.columns, x.rows_of), (y.columns, y.rows_of), "a norm keeps its shape");
    assert!(x.columns.is_multiple_of(norm.weight.columns), "rows are whole groups");
    let args = Args {
        columns: x.columns,
        group: norm.weight.columns,
        count_index: x.rows_of.count_index(),
        layer: u32::from(norm.kind == NormKind::Layer),
        bias: u32::from(norm.bias.is_some()),
        accumulate: u32::from(accumulate),
        epsilon: norm.epsilon,
    };
    let operands = [
        to.counts(),
        read(x.room.place()),
        write(y.room.place()),
        read(to.weight(&norm.weight)),
        read(to.weight(norm.bias.as_ref().unwrap_or(&norm.weight))),
    ];
    let groups = to.capacity(x.rows_of) * (x.columns / norm.weight.columns);
    let spread = Spread { groups, scratch_bytes: 4 * norm.weight.columns };
    to.launch(&NORM, &operands, spread, |image| args.write_to(image));
}
