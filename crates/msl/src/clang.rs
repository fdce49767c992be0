//! Finds clang, runs it, and keeps what it made under the name of what it was made from.
use crate::error::{Error, Result};
use sha2::{Digest as _, Sha256};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The headers and the runtime travel inside this crate.
const FILES: &[(&str, &str)] = &[
    ("metal_stdlib", include_str!("../include/metal_stdlib")),
    ("msl/atomic.h", include_str!("../include/msl/atomic.h")),
    ("msl/cuda.h", include_str!("../include/msl/cuda.h")),
    ("msl/entry.h", include_str!("../include/msl/entry.h")),
    ("msl/hip.h", include_str!("../include/msl/hip.h")),
    ("msl/host.h", include_str!("../include/msl/host.h")),
    ("msl/math.h", include_str!("../include/msl/math.h")),
    ("msl/matrix.h", include_str!("../include/msl/matrix.h")),
    ("msl/simd.h", include_str!("../include/msl/simd.h")),
    ("msl/spaces.h", include_str!("../include/msl/spaces.h")),
    ("msl/types.h", include_str!("../include/msl/types.h")),
    ("msl/vec.h", include_str!("../include/msl/vec.h")),
    ("runtime/job.h", include_str!("../runtime/job.h")),
];
const RUNTIME: &str = include_str!("../runtime/runtime.cpp");
const RUNNER: &str = include_str!("../runtime/runner.cpp");

/// Parts of the standard library that a kernel may include by name.
pub(crate) const PARTS: &[&str] = &[
    "metal_atomic",
    "metal_common",
    "metal_compute",
    "metal_geometric",
    "metal_integer",
    "metal_limits",
    "metal_math",
    "metal_numeric",
    "metal_relational",
    "metal_simdgroup",
    "metal_simdgroup_matrix",
    "metal_types",
];

/// Where clang 19 is, by its name on Debian and its places on a Mac.
pub(crate) const CLANGS: &[&str] =
    &["clang++-19", "/opt/homebrew/opt/llvm@19/bin/clang++", "/usr/local/opt/llvm@19/bin/clang++"];

/// A clang that runs.
///
/// # Errors
/// [`Error::Missing`] when there is none.
pub fn clang() -> Result<&'static str> {
    // Only what was found is kept: `cargo xtask check` asks, installs, and asks again.
    static FOUND: OnceLock<&str> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let starts = |name: &&&str| {
        let mut command = Command::new(name);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let found = CLANGS.iter().find(starts);
    let found = found.ok_or(Error::Missing { tool: "clang 19", hint: "cargo xtask setup" })?;
    Ok(FOUND.get_or_init(|| found))
}

/// The folder with the headers, written once; its name carries their hash, so that it is a key for what they make.
pub(crate) fn headers() -> Result<&'static Path> {
    static WRITTEN: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let written = WRITTEN.get_or_init(|| write_headers().map_err(|error| error.to_string()));
    let failed = |error: &String| io(&cache_dir())(std::io::Error::other(error.clone()));
    written.as_deref().map_err(failed)
}

fn write_headers() -> Result<PathBuf> {
    let key = hash(FILES.iter().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]));
    made(&key, "headers", |folder| {
        for (name, text) in FILES {
            write(&folder.join(name), text)?;
        }
        PARTS.iter().try_for_each(|part| write(&folder.join(part), "#include <metal_stdlib>\n"))
    })
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(io(folder))?;
    fs::write(path, text).map_err(io(path))
}

pub(crate) fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error::Io { path: path.clone(), error }
}

fn hash<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(u64::try_from(part.len()).unwrap_or(0).to_le_bytes());
        hasher.update(part);
    }
    let mut hex = String::new();
    for byte in &hasher.finalize()[..12] {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// The folder under cargo's target folder, or a temporary one for a program that lives elsewhere.
fn cache_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    let target = exe.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    target.map_or_else(std::env::temp_dir, Path::to_owned).join("msl")
}

/// The file (or folder) `key.suffix` of the cache, made by `make` when it is missing. It appears whole or not at all,
/// whoever else makes it at the same time.
fn made(key: &str, suffix: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let cache = cache_dir();
    let path = cache.join(format!("{key}.{suffix}"));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(&cache).map_err(io(&cache))?;
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let new = cache.join(format!("{key}.{process}.{count}.new"));
    make(&new)?;
    if let Err(error) = fs::rename(&new, &path)
        && !path.exists()
    {
        return Err(io(&path)(error));
    }
    Ok(path)
}

/// The file of the cache that stands for `parts`, made when it is missing.
pub(crate) fn keep(
    parts: &[&str],
    suffix: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    made(&hash(parts.iter().map(|part| part.as_bytes())), suffix, make)
}

/// One run of clang, cached by everything it depends on.
pub(crate) struct Compile<'a> {
    /// For messages: "clang", "OpenCL C++".
    pub(crate) compiler: &'a str,
    pub(crate) flags: &'a [&'a str],
    /// The C++ text, or none to compile `inputs` only.
    pub(crate) unit: Option<&'a str>,
    /// Files of the cache (headers or what was made before): their names are their content.
    pub(crate) inputs: &'a [&'a Path],
    /// Of the result.
    pub(crate) suffix: &'a str,
}

impl Compile<'_> {
    /// Path of the result.
    pub(crate) fn run(&self) -> Result<PathBuf> {
        let (clang, headers) = (clang()?, headers()?);
        let paths = self.inputs.iter().copied().chain([headers]).map(Path::as_os_str);
        let parts = self.flags.iter().map(|flag| flag.as_bytes());
        let parts = parts.chain(self.unit.map(str::as_bytes)).chain([clang.as_bytes()]);
        let key = hash(parts.chain(paths.map(OsStr::as_encoded_bytes)));
        made(&key, self.suffix, |result| {
            let mut command = Command::new(clang);
            command.args(self.flags).arg("-isystem").arg(headers).arg("-o").arg(result);
            let unit = result.with_extension("cpp");
            if let Some(text) = self.unit {
                write(&unit, text)?;
                command.arg(&unit);
            }
            command.arg("-xnone").args(self.inputs);
            let output = command.stdin(Stdio::null()).output().map_err(io(Path::new(clang)))?;
            if self.unit.is_some() {
                fs::remove_file(&unit).map_err(io(&unit))?;
            }
            if output.status.success() {
                // A compiler that only checks leaves nothing; the cache remembers that it was content.
                return if result.exists() { Ok(()) } else { write(result, "") };
            }
            let log = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
            Err(Error::Refused { compiler: self.compiler.to_owned(), log })
        })
    }
}

/// What a build of a kernel for the host is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checks {
    /// Nothing: it runs inside this process, as fast as it can.
    #[default]
    None,
    /// Accesses outside of spans and threadgroup arrays, and misaligned ones (AddressSanitizer, UBSan).
    Memory,
    /// Accesses by two threads without a barrier between them (ThreadSanitizer).
    Races,
}

/// Flags of a compiler, written as on its command line.
pub(crate) fn words(flags: &'static str) -> Vec<&'static str> {
    flags.split_whitespace().collect()
}

/// Variables without a first value begin as NaN. Half and bfloat are rounded after every operation,
/// literals are float, nothing is contracted: as Metal without fast math. C++14, as Metal's.
const HOST: &str = "\
    -xc++ -std=c++14 -Werror=c++17-extensions -nostdinc -O2 -fPIC -fno-math-errno \
    -ffp-contract=off -fno-strict-aliasing -fno-exceptions -fno-rtti -fsigned-char -fdebug-compilation-dir=. -ftrivial-auto-var-init=pattern -Xclang \
    -ffloat16-excess-precision=none -Xclang -fbfloat16-excess-precision=none -Xclang \
    -cl-single-precision-constant -Wno-everything -Werror=uninitialized -Werror=return-type \
    -Werror=array-bounds -Werror=shift-count-overflow";
const RUNTIME_FLAGS: &str = "\
    -xc++ -std=c++17 -O2 -fPIC -fno-exceptions -fno-rtti -fno-builtin -c";

/// Builds the unit for the host: a library to load, or, with checks, a program that runs one job file.
pub(crate) fn host(unit: &str, defines: &[&str], checks: Checks) -> Result<PathBuf> {
    let object = |text, define| {
        let flags = [&words(RUNTIME_FLAGS)[..], &[define]].concat();
        let compile = Compile {
            compiler: "clang",
            flags: &flags,
            unit: Some(text),
            inputs: &[],
            suffix: "o",
        };
        compile.run()
    };
    let (define, sanitize): (_, &[&str]) = match checks {
        Checks::None => ("-DMSL_PLAIN", &[]),
        Checks::Memory => (
            "-DMSL_ASAN",
            &[
                "-fsanitize=address,alignment",
                "-fno-sanitize-recover=all",
                "-gline-tables-only",
                "-DMSL_CHECKED",
            ],
        ),
        Checks::Races => {
            ("-DMSL_RACES", &["-fsanitize=thread", "-gline-tables-only", "-DMSL_CHECKED"])
        }
    };
    let kind: &[&str] = if checks == Checks::None { &["-shared", "-nostdlib++"] } else { &[] };
    let flags =
        [&words(HOST)[..], defines, family(), sanitize, kind, &["-rtlib=compiler-rt", "-lm"]]
            .concat();
    let runtime = object(RUNTIME, define)?;
    let runner = if checks == Checks::None { None } else { Some(object(RUNNER, define)?) };
    let inputs: Vec<&Path> =
        [Some(&runtime), runner.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect();
    let suffix = if checks == Checks::None { "so" } else { "run" };
    Compile { compiler: "clang", flags: &flags, unit: Some(unit), inputs: &inputs, suffix }.run()
}

/// The instructions this processor has for 16-bit floats; the same cache may be seen by another processor.
fn family() -> &'static [&'static str] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
    {
        return &["-march=x86-64-v3"];
    }
    &[]
}

/// A path for a file of this process that is gone when it ends well.
pub(crate) fn scratch_file(suffix: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let cache = cache_dir();
    fs::create_dir_all(&cache).map_err(io(&cache))?;
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    Ok(cache.join(format!("{process}.{count}.{suffix}")))
}
