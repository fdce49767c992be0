//! The cross build for Apple silicon: the lints of the Mac target, and a link of the whole binary
//! against stubs that list the system symbols it may use.
use crate::process::{cargo, root, run, std_present};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) const TARGET: &str = "aarch64-apple-darwin";

/// One a line: every symbol of the system's library that the binary may use. A name that is not
/// in macOS does not belong here: the list is what makes the link a check.
const SYMBOLS: &str = include_str!("darwin-symbols.txt");

/// Lints and links. On a Mac the ordinary steps did both already.
pub(crate) fn check() -> Result<Vec<String>> {
    if std::env::consts::OS == "macos" {
        return Ok(Vec::new());
    }
    if !std_present(TARGET) {
        return Ok(vec![format!("cross build for the Mac; try: rustup target add {TARGET}")]);
    }
    run(&mut cargo([
        "clippy",
        "--quiet",
        "--package",
        "russet",
        "--target",
        TARGET,
        "--",
        "-D",
        "warnings",
    ]))?;
    link(&write_stubs()?)?;
    Ok(Vec::new())
}

/// Builds without optimization: this is about symbols, and time counts.
fn link(sdk: &Path) -> Result<()> {
    let sdk = sdk.to_str().context("the repository's path is no UTF-8")?;
    let flags = ["-Clinker=rust-lld", "-Clinker-flavor=ld64.lld", "-Clink-arg=-syslibroot"];
    let flags = format!("{}\u{1f}-Clink-arg={sdk}", flags.join("\u{1f}"));
    run(cargo(["build", "--quiet", "--package", "russet", "--target", TARGET])
        .args(["--config", "profile.dev.opt-level=0", "--config", "profile.dev.debug=false"])
        .args(["--config", "profile.dev.package.\"*\".opt-level=0"])
        .args(["--config", "profile.dev.package.ops.opt-level=0"])
        .env("SDKROOT", sdk)
        .env("MACOSX_DEPLOYMENT_TARGET", "14.0")
        .env("CARGO_ENCODED_RUSTFLAGS", flags))
    .context("the link for the Mac failed; a new system symbol belongs in darwin-symbols.txt")
}

/// Writes a stand-in for Apple's SDK: names of symbols and nothing else.
fn write_stubs() -> Result<PathBuf> {
    let sdk = root().join("target/darwin-sdk");
    let lib = sdk.join("usr/lib");
    fs::create_dir_all(&lib)?;
    // The standard library asks for the first three by name and for the last out of habit.
    for (name, install_name) in [
        ("libSystem", "/usr/lib/libSystem.B.dylib"),
        ("libc", "/usr/lib/libSystem.B.dylib"),
        ("libm", "/usr/lib/libSystem.B.dylib"),
        ("libiconv", "/usr/lib/libiconv.2.dylib"),
    ] {
        let symbols: Vec<&str> =
            if name == "libSystem" { SYMBOLS.lines().collect() } else { Vec::new() };
        fs::write(lib.join(format!("{name}.tbd")), stub(install_name, &symbols))?;
    }
    Ok(sdk)
}

/// A text-based stub, version 4, as the linkers of LLVM and Apple read it.
fn stub(install_name: &str, symbols: &[&str]) -> String {
    let exports = if symbols.is_empty() {
        String::new()
    } else {
        let names: Vec<String> = symbols.iter().map(|symbol| format!("'{symbol}'")).collect();
        format!(
            "exports:\n  - targets:         [ arm64-macos ]\n    symbols:         [ {} ]\n",
            names.join(", ")
        )
    };
    format!(
        "--- !tapi-tbd\ntbd-version:     4\ntargets:         [ arm64-macos ]\n\
         install-name:    '{install_name}'\ncurrent-version: 1\ncompatibility-version: 1\n\
         {exports}...\n"
    )
}
