//! `check`: everything, one line a step, the skips last.
use crate::process::{cargo, run as run_command, succeeds};
use crate::{arm, clients, darwin, fake, models, page, setup, tidy};
use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

/// What one step leaves for the end.
#[derive(Default)]
struct Outcome {
    skips: Vec<String>,
    tests: Option<Tests>,
}

impl Outcome {
    fn add(&mut self, step: Self) {
        for skip in step.skips {
            if !self.skips.contains(&skip) {
                self.skips.push(skip);
            }
        }
        if let Some(of_step) = step.tests {
            let tests = self.tests.get_or_insert_default();
            tests.passed += of_step.passed;
            tests.failed += of_step.failed;
            tests.ignored += of_step.ignored;
        }
    }
}

/// Sums of cargo's `test result:` lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tests {
    passed: u64,
    failed: u64,
    ignored: u64,
}

type Step = (&'static str, fn() -> Result<Outcome>);

const STEPS: &[Step] = &[
    ("setup", || listed(setup::run()?)),
    ("models", || listed(models::run()?)),
    ("format", || plain(&["fmt", "--all", "--check"])),
    ("lints", || plain(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])),
    ("tidy", || {
        tidy::run()?;
        Ok(Outcome::default())
    }),
    ("tests", || {
        tests(&mut cargo(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]))
    }),
    ("real models without AVX-512", || {
        if !has_avx512() {
            return Ok(Outcome::default());
        }
        // Of the whole workspace, so that what the tests were built from is not built with other features.
        let models = ["test", "--workspace", "--test", "real", "--", "--show-output"];
        tests(cargo(models).env("RUSSET_CPU_WITHOUT", "avx512vnni"))
    }),
    ("Python clients", || listed(clients::run()?)),
    ("the chat page in a browser", || listed(page::run(&[])?)),
    ("tests of kernels for Arm", || match arm::tests() {
        Ok(commands) => tests_of(commands),
        Err(missing) => listed(vec![missing]),
    }),
    ("the Metal driver on a fake Metal", metal_on_fake),
    ("licences", licences),
    ("cross build for the Mac", || listed(darwin::check()?)),
];

/// Stops at the first step that fails.
pub(crate) fn run() -> Result<()> {
    let start = Instant::now();
    let mut all = Outcome::default();
    let mut failed = None;
    for (name, step) in STEPS {
        let start = Instant::now();
        let result = step();
        let seconds = start.elapsed().as_secs_f64();
        let failures = |tests: &Tests| tests.failed > 0;
        match result {
            Ok(outcome) => {
                let broken = outcome.tests.as_ref().is_some_and(failures);
                let said = match (broken, outcome.skips.len()) {
                    (true, _) => "FAILED".to_owned(),
                    (false, 0) => "ok".to_owned(),
                    (false, skips) => format!("done, {skips} skipped"),
                };
                println!("check: {name}: {said} in {seconds:.1} s");
                all.add(outcome);
                if broken {
                    failed = Some(anyhow::anyhow!("{name} failed"));
                    break;
                }
            }
            Err(error) => {
                println!("check: {name}: FAILED in {seconds:.1} s");
                failed = Some(error.context(format!("{name} failed")));
                break;
            }
        }
    }
    println!("check: {:.1} s in all", start.elapsed().as_secs_f64());
    for skip in &all.skips {
        println!("skipped: {skip}");
    }
    if let Some(tests) = all.tests {
        let skipped = tests.ignored + u64::try_from(all.skips.len())?;
        println!("{} passed, {} failed, {skipped} skipped", tests.passed, tests.failed);
    }
    failed.map_or(Ok(()), Err)
}

/// Whether this processor's tests have run other kernels than those of most x86-64 processors.
#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    std::is_x86_feature_detected!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
const fn has_avx512() -> bool {
    false
}

fn metal_on_fake() -> Result<Outcome> {
    if !fake::NEEDED {
        return Ok(Outcome::default());
    }
    if let Some(missing) = fake::missing() {
        return listed(vec![missing]);
    }
    fake::lint()?;
    let outcome = tests_of(fake::SEEDS.map(fake::driver_tests))?;
    if outcome.tests.as_ref().is_none_or(|tests| tests.failed == 0) {
        fake::end_to_end()?;
    }
    Ok(outcome)
}

/// That step alone.
pub(crate) fn fake() -> Result<()> {
    let outcome = metal_on_fake()?;
    outcome.skips.iter().for_each(|skip| println!("skipped: {skip}"));
    let tests = outcome.tests.context("nothing was tested")?;
    println!("{} passed, {} failed", tests.passed, tests.failed);
    if tests.failed > 0 { bail!("the Metal driver failed") } else { Ok(()) }
}

fn listed(skips: Vec<String>) -> Result<Outcome> {
    Ok(Outcome { skips, tests: None })
}

fn plain(args: &[&str]) -> Result<Outcome> {
    run_command(&mut cargo(args))?;
    Ok(Outcome::default())
}

fn licences() -> Result<Outcome> {
    if !succeeds(&mut cargo(["deny", "--version"])) {
        return listed(vec![
            "licences and duplicates of dependencies; try: cargo install cargo-deny".to_owned(),
        ]);
    }
    plain(&["deny", "check", "licenses", "bans", "sources"])
}

/// Runs several, one after the other.
fn tests_of(commands: impl IntoIterator<Item = Command>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for mut command in commands {
        outcome.add(tests(&mut command)?);
    }
    Ok(outcome)
}

/// Runs `cargo test`. The output of tests that pass is asked for too, because a test that skips says so there; only those
/// lines of it are kept.
fn tests(command: &mut Command) -> Result<Outcome> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let (lines, received) = channel();
    let stdout = forward(child.stdout.take().context("no standard output")?, lines.clone());
    let stderr = forward(child.stderr.take().context("no standard error")?, lines);
    let mut report = Report::default();
    for line in received {
        if report.take(&line) {
            println!("{line}");
        }
    }
    for reader in [stdout, stderr] {
        reader.join().map_err(|_| anyhow::anyhow!("a reader of the tests' output panicked"))??;
    }
    let status = child.wait()?;
    if !status.success() && report.tests.failed == 0 {
        bail!("cargo test: {status}");
    }
    Ok(Outcome { skips: report.skips, tests: Some(report.tests) })
}

fn forward(
    stream: impl Read + Send + 'static,
    lines: Sender<String>,
) -> std::thread::JoinHandle<std::io::Result<()>> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            if lines.send(line).is_err() {
                break;
            }
        }
        Ok(())
    })
}

/// Reads the output of `cargo test -- --show-output` line by line.
#[derive(Default)]
struct Report {
    tests: Tests,
    skips: Vec<String>,
    in_passed_output: bool,
}

impl Report {
    /// Whether the line is worth showing.
    fn take(&mut self, line: &str) -> bool {
        if let Some(reason) = line.trim_start().strip_prefix("SKIPPED: ") {
            let reason = reason.trim_end().to_owned();
            if !self.skips.contains(&reason) {
                self.skips.push(reason);
            }
            return false;
        }
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.in_passed_output = false;
            self.count(counts);
        } else if line == "successes:" {
            self.in_passed_output = true;
        } else if line == "failures:" {
            self.in_passed_output = false;
        }
        !self.in_passed_output
    }

    /// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
    fn count(&mut self, counts: &str) {
        for part in counts.split(['.', ';']) {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => self.tests.passed += number,
                "failed" => self.tests.failed += number,
                "ignored" => self.tests.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Tests};

    #[test]
    fn report_sums_results_and_keeps_only_skips_of_passed_output() {
        let output = "\
running 2 tests
test a ... ok

successes:

---- a stdout ----
chatter
SKIPPED: no clang
successes:
    a

failures:

---- b stdout ----
panicked here

test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.21s
SKIPPED: no clang
SKIPPED: no model
test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s";
        let mut report = Report::default();
        let shown: Vec<&str> = output.lines().filter(|line| report.take(line)).collect();
        assert_eq!(report.tests, Tests { passed: 7, failed: 1, ignored: 2 });
        assert_eq!(report.skips, ["no clang", "no model"]);
        assert!(!shown.contains(&"chatter"));
        assert!(shown.contains(&"panicked here"));
        assert_eq!(shown.iter().filter(|line| line.starts_with("test result")).count(), 2);
    }
}
