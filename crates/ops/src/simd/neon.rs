//! Instructions of NEON that the standard library does not offer in the oldest release that builds this.
#![expect(unsafe_code, reason = "vector instructions")]
use std::arch::aarch64::{float32x4_t, uint16x4_t};
use std::arch::asm;

/// Four f16 as f32: `vcvt_f32_f16`.
#[inline(always)]
pub(crate) fn widen_f16(halves: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: register arithmetic only; every aarch64 processor that Rust supports has NEON and this conversion.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = lateout(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    wide
}
