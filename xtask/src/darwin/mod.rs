//! The cross build for Macs: the lints of the target, and a link of the whole binary against stubs that list the system's
//! symbols it may use.
use crate::process::{QUICK, cargo, root, run, std_present};
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Apple silicon.
pub(crate) const TARGET: &str = "aarch64-apple-darwin";
/// Macs of before: the binary links and says why it uses their GPU or not.
pub(crate) const INTEL: &str = "x86_64-apple-darwin";

/// The oldest system with the language of our GPU kernels.
const DEPLOYMENT_TARGET: &str = "14.0";

/// A library of the system, where it lies there and in an SDK, and every symbol of it that the binary may use, one a
/// line. A name that is not in macOS does not belong here: the lists are what makes the link a check.
///
/// Classes and selectors of Objective-C are looked up when the binary runs, so that no link sees them.
struct Library {
    stub: &'static str,
    installed: &'static str,
    symbols: &'static str,
    /// What only its Intel half has.
    symbols_intel: &'static str,
}

const LIBRARIES: &[Library] = &[
    Library {
        stub: "usr/lib/libSystem.tbd",
        installed: "/usr/lib/libSystem.B.dylib",
        symbols: include_str!("libSystem.txt"),
        symbols_intel: include_str!("libSystem-x86_64.txt"),
    },
    // The standard library asks for these by name.
    Library {
        stub: "usr/lib/libc.tbd",
        installed: "/usr/lib/libSystem.B.dylib",
        symbols: "",
        symbols_intel: "",
    },
    Library {
        stub: "usr/lib/libm.tbd",
        installed: "/usr/lib/libSystem.B.dylib",
        symbols: "",
        symbols_intel: "",
    },
    Library {
        stub: "usr/lib/libiconv.tbd",
        installed: "/usr/lib/libiconv.2.dylib",
        symbols: "",
        symbols_intel: "",
    },
    Library {
        stub: "usr/lib/libobjc.tbd",
        installed: "/usr/lib/libobjc.A.dylib",
        symbols: include_str!("libobjc.txt"),
        symbols_intel: include_str!("libobjc-x86_64.txt"),
    },
    Library {
        stub: "System/Library/Frameworks/Metal.framework/Metal.tbd",
        installed: "/System/Library/Frameworks/Metal.framework/Versions/A/Metal",
        symbols: include_str!("Metal.txt"),
        symbols_intel: "",
    },
    Library {
        stub: "System/Library/Frameworks/Foundation.framework/Foundation.tbd",
        installed: "/System/Library/Frameworks/Foundation.framework/Versions/C/Foundation",
        symbols: "",
        symbols_intel: "",
    },
    Library {
        stub: "System/Library/Frameworks/CoreFoundation.framework/CoreFoundation.tbd",
        installed: "/System/Library/Frameworks/CoreFoundation.framework/Versions/A/CoreFoundation",
        symbols: "",
        symbols_intel: "",
    },
];

/// Lints and links. On a Mac the ordinary steps did both already.
pub(crate) fn check() -> Result<Vec<String>> {
    if std::env::consts::OS == "macos" {
        return Ok(Vec::new());
    }
    let mut skips = Vec::new();
    for target in [TARGET, INTEL] {
        if !std_present(target) {
            skips.push(format!("cross build for {target}; try: rustup target add {target}"));
            continue;
        }
        if target == TARGET {
            run(cargo(["clippy", "--quiet", "--package", "russet", "--target", target])
                .args(["--", "-D", "warnings"]))?;
        }
        // Without optimization: this is about symbols, and time counts.
        build(target, &QUICK)?;
    }
    Ok(skips)
}

/// Builds the binary for a Mac. On a Mac with its own SDK and linker, elsewhere with the linker that comes with rustup
/// against the stubs.
pub(crate) fn build(target: &str, options: &[&str]) -> Result<()> {
    let mut build = cargo(["build", "--quiet", "--package", "russet", "--target", target]);
    build.args(options).env("MACOSX_DEPLOYMENT_TARGET", DEPLOYMENT_TARGET);
    if std::env::consts::OS != "macos" {
        let sdk = write_stubs()?;
        let sdk = sdk.to_str().context("the repository's path is no UTF-8")?;
        let flags = ["-Clinker=rust-lld", "-Clinker-flavor=ld64.lld", "-Clink-arg=-syslibroot"];
        let flags = format!("{}\u{1f}-Clink-arg={sdk}", flags.join("\u{1f}"));
        build.env("SDKROOT", sdk).env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    run(&mut build)
        .context("the link for the Mac failed; a new system symbol belongs in xtask/src/darwin")
}

/// Writes a stand-in for Apple's SDK: names of symbols and nothing else.
fn write_stubs() -> Result<PathBuf> {
    let sdk = root().join("target/darwin-sdk");
    for library in LIBRARIES {
        let path = sdk.join(library.stub);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("")))?;
        let text = stub(library);
        // Left alone when it is the same, so that cargo does not link anew.
        if fs::read_to_string(&path).is_ok_and(|found| found == text) {
            continue;
        }
        fs::write(path, text)?;
    }
    Ok(sdk)
}

/// A text-based stub, version 4, as the linkers of LLVM and Apple read it.
fn stub(library: &Library) -> String {
    const TARGETS: &str = "[ arm64-macos, x86_64-macos ]";
    let exports = |targets: &str, symbols: &str| {
        let names: Vec<String> = symbols.lines().map(|symbol| format!("'{symbol}'")).collect();
        let names = names.join(", ");
        format!("  - targets:         {targets}\n    symbols:         [ {names} ]\n")
    };
    let mut exported = String::new();
    for (targets, symbols) in
        [(TARGETS, library.symbols), ("[ x86_64-macos ]", library.symbols_intel)]
    {
        if !symbols.is_empty() {
            exported += &exports(targets, symbols);
        }
    }
    let exports = if exported.is_empty() { exported } else { format!("exports:\n{exported}") };
    format!(
        "--- !tapi-tbd\ntbd-version:     4\ntargets:         {TARGETS}\n\
         install-name:    '{}'\ncurrent-version: 1\ncompatibility-version: 1\n\
         {exports}...\n",
        library.installed
    )
}
