//! Sixteen f32 lanes, for each family of instructions: what the attention kernel is written in.
#![expect(unsafe_code, reason = "vector instructions, used only where the processor has them")]

/// Sixteen numbers at a time. An implementation is only used inside a function that enables its instructions.
pub(super) trait Lanes {
    type V: Copy;

    /// How many sums of sixteen fit into registers, beside what they are made of.
    const SUMS: usize;
    /// Rows that are worked on together, at most 8.
    const ROWS: usize;

    /// Tells that the line of memory at `at`, which need not exist, will be read soon.
    #[inline(always)]
    fn expect(_at: *const u8) {}
    fn splat(x: f32) -> Self::V;
    /// Sixteen F16 numbers, widened.
    fn widen(from: &[u16; 16]) -> Self::V;
    /// Sixteen integers, as numbers.
    fn widen_codes(from: &[i8; 16]) -> Self::V;
    fn load(from: &[f32; 16]) -> Self::V;
    fn store(v: Self::V, to: &mut [f32; 16]);
    /// `a * b + c`
    fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn add(a: Self::V, b: Self::V) -> Self::V;
    fn sub(a: Self::V, b: Self::V) -> Self::V;
    fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// The larger of each pair; `b` where `a` is NaN.
    fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The number whose bits are those of `v`, shifted left by 23: what was low becomes the exponent.
    fn to_exponent(v: Self::V) -> Self::V;

    /// The sum of all lanes.
    #[inline(always)]
    fn total(v: Self::V) -> f32 {
        let mut x = Self::lanes(v);
        // A tree, so that the steps of a level do not wait for each other.
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                x[i] += x[i + width];
            }
        }
        x[0]
    }
    /// The largest lane.
    #[inline(always)]
    fn largest(v: Self::V) -> f32 {
        let mut x = Self::lanes(v);
        for width in [8, 4, 2, 1] {
            for i in 0..width {
                x[i] = if x[i] > x[i + width] { x[i] } else { x[i + width] };
            }
        }
        x[0]
    }
    #[inline(always)]
    fn lanes(v: Self::V) -> [f32; 16] {
        let mut lanes = [0.0; 16];
        Self::store(v, &mut lanes);
        lanes
    }
    /// `2^x` of each lane up to 0, within 2e-7; exactly 1 for 0, exactly 0 from -127 down and for NaN.
    ///
    /// `x = k + r` with k the nearest integer, then a polynomial for `2^r` on `|r| <= 1/2` (minimax for relative error, by Lawson's
    /// iteration, with its value and slope at 0 kept) and k in the exponent.
    #[inline(always)]
    fn exp2(x: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 rounds to an integer; the low bits are then k plus the bias of exponents.
        let round = Self::splat(12_582_912.0 + 127.0);
        let x = Self::max(x, Self::splat(-127.0));
        let shifted = Self::add(x, round);
        let r = Self::sub(x, Self::sub(shifted, round));
        let mut p = Self::splat(1.330_060_7e-3);
        let lower = [9.669_691e-3, 5.550_558_5e-2, 2.402_228_3e-1, std::f32::consts::LN_2, 1.0];
        for coefficient in lower {
            p = Self::mul_add(p, r, Self::splat(coefficient));
        }
        Self::mul(p, Self::to_exponent(shifted))
    }
}

/// Plain Rust.
pub(super) struct Portable;

impl Lanes for Portable {
    type V = [f32; 16];
    const SUMS: usize = 4;
    const ROWS: usize = 4;

    #[inline(always)]
    fn splat(x: f32) -> Self::V {
        [x; 16]
    }
    #[inline(always)]
    fn widen(from: &[u16; 16]) -> Self::V {
        from.map(|bits| half::f16::from_bits(bits).to_f32_const())
    }
    #[inline(always)]
    fn widen_codes(from: &[i8; 16]) -> Self::V {
        from.map(f32::from)
    }
    #[inline(always)]
    fn load(from: &[f32; 16]) -> Self::V {
        *from
    }
    #[inline(always)]
    fn store(v: Self::V, to: &mut [f32; 16]) {
        *to = v;
    }
    #[inline(always)]
    fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn to_exponent(v: Self::V) -> Self::V {
        v.map(|x| f32::from_bits(x.to_bits() << 23))
    }
    #[inline(always)]
    fn max(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use crate::simd::cache;
    use std::arch::x86_64::*;

    /// Needs AVX-512 F.
    pub(in super::super) struct Avx512;

    impl Lanes for Avx512 {
        type V = __m512;
        const SUMS: usize = 16;
        const ROWS: usize = 8;

        #[inline(always)]
        fn expect(at: *const u8) {
            cache::expect(at);
        }
        #[inline(always)]
        fn splat(x: f32) -> Self::V {
            // SAFETY: used only where AVX-512 F was detected.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn widen(from: &[u16; 16]) -> Self::V {
            // SAFETY: as above; 32 bytes are readable.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
        }
        #[inline(always)]
        fn widen_codes(from: &[i8; 16]) -> Self::V {
            // SAFETY: as above; 16 bytes are readable.
            unsafe {
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast())))
            }
        }
        #[inline(always)]
        fn load(from: &[f32; 16]) -> Self::V {
            // SAFETY: as above; 64 bytes are readable.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(v: Self::V, to: &mut [f32; 16]) {
            // SAFETY: as above; 64 bytes are writable.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn sub(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn max(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        fn to_exponent(v: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(v))) }
        }
        #[inline(always)]
        fn total(v: Self::V) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_reduce_add_ps(v) }
        }
        #[inline(always)]
        fn largest(v: Self::V) -> f32 {
            // SAFETY: as above.
            unsafe { _mm512_reduce_max_ps(v) }
        }
    }

    /// Needs AVX2, FMA and F16C.
    pub(in super::super) struct Avx2;

    impl Lanes for Avx2 {
        type V = [__m256; 2];
        const SUMS: usize = 4;
        const ROWS: usize = 4;

        #[inline(always)]
        fn expect(at: *const u8) {
            cache::expect(at);
        }
        #[inline(always)]
        fn splat(x: f32) -> Self::V {
            // SAFETY: used only where AVX2, FMA and F16C were detected.
            unsafe { [_mm256_set1_ps(x); 2] }
        }
        #[inline(always)]
        fn widen(from: &[u16; 16]) -> Self::V {
            let from: *const __m128i = from.as_ptr().cast();
            // SAFETY: as above; 32 bytes are readable.
            unsafe {
                [
                    _mm256_cvtph_ps(_mm_loadu_si128(from)),
                    _mm256_cvtph_ps(_mm_loadu_si128(from.add(1))),
                ]
            }
        }
        #[inline(always)]
        fn widen_codes(from: &[i8; 16]) -> Self::V {
            let from = from.as_ptr();
            // SAFETY: as above; 8 bytes from each of these are readable.
            [0, 8].map(|at| unsafe {
                let codes = _mm_loadl_epi64(from.add(at).cast());
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes))
            })
        }
        #[inline(always)]
        fn load(from: &[f32; 16]) -> Self::V {
            // SAFETY: as above; 64 bytes are readable.
            unsafe { [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from.as_ptr().add(8))] }
        }
        #[inline(always)]
        fn store(v: Self::V, to: &mut [f32; 16]) {
            // SAFETY: as above; 64 bytes are writable.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), v[0]);
                _mm256_storeu_ps(to.as_mut_ptr().add(8), v[1]);
            }
        }
        #[inline(always)]
        fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
        }
        #[inline(always)]
        fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn sub(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn to_exponent(v: Self::V) -> Self::V {
            // SAFETY: as above.
            v.map(|v| unsafe {
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v)))
            })
        }
        #[inline(always)]
        fn max(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::Lanes;
    use crate::simd::neon::widen_f16;
    use std::arch::aarch64::{
        float32x4_t, vaddq_f32, vaddvq_f32, vbslq_f32, vcgtq_f32, vcvtq_f32_s32, vdupq_n_f32,
        vfmaq_f32, vget_high_s8, vget_high_s16, vget_low_s8, vget_low_s16, vld1_u16, vld1q_f32,
        vld1q_s8, vmaxnmq_f32, vmaxnmvq_f32, vmovl_s8, vmovl_s16, vmulq_f32, vreinterpretq_f32_u32,
        vreinterpretq_u32_f32, vshlq_n_u32, vst1q_f32, vsubq_f32,
    };

    /// Needs NEON, which every processor has.
    pub(in super::super) struct Neon;

    impl Lanes for Neon {
        type V = [float32x4_t; 4];
        const SUMS: usize = 4;
        const ROWS: usize = 4;

        #[inline(always)]
        fn splat(x: f32) -> Self::V {
            // SAFETY: NEON is part of the baseline.
            unsafe { [vdupq_n_f32(x); 4] }
        }
        #[inline(always)]
        fn widen(from: &[u16; 16]) -> Self::V {
            let from = from.as_ptr();
            // SAFETY: as above; 32 bytes are readable.
            [0, 4, 8, 12].map(|at| unsafe { widen_f16(vld1_u16(from.add(at))) })
        }
        #[inline(always)]
        fn widen_codes(from: &[i8; 16]) -> Self::V {
            // SAFETY: as above; 16 bytes are readable.
            unsafe {
                let codes = vld1q_s8(from.as_ptr());
                let (low, high) = (vmovl_s8(vget_low_s8(codes)), vmovl_s8(vget_high_s8(codes)));
                let four = [
                    vget_low_s16(low),
                    vget_high_s16(low),
                    vget_low_s16(high),
                    vget_high_s16(high),
                ];
                four.map(|four| vcvtq_f32_s32(vmovl_s16(four)))
            }
        }
        #[inline(always)]
        fn load(from: &[f32; 16]) -> Self::V {
            let from = from.as_ptr();
            // SAFETY: as above; 64 bytes are readable.
            [0, 4, 8, 12].map(|at| unsafe { vld1q_f32(from.add(at)) })
        }
        #[inline(always)]
        fn store(v: Self::V, to: &mut [f32; 16]) {
            for (v, to) in v.into_iter().zip(to.as_chunks_mut::<4>().0) {
                // SAFETY: as above; 16 bytes are writable.
                unsafe { vst1q_f32(to.as_mut_ptr(), v) }
            }
        }
        #[inline(always)]
        fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            // SAFETY: as above.
            [0, 1, 2, 3].map(|i| unsafe { vfmaq_f32(c[i], a[i], b[i]) })
        }
        #[inline(always)]
        fn add(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            [0, 1, 2, 3].map(|i| unsafe { vaddq_f32(a[i], b[i]) })
        }
        #[inline(always)]
        fn sub(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            [0, 1, 2, 3].map(|i| unsafe { vsubq_f32(a[i], b[i]) })
        }
        #[inline(always)]
        fn mul(a: Self::V, b: Self::V) -> Self::V {
            // SAFETY: as above.
            [0, 1, 2, 3].map(|i| unsafe { vmulq_f32(a[i], b[i]) })
        }
        #[inline(always)]
        fn to_exponent(v: Self::V) -> Self::V {
            // SAFETY: as above.
            v.map(|v| unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<23>(vreinterpretq_u32_f32(v))) })
        }
        #[inline(always)]
        fn total([a, b, c, d]: Self::V) -> f32 {
            // SAFETY: as above.
            unsafe { vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d))) }
        }
        #[inline(always)]
        fn largest([a, b, c, d]: Self::V) -> f32 {
            // SAFETY: as above.
            unsafe { vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a, b), vmaxnmq_f32(c, d))) }
        }
        #[inline(always)]
        fn max(a: Self::V, b: Self::V) -> Self::V {
            // Not `vmaxq_f32`, which is NaN where either is.
            // SAFETY: as above.
            [0, 1, 2, 3].map(|i| unsafe { vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]) })
        }
    }
}
