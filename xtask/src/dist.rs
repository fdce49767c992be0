//! `dist`: the binary as it is given away, for this machine and for Macs.
use crate::darwin;
use crate::process::{cargo, command, output, root, run, std_present};
use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::Path;

const HELP: &str = "\
usage: cargo xtask dist [TARGET...]

Builds the binary with optimization and puts it under target/dist/TARGET, with target/dist/SHA256SUMS beside it, which
`shasum --algorithm 256 --check` (Mac) and `sha256sum --check` (Linux) read. Without TARGET it builds for this machine
and for both kinds of Macs: aarch64-apple-darwin and x86_64-apple-darwin.

From Linux, Macs are linked against stubs that name the system symbols the binary uses, for macOS 14 or later. The linker
signs the binary for Apple silicon ad hoc. A Mac keeps a file from the web in quarantine:
  xattr -d com.apple.quarantine russet
";

/// Builds for the targets that `options` names.
pub(crate) fn dist(options: &[String]) -> Result<()> {
    if options.iter().any(|option| matches!(option.as_str(), "--help" | "-h")) {
        print!("{HELP}");
        return Ok(());
    }
    let host = host()?;
    let mut targets: Vec<&str> = options.iter().map(String::as_str).collect();
    if targets.is_empty() {
        targets.push(&host);
        targets
            .extend([darwin::TARGET, darwin::INTEL].into_iter().filter(|target| **target != *host));
    }
    if let Some(missing) = targets.iter().find(|target| !std_present(target)) {
        bail!("no standard library for {missing}; try: rustup target add {missing}");
    }
    let folder = root().join("target/dist");
    let mut sums = String::new();
    for target in targets {
        build(target)?;
        let built = root().join("target").join(target).join("release/russet");
        let kept = folder.join(target).join("russet");
        fs::create_dir_all(folder.join(target))?;
        fs::copy(&built, &kept).with_context(|| built.display().to_string())?;
        let sum = sha256(&kept)?;
        println!("{sum}  {target}/russet, {} bytes", fs::metadata(&kept)?.len());
        sums += &format!("{sum}  {target}/russet\n");
    }
    fs::write(folder.join("SHA256SUMS"), sums)?;
    println!("{}", folder.display());
    Ok(())
}

fn build(target: &str) -> Result<()> {
    if target.ends_with("-apple-darwin") {
        return darwin::build(target, &["--release"]);
    }
    run(&mut cargo(["build", "--quiet", "--release", "--package", "russet", "--target", target]))
}

/// The target of this machine.
fn host() -> Result<String> {
    let said = output(&mut command("rustc", ["--version", "--verbose"]))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not say its host")?.to_owned())
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path)?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_what_sha256sum_prints() {
        let path = std::env::temp_dir().join(format!("russet-dist-{}", std::process::id()));
        fs::write(&path, "abc").unwrap();
        // The first example of FIPS 180-2.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(&path).unwrap(), known);
        fs::remove_file(path).unwrap();
    }
}
