//! `rope`: rotary position embedding of each head, in place (Su et al. 2021, arXiv 2104.09864).
//!
//! Contract: for pair i of a head at position p, with `a = p * frequencies[i]`:
//! `(x0, x1) = amplitude * (x0 cos a - x1 sin a, x0 sin a + x1 cos a)`. The cosines and sines of a step's positions are
//! computed once per table of frequencies, by `angles`, and shared by all layers.
mod cpu;
pub mod reference;

#[cfg(test)]
mod cases;

pub(crate) use cpu::rotate;

use crate::record::{Place, Recorder, Spread, Tensor, read, write};
use crate::{Pairing, Rope};

/// Spans: counts, positions, frequencies, angles (written): `(tokens, 2, pairs)`, cosines then sines, times the amplitude.
pub static ANGLES: hal::Program = hal::Program {
    name: "angles",
    host: Some(cpu::angles),
    gpu: Some(hal::Gpu {
        texts: &[AnglesArgs::MSL, Args::MSL, hal::msl!("kernel.metal")],
        entry: "angles",
        constants: &[],
    }),
};
/// Spans: counts, angles, x (updated).
pub static ROPE: hal::Program = hal::Program {
    name: "rope",
    host: Some(cpu::rope),
    gpu: Some(hal::Gpu {
        texts: &[AnglesArgs::MSL, Args::MSL, hal::msl!("kernel.metal")],
        entry: "rope",
        constants: &[],
    }),
};

hal::args! {
    /// Arguments of [`ANGLES`].
    pub struct AnglesArgs {
        pub pairs: u32,
        pub amplitude: f32,
    }
}

hal::args! {
    /// Arguments of [`ROPE`].
    pub struct Args {
        pub columns: u32,
        pub head_dim: u32,
        pub pairs: u32,
        pub halves: u32,
    }
}

/// The angles of this step's tokens for `rope`: computed at their first use.
pub(crate) fn angles(to: &mut Recorder<'_>, rope: &Rope) -> Place {
    let table = (rope.frequencies, rope.amplitude.to_bits());
    if let Some(place) = to.angles(table) {
        return place;
    }
    let pairs = rope.frequencies.columns;
    let room = to.room(4 * u64::from(to.bucket.tokens) * 2 * u64::from(pairs));
    let operands = [
        to.counts(),
        read(to.resources.inputs.positions()),
        read(to.weight(&rope.frequencies)),
        write(room.place()),
    ];
    let args = AnglesArgs { pairs, amplitude: rope.amplitude };
    let spread = Spread::over(to.bucket.tokens * pairs);
    to.launch(&ANGLES, &operands, spread, |image| args.write_to(image));
    to.keep_angles(table, room)
}

pub(crate) fn record(to: &mut Recorder<'_>, x: &Tensor, rope: &Rope, head_dim: u32) {
    let angles = angles(to, rope);
    let args = Args {
        columns: x.columns,
        head_dim,
        pairs: rope.frequencies.columns,
        halves: u32::from(rope.pairing == Pairing::Halves),
    };
    let operands = [to.counts(), read(angles), write(x.room.place())];
    let spread = Spread::over(to.bucket.tokens * (x.columns / head_dim) * args.pairs);
    to.launch(&ROPE, &operands, spread, |image| args.write_to(image));
}
