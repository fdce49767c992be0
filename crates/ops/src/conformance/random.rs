//! Seeded numbers and weights.
use crate::format::Format;
use half::{bf16, f16};

/// SplitMix64 (Steele, Lea and Flood 2014): one word of state, so that a seed in a message is all it takes to repeat a case.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end - 1`.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        u32::try_from(self.word() % u64::from(end)).expect("below a u32")
    }

    fn byte(&mut self) -> u8 {
        self.word().to_le_bytes()[7]
    }

    /// In [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        f64::from(self.below(1 << 30)) / f64::from(1 << 30)
    }

    /// Mean 0, variance 1 (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        crate::reference::rounded(radius * (std::f64::consts::TAU * self.uniform()).cos())
    }

    pub(crate) fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.normal()).collect()
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let end = u32::try_from(i + 1).expect("short lists");
            items.swap(i, self.below(end) as usize);
        }
    }
}

/// A row of `n` weights with every bit of every code in use: mean about 0, variance about `1 / n`, so that products
/// with inputs of variance 1 have variance 1.
pub(crate) fn random_row(format: Format, n: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let sigma = 1.0 / (n as f32).sqrt();
    let numbers = |random: &mut Random| random.normals(n).into_iter().map(move |x| x * sigma);
    match format {
        Format::F32 => numbers(&mut random).flat_map(f32::to_le_bytes).collect(),
        Format::F16 => numbers(&mut random).flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
        // Some are far smaller than the others, in long rows more than `linear::dense` lists.
        Format::Bf16 => numbers(&mut random)
            .enumerate()
            .map(|(i, x)| if i % 97 == 96 { x / (1 << 20) as f32 } else { x })
            .flat_map(|x| bf16::from_f32(x).to_le_bytes())
            .collect(),
        _ => {
            let blocks = n / format.block_elements();
            (0..blocks).flat_map(|_| random_block(format, sigma, &mut random)).collect()
        }
    }
}

/// Random codes under a scale that is measured: the block is read with scale 1 first.
fn random_block(format: Format, sigma: f32, random: &mut Random) -> Vec<u8> {
    let mut block: Vec<u8> = (0..format.block_bytes()).map(|_| random.byte()).collect();
    set_scale(format, &mut block, 1.0);
    let mut weights = vec![0.0; format.block_elements()];
    format.dequantize(&block, &mut weights);
    let rms = (weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32).sqrt();
    let spread = 0.5 + random.below(1000) as f32 / 1000.0;
    // Files hold negative scales too, but only where there is no minimum beside the scale.
    let sign = if minimum(format).is_none() && random.below(2) == 0 { -1.0 } else { 1.0 };
    set_scale(format, &mut block, sign * spread * sigma / rms);
    block
}

/// Where a minimum (or offset) stands, and its value for scale 1 that makes the mean of random weights about 0.
fn minimum(format: Format) -> Option<(usize, f32)> {
    match format {
        Format::Q4_1 => Some((2, -7.5)),
        Format::Q5_1 => Some((2, -15.5)),
        Format::Q2K => Some((82, 1.5)),
        Format::Q4K => Some((2, 7.5)),
        Format::Q5K => Some((2, 15.5)),
        _ => None,
    }
}

fn set_scale(format: Format, block: &mut [u8], scale: f32) {
    let mut set = |at: usize, value: f32| {
        block[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
    };
    let at = match format {
        Format::Q2K => 80,
        Format::Q3K => 108,
        Format::Q6K => 208,
        Format::Mxfp4 => {
            let exponent = 128.0 + scale.abs().log2().round();
            block[0] = (0..=254).find(|e| f32::from(*e) >= exponent).unwrap_or(254);
            return;
        }
        _ => 0,
    };
    set(at, scale);
    if let Some((at, value)) = minimum(format) {
        set(at, value * scale);
    }
}

#[test]
fn random_rows_are_valid_and_keep_the_variance() {
    let n = 1 << 14;
    for format in Format::ALL {
        let row = random_row(format, n, 3);
        assert_eq!(format.first_bad_block(&row), None, "{format}");
        let mut weights = vec![0.0; n];
        format.dequantize(&row, &mut weights);
        let mean = weights.iter().sum::<f32>() / n as f32;
        let variance = weights.iter().map(|w| w * w).sum::<f32>();
        assert!((0.5..2.0).contains(&variance), "{format}: variance {variance}");
        assert!(mean.abs() < 0.1 / (n as f32).sqrt(), "{format}: mean {mean}");
    }
}
