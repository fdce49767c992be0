//! From a program's texts to a pipeline: compiled on this machine, kept between runs in a binary archive.
#![expect(unsafe_code, reason = "hands the values of function constants to Metal")]
use super::info::SIMD_WIDTH;
use crate::{FunctionConstant, Gpu, Text, Value};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSArray, NSError, NSString, NSURL};
use objc2_metal::{
    MTLBinaryArchive, MTLBinaryArchiveDescriptor, MTLCompileOptions, MTLComputePipelineDescriptor,
    MTLComputePipelineState, MTLDataType, MTLDevice, MTLFunction, MTLFunctionConstantValues,
    MTLLanguageVersion, MTLLibrary, MTLMathFloatingPointFunctions, MTLMathMode, MTLPipelineOption,
};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

pub(super) type Pipeline = ProtocolObject<dyn MTLComputePipelineState>;
type Device = ProtocolObject<dyn MTLDevice>;

/// Why a program has no pipeline.
pub(super) enum Fault {
    /// The text is at fault.
    Compile(String),
    /// The device is.
    Unsupported(String),
}

/// Compiles programs. Programs with the same texts share a library, so that a variant costs no second front end.
pub(super) struct Compiler {
    cache: Option<PathBuf>,
    /// What besides the text decides what an archive holds.
    system: String,
    libraries: Vec<(String, Retained<ProtocolObject<dyn MTLLibrary>>)>,
}

impl std::fmt::Debug for Compiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compiler({} libraries)", self.libraries.len())
    }
}

impl Compiler {
    pub(super) fn new(cache: Option<PathBuf>, system: String) -> Self {
        Self { cache, system, libraries: Vec::new() }
    }

    pub(super) fn pipeline(
        &mut self,
        device: &Device,
        gpu: &Gpu,
    ) -> Result<Retained<Pipeline>, Fault> {
        let source: String = gpu.texts.iter().map(|text| text.text).collect();
        let said = |error: &NSError| {
            Fault::Compile(placed(&error.localizedDescription().to_string(), gpu.texts))
        };
        let known = self.libraries.iter().find(|(text, _)| *text == source);
        let library = match known {
            Some((_, library)) => library.clone(),
            None => {
                let library = device
                    .newLibraryWithSource_options_error(
                        &NSString::from_str(&source),
                        Some(&options()),
                    )
                    .map_err(|error| said(&error))?;
                self.libraries.push((source.clone(), library.clone()));
                library
            }
        };
        let function = library
            .newFunctionWithName_constantValues_error(
                &NSString::from_str(gpu.entry),
                &values(gpu.constants),
            )
            .map_err(|error| said(&error))?;
        let archive = self.cache.as_ref().map(|cache| cache.join(self.archive_name(&source, gpu)));
        let pipeline =
            pipeline(device, &function, archive.as_deref()).map_err(|error| said(&error))?;
        let width = pipeline.threadExecutionWidth();
        if width != SIMD_WIDTH {
            return Err(Fault::Unsupported(format!(
                "a SIMD group of {width} threads, kernels count on {SIMD_WIDTH}"
            )));
        }
        Ok(pipeline)
    }

    /// Metal looks functions up by what they are, so a wrong file would be a miss and never a wrong kernel.
    fn archive_name(&self, source: &str, gpu: &Gpu) -> String {
        let mut key = format!("{}\n{}\n{source}\n", self.system, gpu.entry);
        for constant in gpu.constants {
            let _ = writeln!(key, "{} {:?}", constant.index, constant.value);
        }
        format!("{}-{:016x}.archive", gpu.entry, fnv(key.as_bytes()))
    }
}

/// FNV-1a: the same on every machine and for every build, which std's hashes are not.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// How kernels are compiled: as they are written. Fast math may drop NaN and infinity, which kernels mask scores with
/// and tests poison memory with.
fn options() -> Retained<MTLCompileOptions> {
    let options = MTLCompileOptions::new();
    options.setLanguageVersion(MTLLanguageVersion::Version3_1);
    if super::info::macos().0 < 15 {
        #[expect(deprecated, reason = "its successor came with macOS 15")]
        options.setFastMathEnabled(false);
    } else {
        options.setMathMode(MTLMathMode::Safe);
        options.setMathFloatingPointFunctions(MTLMathFloatingPointFunctions::Precise);
    }
    options
}

fn values(constants: &[FunctionConstant]) -> Retained<MTLFunctionConstantValues> {
    let values = MTLFunctionConstantValues::new();
    for constant in constants {
        let of_type = match constant.value {
            Value::Bool(_) => MTLDataType::Bool,
            Value::Int(_) => MTLDataType::Int,
            Value::Uint(_) => MTLDataType::UInt,
            Value::Float(_) => MTLDataType::Float,
        };
        let mut image = constant.value.to_le_bytes();
        // SAFETY: the image has a byte for a bool and four for the others, and Metal copies it.
        unsafe {
            values.setConstantValue_type_atIndex(
                NonNull::from(&mut image).cast(),
                of_type,
                constant.index as usize,
            );
        }
    }
    values
}

/// From the archive if it is there; else compiled, and kept in it.
fn pipeline(
    device: &Device,
    function: &ProtocolObject<dyn MTLFunction>,
    archive: Option<&Path>,
) -> Result<Retained<Pipeline>, Retained<NSError>> {
    let descriptor = MTLComputePipelineDescriptor::new();
    descriptor.setComputeFunction(Some(function));
    let compile = |option| {
        device.newComputePipelineStateWithDescriptor_options_reflection_error(
            &descriptor,
            option,
            None,
        )
    };
    if let Some(path) = archive {
        if let Some(kept) = opened(device, path) {
            descriptor.setBinaryArchives(Some(&NSArray::from_retained_slice(&[kept])));
            let found = compile(MTLPipelineOption::FailOnBinaryArchiveMiss);
            if found.is_ok() {
                return found;
            }
            descriptor.setBinaryArchives(None);
        }
        keep(device, &descriptor, path);
    }
    compile(MTLPipelineOption::None)
}

/// None when there is none, or when it is broken: it is then made anew.
fn opened(device: &Device, path: &Path) -> Option<Retained<ProtocolObject<dyn MTLBinaryArchive>>> {
    let descriptor = MTLBinaryArchiveDescriptor::new();
    let url = url(path.exists().then_some(path)?)?;
    descriptor.setUrl(Some(&url));
    device.newBinaryArchiveWithDescriptor_error(&descriptor).ok()
}

/// Writes beside the place and renames, so that no other process sees half an archive. A cache that cannot be written
/// costs time at the next start, nothing else.
fn keep(device: &Device, pipeline: &MTLComputePipelineDescriptor, path: &Path) {
    let write = || -> Option<()> {
        std::fs::create_dir_all(path.parent()?).ok()?;
        let archive =
            device.newBinaryArchiveWithDescriptor_error(&MTLBinaryArchiveDescriptor::new()).ok()?;
        archive.addComputePipelineFunctionsWithDescriptor_error(pipeline).ok()?;
        let partial = path.with_extension(format!("{}.partial", std::process::id()));
        let url = url(&partial)?;
        archive.serializeToURL_error(&url).ok()?;
        std::fs::rename(&partial, path).ok()
    };
    write().unwrap_or_default();
}

fn url(path: &Path) -> Option<Retained<NSURL>> {
    Some(NSURL::fileURLWithPath(&NSString::from_str(path.to_str()?)))
}

/// Replaces `program_source:LINE` by the file and its line: Metal sees one text.
fn placed(log: &str, texts: &[Text]) -> String {
    let mut parts = log.split("program_source:");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let place = part[..digits].parse().ok().and_then(|line| place(line, texts));
        match place {
            Some((file, line)) => {
                let _ = write!(result, "{file}:{line}{}", &part[digits..]);
            }
            None => {
                let _ = write!(result, "program_source:{part}");
            }
        }
    }
    result
}

fn place(mut line: usize, texts: &[Text]) -> Option<(&'static str, usize)> {
    for text in texts {
        let lines = text.text.matches('\n').count();
        if line <= lines {
            return Some((text.file, line));
        }
        line -= lines;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_whole_text_is_a_place_in_a_file() {
        let texts = [
            Text { file: "args.rs", text: "struct A { uint n; };\n" },
            Text { file: "k.metal", text: "one\ntwo\n" },
        ];
        let log = "program_source:3:5: error: no\nprogram_source:1:1: note: here\nprogram_source:9:1: past the end";
        assert_eq!(
            placed(log, &texts),
            "k.metal:2:5: error: no\nargs.rs:1:1: note: here\nprogram_source:9:1: past the end"
        );
    }
}
