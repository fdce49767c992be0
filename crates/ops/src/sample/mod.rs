//! `sample`: the next token of each row of logits.
//!
//! Contract, in this order: logits over temperature, repetition penalty on seen tokens (Keskar et al. 2019: divided when
//! positive, multiplied when negative), top-k, top-p (Holtzman et al. 2020), min-p (relative to the most probable token),
//! then one draw. Temperature 0 is greedy after the penalty; equal logits go to the lower id. A draw depends on nothing but
//! logits, parameters, seed and draw number.
#[cfg(test)]
mod cases;
mod cpu;
mod philox;
pub mod reference;

pub use philox::philox4x32;

use crate::record::{Grid, Recorder, Tensor, read, write};

/// Spans: counts, rows, sequences, samplers, seen, logits, sampled (written).
pub static SAMPLE: hal::Program = hal::Program {
    name: "sample",
    host: Some(cpu::sample),
    gpu: Some(hal::Gpu {
        texts: &[Args::MSL, hal::msl!("kernel.metal")],
        entry: "sample",
        constants: &[],
    }),
};

/// Rows of more logits take more threads of a GPU.
const VOCABULARY_SMALL: u32 = 4096;

hal::args! {
    /// Arguments of [`SAMPLE`].
    pub struct Args {
        pub vocabulary: u32,
        pub seen_words: u32,
    }
}

/// How one row is sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    pub seed: u64,
    /// Which draw of the seed's stream this is: the number of tokens sampled before.
    pub draw: u32,
}

impl Sampler {
    /// The most probable token, always.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        repetition_penalty: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: 0,
        draw: 0,
    };

    pub(crate) fn words(&self) -> [u32; crate::inputs::SAMPLER_WORDS as usize] {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of the seed")]
        let (low, high) = (self.seed as u32, (self.seed >> 32) as u32);
        [
            self.temperature.to_bits(),
            self.repetition_penalty.to_bits(),
            self.top_k,
            self.top_p.to_bits(),
            self.min_p.to_bits(),
            low,
            high,
            self.draw,
        ]
    }

    pub(crate) fn from_words(words: &[u32]) -> Self {
        Self {
            temperature: f32::from_bits(words[0]),
            repetition_penalty: f32::from_bits(words[1]),
            top_k: words[2],
            top_p: f32::from_bits(words[3]),
            min_p: f32::from_bits(words[4]),
            seed: u64::from(words[5]) | u64::from(words[6]) << 32,
            draw: words[7],
        }
    }

    /// The draw in [0, 1): 24 bits of Philox with the seed as key.
    #[must_use]
    pub fn uniform(&self) -> f32 {
        let [_, _, _, _, _, low, high, draw] = self.words();
        let bits = philox4x32([draw, 0, 0, 0], [low, high])[0] >> 8;
        #[expect(clippy::cast_precision_loss, reason = "24 bits are exact in f32")]
        let numerator = bits as f32;
        numerator / 16_777_216.0
    }
}

/// Records sampling of every row of `logits (S, vocabulary)` into the resources' `sampled` span.
pub fn record(to: &mut Recorder<'_>, logits: &Tensor) {
    let inputs = to.resources.inputs;
    let args = Args { vocabulary: logits.columns, seen_words: inputs.limits.seen_words() };
    let operands = [
        to.counts(),
        read(inputs.rows()),
        read(inputs.sequences()),
        read(inputs.samplers()),
        read(inputs.seen()),
        read(logits.room.place()),
        write(to.resources.sampled),
    ];
    let mut grid = Grid::row(to.bucket.rows.max(1));
    if !to.for_gpu() {
        // Candidates: a weight and an id for each token.
        grid.scratch_bytes = 8 * args.vocabulary;
    } else if args.vocabulary > VOCABULARY_SMALL {
        grid.threads[0] *= 4;
    }
    to.launch_grid(&SAMPLE, &operands, grid, |image| args.write_to(image));
}
