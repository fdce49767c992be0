//! Random weights, made as the blocks of their format: nothing is quantized, so a disk is the limit and not the CPU.
use ops::format::{Format, iq4, mxfp4};

/// `SplitMix64` (Steele, Lea and Flood 2014).
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// The stream number `stream` of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut of_seed = Self { state: seed };
        let state = of_seed.next() ^ stream.wrapping_mul(0xd134_2543_de82_ef95);
        Self { state }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which must not be 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        let product = u128::from(self.next()) * limit as u128;
        usize::try_from(product >> 64).unwrap_or(0)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut();
        for word in words {
            *word = self.next().to_le_bytes();
        }
        let last = self.next().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }

    /// Numbers around 0 with this standard deviation, spread evenly.
    fn spread(&mut self, deviation: f32, out: &mut [f32]) {
        let step = deviation * 3f32.sqrt() / 32_768.0;
        for four in out.chunks_mut(4) {
            let bytes = self.next().to_le_bytes();
            for (number, half) in four.iter_mut().zip(bytes.as_chunks().0) {
                *number = step * (f32::from(i16::from_le_bytes(*half)) + 0.5);
            }
        }
    }
}

/// Numbers that are converted at a time.
const NUMBERS: usize = 1024;

/// Fills `bytes`, whole blocks of `format`, with weights around 0 of about this standard deviation.
pub(super) fn fill(format: Format, deviation: f32, random: &mut Random, bytes: &mut [u8]) {
    let mut numbers = [0.0; NUMBERS];
    match format {
        Format::F32 => {
            for part in bytes.as_chunks_mut().0.chunks_mut(NUMBERS) {
                random.spread(deviation, &mut numbers);
                part.iter_mut().zip(&numbers).for_each(|(to, from)| *to = from.to_le_bytes());
            }
        }
        Format::Bf16 => {
            for part in bytes.as_chunks_mut().0.chunks_mut(NUMBERS) {
                random.spread(deviation, &mut numbers);
                for (to, from) in part.iter_mut().zip(&numbers) {
                    let [_, _, low, high] = from.to_le_bytes();
                    *to = [low, high];
                }
            }
        }
        Format::F16 => {
            let mut halves = [half::f16::ZERO; NUMBERS];
            for part in bytes.as_chunks_mut().0.chunks_mut(NUMBERS) {
                random.spread(deviation, &mut numbers);
                half::slice::HalfFloatSliceExt::convert_from_f32_slice(
                    halves.as_mut_slice(),
                    &numbers,
                );
                part.iter_mut().zip(&halves).for_each(|(to, from)| *to = from.to_le_bytes());
            }
        }
        _ => {
            random.fill(bytes);
            let scale = deviation / mean_square(format).sqrt();
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                set_scales(format, scale, random, block);
            }
        }
    }
}

/// Mean square of `levels` neighbouring integers around their mean.
const fn even(levels: f32) -> f32 {
    (levels * levels - 1.0) / 12.0
}

/// Mean square of `levels` neighbouring integers from minus half of them on.
const fn skewed(levels: f32) -> f32 {
    even(levels) + 0.25
}

fn mean_square_of(values: &[i8]) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "sixteen values")]
    let count = values.len() as f32;
    values.iter().map(|v| f32::from(*v) * f32::from(*v)).sum::<f32>() / count
}

/// Mean square of random codes, times random group scales, before the block's own scale, as [`set_scales`] leaves them.
fn mean_square(format: Format) -> f32 {
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => 1.0,
        Format::Q4_0 => skewed(16.0),
        Format::Q4_1 => even(16.0),
        Format::Q5_0 => skewed(32.0),
        Format::Q5_1 => even(32.0),
        Format::Q8_0 => even(255.0),
        // Squares of the scales 0 to 15, and 0 to 63.
        Format::Q2K => 77.5 * even(4.0),
        Format::Q4K => 1333.5 * even(16.0),
        Format::Q5K => 1333.5 * even(32.0),
        Format::Q3K => skewed(64.0) * skewed(8.0),
        Format::Q6K => skewed(256.0) * skewed(64.0),
        Format::Iq4Nl => mean_square_of(&iq4::VALUES),
        Format::Iq4Xs => skewed(64.0) * mean_square_of(&iq4::VALUES),
        Format::Mxfp4 => mean_square_of(&mxfp4::VALUES),
    }
}

/// Puts a scale near `scale` into a block of random bytes, and an offset that makes its weights even around 0. Formats whose
/// codes lean to one side get scales of either sign instead.
fn set_scales(format: Format, scale: f32, random: &mut Random, block: &mut [u8]) {
    let drawn = random.next();
    // From 3/4 to 5/4.
    let near = scale * (0.75 + f32::from(u8::try_from(drawn & 0xff).unwrap_or(0)) / 510.0);
    let signed = if drawn & 0x100 == 0 { near } else { -near };
    match format {
        Format::F32 | Format::F16 | Format::Bf16 => {}
        Format::Q4_0 | Format::Q5_0 | Format::Iq4Nl | Format::Iq4Xs => put(block, 0, signed),
        Format::Q4_1 => put_both(block, 0, near, -7.5),
        Format::Q5_1 => put_both(block, 0, near, -15.5),
        Format::Q8_0 => {
            put(block, 0, near);
            // Quantizers stop at -127.
            for code in &mut block[2..] {
                *code = if *code == 0x80 { 0x81 } else { *code };
            }
        }
        Format::Q2K => {
            equal_nibbles(&mut block[..16]);
            put_both(block, 80, near, 1.5);
        }
        Format::Q4K => {
            equal_scales(block);
            put_both(block, 0, near, 7.5);
        }
        Format::Q5K => {
            equal_scales(block);
            put_both(block, 0, near, 15.5);
        }
        Format::Q3K => put(block, 108, signed),
        Format::Q6K => put(block, 208, signed),
        Format::Mxfp4 => block[0] = power_of_two(near),
    }
}

fn put(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
}

/// A scale, and after it `times` that as offset.
fn put_both(block: &mut [u8], at: usize, scale: f32, times: f32) {
    put(block, at, scale);
    put(block, at + 2, scale * times);
}

fn equal_nibbles(bytes: &mut [u8]) {
    for byte in bytes {
        *byte = (*byte & 15) * 17;
    }
}

/// Makes each group's minimum equal to its scale, see [`ops::format::k::scale_min`].
fn equal_scales(block: &mut [u8]) {
    block.copy_within(4..8, 8);
    equal_nibbles(&mut block[12..16]);
}

/// The exponent code of the power of two next to `scale`, for MXFP4's doubled values.
fn power_of_two(scale: f32) -> u8 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let code = (scale.log2().round() + 128.0).clamp(0.0, 254.0) as u8;
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The decoder is that of the forward pass, and is itself tested against the gguf package.
    #[test]
    fn weights_of_every_format_have_the_spread_asked_for() {
        const COUNT: usize = 1 << 16;
        for format in Format::ALL {
            let mut bytes = vec![0; format.row_bytes(COUNT).unwrap()];
            fill(format, 0.02, &mut Random::new(7, 1), &mut bytes);
            assert_eq!(format.first_bad_block(&bytes), None, "{format}");
            let mut weights = vec![0.0; COUNT];
            format.dequantize(&bytes, &mut weights);
            let mean = |f: fn(f64) -> f64| {
                weights.iter().map(|w| f(f64::from(*w))).sum::<f64>() / COUNT as f64
            };
            let (average, deviation) = (mean(|w| w), mean(|w| w * w).sqrt());
            // MXFP4 has powers of two only.
            let most = if format == Format::Mxfp4 { 1.5 } else { 1.1 };
            assert!(deviation < 0.02 * most && deviation > 0.02 / most, "{format}: {deviation}");
            assert!(average.abs() < 0.002, "{format}: {average}");
        }
    }

    #[test]
    fn a_seed_and_a_stream_decide() {
        let first = |seed, stream| Random::new(seed, stream).next();
        assert_eq!(first(1, 2), first(1, 2));
        assert_ne!(first(1, 2), first(1, 3));
        assert_ne!(first(1, 2), first(2, 2));
    }
}
