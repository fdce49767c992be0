//! The Metal driver on Linux: the real driver, built against crates/fake-metal in place of Apple's frameworks, and its tests.
use crate::process::{QUICK, cargo, output, root, run};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// On a Mac the ordinary tests run the driver, on its own Metal.
pub(crate) const NEEDED: bool = cfg!(target_os = "linux");

/// Why the step cannot run here; None where it can.
pub(crate) fn missing() -> Option<String> {
    msl::clang().err().map(|error| format!("the Metal driver on a fake Metal: {error}"))
}

/// Prepares the build; then lints what only it compiles.
pub(crate) fn lint() -> Result<()> {
    prepare()?;
    let lint = ["clippy", "--quiet", "--package", "hal", "--all-targets", "--", "-D", "warnings"];
    run(&mut in_tree(&lint))
}

/// Of the orders in which the driver's tests run.
pub(crate) const SEEDS: [&str; 3] = ["1", "2", "3"];

/// The tests of the driver.
pub(crate) fn driver_tests(seed: &str) -> Command {
    let mut tests = in_tree(&[
        "test",
        "--package",
        "hal",
        "--lib",
        "--no-fail-fast",
        "--",
        "--show-output",
        "metal::",
        "open::",
    ]);
    tests.env("FAKE_METAL_SEED", seed);
    tests
}

/// Tiny models of several blocks, tokenizers and formats.
const MODELS: &[&str] =
    &["llama-f16", "llama-q4_0", "llama-q4_k", "llama-q8_0", "gemma3", "qwen3", "gpt2", "phi3"];

/// What a fault makes of a run: the environment's word for it, and what the user must read.
const FAULTS: &[(&str, &str)] = &[
    // The first buffer is the file: what cannot be mapped is copied.
    ("alloc:1", "out of memory on metal"),
    ("library:0", "does not compile for metal"),
    ("command-buffer:0:2", "the GPU took too long"),
    ("command-buffer:0:8", "out of memory on metal"),
    ("command-buffer:1:3", "a kernel left its memory"),
];

/// The whole binary on the fake: the tokens of the CPU device, and faults that end a run with a reason and no leak.
pub(crate) fn end_to_end() -> Result<()> {
    run(&mut in_tree(&["build", "--quiet", "--package", "russet"]))?;
    let tiny = |name: &&str| root().join(format!("fixtures/models/tiny/{name}.gguf"));
    for model in MODELS.iter().map(tiny) {
        let on_cpu = answer(&model, "cpu", &[])?;
        let on_metal = answer(&model, "metal", &[])?;
        let (expected, found) = (on_cpu.tokens()?, on_metal.tokens()?);
        on_metal.ran_on("metal")?;
        if expected != found {
            bail!("{}: the CPU answers {expected}, Metal {found}", model.display());
        }
    }
    let Some(model) = MODELS.first().map(tiny) else { return Ok(()) };
    for (fault, reason) in FAULTS {
        let failed = answer(&model, "metal", &[("FAKE_METAL_FAULT", fault)])?;
        // Status 97 would be a leak, none a crash.
        if failed.status != Some(1) || !failed.said.contains(reason) {
            bail!(
                "{fault} ended with {:?} and not with {reason:?}:\n{}",
                failed.status,
                failed.said
            );
        }
    }
    Ok(())
}

/// How a run ended.
struct Answer {
    status: Option<i32>,
    said: String,
    receipt: Option<Value>,
}

impl Answer {
    /// Fails unless the receipt lists kernels, and all of them on that device.
    fn ran_on(&self, device: &str) -> Result<()> {
        let receipt = self.receipt.as_ref().context("no receipt")?;
        let kernels = receipt["kernels"].as_array().context("a receipt without kernels")?;
        let launched = |kernel: &Value| kernel["launches"].as_u64().is_some_and(|n| n > 0);
        let mut launched = kernels.iter().filter(|kernel| launched(kernel)).peekable();
        if launched.peek().is_none() || launched.any(|kernel| kernel["device"] != device) {
            bail!("the receipt names other devices than {device}: {kernels:?}");
        }
        Ok(())
    }

    /// All tokens, of the prompt and of the answer.
    fn tokens(&self) -> Result<&Value> {
        let receipt = self.receipt.as_ref().filter(|_| self.status == Some(0));
        Ok(&receipt.with_context(|| format!("the run failed: {}", self.said))?["tokens"])
    }
}

fn answer(model: &Path, device: &str, environment: &[(&str, &str)]) -> Result<Answer> {
    let receipt = folder().join("receipt.json");
    drop(fs::remove_file(&receipt));
    let mut run = Command::new(folder().join("build/debug/russet"));
    run.args([
        "run",
        "Once upon a time",
        "--raw",
        "--temperature",
        "0",
        "--max-tokens",
        "8",
        "--ctx",
        "64",
        "--device",
        device,
    ])
    .arg("--model")
    .arg(model)
    .arg("--receipt")
    .arg(&receipt)
    .envs(environment.iter().copied())
    .stdin(Stdio::null());
    let output = run.output().with_context(|| format!("{run:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    let receipt = fs::read(&receipt).ok().map(|json| serde_json::from_slice(&json)).transpose()?;
    Ok(Answer { status: output.status.code(), said, receipt })
}

fn folder() -> PathBuf {
    root().join("target/fake-metal")
}

/// Cargo in a copy of the workspace's root, whose lock file may name the patched crate.
fn in_tree(args: &[&str]) -> Command {
    let lib = folder().join("lib");
    let lib = lib.display();
    let flags = [
        "--cfg",
        "fake_metal",
        &format!("-Lnative={lib}"),
        &format!("-Clink-arg=-Wl,-rpath,{lib}"),
    ]
    .join("\u{1f}");
    let mut command = cargo(QUICK);
    command.args(args);
    command
        .current_dir(folder().join("tree"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", folder().join("build"));
    command
}

fn prepare() -> Result<()> {
    patched_crate()?;
    tree()?;
    // Where it is found, whatever target directory the user has.
    let target = root().join("target");
    let mut build = cargo(["build", "--quiet", "--package", "fake-metal"]);
    run(build.env("CARGO_TARGET_DIR", &target))?;
    let lib = folder().join("lib");
    fs::create_dir_all(&lib)?;
    let built = target.join("debug/libfake_metal.so");
    fs::copy(&built, lib.join("libobjc.so")).with_context(|| built.display().to_string())?;
    // Foundation has another name there; one library is both.
    written(&lib.join("libgnustep-base.so"), "INPUT(libobjc.so)\n")
}

/// objc2-metal asks to be linked with a framework, which exists on Apple's systems only: a copy without that line.
fn patched_crate() -> Result<()> {
    let metadata = output(&mut cargo(["metadata", "--format-version=1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let found = packages.iter().find(|package| package["name"] == "objc2-metal");
    let manifest = found.and_then(|package| package["manifest_path"].as_str());
    let from = Path::new(manifest.context("objc2-metal is no dependency")?);
    let from = from.parent().context("a manifest without a folder")?;
    let to = folder().join("objc2-metal");
    copy(from, &to)?;
    let path = to.join("src/generated/mod.rs");
    let line = "#[link(name = \"Metal\", kind = \"framework\")]";
    let text = fs::read_to_string(from.join("src/generated/mod.rs"))?;
    if !text.contains(line) {
        bail!("{} has no line {line}: it changed", path.display());
    }
    written(&path, &text.replace(line, ""))
}

/// Copies what is not the same already, so that cargo sees no change where there is none.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else if !target.exists() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The workspace's root with links to its folders, the patch in its manifest and a lock file of its own.
fn tree() -> Result<()> {
    let tree = folder().join("tree");
    fs::create_dir_all(&tree)?;
    for name in ["crates", "xtask", "fixtures", "clippy.toml", "rustfmt.toml"] {
        let link = tree.join(name);
        if !link.exists() {
            symlink(root().join(name), &link).with_context(|| link.display().to_string())?;
        }
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml"))?;
    let patch = "\n[patch.crates-io]\nobjc2-metal = { path = \"../objc2-metal\" }\n";
    written(&tree.join("Cargo.toml"), &(manifest + patch))?;
    let lock = fs::read_to_string(root().join("Cargo.lock"))?;
    // Cargo adapts the lock file to the patch; it starts anew when ours changes.
    if fs::read_to_string(tree.join("Cargo.lock.from")).is_ok_and(|from| from == lock) {
        return Ok(());
    }
    fs::write(tree.join("Cargo.lock"), &lock)?;
    written(&tree.join("Cargo.lock.from"), &lock)
}

fn written(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}
