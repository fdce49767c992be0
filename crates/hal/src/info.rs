//! What a device is: plain data.

/// The API a device is driven through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Null,
    Cpu,
    /// GPU kernels on the CPU, for tests.
    Soft,
    Metal,
    Cuda,
    Hip,
}

impl Kind {
    /// Whether it runs a program's GPU half.
    #[must_use]
    pub const fn is_gpu(self) -> bool {
        matches!(self, Self::Soft | Self::Metal | Self::Cuda | Self::Hip)
    }

    /// The word used in `--device`, in receipts and in errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Cpu => "cpu",
            Self::Soft => "soft",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
            Self::Hip => "hip",
        }
    }
}

/// Instructions or units that multiply matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MatrixUnits {
    #[default]
    None,
    /// Dot products of 4 bytes (AVX-VNNI, NEON dotprod).
    Dot4,
    /// Products of small matrices (AMX, i8mm, simdgroup_matrix, tensor cores).
    Tiles,
    /// Tiles, and the tensor ops of Metal 4.
    Tensor,
}

/// An opened device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub kind: Kind,
    /// As the vendor calls it.
    pub name: String,
    /// The system that drives it and its version, or empty where they decide nothing.
    pub system: String,
    /// What it can address, in bytes.
    pub memory_bytes: u64,
    /// Whether it shares memory with the host, so that a mapped file needs no copy.
    pub unified: bool,
    /// Threads that work at the same time (CPU), or 0.
    pub threads: u32,
    /// What decided the number of threads, for people.
    pub threads_why: &'static str,
    /// Lanes of one SIMD group (GPU) or f32 lanes of one vector register (CPU).
    pub simd_width: u32,
    pub matrix_units: MatrixUnits,
    /// Instruction set extensions found, the field's own names.
    pub features: Vec<&'static str>,
}

impl Info {
    /// A row with nothing known but the kind.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            name: kind.name().to_owned(),
            system: String::new(),
            memory_bytes: 0,
            unified: true,
            threads: 0,
            threads_why: "",
            simd_width: 1,
            matrix_units: MatrixUnits::None,
            features: Vec::new(),
        }
    }
}

/// One row of `russet devices`: a device that could be opened, or why a kind cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub kind: Kind,
    /// What `--device` takes to open it.
    pub selector: String,
    /// The device, or the reason why it is not available.
    pub device: Result<Info, String>,
}
