//! Finding and opening devices.
use crate::cpu::{Cpu, CpuOptions};
use crate::metal::{self, MetalOptions};
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

/// How to open whichever device is chosen.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    pub cpu: CpuOptions,
    pub metal: MetalOptions,
}

/// The order in which `auto` tries devices.
const AUTO_ORDER: [Kind; 4] = [Kind::Metal, Kind::Cuda, Kind::Hip, Kind::Cpu];

/// Looks for every kind of device. Opens none of them for work and forces nothing.
#[must_use]
pub fn probe() -> Vec<Row> {
    AUTO_ORDER.iter().flat_map(|kind| probe_kind(*kind)).collect()
}

/// At least one row.
fn probe_kind(kind: Kind) -> Vec<Row> {
    let row = |device| Row { kind, selector: kind.name().to_owned(), device };
    match kind {
        Kind::Cpu => vec![row(Ok(crate::cpu::info(None)))],
        Kind::Metal => match metal::probe() {
            Err(why) => vec![row(Err(why))],
            Ok(mut devices) if devices.len() == 1 => devices.drain(..).map(row).collect(),
            Ok(devices) => {
                let selector = |index| format!("{}:{index}", kind.name());
                let numbered = devices.into_iter().enumerate();
                numbered.map(|(i, device)| Row { selector: selector(i), ..row(device) }).collect()
            }
        },
        _ => vec![row(Err(why_not(kind)))],
    }
}

/// Opens `auto`, `cpu`, `metal[:N]`, `cuda[:N]` or `hip[:N]`.
///
/// # Errors
/// An explicit device that cannot be opened is [`Error::Unavailable`]; there is no silent fallback.
pub fn open(selector: &str, options: &OpenOptions) -> Result<Selection> {
    let unavailable = |reason| Error::Unavailable { device: selector.to_owned(), reason };
    let unknown =
        || unavailable("there is no such device; known are auto, metal, cuda, hip, cpu".to_owned());
    if selector == "auto" {
        return auto(options);
    }
    let (kind, number) =
        selector.split_once(':').map_or((selector, None), |(kind, number)| (kind, Some(number)));
    let index = number.map_or(Ok(0), str::parse::<usize>).map_err(|_| unknown())?;
    let device: Arc<dyn Device> = match kind {
        "cpu" if number.is_none() => Arc::new(Cpu::open(options.cpu)?),
        "metal" => metal::open(index, &options.metal).map_err(unavailable)?,
        "cuda" => return Err(unavailable(why_not(Kind::Cuda))),
        "hip" => return Err(unavailable(why_not(Kind::Hip))),
        _ => return Err(unknown()),
    };
    Ok(Selection { device, passed_over: Vec::new() })
}

/// The first that opens.
fn auto(options: &OpenOptions) -> Result<Selection> {
    let mut passed_over = Vec::new();
    for row in AUTO_ORDER.iter().flat_map(|kind| probe_kind(*kind)) {
        let why = match row.device {
            Err(why) => why,
            Ok(_) => match open(&row.selector, options) {
                Ok(Selection { device, .. }) => return Ok(Selection { device, passed_over }),
                Err(error) if row.kind == Kind::Cpu => return Err(error),
                Err(error) => error.to_string(),
            },
        };
        passed_over.push(Row { device: Err(why), ..row });
    }
    let reason = "no device opens".to_owned();
    Err(Error::Unavailable { device: "auto".to_owned(), reason })
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

/// Why a GPU kind without a driver in this build cannot be used, and whether a driver would find hardware.
fn why_not(kind: Kind) -> String {
    let hardware = match (kind, driver_present(kind)) {
        (Kind::Cuda, false) => "no NVIDIA kernel driver (/dev/nvidiactl is missing)",
        (Kind::Cuda, true) => "an NVIDIA kernel driver is loaded",
        (Kind::Hip, false) => "no AMD compute driver (/dev/kfd is missing)",
        (Kind::Hip, true) => "an AMD compute driver is loaded",
        (Kind::Null | Kind::Cpu | Kind::Soft | Kind::Metal, _) => "",
    };
    format!("{hardware}; this build of Russet carries no {} driver", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_device_never_falls_back() {
        for selector in ["metal:99", "metal:x", "cuda:1", "hip", "tpu", "cpu:9", ""] {
            let error = open(selector, &OpenOptions::default()).expect_err(selector);
            assert!(
                matches!(&error, Error::Unavailable { device, .. } if device == selector),
                "{error}"
            );
        }
    }

    #[test]
    fn auto_takes_the_first_that_opens_and_says_why_not_those_before() {
        let selection = open("auto", &OpenOptions::default()).unwrap();
        let chosen = selection.device.info().kind;
        let before: Vec<Kind> = AUTO_ORDER.into_iter().take_while(|kind| *kind != chosen).collect();
        let kinds: Vec<Kind> = selection.passed_over.iter().map(|row| row.kind).collect();
        assert_eq!(kinds, before);
        assert!(selection.passed_over.iter().all(|row| row.device.is_err()));
    }
}
