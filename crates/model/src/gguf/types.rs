//! ggml's tensor type ids (`enum ggml_type` in `ggml.h`).

use ops::format::Format;

/// What a tensor type id means.
pub(super) enum TensorType {
    /// Russet runs it.
    Known(Format),
    /// ggml has, or had, this type; Russet does not run it.
    Foreign(&'static str),
    /// No ggml version defines this id.
    Undefined,
}

pub(super) const fn tensor_type(id: u32) -> TensorType {
    use TensorType::{Foreign, Known};
    match id {
        0 => Known(Format::F32),
        1 => Known(Format::F16),
        2 => Known(Format::Q4_0),
        3 => Known(Format::Q4_1),
        4 => Foreign("Q4_2"),
        5 => Foreign("Q4_3"),
        6 => Known(Format::Q5_0),
        7 => Known(Format::Q5_1),
        8 => Known(Format::Q8_0),
        9 => Foreign("Q8_1"),
        10 => Known(Format::Q2K),
        11 => Known(Format::Q3K),
        12 => Known(Format::Q4K),
        13 => Known(Format::Q5K),
        14 => Known(Format::Q6K),
        15 => Foreign("Q8_K"),
        16 => Foreign("IQ2_XXS"),
        17 => Foreign("IQ2_XS"),
        18 => Foreign("IQ3_XXS"),
        19 => Foreign("IQ1_S"),
        20 => Known(Format::Iq4Nl),
        21 => Foreign("IQ3_S"),
        22 => Foreign("IQ2_S"),
        23 => Known(Format::Iq4Xs),
        24 => Foreign("I8"),
        25 => Foreign("I16"),
        26 => Foreign("I32"),
        27 => Foreign("I64"),
        28 => Foreign("F64"),
        29 => Foreign("IQ1_M"),
        30 => Known(Format::Bf16),
        31 => Foreign("Q4_0_4_4"),
        32 => Foreign("Q4_0_4_8"),
        33 => Foreign("Q4_0_8_8"),
        34 => Foreign("TQ1_0"),
        35 => Foreign("TQ2_0"),
        36 => Foreign("IQ4_NL_4_4"),
        37 => Foreign("IQ4_NL_4_8"),
        38 => Foreign("IQ4_NL_8_8"),
        39 => Known(Format::Mxfp4),
        40 => Foreign("NVFP4"),
        41 => Foreign("Q1_0"),
        _ => TensorType::Undefined,
    }
}

/// The names of all formats Russet runs, for a message.
pub(super) fn supported() -> String {
    Format::ALL.map(Format::name).join(", ")
}
