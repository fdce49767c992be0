//! What this processor is and can do.
use super::apple;
use super::cgroup::memory_limit;
use super::threads::{self, Threads};
use crate::{Info, Kind, MatrixUnits};
use std::sync::OnceLock;

static LEFT_OUT: OnceLock<Vec<String>> = OnceLock::new();

/// Leaves features of this processor unused from now on, so that it runs what lesser ones run. For one call before any other of this
/// module and of kernels, which ask once.
///
/// # Errors
/// The name of a feature that this processor does not have or that nothing here asks for.
pub fn leave_out(names: Vec<String>) -> Result<(), String> {
    let found = found();
    if let Some(unknown) = names.iter().find(|name| !found.contains(&name.as_str())) {
        return Err(format!("{unknown:?} is none of {}", found.join(", ")));
    }
    // A second call changes nothing: kernels may have been chosen.
    LEFT_OUT.get_or_init(|| names);
    Ok(())
}

/// What was found and not left out.
fn features() -> Vec<&'static str> {
    let left_out = LEFT_OUT.get().map_or(&[][..], Vec::as_slice);
    found().into_iter().filter(|name| !left_out.iter().any(|left_out| left_out == name)).collect()
}

/// Describes the CPU; `threads` as the device was opened, or what it would use.
#[must_use]
pub fn info(threads: Option<usize>) -> Info {
    let features = features();
    let asked = threads.map(|count| Threads { count, why: "asked for" });
    let threads = asked.unwrap_or_else(threads::chosen);
    let has = |name: &str| features.contains(&name);
    let simd_width = if has("avx512f") {
        16
    } else if has("avx2") {
        8
    } else {
        4
    };
    let dot4 = has("avx512vnni") || has("avxvnni") || has("dotprod");
    let matrix_units = if has("i8mm") {
        MatrixUnits::Tiles
    } else if dot4 {
        MatrixUnits::Dot4
    } else {
        MatrixUnits::None
    };
    Info {
        name: name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        memory_bytes: memory_bytes().unwrap_or(0),
        threads: u32::try_from(threads.count).unwrap_or(u32::MAX),
        threads_why: threads.why,
        simd_width,
        matrix_units,
        features,
        ..Info::new(Kind::Cpu)
    }
}

#[cfg(target_arch = "x86_64")]
fn found() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt),+) => { [$(($name, std::is_x86_feature_detected!($name))),+] };
    }
    let all = detected!(
        "sse4.2",
        "f16c",
        "fma",
        "avx2",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512vbmi",
        "avx512vnni",
        "avx512bf16"
    );
    all.into_iter().filter_map(|(name, present)| present.then_some(name)).collect()
}

#[cfg(target_arch = "aarch64")]
fn found() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt),+) => { [$(($name, std::arch::is_aarch64_feature_detected!($name))),+] };
    }
    let all = detected!("neon", "fp16", "dotprod", "i8mm", "bf16", "sve");
    let all = all.into_iter().chain([("accelerate", super::accelerate::is_here())]);
    all.filter_map(|(name, present)| present.then_some(name)).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn found() -> Vec<&'static str> {
    Vec::new()
}

/// The model name that the system reports. Where it does not, the architecture's name has to do.
fn name() -> Option<String> {
    if let Some(name) = apple::processor() {
        return Some(name);
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Memory of the machine or of the control group, whichever is less.
fn memory_bytes() -> Option<u64> {
    if let Some(bytes) = apple::memory_bytes() {
        return Some(bytes);
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine = field_kib(&meminfo, "MemTotal:")? * 1024;
    Some(control_group().map_or(machine, |limit| limit.bytes.min(machine)))
}

/// Memory that this process can take without swapping, and that its control group still allows, in bytes. None where the
/// system does not tell.
#[must_use]
pub fn memory_bytes_free() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine = field_kib(&meminfo, "MemAvailable:")? * 1024;
    Some(control_group().map_or(machine, |limit| limit.bytes_free.min(machine)))
}

/// Memory of this process that lies in RAM, in bytes. None where the system does not tell.
#[must_use]
pub fn memory_bytes_used() -> Option<u64> {
    Some(field_kib(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")? * 1024)
}

fn control_group() -> Option<super::cgroup::MemoryLimit> {
    memory_limit(|path| std::fs::read_to_string(path).ok())
}

fn field_kib(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_fields_are_in_kibibytes() {
        let text = "MemTotal:       24000 kB\nMemAvailable:     512 kB\n";
        assert_eq!(field_kib(text, "MemAvailable:"), Some(512));
        assert_eq!(field_kib(text, "SwapTotal:"), None);
    }
}
