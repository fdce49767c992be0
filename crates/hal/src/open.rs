//! Finding and opening devices.
use crate::cpu::{Cpu, CpuOptions};
use crate::{Device, Error, Kind, Result, Row};
use std::path::Path;
use std::sync::Arc;

/// An opened device and how it came to be chosen.
#[derive(Debug)]
pub struct Selection {
    pub device: Arc<dyn Device>,
    /// For `auto`: why each device that stands before it in the order was passed over.
    pub passed_over: Vec<Row>,
}

impl Selection {
    /// Whether a device that was passed over is one that this kind of machine can have: no Mac misses CUDA.
    #[must_use]
    pub fn worth_saying(&self) -> bool {
        self.passed_over.iter().any(|row| driver_present(row.kind))
    }
}

/// The order in which `auto` tries devices.
const AUTO_ORDER: [Kind; 4] = [Kind::Metal, Kind::Cuda, Kind::Hip, Kind::Cpu];

/// Looks for every kind of device. Opens none of them for work and forces nothing.
#[must_use]
pub fn probe() -> Vec<Row> {
    AUTO_ORDER.iter().map(|kind| probe_kind(*kind)).collect()
}

fn probe_kind(kind: Kind) -> Row {
    let device = match kind {
        Kind::Cpu => Ok(crate::cpu::info(None)),
        _ => Err(why_not(kind)),
    };
    Row { kind, selector: kind.name().to_owned(), device }
}

/// Opens `auto`, `cpu`, `metal[:N]`, `cuda[:N]` or `hip[:N]`.
///
/// # Errors
/// An explicit device that cannot be opened is [`Error::Unavailable`]; there is no silent fallback.
pub fn open(selector: &str, cpu: CpuOptions) -> Result<Selection> {
    let unavailable = |reason| Error::Unavailable { device: selector.to_owned(), reason };
    match selector.split(':').next().unwrap_or_default() {
        "auto" => {
            let before_cpu = AUTO_ORDER.iter().take_while(|kind| **kind != Kind::Cpu);
            let passed_over = before_cpu.map(|kind| probe_kind(*kind)).collect();
            Ok(Selection { device: Arc::new(Cpu::open(cpu)?), passed_over })
        }
        "cpu" if selector == "cpu" => {
            Ok(Selection { device: Arc::new(Cpu::open(cpu)?), passed_over: Vec::new() })
        }
        "metal" => Err(unavailable(why_not(Kind::Metal))),
        "cuda" => Err(unavailable(why_not(Kind::Cuda))),
        "hip" => Err(unavailable(why_not(Kind::Hip))),
        _ => Err(unavailable(
            "there is no such device; known are auto, metal, cuda, hip, cpu".to_owned(),
        )),
    }
}

/// Whether the system has what a driver for `kind` would open.
fn driver_present(kind: Kind) -> bool {
    match kind {
        Kind::Metal => std::env::consts::OS == "macos",
        Kind::Cuda => Path::new("/dev/nvidiactl").exists(),
        Kind::Hip => Path::new("/dev/kfd").exists(),
        Kind::Null | Kind::Cpu | Kind::Soft => true,
    }
}

/// Why a GPU kind cannot be used. This build has no GPU driver yet; the rest says whether one would find hardware.
fn why_not(kind: Kind) -> String {
    let hardware = match (kind, driver_present(kind)) {
        (Kind::Metal, false) => "Metal exists on macOS only",
        (Kind::Metal, true) => "macOS has Metal",
        (Kind::Cuda, false) => "no NVIDIA kernel driver (/dev/nvidiactl is missing)",
        (Kind::Cuda, true) => "an NVIDIA kernel driver is loaded",
        (Kind::Hip, false) => "no AMD compute driver (/dev/kfd is missing)",
        (Kind::Hip, true) => "an AMD compute driver is loaded",
        (Kind::Null | Kind::Cpu | Kind::Soft, _) => "",
    };
    format!("{hardware}; this build of Russet carries no {} driver", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_device_never_falls_back() {
        for selector in ["metal", "cuda:1", "hip", "tpu", "cpu:9", ""] {
            let error = open(selector, CpuOptions::default()).expect_err(selector);
            assert!(
                matches!(&error, Error::Unavailable { device, .. } if device == selector),
                "{error}"
            );
        }
    }

    #[test]
    fn auto_says_why_others_were_passed_over() {
        let selection = open("auto", CpuOptions::default()).unwrap();
        assert_eq!(selection.device.info().kind, Kind::Cpu);
        let kinds: Vec<Kind> = selection.passed_over.iter().map(|row| row.kind).collect();
        assert_eq!(kinds, [Kind::Metal, Kind::Cuda, Kind::Hip]);
        assert!(selection.passed_over.iter().all(|row| row.device.is_err()));
    }
}
