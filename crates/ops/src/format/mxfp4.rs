//! MXFP4: 32 four-bit floats (E2M1) that share a power-of-two scale (E8M0).
//! Source: the OCP Microscaling Formats specification 1.0; `block_mxfp4` and `kvalues_mxfp4` in
//! ggml's `ggml-common.h`.
//!
//! ```text
//! e: u8, qs: [u8; 16]     y = 2^(e - 128) * VALUES[q]
//! ```
//!
//! Byte `j` holds weight `j` in its low and `j + 16` in its high nibble. The table is twice the E2M1
//! value so that it holds integers; the scale is half the E8M0 scale to make up for it.

/// Twice the E2M1 value of each 4-bit code. Code 8 is minus zero; the integer table makes it zero.
pub const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The E8M0 code that the specification reserves for NaN.
pub const SCALE_NAN: u8 = 0xff;

pub(super) const BYTES: usize = 1 + 16;

/// Half the E8M0 scale, 2^(e - 128), to go with the doubled [`VALUES`]. As in ggml, 0xff is not
/// special here; `Format::first_bad_block` reports it.
#[must_use]
pub const fn scale_half(e: u8) -> f32 {
    // Below 2 the result is subnormal: 2^-128 and 2^-127.
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e as u32 - 1) << 23 })
}

pub(super) fn block(block: &[u8; BYTES], out: &mut [f32; 32]) {
    let d = scale_half(block[0]);
    for (j, q) in block[1..].iter().enumerate() {
        out[j] = d * f32::from(VALUES[usize::from(q & 15)]);
        out[j + 16] = d * f32::from(VALUES[usize::from(q >> 4)]);
    }
}
