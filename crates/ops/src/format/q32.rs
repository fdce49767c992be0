//! Blocks of 32 weights with one f16 scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0.
//! Source: `block_q4_0` and following in ggml's `ggml-common.h`, `dequantize_row_*` in `ggml-quants.c`.
//!
//! In the 4-bit and 5-bit formats byte `j` of `qs` holds weight `j` in its low and weight `j + 16` in
//! its high nibble. The fifth bit of weight `i` is bit `i` of the little-endian word `qh`.
//!
//! ```text
//! Q4_0  d: f16, qs: [u8; 16]                     y = d * (q - 8)
//! Q4_1  d: f16, m: f16, qs: [u8; 16]             y = d * q + m
//! Q5_0  d: f16, qh: u32, qs: [u8; 16]            y = d * (q - 16)
//! Q5_1  d: f16, m: f16, qh: u32, qs: [u8; 16]    y = d * q + m
//! Q8_0  d: f16, qs: [i8; 32]                     y = d * q
//! ```

use super::float::read_f16;

pub(super) const Q4_0_BYTES: usize = 2 + 16;
pub(super) const Q4_1_BYTES: usize = 2 + 2 + 16;
pub(super) const Q5_0_BYTES: usize = 2 + 4 + 16;
pub(super) const Q5_1_BYTES: usize = 2 + 2 + 4 + 16;
pub(super) const Q8_0_BYTES: usize = 2 + 32;

pub(super) fn q4_0(block: &[u8; Q4_0_BYTES], out: &mut [f32; 32]) {
    let d = read_f16(block, 0);
    for (j, q) in block[2..].iter().enumerate() {
        out[j] = d * (f32::from(q & 15) - 8.0);
        out[j + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

pub(super) fn q4_1(block: &[u8; Q4_1_BYTES], out: &mut [f32; 32]) {
    let (d, m) = (read_f16(block, 0), read_f16(block, 2));
    for (j, q) in block[4..].iter().enumerate() {
        out[j] = d * f32::from(q & 15) + m;
        out[j + 16] = d * f32::from(q >> 4) + m;
    }
}

/// Weight `i` of a 5-bit block: its nibble from `qs`, its fifth bit from `qh`.
fn five_bits(qh: &[u8], qs: &[u8], i: usize) -> f32 {
    let low = if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 };
    f32::from(low | ((qh[i / 8] >> (i % 8)) & 1) << 4)
}

pub(super) fn q5_0(block: &[u8; Q5_0_BYTES], out: &mut [f32; 32]) {
    let d = read_f16(block, 0);
    for (i, y) in out.iter_mut().enumerate() {
        *y = d * (five_bits(&block[2..6], &block[6..], i) - 16.0);
    }
}

pub(super) fn q5_1(block: &[u8; Q5_1_BYTES], out: &mut [f32; 32]) {
    let (d, m) = (read_f16(block, 0), read_f16(block, 2));
    for (i, y) in out.iter_mut().enumerate() {
        *y = d * five_bits(&block[4..8], &block[8..], i) + m;
    }
}

pub(super) fn q8_0(block: &[u8; Q8_0_BYTES], out: &mut [f32; 32]) {
    let d = read_f16(block, 0);
    for (y, q) in out.iter_mut().zip(&block[2..]) {
        *y = d * f32::from(q.cast_signed());
    }
}
