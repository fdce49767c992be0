//! Apple's chips, as Apple publishes them.

/// A chip with the memory of its larger configuration, where there are two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Chip {
    /// As in `--device metal:m4-max`.
    pub(super) name: &'static str,
    /// Of the memory, in GB/s: Apple's technical specifications.
    pub(super) gigabytes_per_second: f64,
}

const fn chip(name: &'static str, gigabytes_per_second: f64) -> Chip {
    Chip { name, gigabytes_per_second }
}

pub(super) const CHIPS: [Chip; 18] = [
    chip("m1", 68.3),
    chip("m1-pro", 200.0),
    chip("m1-max", 400.0),
    chip("m1-ultra", 800.0),
    chip("m2", 100.0),
    chip("m2-pro", 200.0),
    chip("m2-max", 400.0),
    chip("m2-ultra", 800.0),
    chip("m3", 100.0),
    chip("m3-pro", 150.0),
    chip("m3-max", 400.0),
    chip("m3-ultra", 819.0),
    chip("m4", 120.0),
    chip("m4-pro", 273.0),
    chip("m4-max", 546.0),
    chip("m5", 153.6),
    chip("m5-pro", 307.0),
    chip("m5-max", 614.0),
];

/// The chip behind `metal:NAME`.
///
/// # Errors
/// What `--plan` takes instead.
pub(super) fn find(selector: &str) -> anyhow::Result<Chip> {
    let name = selector.strip_prefix("metal:");
    name.and_then(|name| CHIPS.into_iter().find(|chip| chip.name == name)).ok_or_else(|| {
        let known = CHIPS.map(|chip| chip.name).join(", ");
        anyhow::anyhow!("--plan needs --device metal:CHIP, got {selector}; chips are {known}")
    })
}
