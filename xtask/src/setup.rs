//! `setup`: what the tests need beyond a Rust toolchain, installed where that is possible.
use crate::process::{command, root, run as run_command, std_present, succeeds};
use crate::{arm, darwin, page, python};
use anyhow::Result;
use std::path::Path;

/// One thing the tests need: how to see it and how to get it.
struct Need {
    name: &'static str,
    needed_by: &'static str,
    present: fn() -> bool,
    from: Source,
}

enum Source {
    /// Debian packages (installed when we are root) and Homebrew formulae.
    System { apt: &'static [&'static str], brew: &'static [&'static str] },
    /// Arguments of rustup.
    Rustup(&'static [&'static str]),
}

const NEEDS: &[Need] = &[
    Need {
        name: "git",
        needed_by: "tidy, which reads the tracked files",
        present: || runs("git", &["--version"]),
        from: Source::System { apt: &["git"], brew: &["git"] },
    },
    Need {
        name: "Python with venv",
        needed_by: "the test models and the goldens",
        present: || runs("python3", &["-c", "import venv, ensurepip"]),
        from: Source::System { apt: &["python3", "python3-venv"], brew: &["python"] },
    },
    Need {
        name: "rustfmt",
        needed_by: "the format check",
        present: || runs("cargo", &["fmt", "--version"]),
        from: Source::Rustup(&["component", "add", "rustfmt"]),
    },
    Need {
        name: "clippy",
        needed_by: "the lints",
        present: || runs("cargo", &["clippy", "--version"]),
        from: Source::Rustup(&["component", "add", "clippy"]),
    },
    Need {
        name: "the standard library for aarch64-apple-darwin",
        needed_by: "the cross build for the Mac",
        present: || std_present(darwin::TARGET),
        from: Source::Rustup(&["target", "add", darwin::TARGET]),
    },
    Need {
        name: "the standard library for x86_64-apple-darwin",
        needed_by: "the cross build for Intel Macs",
        present: || std_present(darwin::INTEL),
        from: Source::Rustup(&["target", "add", darwin::INTEL]),
    },
    Need {
        name: "the standard library for aarch64-unknown-linux-musl",
        needed_by: "the tests of kernels for Arm",
        present: arm::has_std,
        from: Source::Rustup(&["target", "add", arm::TARGET]),
    },
    Need {
        name: "qemu-aarch64",
        needed_by: "the tests of kernels for Arm",
        present: arm::has_emulator,
        from: Source::System { apt: &["qemu-user"], brew: &["qemu"] },
    },
    Need {
        name: "clang 19",
        needed_by: "the tests of GPU kernels on the CPU",
        present: has_clang,
        from: Source::System {
            apt: &["clang-19", "lld-19", "llvm-19", "libclang-rt-19-dev"],
            brew: &["llvm@19"],
        },
    },
    Need {
        name: "Chromium",
        needed_by: "the test of the chat page",
        present: page::has_browser,
        from: Source::System { apt: &["chromium-headless-shell"], brew: &["google-chrome"] },
    },
];

/// Installs what is missing. Returns a line for each thing that could not be had.
pub(crate) fn run() -> Result<Vec<String>> {
    let mut skips = Vec::new();
    for need in NEEDS.iter().filter(|need| !(need.present)()) {
        if let Err(hint) = install(&need.from)
            && !(need.present)()
        {
            skips.push(format!("{} is missing, needed by {}: {hint}", need.name, need.needed_by));
        }
    }
    if let Err(error) = python::environment("venv", None) {
        skips.push(format!("no private Python environment: {error:#}"));
    }
    // NVIDIA has no library for the Mac.
    let nvrtc = root().join("xtask/nvrtc.txt");
    if std::env::consts::OS == "linux"
        && let Err(error) = python::environment("nvrtc", Some(&nvrtc))
    {
        skips.push(format!(
            "NVRTC is missing, needed by the compile of GPU kernels for NVIDIA: {error:#}"
        ));
    }
    Ok(skips)
}

/// The error is what the user can type.
fn install(from: &Source) -> Result<(), String> {
    match from {
        Source::Rustup(args) => run_command(&mut command("rustup", *args))
            .map_err(|error| format!("{error:#}; try: rustup {}", args.join(" "))),
        Source::System { apt, brew } => {
            if runs("brew", &["--version"]) {
                return run_command(command("brew", ["install"]).args(*brew))
                    .map_err(|_| format!("try: brew install {}", brew.join(" ")));
            }
            let by_hand = || format!("try: sudo apt-get install {}", apt.join(" "));
            if !runs("apt-get", &["--version"]) || !is_root() {
                return Err(by_hand());
            }
            run_command(&mut command("apt-get", ["update"])).map_err(|_| by_hand())?;
            run_command(
                command("apt-get", ["install", "--yes", "--no-install-recommends"])
                    .args(*apt)
                    .env("DEBIAN_FRONTEND", "noninteractive"),
            )
            .map_err(|_| by_hand())
        }
    }
}

fn runs(program: &str, args: &[&str]) -> bool {
    succeeds(&mut command(program, args))
}

/// With the sanitizers' libraries, which are a package of their own.
fn has_clang() -> bool {
    let library = |clang: &str| {
        let mut ask = command(clang, ["-print-libgcc-file-name", "--rtlib=compiler-rt"]);
        crate::process::output(&mut ask).is_ok_and(|path| Path::new(path.trim()).exists())
    };
    ::msl::clang().is_ok_and(library)
}

fn is_root() -> bool {
    crate::process::output(&mut command("id", ["-u"])).is_ok_and(|id| id.trim() == "0")
}
