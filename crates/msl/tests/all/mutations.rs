//! Faults put into correct kernels: each must be caught, and the table says by what.
use crate::launch::*;
use hal::Text;
use msl::{Checks, Schedule, SoftOptions};

const BARRIER: &str = "threadgroup_barrier(mem_flags::mem_threadgroup);";
const WEAK: &str = "threadgroup_barrier(mem_flags::mem_none);";

/// What finds a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// A wrong number under this schedule.
    Schedule(Schedule),
    /// The runtime, by a message with these words.
    Runtime(&'static str),
    /// AddressSanitizer or UBSan, by a report with these words.
    Memory(&'static str),
    /// ThreadSanitizer.
    Races,
}

struct Mutation {
    what: &'static str,
    make: fn(Text) -> Expected,
    text: Text,
    by: &'static [By],
}

fn small_rms_norm(text: Text) -> Expected {
    rms_norm(text, 2, 70, 64)
}

fn small_softmax(text: Text) -> Expected {
    softmax(text, 2, 70, 64)
}

fn small_mat_vec(text: Text) -> Expected {
    mat_vec(text, 6, 64, false)
}

/// The n-th occurrence replaced, from 0.
fn nth(text: Text, n: usize, from: &str, to: &str) -> Text {
    let parts: Vec<&str> = text.text.split(from).collect();
    assert!(parts.len() > n + 1, "{}: {from}", text.file);
    let text_of = |parts: &[&str]| parts.join(from);
    let made = text_of(&parts[..=n]) + to + &text_of(&parts[n + 1..]);
    Text { file: text.file, text: made.leak() }
}

const REVERSE: By = By::Schedule(Schedule::Reverse);
const FORWARD: By = By::Schedule(Schedule::Forward);

fn m(what: &'static str, make: fn(Text) -> Expected, text: Text, by: &'static [By]) -> Mutation {
    Mutation { what, make, text, by }
}

/// Barriers that are gone, or order no memory.
fn barriers() -> Vec<Mutation> {
    use By::Races;
    let removed = |text, n| nth(text, n, BARRIER, "");
    let weakened = |text, n| nth(text, n, BARRIER, WEAK);
    vec![
        m(
            "rms_norm: barrier removed",
            small_rms_norm,
            removed(RMS_NORM, 0),
            &[FORWARD, REVERSE, Races],
        ),
        m(
            "softmax: barrier 1 removed",
            small_softmax,
            removed(SOFTMAX, 0),
            &[FORWARD, REVERSE, Races],
        ),
        m("softmax: barrier 2 removed", small_softmax, removed(SOFTMAX, 1), &[Races]),
        m("softmax: barrier 3 removed", small_softmax, removed(SOFTMAX, 2), &[FORWARD, Races]),
        m("rms_norm: barrier weakened", small_rms_norm, weakened(RMS_NORM, 0), &[Races]),
        m("softmax: barrier 1 weakened", small_softmax, weakened(SOFTMAX, 0), &[Races]),
        m("softmax: barrier 2 weakened", small_softmax, weakened(SOFTMAX, 1), &[Races]),
        m("softmax: barrier 3 weakened", small_softmax, weakened(SOFTMAX, 2), &[Races]),
        m(
            "rms_norm: barrier of the wrong memory",
            small_rms_norm,
            changed(RMS_NORM, "mem_threadgroup", "mem_device"),
            &[Races],
        ),
        m(
            "neighbours: barrier removed",
            neighbours,
            changed(NEIGHBOURS, "threadgroup_barrier(mem_flags::mem_device);", ""),
            &[FORWARD, Races],
        ),
        m(
            "neighbours: barrier of the wrong memory",
            neighbours,
            changed(NEIGHBOURS, "mem_device", "mem_threadgroup"),
            &[Races],
        ),
    ]
}

/// Accesses to the wrong place, or by the wrong lane.
fn accesses() -> Vec<Mutation> {
    use By::{Memory, Races};
    vec![
        m(
            "rms_norm: reads one past the row",
            small_rms_norm,
            changed(
                RMS_NORM,
                "for (uint i = thread_index; i < n;",
                "for (uint i = thread_index; i <= n;",
            ),
            &[FORWARD, Memory("heap-buffer-overflow")],
        ),
        m(
            "softmax: reads one past the array",
            small_softmax,
            nth(SOFTMAX, 0, "partial[lane]", "partial[lane + 31]"),
            &[Memory("heap-buffer-overflow")],
        ),
        m(
            "mat_vec: no bounds check",
            small_mat_vec,
            changed(MAT_VEC, "row >= args.rows", "false"),
            &[Memory("heap-buffer-overflow")],
        ),
        m(
            "rms_norm: stores into its input",
            small_rms_norm,
            changed(
                RMS_NORM,
                "y[row * n + i] = own[i]",
                "((device float*)x)[0] = y[row * n + i] = own[i]",
            ),
            &[Memory("writes into buffer 0")],
        ),
        m(
            "rms_norm: another lane stores",
            small_rms_norm,
            changed(RMS_NORM, "if (lane == 0) {", "if (lane < 2) {"),
            &[Races],
        ),
        m(
            "mat_vec: every lane stores",
            small_mat_vec,
            changed(MAT_VEC, "if (lane == 0) {", "if (lane < 32) {"),
            &[Races],
        ),
        m(
            "mat_vec: a load wider than its alignment",
            small_mat_vec,
            changed(
                MAT_VEC,
                "uchar4(block.codes[4 * i], block.codes[4 * i + 1], block.codes[4 * i + 2], block.codes[4 * i + 3])",
                "*((device const uchar4*)(block.codes) + i)",
            ),
            &[Memory("misaligned")],
        ),
    ]
}

/// Lanes that do not do the same.
fn divergence() -> Vec<Mutation> {
    use By::Runtime;
    vec![
        m(
            "softmax: barrier in a branch",
            small_softmax,
            nth(
                SOFTMAX,
                0,
                BARRIER,
                "if (thread_index < 40) { threadgroup_barrier(mem_flags::mem_threadgroup); }",
            ),
            &[Runtime("divergence: thread")],
        ),
        m(
            "rms_norm: simd_sum in a branch",
            small_rms_norm,
            changed(RMS_NORM, "sum = simd_sum(sum);", "if (lane < 9) { sum = simd_sum(sum); }"),
            &[Runtime(
                "waits in a SIMD-group operation at crates/msl/tests/kernels/rms_norm.metal:23",
            )],
        ),
        m(
            "rms_norm: half of the group returns",
            small_rms_norm,
            changed(RMS_NORM, "float sum = 0.0f;", "if (simd == 1) { return; } float sum = 0.0f;"),
            &[Runtime("waits at a threadgroup barrier")],
        ),
        m(
            "mat_vec: shuffles from lane 40",
            small_mat_vec,
            changed(MAT_VEC, "sum = simd_sum(sum);", "sum = simd_shuffle(sum, 40);"),
            &[Runtime("a lane that does not exist at crates/msl/tests/kernels/mat_vec.metal:38")],
        ),
    ]
}

fn caught(mutant: &Expected, by: By) -> Result<(), String> {
    let (checks, schedule) = match by {
        By::Schedule(schedule) => (Checks::None, schedule),
        By::Runtime(_) => (Checks::None, Schedule::Forward),
        By::Memory(_) => (Checks::Memory, Schedule::Forward),
        By::Races => (Checks::Races, Schedule::Forward),
    };
    let Err(found) = mutant.check(SoftOptions { schedule, checks }) else {
        return Err("nothing was found".to_owned());
    };
    let words = match by {
        By::Schedule(_) => "expected",
        By::Runtime(words) | By::Memory(words) => words,
        By::Races => "ThreadSanitizer: data race",
    };
    // A sanitizer names the line of the kernel; a write into an input is only seen afterwards.
    let named = matches!(by, By::Schedule(_) | By::Memory("writes into buffer 0"))
        || found.contains(".metal:");
    if found.contains(words) && named { Ok(()) } else { Err(found) }
}

#[test]
fn every_mutation_is_caught() {
    if !can_run() {
        return;
    }
    let all: Vec<Mutation> = barriers().into_iter().chain(accesses()).chain(divergence()).collect();
    let escapes = |mutation: &Mutation| -> Vec<String> {
        let mutant = (mutation.make)(mutation.text);
        let found = mutation.by.iter().map(|by| caught(&mutant, *by).map_err(|found| (by, found)));
        let escaped = found.filter_map(Result::err);
        escaped.map(|(by, found)| format!("{} escaped {by:?}: {found}", mutation.what)).collect()
    };
    // Most of the time is clang's.
    let (first, second) = all.split_at(all.len() / 2);
    let escaped: Vec<String> = std::thread::scope(|scope| {
        let other = scope.spawn(|| second.iter().flat_map(escapes).collect::<Vec<_>>());
        let own: Vec<_> = first.iter().flat_map(escapes).collect();
        own.into_iter().chain(other.join().unwrap()).collect()
    });
    assert!(escaped.is_empty(), "{}", escaped.join("\n\n"));
}

/// The same checks find nothing in the kernels as they are.
#[test]
fn correct_kernels_pass_every_check() {
    if !can_run() {
        return;
    }
    let good = [
        neighbours(NEIGHBOURS),
        small_rms_norm(RMS_NORM),
        small_softmax(SOFTMAX),
        small_mat_vec(MAT_VEC),
    ];
    for kernel in &good {
        for schedule in SCHEDULES {
            kernel.check(plain(schedule)).unwrap();
            kernel.check(SoftOptions { schedule, checks: Checks::Memory }).unwrap();
        }
        kernel.check(SoftOptions { schedule: Schedule::Random(3), checks: Checks::Races }).unwrap();
    }
}
