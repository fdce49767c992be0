//! llama.cpp, built for this machine by its Python package, and `peer.c` linked with it.
use crate::process::{command, output, root, run};
use crate::python;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) program: PathBuf,
    /// The directory that its package is installed in.
    pub(super) site: PathBuf,
    /// Of the package llama-cpp-python.
    pub(super) version: String,
    /// What the library says that it was built with.
    pub(super) features: String,
}

/// Prints the package's version and the directory it is installed in.
const WHERE: &str = "\
import importlib.metadata
package = importlib.metadata.distribution('llama-cpp-python')
print(package.version)
print(package.locate_file(''))
";

/// Processor features by their name in /proc/cpuinfo and in the library's own list: a library without one that the processor
/// has was not built for this machine, and would be too easy to beat.
const FEATURES: &[(&str, &str)] = &[
    ("avx2", "AVX2"),
    ("avx512f", "AVX512"),
    ("avx512_vnni", "AVX512_VNNI"),
    ("avx512_bf16", "AVX512_BF16"),
    ("asimddp", "DOTPROD"),
    ("i8mm", "MATMUL_INT8"),
];

impl Peer {
    /// Installs the package where it is missing, and compiles `peer.c` into `dir`.
    pub(super) fn prepare(python: Option<&Path>, dir: &Path) -> Result<Self> {
        let python = match python {
            Some(python) => python.to_owned(),
            None => {
                println!(
                    "bench: preparing llama.cpp; the first time it is built from source: five minutes or more"
                );
                let requirements = root().join("xtask/golden/requirements.txt");
                python::environment("golden-venv", Some(&requirements))?
            }
        };
        let found = output(&mut command(&python, ["-c", WHERE]))
            .context("the peer's interpreter lacks llama-cpp-python")?;
        let mut lines = found.lines();
        let (Some(version), Some(site)) = (lines.next(), lines.next()) else {
            bail!("{}: unexpected answer {found:?}", python.display());
        };
        let program = compile(Path::new(site), dir)?;
        let features = output(&mut command(&program, ["system"]))?.trim().to_owned();
        refuse_foreign_build(&features)?;
        Ok(Self { program, site: site.into(), version: version.to_owned(), features })
    }

    /// The longest start of `text` that has at most `tokens` tokens in this model.
    pub(super) fn prefix(&self, model: &Path, tokens: u32, text: &str) -> Result<String> {
        let mut ask = command(&self.program, ["prefix"]);
        output(ask.arg(model).arg(tokens.to_string()).arg(text))
    }
}

fn compile(site: &Path, dir: &Path) -> Result<PathBuf> {
    let (libraries, program) = (site.join("llama_cpp/lib"), dir.join("peer"));
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut compile = command(compiler, ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]);
    compile.arg("-I").arg(site.join("include")).arg("-L").arg(&libraries);
    let mut rpath = std::ffi::OsString::from("-Wl,-rpath,");
    rpath.push(&libraries);
    compile.arg("-o").arg(&program).arg("xtask/bench/peer.c").arg("-lllama").arg(rpath);
    run(&mut compile).context("peer.c needs a C compiler (CC, or cc)")?;
    Ok(program)
}

fn refuse_foreign_build(features: &str) -> Result<()> {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let has =
        |name: &str| flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == name));
    let lacks = |name: &str| !features.contains(&format!("{name} = 1"));
    match FEATURES.iter().find(|(flag, name)| has(flag) && lacks(name)) {
        None => Ok(()),
        Some((_, name)) => bail!(
            "llama.cpp was built without {name}, which this processor has; remove target/golden-venv and pip's cache of \
             wheels, and see that SOURCE_DATE_EPOCH is not set"
        ),
    }
}
