//! The K formats: super-blocks of 256 weights, an f16 scale for the whole and a small integer scale
//! for each group of 16 or 32.
//! Source: `block_q2_K` and following in ggml's `ggml-common.h`, `dequantize_row_*` in `ggml-quants.c`.
//!
//! ```text
//! Q2_K  scales: [u8; 16], qs: [u8; 64], d: f16, dmin: f16           16 groups of 16
//!       y = d * (scale & 15) * q - dmin * (scale >> 4)
//! Q3_K  hmask: [u8; 32], qs: [u8; 64], scales: [u8; 12], d: f16     16 groups of 16
//!       y = d * (scale - 32) * (q - 4)
//! Q4_K  d: f16, dmin: f16, scales: [u8; 12], qs: [u8; 128]          8 groups of 32
//!       y = d * scale * q - dmin * min
//! Q5_K  d: f16, dmin: f16, scales: [u8; 12], qh: [u8; 32], qs: [u8; 128]
//!       y = d * scale * q - dmin * min                              8 groups of 32
//! Q6_K  ql: [u8; 128], qh: [u8; 64], scales: [i8; 16], d: f16       16 groups of 16
//!       y = d * scale * (q - 32)
//! ```
//!
//! Where the bits of weight `i` lie is said at each function.

use super::float::read_f16;

pub(super) const Q2_BYTES: usize = 16 + 64 + 2 + 2;
pub(super) const Q3_BYTES: usize = 32 + 64 + 12 + 2;
pub(super) const Q4_BYTES: usize = 2 + 2 + 12 + 128;
pub(super) const Q5_BYTES: usize = 2 + 2 + 12 + 32 + 128;
pub(super) const Q6_BYTES: usize = 128 + 64 + 16 + 2;

/// Where `d` lies in the blocks that do not begin with it.
pub(super) const Q2_SCALE_AT: usize = 16 + 64;
pub(super) const Q3_SCALE_AT: usize = 32 + 64 + 12;
pub(super) const Q6_SCALE_AT: usize = 128 + 64 + 16;

/// Scale and minimum, 0 to 63 each, of group `group` (0 to 7) of a Q4_K or Q5_K block.
///
/// The first four groups have theirs in the low 6 bits of `scales[g]` and `scales[g + 4]`. The others
/// have low nibbles in `scales[g + 4]` and their two high bits on top of the first four's bytes.
#[must_use]
pub const fn scale_min(scales: &[u8; 12], group: usize) -> (u8, u8) {
    if group < 4 {
        (scales[group] & 63, scales[group + 4] & 63)
    } else {
        (
            (scales[group + 4] & 15) | (scales[group - 4] >> 6) << 4,
            (scales[group + 4] >> 4) | (scales[group] >> 6) << 4,
        )
    }
}

/// The signed scale, -32 to 31, of group `group` (0 to 15) of a Q3_K block: low nibbles in the first
/// eight bytes (groups 8 to 15 in the high half), two high bits in the last four.
#[must_use]
pub const fn q3_scale(scales: &[u8; 12], group: usize) -> i8 {
    let low = (scales[group % 8] >> (4 * (group / 8))) & 15;
    let high = (scales[8 + group % 4] >> (2 * (group / 4))) & 3;
    (low | high << 4).cast_signed() - 32
}

/// The byte and the bit shift of weight `i` where 256 two-bit codes are packed by halves: byte
/// `32 * (i / 128) + i % 32` holds weights 32 apart, two bits each.
const fn two_bits_at(i: usize) -> (usize, usize) {
    (32 * (i / 128) + i % 32, 2 * (i % 128 / 32))
}

/// The twelve packed scale bytes at `at`.
fn scales_at(block: &[u8], at: usize) -> [u8; 12] {
    std::array::from_fn(|i| block[at + i])
}

pub(super) fn q2(block: &[u8; Q2_BYTES], out: &mut [f32; 256]) {
    let (scales, qs) = block.split_at(16);
    let (d, dmin) = (read_f16(block, Q2_SCALE_AT), read_f16(block, Q2_SCALE_AT + 2));
    for (i, y) in out.iter_mut().enumerate() {
        let scale = scales[i / 16];
        let (at, shift) = two_bits_at(i);
        let q = (qs[at] >> shift) & 3;
        *y = d * f32::from(scale & 15) * f32::from(q) - dmin * f32::from(scale >> 4);
    }
}

/// The third bit of weight `i` is bit `i / 32` of `hmask[i % 32]`.
pub(super) fn q3(block: &[u8; Q3_BYTES], out: &mut [f32; 256]) {
    let (hmask, qs) = block.split_at(32);
    let scales = scales_at(block, 32 + 64);
    let d = read_f16(block, Q3_SCALE_AT);
    for (i, y) in out.iter_mut().enumerate() {
        let (at, shift) = two_bits_at(i);
        let high = (hmask[i % 32] >> (i / 32)) & 1;
        let q = ((qs[at] >> shift) & 3 | high << 2).cast_signed() - 4;
        *y = d * f32::from(q3_scale(&scales, i / 16)) * f32::from(q);
    }
}

/// The low four bits of weight `i` in Q4_K and Q5_K: groups go in pairs that share 32 bytes, the even
/// one in the low nibbles.
fn nibble(qs: &[u8], i: usize) -> u8 {
    (qs[32 * (i / 64) + i % 32] >> (4 * (i % 64 / 32))) & 15
}

/// `d * scale` and `dmin * min` of group `group`, for Q4_K and Q5_K.
fn scaled(block: &[u8], group: usize) -> (f32, f32) {
    let (scale, min) = scale_min(&scales_at(block, 4), group);
    (read_f16(block, 0) * f32::from(scale), read_f16(block, 2) * f32::from(min))
}

pub(super) fn q4(block: &[u8; Q4_BYTES], out: &mut [f32; 256]) {
    for (g, group) in out.chunks_exact_mut(32).enumerate() {
        let (d, m) = scaled(block, g);
        for (j, y) in group.iter_mut().enumerate() {
            *y = d * f32::from(nibble(&block[16..], 32 * g + j)) - m;
        }
    }
}

/// The fifth bit of weight `i` is bit `i / 32` of `qh[i % 32]`.
pub(super) fn q5(block: &[u8; Q5_BYTES], out: &mut [f32; 256]) {
    let (qh, qs) = block[16..].split_at(32);
    for (g, group) in out.chunks_exact_mut(32).enumerate() {
        let (d, m) = scaled(block, g);
        for (j, y) in group.iter_mut().enumerate() {
            let q = nibble(qs, 32 * g + j) | ((qh[j] >> g) & 1) << 4;
            *y = d * f32::from(q) - m;
        }
    }
}

/// Each half of 128 weights has 64 bytes of low nibbles (weights 64 apart share a byte) and 32 bytes
/// of high bits, packed as the two-bit codes are.
pub(super) fn q6(block: &[u8; Q6_BYTES], out: &mut [f32; 256]) {
    let (ql, qh) = block.split_at(128);
    let d = read_f16(block, Q6_SCALE_AT);
    for (i, y) in out.iter_mut().enumerate() {
        let low = (ql[64 * (i / 128) + i % 64] >> (4 * (i % 128 / 64))) & 15;
        let (at, shift) = two_bits_at(i);
        let q = (low | ((qh[at] >> shift) & 3) << 4).cast_signed() - 32;
        let scale = block[128 + 64 + i / 16].cast_signed();
        *y = d * f32::from(scale) * f32::from(q);
    }
}
