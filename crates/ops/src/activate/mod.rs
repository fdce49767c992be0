//! `activate`: `gate = activation(gate) * up`, in place; `softcap`: `x = cap * tanh(x / cap)`, in place.
#[cfg(test)]
mod cases;
mod cpu;
pub mod reference;

use crate::Activation;
use crate::record::{Recorder, Spread, Tensor, read, write};

/// For GPUs: `activation_of(x, code)`.
pub(crate) const FUNCTIONS: hal::Text = hal::msl!("functions.metal");

/// Spans: counts, gate (updated), up (anything where there is none).
pub static ACTIVATE: hal::Program = hal::Program {
    name: "activate",
    host: Some(cpu::activate),
    gpu: Some(hal::Gpu {
        texts: &[Args::MSL, FUNCTIONS, hal::msl!("kernel.metal")],
        entry: "activate",
        constants: &[],
    }),
};
/// Spans: counts, x (updated).
pub static SOFTCAP: hal::Program = hal::Program {
    name: "softcap",
    host: Some(cpu::softcap),
    gpu: Some(hal::Gpu {
        texts: &[Args::MSL, FUNCTIONS, hal::msl!("kernel.metal")],
        entry: "softcap",
        constants: &[],
    }),
};

hal::args! {
    /// Arguments of both programs.
    pub struct Args {
        pub columns: u32,
        pub count_index: u32,
        pub activation: u32,
        pub gated: u32,
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
    let args = Args {
        columns: gate.columns,
        count_index: gate.rows_of.count_index(),
        activation: activation as u32,
        gated: u32::from(up.is_some()),
        cap: 0.0,
    };
    let up = up.map_or(to.counts(), |up| read(up.room.place()));
    let operands = [to.counts(), write(gate.room.place()), up];
    launch(to, &ACTIVATE, gate, &operands, args);
}

pub(crate) fn record_softcap(to: &mut Recorder<'_>, x: &Tensor, cap: f32) {
    let operands = [to.counts(), write(x.room.place())];
    let (columns, count_index) = (x.columns, x.rows_of.count_index());
    let args = Args { columns, count_index, activation: 0, gated: 0, cap };
    launch(to, &SOFTCAP, x, &operands, args);
}

fn launch(
    to: &mut Recorder<'_>,
    program: &'static hal::Program,
    x: &Tensor,
    operands: &[crate::record::Operand],
    args: Args,
) {
    let spread = Spread::over(to.capacity(x.rows_of) * x.columns);
    to.launch(program, operands, spread, |image| args.write_to(image));
}
