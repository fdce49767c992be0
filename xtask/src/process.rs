//! Running other programs.
use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository's root: the parent of this package.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("."))
}

/// A command in the repository's root.
pub(crate) fn command<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    command
}

/// The cargo that runs this task, so that a toolchain override holds for its children too.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args)
}

/// Builds russet and finds it, wherever the user's target directory is.
pub(crate) fn build_russet(options: &[&str]) -> Result<PathBuf> {
    let mut build = cargo(["build", "--quiet", "--package", "russet"]);
    build.args(options).args(["--message-format", "json-render-diagnostics"]);
    let messages = output(&mut build)?;
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    executables.next_back().context("cargo built no executable")
}

/// Options before cargo's command: for builds that only have to link, or run tiny models.
pub(crate) const QUICK: [&str; 8] = [
    "--config",
    "profile.dev.opt-level=0",
    "--config",
    "profile.dev.debug=false",
    "--config",
    "profile.dev.package.\"*\".opt-level=0",
    "--config",
    "profile.dev.package.ops.opt-level=0",
];

/// Runs it with our own output streams; a failure names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// Runs it and returns its standard output; a failure carries its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed: {}\n{}", output.status, stderr.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} printed no UTF-8"))
}

/// Whether the command starts and succeeds; says nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Whether a standard library for a target is installed.
pub(crate) fn std_present(target: &str) -> bool {
    output(&mut command("rustc", ["--print", "target-libdir", "--target", target]))
        .is_ok_and(|dir| Path::new(dir.trim()).is_dir())
}

/// The user's cache directory of this project.
pub(crate) fn cache_dir() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = match set("XDG_CACHE_HOME") {
        Some(cache) => cache,
        None => {
            let home = set("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?;
            home.join(if std::env::consts::OS == "macos" { "Library/Caches" } else { ".cache" })
        }
    };
    Ok(cache.join("russet"))
}
