//! The formats without blocks: F32, F16 and BF16 (the upper half of an f32).

use half::{bf16, f16};

pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks().0.iter().zip(out) {
        *y = f32::from_le_bytes(*b);
    }
}

pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks().0.iter().zip(out) {
        *y = f16::from_le_bytes(*b).to_f32();
    }
}

pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    for (b, y) in bytes.as_chunks().0.iter().zip(out) {
        *y = bf16::from_le_bytes(*b).to_f32();
    }
}

/// The f32 at byte `at` of a block.
pub(super) fn read_f32(block: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// The f16 at byte `at` of a block, widened.
pub(super) fn read_f16(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The bf16 at byte `at` of a block, widened.
pub(super) fn read_bf16(block: &[u8], at: usize) -> f32 {
    bf16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
