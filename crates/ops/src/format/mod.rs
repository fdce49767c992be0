//! Weight formats: how a row of weights lies in memory, and its definition-grade dequantization.
//!
//! Every format stores a row as whole blocks: `block_elements` weights in `block_bytes` bytes, little
//! endian. The layouts are those of ggml (`ggml-common.h`, `ggml-quants.c`) and of the `gguf` Python
//! package (`gguf/quants.py`), which the tests compare with bit for bit. CPU and GPU kernels are
//! tested against [`Format::dequantize`], so it is written to be read, not to be fast.

mod float;
pub mod iq4;
pub mod k;
pub mod mxfp4;
mod q32;

#[cfg(test)]
mod tests;

/// What kernels for GPUs read weights with; its codes of formats are the enum's.
pub(crate) const FORMATS: hal::Text = hal::msl!("formats.metal");

/// How the weights of a tensor are stored.
///
/// ```text
/// name    elements  bytes  bits per weight
/// F32            1      4  32
/// F16, BF16      1      2  16
/// Q4_0          32     18  4.5
/// Q4_1          32     20  5.0
/// Q5_0          32     22  5.5
/// Q5_1          32     24  6.0
/// Q8_0          32     34  8.5
/// Q2_K         256     84  2.625
/// Q3_K         256    110  3.4375
/// Q4_K         256    144  4.5
/// Q5_K         256    176  5.5
/// Q6_K         256    210  6.5625
/// IQ4_NL        32     18  4.5
/// IQ4_XS       256    136  4.25
/// MXFP4         32     17  4.25
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Format {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Mxfp4,
}

impl Format {
    /// Every format, in the order of the enum.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Mxfp4,
    ];

    /// Weights in one block.
    #[must_use]
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0
            | Self::Q4_1
            | Self::Q5_0
            | Self::Q5_1
            | Self::Q8_0
            | Self::Iq4Nl
            | Self::Mxfp4 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Iq4Xs => 256,
        }
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => q32::Q4_0_BYTES,
            Self::Q4_1 => q32::Q4_1_BYTES,
            Self::Q5_0 => q32::Q5_0_BYTES,
            Self::Q5_1 => q32::Q5_1_BYTES,
            Self::Q8_0 => q32::Q8_0_BYTES,
            Self::Q2K => k::Q2_BYTES,
            Self::Q3K => k::Q3_BYTES,
            Self::Q4K => k::Q4_BYTES,
            Self::Q5K => k::Q5_BYTES,
            Self::Q6K => k::Q6_BYTES,
            Self::Iq4Nl => iq4::NL_BYTES,
            Self::Iq4Xs => iq4::XS_BYTES,
            Self::Mxfp4 => mxfp4::BYTES,
        }
    }

    /// The name GGUF tools print, such as `Q4_K`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
            Self::Mxfp4 => "MXFP4",
        }
    }

    /// Bytes of a row of `elements` weights; `None` where that is not a whole number of blocks or
    /// does not fit in `usize`.
    #[must_use]
    pub const fn row_bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Dequantizes whole blocks to f32, with one rounding per multiply and per add, in the order
    /// ggml's reference does them.
    ///
    /// # Panics
    /// When `bytes` is not exactly `row_bytes(out.len())` long.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            Some(bytes.len()),
            self.row_bytes(out.len()),
            "{}: {} bytes do not hold {} weights",
            self.name(),
            bytes.len(),
            out.len()
        );
        match self {
            Self::F32 => float::f32(bytes, out),
            Self::F16 => float::f16(bytes, out),
            Self::Bf16 => float::bf16(bytes, out),
            Self::Q4_0 => each_block(bytes, out, q32::q4_0),
            Self::Q4_1 => each_block(bytes, out, q32::q4_1),
            Self::Q5_0 => each_block(bytes, out, q32::q5_0),
            Self::Q5_1 => each_block(bytes, out, q32::q5_1),
            Self::Q8_0 => each_block(bytes, out, q32::q8_0),
            Self::Q2K => each_block(bytes, out, k::q2),
            Self::Q3K => each_block(bytes, out, k::q3),
            Self::Q4K => each_block(bytes, out, k::q4),
            Self::Q5K => each_block(bytes, out, k::q5),
            Self::Q6K => each_block(bytes, out, k::q6),
            Self::Iq4Nl => each_block(bytes, out, iq4::nl),
            Self::Iq4Xs => each_block(bytes, out, iq4::xs),
            Self::Mxfp4 => each_block(bytes, out, mxfp4::block),
        }
    }

    /// Index of the first block whose scale (or offset, or for the float formats the weight itself)
    /// is NaN or infinite: a loader refuses such a tensor, because one of these silently spreads to
    /// every logit. Bytes after the last whole block are not looked at.
    #[must_use]
    pub fn first_bad_block(self, bytes: &[u8]) -> Option<usize> {
        let bad: fn(&[u8]) -> bool = match self {
            Self::F32 => |b| !float::read_f32(b, 0).is_finite(),
            Self::Bf16 => |b| !float::read_bf16(b, 0).is_finite(),
            Self::F16 | Self::Q4_0 | Self::Q5_0 | Self::Q8_0 | Self::Iq4Nl | Self::Iq4Xs => {
                |b| bad_f16(b, 0)
            }
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => |b| bad_f16(b, 0) || bad_f16(b, 2),
            Self::Q2K => |b| bad_f16(b, k::Q2_SCALE_AT) || bad_f16(b, k::Q2_SCALE_AT + 2),
            Self::Q3K => |b| bad_f16(b, k::Q3_SCALE_AT),
            Self::Q6K => |b| bad_f16(b, k::Q6_SCALE_AT),
            Self::Mxfp4 => |b| b[0] == mxfp4::SCALE_NAN,
        };
        bytes.chunks_exact(self.block_bytes()).position(bad)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Whether the f16 at byte `at` has all exponent bits set: NaN or infinite.
fn bad_f16(block: &[u8], at: usize) -> bool {
    block[at + 1] & 0x7c == 0x7c
}

/// Runs `block` over all blocks; the caller has checked the lengths.
fn each_block<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let blocks = bytes.as_chunks().0;
    for (from, to) in blocks.iter().zip(out.as_chunks_mut().0) {
        block(from, to);
    }
}
