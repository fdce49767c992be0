//! `activate`: `gate = activation(gate) * up`, in place; `softcap`: `x = cap * tanh(x / cap)`, in place.
#[cfg(test)]
mod cases;
mod cpu;
pub mod reference;

use crate::Activation;
use crate::record::{Recorder, Spread, Tensor, read, write};

/// Spans: counts, gate (updated), then up if there is one.
pub static ACTIVATE: hal::Program =
    hal::Program { name: "activate", host: Some(cpu::activate), gpu: None };
/// Spans: counts, x (updated).
pub static SOFTCAP: hal::Program =
    hal::Program { name: "softcap", host: Some(cpu::softcap), gpu: None };

hal::args! {
    /// Arguments of both programs.
    pub struct Args {
        pub columns: u32,
        pub count_index: u32,
        pub activation: u32,
        pub cap: f32,
    }
}

impl Activation {
    pub(crate) const ALL: [Self; 3] = [Self::Silu, Self::Gelu, Self::ReluSquared];
}

pub(crate) fn record(
    to: &mut Recorder<'_>,
    gate: &Tensor,
    up: Option<&Tensor>,
    activation: Activation,
) {
    let mut operands = vec![to.counts(), write(gate.room.place())];
    operands.extend(up.map(|up| read(up.room.place())));
    launch(to, &ACTIVATE, gate, &operands, (activation as u32, 0.0));
}

pub(crate) fn record_softcap(to: &mut Recorder<'_>, x: &Tensor, cap: f32) {
    let operands = [to.counts(), write(x.room.place())];
    launch(to, &SOFTCAP, x, &operands, (0, cap));
}

fn launch(
    to: &mut Recorder<'_>,
    program: &'static hal::Program,
    x: &Tensor,
    operands: &[crate::record::Operand],
    (activation, cap): (u32, f32),
) {
    let args = Args { columns: x.columns, count_index: x.rows_of.count_index(), activation, cap };
    let spread = Spread { groups: to.capacity(x.rows_of), ..Spread::default() };
    to.launch(program, operands, spread, |image| args.write_to(image));
}
