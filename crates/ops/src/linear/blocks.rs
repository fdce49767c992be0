//! Weight blocks as integers: every quantized format is groups of 16 codes with `weight = scale * code - offset`.
//!
//! This is what integer dot products need: `Σ w x = Σ_groups scale * x_scale * Σ code * x_code - offset * x_sum`.
use crate::format::{Format, iq4, k, mxfp4};
use crate::quantize::GROUP;
use half::f16;

/// One row of weights, unpacked.
pub(super) struct Row<'a> {
    /// One code per column.
    pub(super) codes: &'a mut [i8],
    /// One per group of 16.
    pub(super) scales: &'a mut [f32],
    /// One per group of 16.
    pub(super) offsets: &'a mut [f32],
}

/// Unpacks a row of a quantized format. Layouts: see [`crate::format`].
pub(super) fn unpack(format: Format, bytes: &[u8], row: &mut Row<'_>) {
    match format {
        Format::Q4_0 => each::<18, 32>(bytes, row, q4_0),
        Format::Q4_1 => each::<20, 32>(bytes, row, q4_1),
        Format::Q5_0 => each::<22, 32>(bytes, row, q5_0),
        Format::Q5_1 => each::<24, 32>(bytes, row, q5_1),
        Format::Q8_0 => each::<34, 32>(bytes, row, q8_0),
        Format::Q2K => each::<84, 256>(bytes, row, q2_k),
        Format::Q3K => each::<110, 256>(bytes, row, q3_k),
        Format::Q4K => each::<144, 256>(bytes, row, q4_k),
        Format::Q5K => each::<176, 256>(bytes, row, q5_k),
        Format::Q6K => each::<210, 256>(bytes, row, q6_k),
        Format::Iq4Nl => each::<18, 32>(bytes, row, iq4_nl),
        Format::Iq4Xs => each::<136, 256>(bytes, row, iq4_xs),
        Format::Mxfp4 => each::<17, 32>(bytes, row, mxfp4),
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("float formats have no codes"),
    }
}

/// Codes, scales and offsets of one block of `N` weights; the last two hold `N / 16` numbers.
struct Block<'a, const N: usize> {
    codes: &'a mut [i8; N],
    scales: &'a mut [f32],
    offsets: &'a mut [f32],
}

impl<const N: usize> Block<'_, N> {
    /// Sets the scale and offset of groups `groups`.
    fn set(&mut self, groups: std::ops::Range<usize>, scale: f32, offset: f32) {
        self.scales[groups.clone()].fill(scale);
        self.offsets[groups].fill(offset);
    }
}

#[inline(always)]
fn each<const BYTES: usize, const N: usize>(
    bytes: &[u8],
    row: &mut Row<'_>,
    unpack: impl Fn(&[u8; BYTES], &mut Block<'_, N>),
) {
    let groups = N / GROUP;
    let codes = row.codes.as_chunks_mut::<N>().0.iter_mut();
    let scales = row.scales.chunks_exact_mut(groups).zip(row.offsets.chunks_exact_mut(groups));
    for ((block, codes), (scales, offsets)) in
        bytes.as_chunks::<BYTES>().0.iter().zip(codes).zip(scales)
    {
        unpack(block, &mut Block { codes, scales, offsets });
    }
}

#[inline(always)]
fn float(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// A code that is known to fit.
#[inline(always)]
#[expect(clippy::cast_possible_wrap, reason = "codes are below 128")]
const fn code(bits: u8) -> i8 {
    bits as i8
}

/// 16 bytes of nibbles: low ones first, then high ones.
#[inline(always)]
fn nibbles(bytes: &[u8], codes: &mut [i8], value: impl Fn(u8) -> i8) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (value(byte & 15), value(byte >> 4));
    }
}

#[inline(always)]
fn q4_0(b: &[u8; 18], to: &mut Block<'_, 32>) {
    nibbles(&b[2..], to.codes, |bits| code(bits) - 8);
    to.set(0..2, float(b, 0), 0.0);
}

#[inline(always)]
fn q4_1(b: &[u8; 20], to: &mut Block<'_, 32>) {
    nibbles(&b[4..], to.codes, code);
    to.set(0..2, float(b, 0), -float(b, 2));
}

/// Adds the fifth bits: bit i of `high` belongs to code i.
#[inline(always)]
fn fifth_bits(high: &[u8], codes: &mut [i8; 32], bias: i8) {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    for (i, code) in codes.iter_mut().enumerate() {
        *code += if high >> i & 1 == 1 { 16 } else { 0 } - bias;
    }
}

#[inline(always)]
fn q5_0(b: &[u8; 22], to: &mut Block<'_, 32>) {
    nibbles(&b[6..], to.codes, code);
    fifth_bits(&b[2..6], to.codes, 16);
    to.set(0..2, float(b, 0), 0.0);
}

#[inline(always)]
fn q5_1(b: &[u8; 24], to: &mut Block<'_, 32>) {
    nibbles(&b[8..], to.codes, code);
    fifth_bits(&b[4..8], to.codes, 0);
    to.set(0..2, float(b, 0), -float(b, 2));
}

#[inline(always)]
fn q8_0(b: &[u8; 34], to: &mut Block<'_, 32>) {
    for (to, bits) in to.codes.iter_mut().zip(&b[2..]) {
        *to = code(*bits);
    }
    to.set(0..2, float(b, 0), 0.0);
}

#[inline(always)]
fn q2_k(b: &[u8; 84], to: &mut Block<'_, 256>) {
    let (scale, offset) = (float(b, 80), float(b, 82));
    for (half, bytes) in b[16..80].as_chunks::<32>().0.iter().enumerate() {
        for pair in 0..4 {
            for (to, bits) in to.codes[128 * half + 32 * pair..].iter_mut().zip(bytes) {
                *to = code(bits >> (2 * pair) & 3);
            }
        }
    }
    for (group, bits) in b[..16].iter().enumerate() {
        to.set(group..group + 1, scale * f32::from(bits & 15), offset * f32::from(bits >> 4));
    }
}

#[inline(always)]
fn q3_k(b: &[u8; 110], to: &mut Block<'_, 256>) {
    let scale = float(b, 108);
    let scales = b[96..108].first_chunk().expect("12 bytes");
    for (half, bytes) in b[32..96].as_chunks::<32>().0.iter().enumerate() {
        for pair in 0..4 {
            let high_bit = 4 * half + pair;
            let to = to.codes[128 * half + 32 * pair..].iter_mut();
            for ((to, bits), high) in to.zip(bytes).zip(&b[..32]) {
                *to = code(bits >> (2 * pair) & 3) - if high >> high_bit & 1 == 1 { 0 } else { 4 };
            }
        }
    }
    for group in 0..16 {
        to.set(group..group + 1, scale * f32::from(k::q3_scale(scales, group)), 0.0);
    }
}

/// Scales and offsets that Q4_K and Q5_K share.
#[inline(always)]
fn k_scales(b: &[u8], to: &mut Block<'_, 256>) {
    let (scale, offset) = (float(b, 0), float(b, 2));
    let packed = b[4..16].first_chunk().expect("12 bytes");
    for sub in 0..8 {
        let (s, m) = k::scale_min(packed, sub);
        to.set(2 * sub..2 * sub + 2, scale * f32::from(s), offset * f32::from(m));
    }
}

#[inline(always)]
fn q4_k(b: &[u8; 144], to: &mut Block<'_, 256>) {
    for (bytes, codes) in b[16..].as_chunks::<32>().0.iter().zip(to.codes.as_chunks_mut::<64>().0) {
        nibbles(bytes, codes, code);
    }
    k_scales(b, to);
}

#[inline(always)]
fn q5_k(b: &[u8; 176], to: &mut Block<'_, 256>) {
    for (bytes, codes) in b[48..].as_chunks::<32>().0.iter().zip(to.codes.as_chunks_mut::<64>().0) {
        nibbles(bytes, codes, code);
    }
    for (sub, codes) in to.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (to, high) in codes.iter_mut().zip(&b[16..48]) {
            *to += code((high >> sub & 1) << 4);
        }
    }
    k_scales(b, to);
}

#[inline(always)]
fn q6_k(b: &[u8; 210], to: &mut Block<'_, 256>) {
    let scale = float(b, 208);
    let halves = b[..128].as_chunks::<64>().0.iter().zip(b[128..192].as_chunks::<32>().0);
    for ((low, high), codes) in halves.zip(to.codes.as_chunks_mut::<128>().0) {
        for quarter in 0..4 {
            let low = &low[32 * (quarter % 2)..];
            let (shift, high_shift) = (4 * (quarter / 2), 2 * quarter);
            for ((to, low), high) in codes[32 * quarter..].iter_mut().zip(low).zip(high) {
                *to = code((low >> shift & 15) | (high >> high_shift & 3) << 4) - 32;
            }
        }
    }
    for (group, bits) in b[192..208].iter().enumerate() {
        to.set(group..group + 1, scale * f32::from(code(*bits)), 0.0);
    }
}

#[inline(always)]
fn iq4_nl(b: &[u8; 18], to: &mut Block<'_, 32>) {
    nibbles(&b[2..], to.codes, |bits| iq4::VALUES[bits as usize]);
    to.set(0..2, float(b, 0), 0.0);
}

#[inline(always)]
fn iq4_xs(b: &[u8; 136], to: &mut Block<'_, 256>) {
    let scale = float(b, 0);
    let (high, low) = (u16::from_le_bytes([b[2], b[3]]), [b[4], b[5], b[6], b[7]]);
    for (sub, bytes) in b[8..].as_chunks::<16>().0.iter().enumerate() {
        nibbles(bytes, &mut to.codes[32 * sub..32 * sub + 32], |bits| iq4::VALUES[bits as usize]);
        to.set(2 * sub..2 * sub + 2, scale * f32::from(iq4::xs_scale(high, low, sub)), 0.0);
    }
}

#[inline(always)]
fn mxfp4(b: &[u8; 17], to: &mut Block<'_, 32>) {
    nibbles(&b[1..], to.codes, |bits| mxfp4::VALUES[bits as usize]);
    to.set(0..2, mxfp4::scale_half(b[0]), 0.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::random_row;

    #[test]
    fn codes_scales_and_offsets_give_the_dequantized_weights() {
        let quantized = Format::ALL.into_iter().filter(|format| !super::super::is_float(*format));
        for format in quantized {
            let n = 512;
            let bytes = random_row(format, n, 7);
            let (mut codes, mut scales, mut offsets) =
                (vec![0; n], vec![0.0; n / 16], vec![0.0; n / 16]);
            unpack(
                format,
                &bytes,
                &mut Row { codes: &mut codes, scales: &mut scales, offsets: &mut offsets },
            );
            let mut expected = vec![0.0; n];
            format.dequantize(&bytes, &mut expected);
            for i in 0..n {
                let ours = scales[i / 16] * f32::from(codes[i]) - offsets[i / 16];
                let tolerance = 1e-6 * (ours.abs() + offsets[i / 16].abs());
                assert!(
                    (ours - expected[i]).abs() <= tolerance,
                    "{format} {i}: {ours} {}",
                    expected[i]
                );
            }
        }
    }
}
