//! What a GPU is, asked without using it.
use crate::{Info, Kind, MatrixUnits};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSProcessInfo;
use objc2_metal::{MTLDevice, MTLGPUFamily};

/// Major and minor version of the system.
pub(super) fn macos() -> (isize, isize) {
    let version = NSProcessInfo::processInfo().operatingSystemVersion();
    (version.majorVersion, version.minorVersion)
}

/// The first with the language of our kernels (MSL 3.1: bfloat).
const MACOS_MIN: isize = 14;

/// Lanes of a SIMD group, which the kernels count on.
pub(super) const SIMD_WIDTH: usize = 32;

/// Families and what they bring. Families of one kind contain those before them.
const FAMILIES: [(MTLGPUFamily, &str); 6] = [
    (MTLGPUFamily::Apple7, "apple7"),
    (MTLGPUFamily::Apple8, "apple8"),
    (MTLGPUFamily::Apple9, "apple9"),
    (MTLGPUFamily::Apple10, "apple10"),
    (MTLGPUFamily::Metal3, "metal3"),
    (MTLGPUFamily::Metal4, "metal4"),
];

/// The facts, or why kernels cannot run there.
pub(super) fn info(device: &ProtocolObject<dyn MTLDevice>) -> Result<Info, String> {
    let name = device.name().to_string();
    let (major, minor) = macos();
    if major < MACOS_MIN {
        return Err(format!(
            "{name}: macOS {MACOS_MIN} or later is needed, this is {major}.{minor}"
        ));
    }
    if !device.hasUnifiedMemory() {
        return Err(format!(
            "{name} has memory of its own; Russet runs on GPUs that share the processor's (Apple silicon)"
        ));
    }
    // Only Apple's own families promise SIMD groups of 32 and simdgroup_matrix.
    if !device.supportsFamily(MTLGPUFamily::Apple7) {
        return Err(format!(
            "{name} is of no family from Apple7 (M1) on: it lacks simdgroup_matrix and SIMD groups of {SIMD_WIDTH}"
        ));
    }
    let mut features: Vec<&'static str> = FAMILIES
        .iter()
        .filter(|(family, _)| device.supportsFamily(*family))
        .map(|(_, name)| *name)
        .collect();
    features.extend(["simdgroup_matrix", "bfloat"]);
    // Matrix units that the Metal 4 tensor operations reach; before this family they run on ordinary lanes.
    if device.supportsFamily(MTLGPUFamily::Metal4) && device.supportsFamily(MTLGPUFamily::Apple10) {
        features.push("tensor_ops");
    }
    Ok(Info {
        name,
        system: format!("macOS {major}.{minor}"),
        memory_bytes: device.recommendedMaxWorkingSetSize(),
        unified: true,
        simd_width: 32,
        matrix_units: MatrixUnits::Tiles,
        features,
        ..Info::new(Kind::Metal)
    })
}
