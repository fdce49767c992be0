//! `russet doctor`: what would be used on this machine, and what stands in the way.
use crate::args::DoctorArguments;
use crate::environment::Environment;
use crate::receipt::build;
use crate::speed::Limits;
use crate::store::{Store, ask_hub};
use crate::table::Table;
use hal::{Info, Kind};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

pub(crate) fn doctor(
    arguments: &DoctorArguments,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    let (report, can_run) = report(arguments, environment);
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        for (section, fields) in report.as_object().into_iter().flatten() {
            if fields.is_object() {
                write!(out, "{section}\n{}\n", Table::of_fields(fields))?;
            }
        }
        let problems = report["problems"].as_array().into_iter().flatten();
        for problem in problems.filter_map(Value::as_str) {
            writeln!(out, "problem: {problem}")?;
        }
        let verdict = if can_run { "models can be run" } else { "no device can run a model" };
        writeln!(out, "{verdict}")?;
    }
    Ok(if can_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that was found, and whether a model could be run.
fn report(arguments: &DoctorArguments, environment: &Environment) -> (Value, bool) {
    let rows = hal::probe();
    let chosen = rows.iter().find_map(|row| row.device.as_ref().ok());
    let passed_over: Map<String, Value> = rows
        .iter()
        .take_while(|row| row.device.is_err())
        .filter_map(|row| Some((row.kind.name().to_owned(), json!(row.device.as_ref().err()?))))
        .collect();
    let cpu = hal::cpu::info(None);
    let mut problems = Vec::new();
    if cpu.simd_width < 8 && cfg!(target_arch = "x86_64") {
        problems.push("this processor has no AVX2: answers will be slow".to_owned());
    }
    if cfg!(debug_assertions) {
        problems.push("this is a build for development: `cargo build --release`".to_owned());
    }
    let memory = memory(&cpu);
    let store = store(environment, &mut problems);
    let report = json!({
        "build": build(),
        "device": {
            "auto": chosen.map_or("none", |info| info.kind.name()),
            "name": chosen.map(|info| &info.name),
            "system": chosen.map(|info| &info.system).filter(|system| !system.is_empty()),
            "passed_over": passed_over,
        },
        "cpu": processor(&cpu),
        "kernels": chosen.map(kernels),
        "memory": memory,
        "store": store,
        "python": python(&environment.sources.python),
        "hub": hub(arguments.online, environment, &mut problems),
        "measured": arguments.measure.then(|| measured(&cpu)),
        "problems": problems,
        "can_run": chosen.is_some(),
    });
    (report, chosen.is_some())
}

fn kernels(info: &Info) -> Value {
    match info.kind {
        Kind::Cpu => ops::kernels_chosen(info)
            .into_iter()
            .map(|(kernel, family)| (kernel.to_owned(), Value::from(family.name())))
            .collect::<Map<_, _>>()
            .into(),
        _ => Value::Null,
    }
}

/// The processor, and how much of it this process may use.
fn processor(info: &Info) -> Value {
    json!({
        "name": info.name,
        "threads": info.threads,
        "threads_why": info.threads_why,
        "threads_online": first_line("/sys/devices/system/cpu/online"),
        "cgroup_limit": cgroup(&["cpu.max", "cpu/cpu.cfs_quota_us"]).unwrap_or_else(unlimited),
        "simd_lanes": info.simd_width,
        "features": info.features,
    })
}

fn memory(info: &Info) -> Value {
    json!({
        "total_bytes": info.memory_bytes,
        "free_bytes": hal::cpu::memory_bytes_free(),
        "cgroup_limit": cgroup(&["memory.max", "memory/memory.limit_in_bytes"]).unwrap_or_else(unlimited),
        "huge_pages": first_line("/sys/kernel/mm/transparent_hugepage/enabled").as_deref().map(selected),
        "huge_pages_reserved": first_line("/proc/sys/vm/nr_hugepages"),
    })
}

/// What the system's control groups say: the first of these files that exists (version 2, then version 1), where it sets
/// a limit.
fn cgroup(files: &[&str]) -> Option<String> {
    let limit = files.iter().find_map(|file| first_line(&format!("/sys/fs/cgroup/{file}")))?;
    is_limit(&limit).then_some(limit)
}

/// Version 2 says `max` for no limit; version 1 says -1 microseconds, or all pages that 63 bits can count.
fn is_limit(text: &str) -> bool {
    let unlimited = text.split(' ').next() == Some("max") || text.starts_with('-');
    !unlimited && text.parse::<u64>().map_or(true, |limit| limit < 1 << 62)
}

fn unlimited() -> String {
    "none".to_owned()
}

fn first_line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.lines().next()?.trim().to_owned())
}

/// The word in brackets: `always [madvise] never`.
fn selected(choices: &str) -> &str {
    let word = choices.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    word.map_or(choices, |(word, _)| word)
}

/// The store and its models. Makes nothing.
fn store(environment: &Environment, problems: &mut Vec<String>) -> Value {
    let Some(root) = &environment.store_root else {
        problems.push("no place for models: set RUSSET_HOME to a directory".to_owned());
        return Value::Null;
    };
    let path = root.display().to_string();
    if !root.exists() {
        return json!({ "path": path, "models": [], "note": "made by the first `russet pull`" });
    }
    let opened = Store::open(root).and_then(|store| Ok((store.list()?, store)));
    match opened {
        Err(error) => {
            problems.push(format!("the store cannot be used: {error}"));
            json!({ "path": path, "models": null })
        }
        Ok((entries, store)) => {
            for entry in &entries {
                if !store.path_of(entry).exists() {
                    let (name, path) = (&entry.name, store.path_of(entry));
                    problems.push(format!("the file of {name} is gone: {}", path.display()));
                }
            }
            let names: Vec<&String> = entries.iter().map(|entry| &entry.name).collect();
            json!({ "path": path, "models": names })
        }
    }
}

/// Python and pip: one of the sources of known models.
fn python(program: &Path) -> Value {
    json!({
        "command": program.display().to_string(),
        "python": version(program, &["--version"]),
        "pip": version(program, &["-m", "pip", "--version"]),
    })
}

/// What a program says about its version, or why it does not.
fn version(program: &Path, arguments: &[&str]) -> String {
    match Command::new(program).args(arguments).stdin(Stdio::null()).output() {
        Err(error) => format!("not available: {error}"),
        Ok(output) => {
            let text = if output.status.success() { &output.stdout } else { &output.stderr };
            let text = String::from_utf8_lossy(text);
            let line = text.lines().next().unwrap_or_default().trim().to_owned();
            if output.status.success() { line } else { format!("not available: {line}") }
        }
    }
}

fn hub(online: bool, environment: &Environment, problems: &mut Vec<String>) -> Value {
    if !online {
        return json!({ "asked": false, "note": "--online asks it" });
    }
    match ask_hub(&environment.sources) {
        Ok((host, time)) => {
            json!({ "asked": true, "answers": true, "host": host, "time_ms": time.as_millis() })
        }
        Err(error) => {
            problems.push(format!("the hub cannot be used: {error}"));
            json!({ "asked": true, "answers": false, "why_not": error.to_string() })
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and whole")]
fn measured(info: &Info) -> Value {
    let limits = Limits::measure(info);
    json!({
        "threads": info.threads,
        "read_bytes_per_second": limits.read_bytes_per_second.map(|rate| rate as u64),
        "int8_ops_per_second": limits.int8_ops_per_second.map(|rate| rate as u64),
    })
}

#[cfg(test)]
mod tests {
    use super::{is_limit, selected};

    #[test]
    fn both_versions_of_control_groups_have_a_way_to_say_unlimited() {
        for text in ["max", "max 100000", "-1", "9223372036854771712"] {
            assert!(!is_limit(text), "{text}");
        }
        for text in ["200000 100000", "4294967296"] {
            assert!(is_limit(text), "{text}");
        }
    }

    #[test]
    fn the_chosen_word_stands_in_brackets() {
        assert_eq!(selected("always [madvise] never"), "madvise");
        assert_eq!(selected("unknown"), "unknown");
    }
}
