//! `tidy`: the rules of the design that a program can check. Each rule returns its complaints,
//! with file and line where there is one.
use crate::process::{cargo, command, output, root};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;

/// Lines of Rust in the repository, tests included.
const RUST_LINES_MAX: usize = 66_000;
/// Lines in one source file.
const FILE_LINES_MAX: usize = 999;
const MARKDOWN: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// Each crate of the workspace and those it may use. Arrows run downward only.
const ARROWS: &[(&str, &[&str])] = &[
    ("russet", &["server", "engine", "model", "ops", "hal"]),
    ("server", &["engine", "model", "ops", "hal"]),
    ("engine", &["model", "ops", "hal"]),
    ("model", &["ops"]),
    ("ops", &["hal"]),
    ("hal", &[]),
    ("msl", &["hal"]),
    ("fake-metal", &["msl", "hal"]),
    ("xtask", &["msl", "hal"]),
];
/// What may only be used by tests, from any crate of the workspace.
const DEV_ONLY: &[&str] = &["msl"];
/// Dependencies that live in some crates only.
const AT_HOME: &[(&str, &[&str])] = &[
    ("anyhow", &["russet", "xtask"]),
    ("clap", &["russet"]),
    ("indicatif", &["russet"]),
    ("tokio", &["server"]),
    ("axum", &["server"]),
];
/// Folders whose code may print.
const MAY_PRINT: &[&str] = &["crates/russet/", "crates/fake-metal/", "xtask/"];
/// Folders whose code may ask which system it is compiled for.
const MAY_ASK_FOR_MAC: &[&str] = &["crates/hal/src/metal/", "crates/hal/src/cpu/apple.rs"];

/// A text file of the repository.
struct Source {
    path: String,
    text: String,
}

/// Fails with every complaint of every rule.
pub(crate) fn run() -> Result<()> {
    let sources = sources()?;
    let metadata = output(&mut cargo(["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    let mut complaints = arrows(&metadata);
    for rule in [sizes, markdown, hosts, prints, mac] {
        complaints.extend(rule(&sources));
    }
    if complaints.is_empty() {
        return Ok(());
    }
    bail!("{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

/// Every file that git tracks or would track, if it is text and still there.
fn sources() -> Result<Vec<Source>> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"];
    let mut sources = Vec::new();
    for path in output(&mut command("git", list))?.split_terminator('\0') {
        match fs::read(root().join(path)) {
            Ok(bytes) => {
                if let Ok(text) = String::from_utf8(bytes) {
                    sources.push(Source { path: path.to_owned(), text });
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
    Ok(sources)
}

/// Which crate may use which, and where some dependencies live.
fn arrows(metadata: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = list(&metadata["packages"]);
    let ours: Vec<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let mut complaints = Vec::new();
    for package in &packages {
        let name = text(&package["name"]);
        let Some((_, allowed)) = ARROWS.iter().find(|(crate_name, _)| *crate_name == name) else {
            complaints.push(format!("crate {name} is not in DESIGN.md, 1 The house"));
            continue;
        };
        for dependency in list(&package["dependencies"]) {
            let used = text(&dependency["name"]);
            let dev = dependency["kind"] == "dev";
            if ours.contains(&used) {
                let fine =
                    allowed.contains(&used.as_str()) || (dev && DEV_ONLY.contains(&used.as_str()));
                if !fine {
                    complaints.push(format!("crate {name} may not use {used}: arrows run down"));
                }
            } else if let Some((_, homes)) =
                AT_HOME.iter().find(|(crate_name, _)| *crate_name == used)
                && !homes.contains(&name.as_str())
            {
                complaints.push(format!("{used} may be used by {homes:?} only, not by {name}"));
            }
        }
    }
    complaints
}

fn sizes(sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut total = 0;
    for source in sources.iter().filter(|source| source.path.ends_with(".rs")) {
        let lines = source.text.lines().count();
        total += lines;
        if lines > FILE_LINES_MAX {
            let path = &source.path;
            complaints.push(format!("{path}: {lines} lines, {FILE_LINES_MAX} at most"));
        }
    }
    if total > RUST_LINES_MAX {
        complaints.push(format!("{total} lines of Rust, {RUST_LINES_MAX} at most"));
    }
    complaints
}

fn markdown(sources: &[Source]) -> Vec<String> {
    sources
        .iter()
        .filter(|source| source.path.ends_with(".md") && !MARKDOWN.contains(&source.path.as_str()))
        .map(|source| format!("{}: the only markdown files are {MARKDOWN:?}", source.path))
        .collect()
}

/// Registries and hubs are reached through their tools' defaults, so that mirrors keep working.
fn hosts(sources: &[Source]) -> Vec<String> {
    // In pieces, so that this file passes.
    let needles: Vec<String> = [
        ("hugging", "face.co"),
        ("hf", ".co/"),
        ("hf-mirror", ".com"),
        ("crates", ".io"),
        ("py", "pi.org"),
        ("python", "hosted.org"),
        ("npm", "js.org"),
        ("npm", "js.com"),
        ("static.rust", "-lang.org"),
        ("deb.debian", ".org"),
        ("proxy.golang", ".org"),
    ]
    .iter()
    .map(|(head, tail)| format!("{head}{tail}"))
    .collect();
    // Cargo writes the name of its registry into lock files.
    let mine = sources.iter().filter(|source| !source.path.ends_with("Cargo.lock"));
    lines(mine)
        .filter_map(|(place, line)| {
            let needle = needles.iter().find(|needle| line.contains(needle.as_str()))?;
            Some(format!("{place}: names the host {needle}"))
        })
        .collect()
}

/// Only the command line tools talk; tests may, to say what they skip.
fn prints(sources: &[Source]) -> Vec<String> {
    let libraries = sources.iter().filter(|source| {
        source.path.ends_with(".rs")
            && !MAY_PRINT.iter().any(|folder| source.path.starts_with(folder))
            && !is_test_file(&source.path)
    });
    libraries
        .flat_map(|source| {
            let code = source.text.lines().enumerate();
            // By custom the test module is the last item of a file.
            code.take_while(|(_, line)| line.trim() != "#[cfg(test)]")
                .filter(|(_, line)| !line.trim_start().starts_with("//"))
                .filter(|(_, line)| line.contains("print!(") || line.contains("println!("))
                .map(|(number, _)| format!("{}:{}: a library prints", source.path, number + 1))
        })
        .collect()
}

fn is_test_file(path: &str) -> bool {
    ["/tests/", "/benches/", "/fuzz/", "/cases/", "/conformance/"]
        .iter()
        .any(|folder| path.contains(folder))
        || path.ends_with("tests.rs")
        || path.ends_with("/cases.rs")
        || path.ends_with("build.rs")
}

/// The tree is the same everywhere, but for the Metal driver.
fn mac(sources: &[Source]) -> Vec<String> {
    let needle = format!("target_os = {:?}", "macos");
    let elsewhere = sources.iter().filter(|source| {
        source.path.ends_with(".rs")
            && !MAY_ASK_FOR_MAC.iter().any(|folder| source.path.starts_with(folder))
    });
    lines(elsewhere)
        .filter(|(_, line)| line.contains(&needle) && !line.trim_start().starts_with("//"))
        .map(|(place, _)| format!("{place}: {needle} outside {MAY_ASK_FOR_MAC:?}"))
        .collect()
}

/// `path:line` and text of every line.
fn lines<'a>(sources: impl Iterator<Item = &'a Source>) -> impl Iterator<Item = (String, &'a str)> {
    sources.flat_map(|source| {
        let numbered = source.text.lines().enumerate();
        numbered.map(|(number, line)| (format!("{}:{}", source.path, number + 1), line))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn source(path: &str, text: &str) -> Vec<Source> {
        vec![Source { path: path.to_owned(), text: text.to_owned() }]
    }

    #[test]
    fn an_upward_arrow_is_refused_and_a_test_only_crate_is_for_tests() {
        let metadata = json!({"packages": [
            {"name": "hal", "dependencies": [{"name": "ops", "kind": null}]},
            {"name": "ops", "dependencies": [
                {"name": "hal", "kind": null}, {"name": "msl", "kind": "dev"}, {"name": "anyhow", "kind": null}]},
            {"name": "msl", "dependencies": []},
            {"name": "model", "dependencies": [{"name": "msl", "kind": null}]},
            {"name": "util", "dependencies": []},
        ]});
        let complaints = arrows(&metadata);
        assert_eq!(complaints.len(), 4, "{complaints:?}");
        assert!(complaints[0].contains("hal may not use ops"));
        assert!(complaints[1].contains("anyhow"));
        assert!(complaints[2].contains("model may not use msl"));
        assert!(complaints[3].contains("util"));
    }

    #[test]
    fn long_files_and_strange_markdown_are_refused() {
        assert_eq!(sizes(&source("a.rs", &"\n".repeat(999))).len(), 0);
        assert_eq!(sizes(&source("a.rs", &"\n".repeat(1000))).len(), 1);
        assert_eq!(sizes(&source("a.rs", &"\n".repeat(RUST_LINES_MAX + 1))).len(), 2);
        assert_eq!(markdown(&source("README.md", "")).len(), 0);
        assert_eq!(markdown(&source("NOTES.md", "")).len(), 1);
    }

    #[test]
    fn host_names_prints_and_system_questions_are_refused_with_their_line() {
        let host = format!("\nsee {}", ["crates", "io"].join("."));
        assert!(hosts(&source("a.toml", &host))[0].starts_with("a.toml:2: "));
        assert!(hosts(&source("Cargo.lock", &host)).is_empty());
        let print = "fn f() {\n    println!(\"x\");\n}\n#[cfg(test)]\n println!(\"y\");\n";
        assert_eq!(prints(&source("crates/hal/src/lib.rs", print)).len(), 1);
        assert!(prints(&source("crates/hal/src/lib.rs", print))[0].contains("lib.rs:2:"));
        assert!(prints(&source("crates/russet/src/main.rs", print)).is_empty());
        let cfg = format!("#[cfg(target_os = {:?})]", "macos");
        assert_eq!(mac(&source("crates/ops/src/lib.rs", &cfg)).len(), 1);
        assert!(mac(&source("crates/hal/src/metal/mod.rs", &cfg)).is_empty());
    }
}
