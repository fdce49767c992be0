//! A launch in a process of its own: a sanitizer cannot be loaded into a running one.
use super::Job;
use crate::clang::{io, scratch_file};
use crate::error::Result;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Memory that the launch sees: its own allocation there, so that an access past its end is found.
#[derive(Debug)]
pub(super) struct Region {
    pub(super) bytes: Vec<u8>,
    /// How far its begin lies after a multiple of 64 on the device.
    pub(super) shift: u64,
}

/// `mem_flags` of a barrier, and the function of runtime/ that allocates the memory they order.
type Kind = (u32, &'static str);
const DEVICE: Kind = (1, "memory_new");
const THREADGROUP: Kind = (2, "threadgroup_new");

/// Runs `job` by `program`; argument i begins at byte `.1` of region `.0`. Regions come back as the kernel left them.
/// The inner error is what the sanitizer or the runtime found.
///
/// Races are looked for twice: a barrier that orders one kind of memory must not hide races in the other, so each run
/// lets only barriers for one kind order anything, and looks at races in that kind.
pub(super) fn run(
    program: &Path,
    races: bool,
    job: &Job<'_>,
    regions: &mut [Region],
    buffers: &[(usize, u64)],
) -> Result<std::result::Result<(), String>> {
    let kinds: &[Kind] = if races { &[THREADGROUP, DEVICE] } else { &[DEVICE] };
    let mut rest = Vec::new();
    for (flags, allocator) in kinds {
        let (output, after) = start(program, &image(job, *flags, regions, buffers))?;
        let report = String::from_utf8_lossy(&output.stderr);
        // With races the kernel still ends, and the status says that there were reports.
        let found = match output.status.code() {
            Some(0) => None,
            Some(REPORTED) if races => races_in(&report, allocator),
            _ => Some(finding(&report)),
        };
        if let Some(found) = found {
            return Ok(Err(format!("kernel {}, {}: {found}", job.kernel, output.status)));
        }
        rest = after;
    }
    for region in regions {
        let after = rest.split_off(region.bytes.len().min(rest.len()));
        region.bytes = std::mem::replace(&mut rest, after);
    }
    Ok(Ok(()))
}

/// Exit status of a sanitizer that has something to say.
const REPORTED: i32 = 66;

/// Runs one job file: what the process said, and what it made of the file.
fn start(program: &Path, job: &[u8]) -> Result<(Output, Vec<u8>)> {
    let path = scratch_file("job")?;
    std::fs::write(&path, job).map_err(io(&path))?;
    let symbolizer =
        ["/usr/bin/llvm-symbolizer-19", "/opt/homebrew/opt/llvm@19/bin/llvm-symbolizer"];
    let symbolizer = symbolizer.iter().find(|path| Path::new(path).exists());
    let symbolizer =
        symbolizer.map_or(String::new(), |path| format!(":external_symbolizer_path={path}"));
    let options = |own: &str| format!("{own}:exitcode={REPORTED}{symbolizer}");
    let output = Command::new(program)
        .arg(&path)
        .env("ASAN_OPTIONS", options("detect_leaks=0"))
        .env("UBSAN_OPTIONS", options("print_stacktrace=1"))
        .env("TSAN_OPTIONS", options("halt_on_error=0"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(io(program))?;
    let after = std::fs::read(&path).map_err(io(&path))?;
    std::fs::remove_file(&path).map_err(io(&path))?;
    Ok((output, after))
}

/// The first race in memory of `allocator`, or in memory that no one allocated.
fn races_in(report: &str, allocator: &str) -> Option<String> {
    let kinds = [DEVICE.1, THREADGROUP.1];
    let this = |race: &&str| {
        let of = |name: &&str| race.contains(&format!(" {name}("));
        race.contains("WARNING: ") && (of(&allocator) || !kinds.iter().any(of))
    };
    report.split("==================").find(this).map(finding)
}

/// The lines of a sanitizer's report that speak of the kernel; all of a report that is none.
fn finding(report: &str) -> String {
    let says = [
        ": ERROR: ",
        "WARNING: ",
        "ERROR: ",
        "runtime error: ",
        " of size ",
        " is located ",
        "Thread T",
    ];
    let mut kept: Vec<&str> = Vec::new();
    for line in report.lines().map(str::trim).filter(|line| !line.starts_with("SUMMARY")) {
        if let Some(frame) = line.strip_prefix('#') {
            // "0 0x55d0 in f k.metal:1:2", "0 f k.metal:1:2 (k.run+0x12)"; the thunk of the kernel stands in "entries".
            let frame =
                frame.split_once(" in ").or(frame.split_once(' ')).map_or(frame, |(_, rest)| rest);
            let frame = frame.split(" (").next().unwrap_or(frame);
            let placed = frame.rsplit(':').take(2).all(|number| number.parse::<u32>().is_ok());
            if placed && !frame.contains("entries:") {
                kept.push(frame);
            }
        } else if says.iter().any(|word| line.contains(word)) {
            let line = line.split(" on address ").next().unwrap_or(line);
            kept.push(line.split(" (tid").next().unwrap_or(line));
        }
    }
    if kept.is_empty() { report.trim().to_owned() } else { kept.join("\n  ") }
}

/// The job file that runtime/runner.cpp reads.
fn image(job: &Job<'_>, synced: u32, regions: &[Region], buffers: &[(usize, u64)]) -> Vec<u8> {
    let mut file = Vec::new();
    let number = |file: &mut Vec<u8>, value: u64| file.extend(value.to_le_bytes());
    number(&mut file, job.kernel.len() as u64);
    file.extend(job.kernel.as_bytes());
    let (order, seed) = job.schedule.order();
    for value in job.groups.iter().chain(&job.group_size).chain(&[job.scratch_bytes, order, synced])
    {
        number(&mut file, u64::from(*value));
    }
    number(&mut file, seed);
    number(&mut file, regions.len() as u64);
    for region in regions {
        number(&mut file, region.bytes.len() as u64);
        number(&mut file, region.shift);
        file.extend(&region.bytes);
    }
    number(&mut file, buffers.len() as u64);
    for (region, offset) in buffers {
        number(&mut file, *region as u64);
        number(&mut file, *offset);
    }
    file
}
