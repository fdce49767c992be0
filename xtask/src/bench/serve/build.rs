//! llama.cpp's server, built from the sources inside its Python package, on the libraries that the package built.
use crate::bench::peer::Peer;
use crate::process::{command, root, run};
use crate::python;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// No TLS, and no web page, which would be downloaded.
const SETTINGS: [&str; 5] = [
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
];

/// What the server consists of beside the package's libraries, each after what it needs. As `/fast` each is built alone.
const TARGETS: [&str; 9] = [
    "vendor-hash",
    "cpp-httplib",
    "llama-common-base",
    "llama-common",
    "server-context",
    "llama-ui-assets",
    "llama-ui",
    "llama-server-impl",
    "llama-server",
];

/// Downloads and builds what is missing under `target/llama-server`; returns the server.
pub(super) fn build(peer: &Peer) -> Result<PathBuf> {
    let dir = root().join("target/llama-server");
    let (source, build) = (dir.join("source/vendor/llama.cpp"), dir.join("build"));
    let program = build.join("bin/llama-server");
    if program.exists() {
        return Ok(program);
    }
    println!("bench: building llama.cpp's server: five minutes or more");
    let tools = root().join("xtask/bench/requirements.txt");
    let python = python::environment("cmake-venv", Some(&tools))?;
    if !source.exists() {
        unpack(&python, &peer.version, &dir)?;
    }
    let cmake = python.with_file_name("cmake");
    run(command(&cmake, ["-S"]).arg(&source).arg("-B").arg(&build).args(SETTINGS))?;
    fs::create_dir_all(build.join("bin"))?;
    for library in fs::read_dir(peer.site.join("llama_cpp/lib"))? {
        let library = library?;
        fs::copy(library.path(), build.join("bin").join(library.file_name()))?;
    }
    for target in TARGETS {
        let mut make = command(&cmake, ["--build"]);
        run(make.arg(&build).args(["--parallel", "--target", &format!("{target}/fast")]))?;
    }
    Ok(program)
}

/// The package's sources into `dir/source`.
fn unpack(python: &Path, version: &str, dir: &Path) -> Result<()> {
    let mut download = command(python, ["-m", "pip", "download", "--no-deps", "--no-binary"]);
    download.args(["llama-cpp-python", &format!("llama-cpp-python=={version}"), "--dest"]);
    run(download.arg(dir))?;
    let (archive, source) =
        (dir.join(format!("llama_cpp_python-{version}.tar.gz")), dir.join("source"));
    fs::create_dir_all(&source).with_context(|| format!("cannot make {}", source.display()))?;
    let mut tar = command("tar", ["--extract", "--strip-components=1", "--file"]);
    run(tar.arg(archive).arg("--directory").arg(source))
}
