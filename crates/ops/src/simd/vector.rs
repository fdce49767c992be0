//! One register of f32 lanes, for each family: what loops that are written once for all families are written in.
#![cfg_attr(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    expect(unsafe_code, reason = "vector instructions, used only where the processor has them")
)]

/// A register. An implementation is only used inside a function that enables its instructions.
pub(crate) trait Vector: Copy {
    const LANES: usize;

    fn zero() -> Self;
    /// # Safety
    /// As many numbers as there are lanes can be read.
    unsafe fn load(at: *const f32) -> Self;
    /// F16 numbers, widened.
    ///
    /// # Safety
    /// As [`Self::load`].
    unsafe fn widen_f16(at: *const u16) -> Self;
    /// BF16 numbers, widened.
    ///
    /// # Safety
    /// As [`Self::load`].
    unsafe fn widen_bf16(at: *const u16) -> Self;
    /// `self * b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    fn add(self, b: Self) -> Self;
    /// The sum of all lanes.
    fn total(self) -> f32;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    /// Needs AVX-512 F.
    impl Vector for __m512 {
        const LANES: usize = 16;

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: used only where AVX-512 F was detected.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: as above; the caller's.
            unsafe { _mm512_loadu_ps(at) }
        }
        #[inline(always)]
        unsafe fn widen_f16(at: *const u16) -> Self {
            // SAFETY: as above; the caller's.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
        }
        #[inline(always)]
        unsafe fn widen_bf16(at: *const u16) -> Self {
            // SAFETY: as above; the caller's.
            unsafe {
                let upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(upper))
            }
        }
        #[inline(always)]
        fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_add_ps(self, b) }
        }
        #[inline(always)]
        fn total(self) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_reduce_add_ps(self) }
        }
    }

    /// Needs AVX2, FMA and F16C.
    impl Vector for __m256 {
        const LANES: usize = 8;

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: used only where AVX2, FMA and F16C were detected.
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: as above; the caller's.
            unsafe { _mm256_loadu_ps(at) }
        }
        #[inline(always)]
        unsafe fn widen_f16(at: *const u16) -> Self {
            // SAFETY: as above; the caller's.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
        }
        #[inline(always)]
        unsafe fn widen_bf16(at: *const u16) -> Self {
            // SAFETY: as above; the caller's.
            unsafe {
                let upper = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(upper))
            }
        }
        #[inline(always)]
        fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(self, b) }
        }
        #[inline(always)]
        fn total(self) -> f32 {
            // SAFETY: as above.
            unsafe {
                let four =
                    _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::Vector;
    use crate::simd::neon::widen_f16;
    use std::arch::aarch64::*;

    /// NEON, which every processor has.
    impl Vector for float32x4_t {
        const LANES: usize = 4;

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: NEON is part of the baseline.
            unsafe { vdupq_n_f32(0.0) }
        }
        #[inline(always)]
        unsafe fn load(at: *const f32) -> Self {
            // SAFETY: as above; the caller's.
            unsafe { vld1q_f32(at) }
        }
        #[inline(always)]
        unsafe fn widen_f16(at: *const u16) -> Self {
            // SAFETY: as above; the caller's.
            unsafe { widen_f16(vld1_u16(at)) }
        }
        #[inline(always)]
        unsafe fn widen_bf16(at: *const u16) -> Self {
            // SAFETY: as above; the caller's.
            unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(at))) }
        }
        #[inline(always)]
        fn mul_add(self, b: Self, c: Self) -> Self {
            // SAFETY: as above.
            unsafe { vfmaq_f32(c, self, b) }
        }
        #[inline(always)]
        fn add(self, b: Self) -> Self {
            // SAFETY: as above.
            unsafe { vaddq_f32(self, b) }
        }
        #[inline(always)]
        fn total(self) -> f32 {
            // SAFETY: as above.
            unsafe { vaddvq_f32(self) }
        }
    }
}
