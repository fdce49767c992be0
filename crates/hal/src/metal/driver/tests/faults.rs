//! Faults that only a fake has on demand: each in a process of its own, which fails when anything leaks.
use super::*;
use std::process::{Command, Output};

/// None in the child that this starts: it goes on with the body of its test. In the parent, how the child ended.
#[expect(clippy::disallowed_methods, reason = "children know by their environment what they are")]
pub(super) fn parent(test: &str, settings: &[(&str, &str)]) -> Option<Output> {
    const CHILD: &str = "FAKE_METAL_CHILD";
    if std::env::var(CHILD).is_ok_and(|child| child == test) {
        return None;
    }
    let name = format!("metal::driver::tests::{test}");
    let settings = settings.iter().map(|(name, value)| (format!("FAKE_METAL_{name}"), value));
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &name, "--nocapture"]).env(CHILD, test).envs(settings);
    let output = child.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("running 1 test"), "{name} is no test:\n{stdout}");
    Some(output)
}

fn succeeded(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    stderr
}

/// A device, a kernel, and memory with known contents.
fn ready() -> (Arc<dyn Device>, Commands, Span) {
    let device = metal().unwrap();
    let kernel = device.load(&ADD).unwrap();
    let (x, y) = (filled(&*device, &[3; 40]), filled(&*device, &[4; 40]));
    (device, launch(kernel, x, y), y)
}

#[test]
fn memory_that_metal_does_not_give_is_an_error() {
    let Some(output) =
        parent("faults::memory_that_metal_does_not_give_is_an_error", &[("FAULT", "alloc:2")])
    else {
        let (device, commands, y) = ready();
        let error = device.alloc(Memory::Bytes(100)).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { needed: 100, .. }), "{error}");
        device.alloc(Memory::Bytes(100)).unwrap();
        run(&*device, &commands).unwrap();
        return assert_eq!(words(&*device, y), [7; 40]);
    };
    succeeded(&output);
}

#[test]
fn a_mapping_that_metal_refuses_is_copied() {
    let Some(output) =
        parent("faults::a_mapping_that_metal_refuses_is_copied", &[("FAULT", "alloc:0")])
    else {
        let device = metal().unwrap();
        let mapping = Shifted::new(&[5; 40_000], 0);
        let buffer = device.alloc(Memory::Mapped(Arc::clone(&mapping) as _)).unwrap();
        assert_eq!(Arc::strong_count(&mapping), 1);
        return assert_eq!(bytes(&*device, Span { buffer, offset: 39_990, bytes: 10 }), [5; 10]);
    };
    succeeded(&output);
}

#[test]
fn the_working_set_is_a_budget() {
    let Some(output) = parent("faults::the_working_set_is_a_budget", &[("MEMORY", "100000")])
    else {
        let device = metal().unwrap();
        let first = device.alloc(Memory::Bytes(60_000)).unwrap();
        let second = metal().unwrap();
        for device in [&device, &second] {
            match device.alloc(Memory::Bytes(60_000)) {
                Err(Error::OutOfMemory { device, needed, free }) => {
                    assert_eq!((&*device, needed, free), ("metal", 60_000, 40_000));
                }
                other => panic!("{other:?}"),
            }
        }
        device.free(Handle::Buffer(first));
        second.alloc(Memory::Bytes(90_000)).unwrap();
        return;
    };
    succeeded(&output);
}

#[test]
fn a_mapping_longer_than_a_buffer_is_seen_in_windows() {
    let Some(output) =
        parent("faults::a_mapping_longer_than_a_buffer_is_seen_in_windows", &[("BUFFER", "33000")])
    else {
        let (device, _, _) = ready();
        let contents: Vec<u8> = (0..30_000_u32).flat_map(u32::to_le_bytes).collect();
        let buffer = device.alloc(Memory::Mapped(Shifted::new(&contents, 0))).unwrap();
        let mapped = Span { buffer, offset: 0, bytes: 120_000 };
        let kernel = device.load(&ADD).unwrap();
        let mut commands = Commands::default();
        let at = [0, 8000, 20_000, 29_900];
        let targets = at.map(|_| filled(&*device, &[1; 100]));
        for (first, y) in at.into_iter().zip(targets) {
            push(&mut commands, kernel, mapped.part(first * 4, 400), y);
        }
        run(&*device, &commands).unwrap();
        for (first, y) in at.into_iter().zip(targets) {
            let expected: Vec<u64> = (first + 1..first + 101).collect();
            assert_eq!(words(&*device, y).into_iter().map(u64::from).collect::<Vec<_>>(), expected);
        }
        let y = filled(&*device, &[0; 4]);
        let error = prepare(&*device, &launch(kernel, mapped.part(4, 32_800), y)).unwrap_err();
        assert!(error.to_string().contains("a span of 32800 bytes (at most 32768)"), "{error}");
        let error = device.alloc(Memory::Bytes(40_000)).unwrap_err();
        return assert!(
            error.to_string().contains("a buffer of 40000 bytes (at most 32768)"),
            "{error}"
        );
    };
    succeeded(&output);
}

#[test]
fn a_kernel_that_metal_cannot_make_is_an_error() {
    for fault in ["library:0", "pipeline:0"] {
        let test = "faults::a_kernel_that_metal_cannot_make_is_an_error";
        let Some(output) = parent(test, &[("FAULT", fault)]) else {
            let device = metal().unwrap();
            let error = device.load(&ADD).unwrap_err();
            assert!(error.to_string().to_lowercase().contains("internal error"), "{error}");
            let (x, y) = (filled(&*device, &[3; 40]), filled(&*device, &[4; 40]));
            run(&*device, &launch(device.load(&ADD).unwrap(), x, y)).unwrap();
            return assert_eq!(words(&*device, y), [7; 40]);
        };
        succeeded(&output);
    }
}

#[test]
fn work_that_fails_says_why_and_the_next_works() {
    let cases = [
        ("1", "is no reason"),
        ("2", "took too long"),
        ("3", "left its memory"),
        ("7", "lets this process not use the GPU"),
        ("8", "out of memory"),
        ("12", "stack overflowed"),
    ];
    for (code, reason) in cases {
        let fault = format!("command-buffer:1:{code}");
        let test = "faults::work_that_fails_says_why_and_the_next_works";
        let Some(output) = parent(test, &[("FAULT", &fault)]) else {
            return failing(false);
        };
        let said = succeeded(&output);
        assert!(reason == "is no reason" || said.contains(reason), "{said}");
    }
}

#[test]
fn a_device_that_is_gone_stays_gone() {
    for code in ["4", "11"] {
        let fault = format!("command-buffer:1:{code}");
        let Some(output) = parent("faults::a_device_that_is_gone_stays_gone", &[("FAULT", &fault)])
        else {
            return failing(true);
        };
        succeeded(&output);
    }
}

/// The second command buffer fails while the third is under way.
fn failing(lost: bool) {
    let (device, commands, y) = ready();
    let prepared = prepare(&*device, &commands).unwrap();
    let fences = [0, 1, 2].map(|_| device.submit(prepared, Timing::Off).unwrap());
    device.wait(fences[0]).unwrap();
    let error = device.wait(fences[1]).unwrap_err();
    eprintln!("{error}");
    let of_kind = match &error {
        Error::OutOfMemory { needed, .. } => *needed == 320,
        Error::Lost { .. } => lost,
        Error::Failed { .. } => !lost,
        _ => false,
    };
    assert!(of_kind, "{error:?}");
    assert!(device.read(y, &mut [0; 4]).is_err(), "what follows failed work is void");
    let after = device.wait(fences[2]).unwrap_err();
    assert!(after.to_string().contains("from the results of work that failed"), "{after}");
    if lost {
        return assert!(matches!(device.submit(prepared, Timing::Off), Err(Error::Lost { .. })));
    }
    device.write(y, &[0; 160]).unwrap();
    device.wait(device.submit(prepared, Timing::Off).unwrap()).unwrap();
    assert_eq!(words(&*device, y), [3; 40]);
    // One alone, then two that were waited for; what failed is in no receipt. The third ran, on void data.
    assert_eq!(row(&*device, "add").launches, 3);
}

#[test]
fn a_read_finds_out_by_itself() {
    let test = "faults::a_read_finds_out_by_itself";
    let Some(output) = parent(test, &[("FAULT", "command-buffer:0:3")]) else {
        let (device, commands, y) = ready();
        device.submit(prepare(&*device, &commands).unwrap(), Timing::Off).unwrap();
        for _ in 0..2 {
            assert!(matches!(device.read(y, &mut [0; 4]), Err(Error::Failed { .. })));
        }
        return;
    };
    succeeded(&output);
}

#[test]
fn memory_that_work_still_uses_is_waited_for_when_it_is_needed() {
    let test = "faults::memory_that_work_still_uses_is_waited_for_when_it_is_needed";
    let Some(output) = parent(test, &[("MEMORY", "100000")]) else {
        let device = metal().unwrap();
        let (x, y) = (filled(&*device, &[3; 10_000]), filled(&*device, &[4; 10_000]));
        let prepared = prepare(&*device, &launch(device.load(&ADD).unwrap(), x, y)).unwrap();
        device.submit(prepared, Timing::Off).unwrap();
        device.free(Handle::Buffer(x.buffer));
        device.alloc(Memory::Bytes(50_000)).unwrap();
        return assert_eq!(words(&*device, y), [7; 10_000]);
    };
    succeeded(&output);
}

#[test]
fn a_timed_launch_that_fails_is_an_error_too() {
    let Some(output) = parent(
        "faults::a_timed_launch_that_fails_is_an_error_too",
        &[("FAULT", "command-buffer:0:3")],
    ) else {
        let (device, commands, _) = ready();
        let prepared = prepare(&*device, &commands).unwrap();
        let fence = device.submit(prepared, Timing::PerKernel).unwrap();
        assert!(matches!(device.wait(fence), Err(Error::Failed { .. })));
        device.wait(device.submit(prepared, Timing::PerKernel).unwrap()).unwrap();
        return assert_eq!(row(&*device, "add").timed_launches, 1);
    };
    succeeded(&output);
}

#[test]
fn gpus_that_kernels_cannot_use_are_refused_with_the_reason() {
    let cases = [
        ("UNIFIED", "0", "memory of its own"),
        ("FAMILY", "0", "no family from Apple7"),
        ("FAMILY", "1006", "no family from Apple7"),
        ("MACOS", "13", "macOS 14 or later"),
        ("NONE", "1", "no Metal device"),
    ];
    for (name, value, reason) in cases {
        let test = "faults::gpus_that_kernels_cannot_use_are_refused_with_the_reason";
        let Some(output) = parent(test, &[(name, value)]) else {
            let options = crate::OpenOptions::default();
            eprintln!("{:?}", crate::open("metal", &options).unwrap_err());
            let auto = crate::open("auto", &options).unwrap();
            assert_eq!(auto.device.info().kind, crate::Kind::Cpu);
            eprintln!("auto passed over {:?}", auto.passed_over[0].device);
            return;
        };
        let said = succeeded(&output);
        assert!(said.matches(reason).count() == 2 || name == "NONE", "{said}");
    }
}

#[test]
fn a_simd_group_of_another_width_is_refused_with_the_reason() {
    let Some(output) = parent(
        "faults::a_simd_group_of_another_width_is_refused_with_the_reason",
        &[("WIDTH", "64")],
    ) else {
        let error = metal().unwrap().load(&ADD).unwrap_err();
        return assert!(error.to_string().contains("a SIMD group of 64 threads"), "{error}");
    };
    succeeded(&output);
}

#[test]
fn a_pipeline_with_few_threads_limits_its_launches() {
    let Some(output) =
        parent("faults::a_pipeline_with_few_threads_limits_its_launches", &[("THREADS", "16")])
    else {
        let device = metal().unwrap();
        let (x, y) = (filled(&*device, &[3; 40]), filled(&*device, &[4; 40]));
        let error = prepare(&*device, &launch(device.load(&ADD).unwrap(), x, y)).unwrap_err();
        return assert!(error.to_string().contains("1 to 16 threads"), "{error}");
    };
    succeeded(&output);
}

#[test]
fn before_macos_15_there_is_no_residency_set() {
    let Some(output) =
        parent("faults::before_macos_15_there_is_no_residency_set", &[("MACOS", "14")])
    else {
        let (device, commands, y) = ready();
        run(&*device, &commands).unwrap();
        return assert_eq!(words(&*device, y), [7; 40]);
    };
    succeeded(&output);
}

/// What a report at exit counts under this name.
fn counted(report: &str, what: &str) -> u64 {
    let found = report.split(", ").find_map(|part| part.trim().strip_suffix(what));
    found.unwrap_or_else(|| panic!("no {what} in {report}")).trim().parse().unwrap()
}

#[test]
fn a_step_is_one_command_buffer_with_the_fewest_barriers() {
    let Some(output) =
        parent("faults::a_step_is_one_command_buffer_with_the_fewest_barriers", &[("REPORT", "1")])
    else {
        let device = metal().unwrap();
        let kernel = device.load(&ADD).unwrap();
        let spans: Vec<Span> = (0..6).map(|_| filled(&*device, &[1; 40])).collect();
        let mut commands = Commands::default();
        // Two independent ones, one that needs the first, one that needs nothing since.
        for (x, y) in [(0, 1), (2, 3), (1, 4), (3, 5)] {
            push(&mut commands, kernel, spans[x], spans[y]);
        }
        return run(&*device, &commands).unwrap();
    };
    let report = succeeded(&output);
    assert_eq!(counted(&report, "command buffers"), 1);
    assert_eq!(counted(&report, "dispatches"), 4);
    assert_eq!(counted(&report, "barriers"), 1);
    assert_eq!(counted(&report, "concurrent encoders"), 1);
}

#[test]
fn archives_save_the_second_compilation() {
    let Some(output) = parent("faults::archives_save_the_second_compilation", &[("REPORT", "1")])
    else {
        let cache = std::env::temp_dir().join(format!("russet-metal-twice-{}", std::process::id()));
        let options = MetalOptions { cache: Some(cache.clone()) };
        for _ in 0..2 {
            let device = super::super::open(0, &options).unwrap();
            device.load(&ADD).unwrap();
            device.load(&ADD_TWICE).unwrap();
        }
        return std::fs::remove_dir_all(cache).unwrap();
    };
    let report = succeeded(&output);
    assert_eq!(counted(&report, "pipelines compiled"), 2);
    assert_eq!(counted(&report, "pipelines from archives"), 2);
}
