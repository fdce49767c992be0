//! `quantize`: activations to 16-bit integers, the left side of integer products; normalizes first when asked.
//!
//! Contract: per block of 32, `scale = max|x| / 32512`, `code = round(x / scale)`; per group of 16, `sum = scale * Σ code`, which
//! weight formats with an offset need. Kernels multiply a code as two int8 levels, `code = 256 * high + low`; a low level of
//! -128, whose sign cannot be turned in 8 bits, becomes -127.
//!
//! One int8 level (`max|x| / 127`), as other engines use, moves single rows of a small model's logits to a cosine of 0.96 with
//! the exact ones; two levels leave it above 0.99999 for a quarter more time in products that wait for arithmetic, and none in
//! those that wait for memory. Prompts may take [`words`] instead, where the family has kernels for them.
#[cfg(test)]
mod cases;
mod cpu;
pub(crate) mod panel;
pub(crate) mod words;

use crate::record::{Operand, Recorder, Room, Spread, Tensor, read, write};
use crate::{Norm, NormKind};

/// Numbers that share a scale.
pub const BLOCK: usize = 32;
/// The largest code: its two levels are 127 and 0.
pub(crate) const CODE_MAX: f32 = 32512.0;
/// Numbers that share a sum: the smallest group of weights with a scale of its own.
pub const GROUP: usize = 16;

/// Spans: counts, x, codes, scales, sums (written), then weight and bias of the norm if there is one.
pub static QUANTIZE: hal::Program =
    hal::Program { name: "quantize", host: Some(cpu::quantize), gpu: None };

/// Spans: counts, x, panel (written), then weight and bias of the norm if there is one. See [`panel`] for the layout.
pub static QUANTIZE_PANEL: hal::Program =
    hal::Program { name: "quantize_panel", host: Some(cpu::quantize_panel), gpu: None };

hal::args! {
    /// Arguments of both programs. `family` is for panels only.
    pub struct Args {
        pub columns: u32,
        pub count_index: u32,
        pub layer: u32,
        pub epsilon: f32,
        pub family: u32,
    }
}

/// A quantized activation in the arena.
#[derive(Debug)]
pub(crate) struct Quantized {
    /// i16 `(rows, columns)`
    pub(crate) codes: Room,
    /// f32 `(rows, columns / 32)`
    pub(crate) scales: Room,
    /// f32 `(rows, columns / 16)`
    pub(crate) sums: Room,
}

pub(crate) fn record(to: &mut Recorder<'_>, x: &Tensor, norm: Option<&Norm>) -> Quantized {
    assert!(x.columns.is_multiple_of(32), "the loader checked that rows are whole blocks");
    let numbers = u64::from(to.capacity(x.rows_of)) * u64::from(x.columns);
    let y = Quantized {
        codes: to.room(2 * numbers),
        scales: to.room(numbers / 32 * 4),
        sums: to.room(numbers / 16 * 4),
    };
    let [codes, scales, sums] = [&y.codes, &y.scales, &y.sums].map(|room| write(room.place()));
    let mut operands = vec![to.counts(), read(x.room.place()), codes, scales, sums];
    operands.extend(norm_operands(to, norm));
    let spread = Spread { groups: to.capacity(x.rows_of), scratch_bytes: 4 * x.columns };
    let args = args(to, x, norm);
    to.launch(&QUANTIZE, &operands, spread, |image| args.write_to(image));
    y
}

/// Records the quantization of all rows into a panel.
pub(crate) fn record_panel(to: &mut Recorder<'_>, x: &Tensor, norm: Option<&Norm>) -> Room {
    let capacity = to.capacity(x.rows_of);
    let bytes = panel::panel_bytes(to.family, capacity as usize, x.columns as usize);
    let y = to.room(bytes as u64);
    let mut operands = vec![to.counts(), read(x.room.place()), write(y.place())];
    operands.extend(norm_operands(to, norm));
    let spread = Spread { groups: capacity, scratch_bytes: 0 };
    let args = args(to, x, norm);
    to.launch(&QUANTIZE_PANEL, &operands, spread, |image| args.write_to(image));
    y
}

/// Weight and bias of a norm, as far as they exist.
pub(crate) fn norm_operands(
    to: &Recorder<'_>,
    norm: Option<&Norm>,
) -> impl Iterator<Item = Operand> {
    let vectors = [norm.map(|norm| norm.weight), norm.and_then(|norm| norm.bias)];
    vectors.map(|vector| vector.map(|vector| read(to.weight(&vector)))).into_iter().flatten()
}

fn args(to: &Recorder<'_>, x: &Tensor, norm: Option<&Norm>) -> Args {
    Args {
        columns: x.columns,
        count_index: x.rows_of.count_index(),
        layer: u32::from(norm.is_some_and(|norm| norm.kind == NormKind::Layer)),
        epsilon: norm.map_or(0.0, |norm| norm.epsilon),
        family: to.family.code(),
    }
}
