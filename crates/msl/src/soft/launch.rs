//! One launch: what Metal would refuse, and how it is run.
use super::child::{self, Region};
use super::{Job, Loaded, SoftOptions, State, length};
use crate::clang::Checks;
use crate::read::Argument;
use hal::{Commands, Launch, Result, Span};

/// Of `MTLDevice` on every Apple GPU that Russet runs on.
const THREADS_MAX: u64 = 1024;
const THREADGROUP_BYTES_MAX: u32 = 32 * 1024;
const BUFFERS_MAX: usize = 31;
/// Of `setBytes`.
const CONSTANTS_BYTES_MAX: usize = 4096;
/// ThreadSanitizer has 255 slots for fibers and misses races beyond them without a word.
const RACE_THREADS_MAX: u64 = 192;

/// The inner error is a reason why the launch can never run.
pub(super) fn check(
    state: &State,
    checks: Checks,
    commands: &Commands,
    launch: &Launch,
) -> Result<std::result::Result<(), String>> {
    let loaded = state.kernels.get(launch.kernel.0)?;
    let spans = commands.spans_of(launch);
    Ok(limits(launch, spans, checks).and_then(|()| arguments(loaded, spans, launch)))
}

fn limits(launch: &Launch, spans: &[Span], checks: Checks) -> std::result::Result<(), String> {
    let threads = launch.block.iter().map(|n| u64::from(*n)).product::<u64>();
    let groups = launch.grid.iter().map(|n| u64::from(*n)).product::<u64>();
    if threads == 0 || threads > THREADS_MAX || groups == 0 {
        return Err(format!(
            "{groups} threadgroups of {threads} threads; 1 to {THREADS_MAX} threads each"
        ));
    }
    if checks == Checks::Races && threads > RACE_THREADS_MAX {
        return Err(format!(
            "races are seen among up to {RACE_THREADS_MAX} threads, here are {threads}"
        ));
    }
    let scratch = launch.scratch_bytes;
    if scratch > THREADGROUP_BYTES_MAX || !scratch.is_multiple_of(16) {
        return Err(format!(
            "{scratch} bytes of threadgroup memory; a multiple of 16 up to {THREADGROUP_BYTES_MAX}"
        ));
    }
    let constants = launch.constants.len();
    if spans.len() + usize::from(constants > 0) > BUFFERS_MAX || constants > CONSTANTS_BYTES_MAX {
        return Err(format!(
            "{} spans and {constants} bytes of constants; {BUFFERS_MAX} buffers and {CONSTANTS_BYTES_MAX} bytes at most",
            spans.len()
        ));
    }
    Ok(())
}

/// Whether the launch passes what the kernel's signature asks for.
fn arguments(loaded: &Loaded, spans: &[Span], launch: &Launch) -> std::result::Result<(), String> {
    let program = loaded.program;
    let name = program.gpu.as_ref().map_or("", |gpu| gpu.entry);
    let wrong = |what: String| Err(format!("kernel {name}: {what}"));
    let (Some(entry), Some(facts)) = (loaded.source.entry(name), loaded.library.facts(name)) else {
        return wrong("it is not in its library".to_owned());
    };
    let buffers = entry.buffers();
    if buffers.len() != spans.len() {
        return wrong(format!(
            "it has {} device pointers, the launch {} spans",
            buffers.len(),
            spans.len()
        ));
    }
    for (i, written) in buffers.iter().enumerate() {
        if *written != (launch.writes >> i & 1 == 1) {
            let (kernel, recorded) =
                if *written { ("writes", "reads") } else { ("reads", "writes") };
            return wrong(format!("it {kernel} buffer {i}, the launch says it {recorded} it only"));
        }
        if !spans[i].offset.is_multiple_of(u64::from(facts.align[i].max(1))) {
            return wrong(format!(
                "buffer {i} begins at byte {}, aligned to less than {} bytes",
                spans[i].offset, facts.align[i]
            ));
        }
    }
    let constants = launch.constants.len();
    match entry.constants_index() {
        Some(index) if index != spans.len() => {
            wrong(format!("its constants are buffer {index}, after {} spans", spans.len()))
        }
        Some(_) if facts.args_bytes != 0 && facts.args_bytes != constants => {
            wrong(format!("its constants have {} bytes, the launch {constants}", facts.args_bytes))
        }
        None if constants > 0 => {
            wrong(format!("it takes no constants, the launch has {constants} bytes"))
        }
        _ => {
            let scratch =
                entry.parameters.iter().any(|p| matches!(p.argument, Argument::Threadgroup { .. }));
            if scratch && launch.scratch_bytes == 0 {
                return wrong("it has threadgroup memory, the launch gives none".to_owned());
            }
            Ok(())
        }
    }
}

/// Runs a launch that was checked. The inner error is a fault of the kernel.
#[expect(unsafe_code, reason = "calls the kernel")]
pub(super) fn run(
    state: &mut State,
    options: SoftOptions,
    commands: &Commands,
    launch: &Launch,
) -> Result<std::result::Result<(), String>> {
    let spans = commands.spans_of(launch);
    let mut pointers = Vec::new();
    for span in spans {
        pointers.push(state.pointer(*span)?);
    }
    let range = launch.constants.start as usize..launch.constants.end as usize;
    let mut constants = commands.constants[range].to_vec();
    let State { kernels, workers, .. } = state;
    let loaded = kernels.get(launch.kernel.0)?;
    let job = Job {
        kernel: loaded.program.gpu.as_ref().map_or("", |gpu| gpu.entry),
        groups: launch.grid,
        group_size: launch.block,
        scratch_bytes: launch.scratch_bytes,
        schedule: options.schedule,
    };
    if let Some(runner) = &loaded.runner {
        let races = options.checks == Checks::Races;
        return in_child((runner, races), &job, spans, &pointers, launch.writes, constants);
    }
    // Constants lie where Metal would put them: aligned for any type.
    let mut aligned = vec![0_u128; constants.len().div_ceil(16)];
    // SAFETY: `aligned` has room for as many bytes; a u128 may have any.
    unsafe {
        aligned
            .as_mut_ptr()
            .cast::<u8>()
            .copy_from_nonoverlapping(constants.as_mut_ptr(), constants.len());
    }
    pointers.push(aligned.as_mut_ptr().cast());
    // SAFETY: `prepare` checked the spans against their buffers and its caller promised that they are what the
    // program asks for; the state is locked, so that nothing else uses the buffers.
    let outcome = unsafe { loaded.library.run(&job, &pointers, workers) };
    Ok(outcome.map_err(|fault| fault.to_string()))
}

/// Spans that overlap share a region, as they share memory here.
#[expect(unsafe_code, reason = "reads and writes checked spans")]
fn in_child(
    (runner, races): (&std::path::Path, bool),
    job: &Job<'_>,
    spans: &[Span],
    pointers: &[*mut u8],
    writes: u32,
    constants: Vec<u8>,
) -> Result<std::result::Result<(), String>> {
    let mut unions: Vec<Span> = Vec::new();
    for span in spans {
        let mut union = *span;
        while let Some(i) = unions.iter().position(|other| other.overlaps(&union)) {
            let other = unions.swap_remove(i);
            let end = (other.offset + other.bytes).max(union.offset + union.bytes);
            union.offset = union.offset.min(other.offset);
            union.bytes = end - union.offset;
        }
        unions.push(union);
    }
    let region_of = |span: &Span| {
        unions
            .iter()
            .position(|union| {
                union.buffer == span.buffer
                    && union.offset <= span.offset
                    && span.offset + span.bytes <= union.offset + union.bytes
            })
            .unwrap_or(0)
    };
    let mut regions: Vec<Region> = unions
        .iter()
        .map(|union| Region { bytes: vec![0; length(union.bytes)], shift: union.offset % 64 })
        .collect();
    let mut buffers = Vec::new();
    for (span, pointer) in spans.iter().zip(pointers) {
        let region = region_of(span);
        let at = span.offset - unions[region].offset;
        let bytes = &mut regions[region].bytes[length(at)..][..length(span.bytes)];
        // SAFETY: the span was checked against its live buffer, which nothing else uses now.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(*pointer, bytes.len()) };
        buffers.push((region, at));
    }
    buffers.push((regions.len(), 0));
    regions.push(Region { bytes: constants, shift: 0 });
    let outcome = child::run(runner, races, job, &mut regions, &buffers);
    let lost = |error: crate::Error| hal::Error::Lost {
        device: "soft".to_owned(),
        reason: error.to_string(),
    };
    let outcome = outcome.map_err(lost)?;
    if outcome.is_ok() {
        let written = |i: usize| writes >> i & 1 == 1;
        for (i, (span, pointer)) in spans.iter().zip(pointers).enumerate() {
            let (region, at) = buffers[i];
            let bytes = &regions[region].bytes[length(at)..][..length(span.bytes)];
            let shared = (0..spans.len()).any(|j| written(j) && spans[j].overlaps(span));
            // SAFETY: as above.
            if !shared && bytes != unsafe { std::slice::from_raw_parts(*pointer, bytes.len()) } {
                let kernel = job.kernel;
                return Ok(Err(format!(
                    "kernel {kernel} writes into buffer {i}, which the launch only reads"
                )));
            }
            if written(i) {
                // SAFETY: as above, and `prepare` checked that the buffer may be written.
                unsafe { pointer.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
            }
        }
    }
    Ok(outcome)
}
