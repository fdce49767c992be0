//! `sample`: the next token of each row of logits.
//!
//! Contract, in this order: biases added to the logits; tokens that are not allowed leave; temperature; repetition penalty on
//! seen tokens (Keskar et al. 2019: divided when positive, multiplied when negative); top-k; typical (Meister et al. 2023);
//! top-p (Holtzman et al. 2020); min-p (relative to the most probable token left); XTC; then one draw. Temperature 0 is greedy
//! after bias, mask and penalty; equal logits go to the lower id. A draw depends on nothing but logits, biases, masks,
//! parameters, seed and draw number.
#[cfg(test)]
mod cases;
mod cpu;
mod philox;
pub mod reference;

pub use philox::philox4x32;

use crate::inputs::SAMPLER_WORDS;
use crate::record::{Grid, Recorder, Tensor, read, write};

/// Spans: counts, rows, sequences, samplers, seen, allowed, bias, logits, sampled (written).
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
        /// Of one set of tokens.
        pub seen_words: u32,
        /// Of one row's parameters.
        pub sampler_words: u32,
    }
}

/// How one row is sampled; [the module](self) says in which order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Biases of [`crate::Inputs::bias_row`], finite, are added to the logits first; elsewhere nobody reads them.
    pub biased: bool,
    /// Only the tokens of [`crate::Inputs::allowed_row`] are ever taken, greedily too; elsewhere nobody reads them. A row that
    /// allows no token gets token 0: whoever masks allows one at least.
    pub masked: bool,
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off. The tokens whose surprise -ln p is closest to its mean, the entropy, until they hold so much of the
    /// probability, with those as close as the last one.
    pub typical_p: f32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
    /// How often XTC ("exclude top choices") applies, 0 is off: of the tokens that then have `xtc_threshold` of the
    /// probability, only the least probable one stays (of equal ones that with the highest id).
    pub xtc_probability: f32,
    /// More than 0; past 0.5 no two tokens are so probable.
    pub xtc_threshold: f32,
    pub seed: u64,
    /// Which draw of the seed's stream this is: the number of tokens sampled before.
    pub draw: u32,
}

impl Sampler {
    /// The most probable token, always.
    pub const GREEDY: Self = Self {
        biased: false,
        masked: false,
        temperature: 0.0,
        repetition_penalty: 1.0,
        top_k: 0,
        typical_p: 1.0,
        top_p: 1.0,
        min_p: 0.0,
        xtc_probability: 0.0,
        xtc_threshold: 0.1,
        seed: 0,
        draw: 0,
    };

    pub(crate) fn words(&self) -> [u32; SAMPLER_WORDS as usize] {
        let [seed_low, seed_high] = self.key();
        let words = [
            self.temperature.to_bits(),
            self.repetition_penalty.to_bits(),
            self.top_k,
            self.top_p.to_bits(),
            self.min_p.to_bits(),
            seed_low,
            seed_high,
            self.draw,
            self.typical_p.to_bits(),
            self.xtc_probability.to_bits(),
            self.xtc_threshold.to_bits(),
            u32::from(self.biased),
            u32::from(self.masked),
        ];
        std::array::from_fn(|i| words.get(i).copied().unwrap_or(0))
    }

    pub(crate) fn from_words(words: &[u32]) -> Self {
        let float = |at: usize| f32::from_bits(words[at]);
        Self {
            temperature: float(0),
            repetition_penalty: float(1),
            top_k: words[2],
            top_p: float(3),
            min_p: float(4),
            seed: u64::from(words[5]) | u64::from(words[6]) << 32,
            draw: words[7],
            typical_p: float(8),
            xtc_probability: float(9),
            xtc_threshold: float(10),
            biased: words[11] != 0,
            masked: words[12] != 0,
        }
    }

    /// The two halves of the seed.
    fn key(&self) -> [u32; 2] {
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    /// Two numbers in [0, 1), each 24 bits of Philox with the seed as key: which token is drawn, and whether XTC applies.
    fn uniforms(&self) -> [f32; 2] {
        let [token, xtc, ..] = philox4x32([self.draw, 0, 0, 0], self.key());
        #[expect(clippy::cast_precision_loss, reason = "24 bits are exact in f32")]
        [token, xtc].map(|bits| (bits >> 8) as f32 / 16_777_216.0)
    }
}

/// Records sampling of every row of `logits (S, vocabulary)` into the resources' `sampled` span.
pub fn record(to: &mut Recorder<'_>, logits: &Tensor) {
    let inputs = to.resources.inputs;
    let args = Args {
        vocabulary: logits.columns,
        seen_words: inputs.limits.seen_words(),
        sampler_words: SAMPLER_WORDS,
    };
    let operands = [
        to.counts(),
        read(inputs.rows()),
        read(inputs.sequences()),
        read(inputs.samplers()),
        read(inputs.seen()),
        read(inputs.allowed()),
        read(inputs.bias()),
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
