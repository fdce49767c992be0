//! Where and with what the numbers were taken.
use super::peer::Peer;
use crate::process::{command, output};
use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;

#[derive(Debug)]
pub(super) struct Machine {
    cpu: String,
    kernel: String,
    date: String,
    russet: String,
    commit: String,
    peer: Option<(String, String)>,
    threads: usize,
    cores: usize,
    /// Processes that wanted to run, averaged over the minute before.
    load: Option<f64>,
}

pub(super) fn facts(russet: &Path, peer: Option<&Peer>, threads: usize) -> Result<Machine> {
    let line = |program: &str, arguments: &[&str]| {
        output(&mut command(program, arguments)).map(|text| text.trim().to_owned())
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Ok(Machine {
        cpu: cpu(),
        kernel: line("uname", &["-srm"])?,
        date: line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])?,
        russet: output(&mut command(russet, ["--version"]))?.trim().to_owned(),
        commit: line("git", &["describe", "--always", "--dirty"]).unwrap_or_default(),
        peer: peer.map(|peer| (peer.version.clone(), peer.features.clone())),
        threads,
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        load: load.split(' ').next().and_then(|load| load.parse().ok()),
    })
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    match named {
        Some((_, name)) => name.trim().to_owned(),
        None => output(&mut command("sysctl", ["-n", "machdep.cpu.brand_string"]))
            .map_or_else(|_| std::env::consts::ARCH.to_owned(), |name| name.trim().to_owned()),
    }
}

impl Machine {
    pub(super) fn sentence(&self) -> String {
        let peer = self.peer.as_ref().map_or(String::new(), |(version, _)| {
            format!(" beside llama.cpp of llama-cpp-python {version}")
        });
        let busy = match self.load {
            Some(load) if load > 0.5 => {
                format!(". Other programs were running (load {load}): do not publish these numbers")
            }
            _ => String::new(),
        };
        format!(
            "{} ({}){peer}, {} threads on {} with {} cores, {}, {}{busy}",
            self.russet, self.commit, self.threads, self.cpu, self.cores, self.kernel, self.date
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "kernel": self.kernel,
            "load_before": self.load,
            "date": self.date,
            "threads": self.threads,
            "russet": self.russet,
            "commit": self.commit,
            "peer": self.peer.as_ref().map(|(version, features)| json!({
                "name": "llama-cpp",
                "llama_cpp_python": version,
                "features": features,
            })),
            "command": std::env::args().collect::<Vec<_>>(),
        })
    }
}
