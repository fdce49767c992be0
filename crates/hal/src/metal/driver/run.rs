//! The kernels that copy and fill: launches and not blits, so that they run beside the others in one encoder.
use crate::{Gpu, Program};

/// `Run` of copy.metal: items from the start of the spans, and what a fill makes of them.
pub(super) fn constants(count: u32, value: u32) -> Vec<u8> {
    [count.to_le_bytes(), value.to_le_bytes()].concat()
}

macro_rules! program {
    ($name:ident, $entry:literal) => {
        pub(super) static $name: Program = Program {
            name: $entry,
            host: None,
            gpu: Some(Gpu {
                texts: &[crate::msl!("../copy.metal")],
                entry: $entry,
                constants: &[],
            }),
        };
    };
}
program!(COPY_WORDS, "copy_words");
program!(COPY_BYTES, "copy_bytes");
program!(FILL_WORDS, "fill_words");
program!(FILL_BYTES, "fill_bytes");
