//! IQ4_NL and IQ4_XS: 4-bit codes into a fixed table of 16 unevenly spaced values.
//! Source: `block_iq4_nl`, `block_iq4_xs` and `kvalues_iq4nl` in ggml's `ggml-common.h`.
//!
//! ```text
//! IQ4_NL  32 weights   d: f16, qs: [u8; 16]                                        y = d * VALUES[q]
//! IQ4_XS  256 weights  d: f16, scales_h: u16, scales_l: [u8; 4], qs: [u8; 128]     y = d * (s - 32) * VALUES[q]
//! ```
//!
//! IQ4_XS is 8 groups of 32; the 6-bit scale `s` of group `g` has its low nibble in
//! `scales_l[g / 2]` (low nibble for even `g`) and its high two bits at bit `2 * g` of `scales_h`.
//! In each group of 32, byte `j` holds weight `j` (low nibble) and `j + 16` (high nibble).

use super::float::read_f16;

/// The value of each 4-bit code, before the scale.
pub const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) const NL_BYTES: usize = 2 + 16;
pub(super) const XS_BYTES: usize = 2 + 2 + 4 + 128;

/// The signed scale, -32 to 31, of group `group` (0 to 7) of an IQ4_XS block.
#[must_use]
pub fn xs_scale(scales_h: u16, scales_l: [u8; 4], group: usize) -> i8 {
    let low = (scales_l[group / 2] >> (4 * (group % 2))) & 15;
    let high = (scales_h >> (2 * group)).to_le_bytes()[0] & 3;
    (low | high << 4).cast_signed() - 32
}

fn group(d: f32, codes: &[u8], out: &mut [f32]) {
    for (j, q) in codes.iter().enumerate() {
        out[j] = d * f32::from(VALUES[usize::from(q & 15)]);
        out[j + 16] = d * f32::from(VALUES[usize::from(q >> 4)]);
    }
}

pub(super) fn nl(block: &[u8; NL_BYTES], out: &mut [f32; 32]) {
    group(read_f16(block, 0), &block[2..], out);
}

pub(super) fn xs(block: &[u8; XS_BYTES], out: &mut [f32; 256]) {
    let d = read_f16(block, 0);
    let scales_h = u16::from_le_bytes([block[2], block[3]]);
    let scales_l = [block[4], block[5], block[6], block[7]];
    for (g, (codes, y)) in block[8..].chunks_exact(16).zip(out.chunks_exact_mut(32)).enumerate() {
        group(d * f32::from(xs_scale(scales_h, scales_l, g)), codes, y);
    }
}
