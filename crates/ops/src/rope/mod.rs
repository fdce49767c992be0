//! `rope`: rotary position embedding of each head, in place (Su et al. 2021, arXiv 2104.09864).
//!
//! Contract: for pair i of a head at position p, with `a = p * frequencies[i]`:
//! `(x0, x1) = amplitude * (x0 cos a - x1 sin a, x0 sin a + x1 cos a)`.
#[cfg(test)]
mod cases;
mod cpu;
pub mod reference;

use crate::record::{Recorder, Spread, Tensor, read, write};
use crate::{Pairing, Rope};

/// Spans: counts, positions, frequencies, x (updated).
pub static ROPE: hal::Program = hal::Program { name: "rope", host: cpu::rope };

hal::args! {
    /// Arguments of [`ROPE`].
    pub struct Args {
        pub columns: u32,
        pub head_dim: u32,
        pub pairs: u32,
        pub halves: u32,
        pub amplitude: f32,
    }
}

pub(crate) fn record(to: &mut Recorder<'_>, x: &Tensor, rope: &Rope, head_dim: u32) {
    let args = Args {
        columns: x.columns,
        head_dim,
        pairs: rope.frequencies.columns,
        halves: u32::from(rope.pairing == Pairing::Halves),
        amplitude: rope.amplitude,
    };
    let positions = read(to.resources.inputs.positions());
    let frequencies = read(to.weight(&rope.frequencies));
    let operands = [to.counts(), positions, frequencies, write(x.room.place())];
    let spread = Spread { groups: to.bucket.tokens, scratch_bytes: 8 * args.pairs };
    to.launch(&ROPE, &operands, spread, |image| args.write_to(image));
}
