//! Tests of the CPU kernels for Arm on other processors: built for Linux on Arm, linked without a C compiler, run by qemu.
use crate::process::{cargo, command, std_present, succeeds};
use std::process::Command;

pub(crate) const TARGET: &str = "aarch64-unknown-linux-musl";
const EMULATOR: &str = "qemu-aarch64";

/// On Arm the ordinary tests run these kernels.
const NATIVE: bool = cfg!(target_arch = "aarch64");
/// Other systems have no emulation of single programs.
const EMULATES: bool = cfg!(target_os = "linux") && !NATIVE;

pub(crate) fn has_emulator() -> bool {
    !EMULATES || succeeds(&mut command(EMULATOR, ["--version"]))
}

pub(crate) fn has_std() -> bool {
    !EMULATES || std_present(TARGET)
}

/// What runs the tests, one after the other; nothing on Arm. The error says what is missing.
///
/// Tests of `sample` have no code for one processor, and would take as long as all others; kernels for GPUs are none of the CPU's.
/// Tiny models show that what calls kernels finds them.
pub(crate) fn tests() -> Result<Vec<Command>, String> {
    if NATIVE {
        return Ok(Vec::new());
    }
    if !EMULATES {
        return Err("kernels for Arm, which are emulated on Linux only".to_owned());
    }
    if !has_emulator() {
        return Err("kernels for Arm; try: sudo apt-get install qemu-user".to_owned());
    }
    if !has_std() {
        return Err(format!("kernels for Arm; try: rustup target add {TARGET}"));
    }
    let mut kernels = emulated(&["--package", "hal", "--package", "ops", "--lib"]);
    kernels.args(["--skip", "sample::", "--skip", "cases::gpu::"]);
    kernels.args(["--skip", "checked::", "--skip", "every_compiler"]);
    Ok(vec![kernels, emulated(&["--package", "engine", "--test", "tiny"])])
}

fn emulated(tests: &[&str]) -> Command {
    let mut command = cargo(["test", "--no-fail-fast", "--target", TARGET]);
    command
        .args(["--config", "profile.dev.debug=false"])
        .args(tests)
        .args(["--", "--show-output"])
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld")
        // What calls Apple's library runs too.
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS", "--cfg fake_accelerate")
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER", format!("{EMULATOR} -cpu max"));
    command
}
