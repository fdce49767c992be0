//! Which kernels a processor gets: for people who ask why something is slow.
use crate::linear::float_words;
use crate::simd::Family;
use hal::{Info, Program};

/// Kernels written for families of their own; elsewhere they are what the compiler makes of plain Rust, as the
/// others are everywhere.
const ALL: &[Family] = &[Family::Avx2, Family::Avx512Vnni, Family::NeonDotprod, Family::NeonI8mm];
const BY_FAMILY: [(&Program, &[Family]); 5] = [
    (&crate::linear::TILES, ALL),
    (&crate::linear::TILES_OF_ROWS, ALL),
    (&crate::linear::FLOAT, ALL),
    (&crate::quantize::QUANTIZE_PANEL, ALL),
    (&crate::attend::ATTEND, ALL),
];

const PORTABLE: [&Program; 14] = [
    &crate::linear::INTEGER,
    &crate::embed::EMBED,
    &crate::embed::POSITIONS,
    &crate::norm::NORM,
    &crate::quantize::QUANTIZE,
    &crate::rope::ANGLES,
    &crate::rope::ROPE,
    &crate::rope_kv::ROPE_KV,
    &crate::write_kv::WRITE_KV,
    &crate::activate::ACTIVATE,
    &crate::activate::SOFTCAP,
    &crate::add::ADD,
    &crate::gather::GATHER,
    &crate::sample::SAMPLE,
];

/// Each kernel that a step may run, and the family of instructions that its CPU version uses on a processor.
#[must_use]
pub fn kernels_chosen(info: &Info) -> Vec<(&'static str, Family)> {
    let best = Family::of(&info.features);
    let of = |families: &[Family]| {
        let own = best.instructions();
        if families.contains(&own) { own } else { Family::Portable }
    };
    let chosen = BY_FAMILY.iter().map(|(program, families)| (program.name, of(families)));
    // Elsewhere no step runs them.
    let words = float_words::has_kernels(best).then_some((crate::linear::FLOAT_WORDS.name, best));
    let tiles = best.accelerates().then_some((crate::linear::TILES_ACCELERATE.name, best));
    chosen
        .chain(words)
        .chain(tiles)
        .chain(PORTABLE.iter().map(|program| (program.name, Family::Portable)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::Kind;

    #[test]
    fn a_processor_without_features_runs_portable_kernels_only_and_each_kernel_is_named_once() {
        let plain = kernels_chosen(&Info::new(Kind::Cpu));
        assert!(plain.iter().all(|(_, family)| *family == Family::Portable));
        let mut names: Vec<&str> = plain.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), plain.len());
        let features = vec!["avx2", "fma", "f16c"];
        let avx2 = kernels_chosen(&Info { features, ..Info::new(Kind::Cpu) });
        assert!(avx2.contains(&("linear_tiles", Family::Avx2)));
        assert!(avx2.contains(&("quantize_panel", Family::Avx2)));
        assert!(avx2.iter().all(|(name, _)| *name != "linear_float_words"));
        let features = vec!["neon", "dotprod", "accelerate"];
        let m1 = kernels_chosen(&Info { features, ..Info::new(Kind::Cpu) });
        assert!(m1.contains(&("linear_tiles", Family::NeonDotprod)));
        assert!(m1.contains(&("linear_tiles_accelerate", Family::NeonDotprodAccelerate)));
    }
}
