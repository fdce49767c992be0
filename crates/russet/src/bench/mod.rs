//! `russet bench`: prompt processing and decode, against limits measured in the same run.
mod chips;
mod measure;
mod plan;
mod plot;
mod report;

use crate::args::{BenchArguments, ModelArguments};
use crate::environment::Environment;
use crate::session::{Session, Watch, say};
use crate::speed::Limits;
use anyhow::bail;
use measure::{Measured, Phase, Test, Tokens};
use report::Report;
use std::io::Write as _;
use std::process::ExitCode;

pub(crate) fn bench(
    arguments: &BenchArguments,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    if let Some(path) = &arguments.plot
        && path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("svg"))
    {
        bail!("{}: plots are SVG, give --plot a name that ends in .svg", path.display());
    }
    if arguments.plan {
        return plan::plan(arguments, environment);
    }
    let tests = tests(arguments);
    if tests.is_empty() {
        bail!("nothing to measure: give --prompt or --decode a number above 0");
    }
    let mut session =
        Session::open(&model_arguments(arguments, &tests), Watch::default(), environment)?;
    let tokens = Tokens::below(session.engine.model().config.vocabulary);
    let mut measured = Vec::new();
    for test in tests {
        say(&format!("measuring {}, {} times", test.name(), arguments.repeat));
        measured.push(Measured::new(&mut session.engine, test, arguments.repeat, &tokens)?);
    }
    let memory_bytes_peak = memory_bytes_peak();
    let logits_hash = measure::logits_hash(&session.engine, &measured, &tokens)?;
    let limits = Limits::measure(session.engine.device().info());
    let report = Report { session: &session, measured, limits, memory_bytes_peak, logits_hash };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        for line in report.json()? {
            writeln!(out, "{line}")?;
        }
    } else {
        write!(out, "{}", report.text())?;
    }
    if let Some(path) = &arguments.plot {
        std::fs::write(path, plot::svg(&report.bars(), &report.title()))
            .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Each prompt and each answer at each depth.
fn tests(arguments: &BenchArguments) -> Vec<Test> {
    let sized = |phase, sizes: &[u32], depth| {
        let sizes: Vec<u32> = sizes.iter().copied().filter(|tokens| *tokens > 0).collect();
        sizes.into_iter().map(move |tokens| Test { phase, tokens, depth })
    };
    let at = |depth: &u32| {
        let prompts = sized(Phase::Prompt, &arguments.prompt, *depth);
        prompts.chain(sized(Phase::Decode, &arguments.decode, *depth)).collect::<Vec<_>>()
    };
    arguments.depth.iter().flat_map(at).collect()
}

fn model_arguments(arguments: &BenchArguments, tests: &[Test]) -> ModelArguments {
    ModelArguments {
        model: arguments.model.clone(),
        ctx: tests.iter().map(Test::context).max(),
        kv: arguments.kv,
        threads: arguments.threads,
        device: arguments.device.clone(),
    }
}

/// The most memory that this process has held at once, mapped file included. None where the system does not tell.
fn memory_bytes_peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
