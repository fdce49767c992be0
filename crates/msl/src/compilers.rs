//! What other compilers say of a kernel: clang with real address spaces, NVRTC for NVIDIA, clang for AMD.
use crate::clang::{self, Checks, Compile, words};
use crate::error::{Error, Result};
use crate::read::Source;
use crate::{generate, nvrtc};
use hal::{FunctionConstant, Gpu, Value};
use std::fmt;
use std::path::PathBuf;

/// A compiler that reads kernels, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// clang, for the soft device.
    Host,
    /// clang's OpenCL C++: address spaces are checked, nothing is made.
    Spaces,
    /// NVRTC: PTX for this architecture, `sm_80`.
    Nvidia(&'static str),
    /// clang: assembly for this processor, `gfx942`.
    Amd(&'static str),
}

impl Compiler {
    /// Every compiler that a kernel must pass.
    pub const ALL: [Self; 6] = [
        Self::Host,
        Self::Spaces,
        Self::Nvidia("sm_80"),
        Self::Nvidia("sm_90"),
        Self::Amd("gfx942"),
        Self::Amd("gfx1100"),
    ];

    /// Compiles all kernels of `source`; the result is a file of the cache (empty for [`Compiler::Spaces`]).
    ///
    /// # Errors
    /// [`Error::Refused`] with the compiler's words, [`Error::Missing`] when it is not here.
    pub fn compile(self, source: &Source, constants: &[FunctionConstant]) -> Result<PathBuf> {
        let name = self.to_string();
        let defines = defines(constants);
        let defines: Vec<&str> = defines.iter().map(String::as_str).collect();
        let run = |flags: &[&str], unit: &str, suffix| {
            let compile = Compile { compiler: &name, flags, unit: Some(unit), inputs: &[], suffix };
            compile.run()
        };
        match self {
            Self::Host => clang::host(&generate::host(source), &defines, Checks::None),
            Self::Spaces => {
                run(&[&words(SPACES)[..], &defines].concat(), &generate::check(source), "checked")
            }
            Self::Nvidia(architecture) => {
                nvrtc::compile(&generate::gpu(source), architecture, &defines)
            }
            Self::Amd(processor) => {
                let offload = format!("--offload-arch={processor}");
                let flags = [&words(AMD)[..], &[&offload], &defines[..]].concat();
                run(&flags, &generate::gpu(source), "s")
            }
        }
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host (clang)"),
            Self::Spaces => f.write_str("address spaces (clang, OpenCL C++)"),
            Self::Nvidia(architecture) => write!(f, "NVIDIA {architecture} (NVRTC)"),
            Self::Amd(processor) => write!(f, "AMD {processor} (clang)"),
        }
    }
}

/// Without the extension for double, so that none slips through.
const SPACES: &str = "\
    -xclcpp -cl-std=CLC++2021 -cl-no-stdinc -nostdinc -DMSL_SPACES -fsyntax-only -fsigned-char \
    -cl-single-precision-constant -Xclang -cl-ext=-cl_khr_fp64,-__opencl_c_fp64 -Wno-everything";
const AMD: &str = "\
    -xhip --cuda-device-only -nogpuinc -nogpulib -nostdinc -O2 -S -fno-math-errno -Xclang \
    -cl-single-precision-constant -Wno-everything";

/// The values that `MSL_FUNCTION_CONSTANT` of the headers reads.
pub(crate) fn defines(constants: &[FunctionConstant]) -> Vec<String> {
    constants.iter().map(define).collect()
}

fn define(constant: &FunctionConstant) -> String {
    let index = constant.index;
    match constant.value {
        Value::Bool(value) => format!("-DMSL_CONSTANT_{index}={}", u8::from(value)),
        Value::Int(value) => format!("-DMSL_CONSTANT_{index}={value}"),
        Value::Uint(value) => format!("-DMSL_CONSTANT_{index}={value}u"),
        Value::Float(value) => format!("-DMSL_CONSTANT_{index}={value:?}f"),
    }
}

/// The value 1 for each function constant: something to compile with where no program says better.
#[must_use]
pub fn any_constants(source: &Source) -> Vec<FunctionConstant> {
    let value = |of_type: &str| match of_type {
        "bool" => Value::Bool(true),
        "float" => Value::Float(1.0),
        "int" => Value::Int(1),
        _ => Value::Uint(1),
    };
    let constants = source.constants.iter();
    constants.map(|c| FunctionConstant { index: c.index, value: value(&c.of_type) }).collect()
}

/// Everything that can be said of a kernel without running it: the dialect, then every compiler. One line for each
/// compiler that is missing comes back.
///
/// # Errors
/// The first complaint.
pub fn check(gpu: &Gpu) -> Result<Vec<String>> {
    let source = Source::new(gpu.texts);
    crate::lint(&source)?;
    let mut missing = Vec::new();
    for compiler in Compiler::ALL {
        match compiler.compile(&source, gpu.constants) {
            Ok(_) => {}
            Err(error @ Error::Missing { .. }) => missing.push(format!("{compiler}: {error}")),
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}
