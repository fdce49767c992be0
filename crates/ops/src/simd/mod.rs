//! Vector code that ops share: which kernels this processor runs, and functions over slices of f32.
//!
//! Kernels come in families; a family is the set of instructions that its kernels may use. It is chosen once, when commands
//! are recorded, and written into each launch.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod cache;
mod math;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pairs;
mod vector;

pub(crate) use math::activate;
pub(crate) use vector::Vector;

use std::sync::OnceLock;

/// A set of instructions that kernels are written for, from the least to the most capable of its architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Plain Rust: what the compiler makes of it for the baseline of the target.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// NEON with dot products of 4 bytes.
    NeonDotprod,
    /// The same, and products of matrices of 2 x 8 bytes.
    NeonI8mm,
    /// [`Self::NeonDotprod`], and Apple's library for prompts: see [`hal::cpu::accelerate`].
    NeonDotprodAccelerate,
    /// [`Self::NeonI8mm`], and the same.
    NeonI8mmAccelerate,
}

impl Family {
    /// Every family, in the order of the enum.
    pub const ALL: [Self; 7] = [
        Self::Portable,
        Self::Avx2,
        Self::Avx512Vnni,
        Self::NeonDotprod,
        Self::NeonI8mm,
        Self::NeonDotprodAccelerate,
        Self::NeonI8mmAccelerate,
    ];

    /// The best family that this processor runs.
    #[must_use]
    pub fn host() -> Self {
        static HOST: OnceLock<Family> = OnceLock::new();
        *HOST.get_or_init(|| {
            let best = Self::ALL.into_iter().rev().find(|family| family.runs_here());
            best.unwrap_or(Self::Portable)
        })
    }

    /// The best family for a processor with these features, named as in [`hal::Info::features`].
    #[must_use]
    pub fn of(features: &[&str]) -> Self {
        let best = Self::ALL.into_iter().rev().find(|family| family.fits(features));
        best.unwrap_or(Self::Portable)
    }

    fn fits(self, features: &[&str]) -> bool {
        self.needs().iter().all(|feature| features.contains(feature))
    }

    const fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Portable => &[],
            Self::Avx2 => &["avx2", "fma", "f16c"],
            Self::Avx512Vnni => {
                &["avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512vnni"]
            }
            Self::NeonDotprod => &["neon", "dotprod"],
            Self::NeonI8mm => &["neon", "dotprod", "i8mm"],
            Self::NeonDotprodAccelerate => &["neon", "dotprod", "accelerate"],
            Self::NeonI8mmAccelerate => &["neon", "dotprod", "i8mm", "accelerate"],
        }
    }

    /// Whether this processor has the family's instructions.
    #[must_use]
    pub fn runs_here(self) -> bool {
        static RUN_HERE: OnceLock<[bool; Family::ALL.len()]> = OnceLock::new();
        let run_here = RUN_HERE.get_or_init(|| {
            let features = hal::cpu::info(Some(1)).features;
            Self::ALL.map(|family| family.fits(&features))
        });
        run_here[self as usize]
    }

    /// Whether prompts' products are Accelerate's.
    pub(crate) const fn accelerates(self) -> bool {
        matches!(self, Self::NeonDotprodAccelerate | Self::NeonI8mmAccelerate)
    }

    /// The family of its instructions, where a library is called besides.
    pub(crate) const fn instructions(self) -> Self {
        match self {
            Self::NeonDotprodAccelerate => Self::NeonDotprod,
            Self::NeonI8mmAccelerate => Self::NeonI8mm,
            _ => self,
        }
    }

    /// Whether processors of this kind may have the family's instructions.
    pub(crate) const fn is_of_this_architecture(self) -> bool {
        match self {
            Self::Portable => true,
            Self::Avx2 | Self::Avx512Vnni => cfg!(target_arch = "x86_64"),
            Self::NeonDotprod
            | Self::NeonI8mm
            | Self::NeonDotprodAccelerate
            | Self::NeonI8mmAccelerate => cfg!(target_arch = "aarch64"),
        }
    }

    /// This family, or the best of the processor where it lacks it.
    #[must_use]
    pub fn at_most_host(self) -> Self {
        if self.runs_here() { self } else { Self::host() }
    }

    /// The name that `doctor` prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
            Self::NeonDotprod => "neon-dotprod",
            Self::NeonI8mm => "neon-i8mm",
            Self::NeonDotprodAccelerate => "neon-dotprod+accelerate",
            Self::NeonI8mmAccelerate => "neon-i8mm+accelerate",
        }
    }

    pub(crate) const fn code(self) -> u32 {
        self as u32
    }

    /// The family of a launch's arguments; one that this processor lacks becomes its best.
    pub(crate) fn from_code(code: u32) -> Self {
        Self::ALL[code as usize].at_most_host()
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// Compiles a function over portable lanes once per family and calls the one for `family`.
///
/// The body is inlined into functions that enable the family's instructions, where the compiler vectorizes it for them. On
/// Arm it is compiled once: NEON is part of the baseline, and dot products do nothing for f32. In the body `FUSED` says whether
/// `a * b + c` is one instruction.
macro_rules! per_family {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $visibility fn $name(family: $crate::simd::Family, $($argument: $type),*) {
            #[inline(always)]
            fn portable<const FUSED: bool>($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($argument: $type),*) {
                portable::<true>($($argument),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
            fn avx512($($argument: $type),*) {
                portable::<true>($($argument),*);
            }
            match family {
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Family::Avx512Vnni => {
                    // SAFETY: a family is only chosen where the processor has its instructions.
                    unsafe { avx512($($argument),*) }
                }
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Family::Avx2 => {
                    // SAFETY: as above.
                    unsafe { avx2($($argument),*) }
                }
                _ => portable::<{ cfg!(target_arch = "aarch64") }>($($argument),*),
            }
        }
    };
}
pub(crate) use per_family;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_family_whose_features_are_all_there() {
        assert_eq!(Family::of(&[]), Family::Portable);
        assert_eq!(Family::of(&["avx2", "f16c"]), Family::Portable);
        assert_eq!(Family::of(&["avx2", "f16c", "fma", "avx512f"]), Family::Avx2);
        let zen4 = ["f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512vnni"];
        assert_eq!(Family::of(&zen4), Family::Avx512Vnni);
        assert_eq!(Family::of(&["neon", "dotprod"]), Family::NeonDotprod);
        assert_eq!(Family::of(&["neon", "dotprod", "i8mm"]), Family::NeonI8mm);
        assert_eq!(Family::of(&["neon", "fp16"]), Family::Portable);
        let m1 = ["neon", "fp16", "dotprod", "accelerate"];
        assert_eq!(Family::of(&m1), Family::NeonDotprodAccelerate);
        let m2 = ["neon", "fp16", "dotprod", "i8mm", "bf16", "accelerate"];
        assert_eq!(Family::of(&m2), Family::NeonI8mmAccelerate);
    }

    #[test]
    fn a_family_that_is_not_here_becomes_the_best_that_is() {
        for family in Family::ALL {
            assert!(family.at_most_host().runs_here(), "{family}");
        }
        assert!(Family::host().runs_here());
    }
}
