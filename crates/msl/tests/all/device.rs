//! The soft device keeps the contract of every device.
use crate::launch::*;
use hal::{Command, Commands, Device as _, Error, FunctionConstant, Handle, Launch, Memory};
use hal::{Program, Span, Text, Timing, Value};
use msl::{Checks, Schedule, Soft, SoftOptions};
use std::sync::Arc;

/// `y[i] += x[i]` on u32.
const ADD: Text = Text {
    file: "add.metal",
    text: "#include <metal_stdlib>\nusing namespace metal;\n\
        kernel void add(device const uint* x [[buffer(0)]], device uint* y [[buffer(1)]],\n\
        uint at [[thread_position_in_grid]]) {\n  y[at] += x[at];\n}\n",
};

fn soft() -> Option<Soft> {
    can_run().then(|| Soft::open(SoftOptions::default()).unwrap())
}

fn filled(device: &Soft, values: [u32; 4]) -> Span {
    let span = Span { buffer: device.alloc(Memory::Bytes(16)).unwrap(), offset: 0, bytes: 16 };
    device.write(span, &bytes(values.map(u32::to_le_bytes))).unwrap();
    span
}

fn values(device: &Soft, span: Span) -> Vec<u32> {
    let mut bytes = vec![0; usize::try_from(span.bytes).unwrap()];
    device.read(span, &mut bytes).unwrap();
    u32s(&bytes)
}

#[expect(unsafe_code, reason = "the spans are what the kernel above asks for")]
fn prepare(device: &Soft, commands: &Commands) -> hal::Result<hal::Prepared> {
    // SAFETY: two spans of u32, as `add` expects.
    unsafe { device.prepare(commands) }
}

fn add(device: &Soft, program: &'static Program, x: Span, y: Span) -> Commands {
    let launch = Launch {
        kernel: device.load(program).unwrap(),
        grid: [2, 1, 1],
        block: [2, 1, 1],
        scratch_bytes: 0,
        spans: 0..2,
        writes: 0b10,
        constants: 0..0,
    };
    Commands { list: vec![Command::Launch(launch)], spans: vec![x, y], ..Commands::default() }
}

#[test]
fn prepared_commands_run_in_order_as_often_as_they_are_submitted() {
    let Some(device) = soft() else { return };
    let (x, y) = (filled(&device, [1, 2, 3, 4]), filled(&device, [10, 20, 30, 40]));
    let z = Span { buffer: device.alloc(Memory::Bytes(16)).unwrap(), offset: 0, bytes: 16 };
    assert_eq!(values(&device, z), [0; 4], "memory begins zeroed");
    let program = program("add", vec![ADD], Vec::new());
    let mut commands = add(&device, program, x, y);
    commands.list.push(Command::Copy { source: y, target: z });
    commands.list.push(Command::Fill { target: x.part(8, 4), byte: 1 });
    let prepared = prepare(&device, &commands).unwrap();
    device.submit(prepared, Timing::Off).unwrap();
    assert_eq!(values(&device, z), [11, 22, 33, 44]);
    device.submit(prepared, Timing::PerKernel).unwrap();
    assert_eq!(values(&device, z), [12, 24, 0x0101_0101 + 33, 48]);
    let executed = device.executed();
    assert_eq!(
        (executed[0].kernel, executed[0].launches, executed[0].timed_launches),
        ("add", 2, 1)
    );
    assert_eq!(device.load(program).unwrap(), device.load(program).unwrap());
}

#[test]
fn stale_foreign_and_read_only_memory_is_refused() {
    let (Some(device), Some(other)) = (soft(), soft()) else { return };
    let (x, y) = (filled(&device, [0; 4]), filled(&device, [0; 4]));
    let program = program("add", vec![ADD], Vec::new());
    let prepared = prepare(&device, &add(&device, program, x, y)).unwrap();
    device.free(Handle::Buffer(x.buffer));
    assert!(matches!(device.submit(prepared, Timing::Off), Err(Error::Stale { .. })));
    let foreign = filled(&other, [0; 4]);
    let commands = add(&device, program, foreign, y);
    assert!(matches!(prepare(&device, &commands), Err(Error::Stale { .. })));
    let mapping: Arc<dyn AsRef<[u8]> + Send + Sync> = Arc::new(vec![7_u8; 16]);
    let mapped = device.alloc(Memory::Mapped(mapping)).unwrap();
    let mapped = Span { buffer: mapped, offset: 0, bytes: 16 };
    assert_eq!(values(&device, mapped), [0x0707_0707; 4]);
    assert!(matches!(device.write(mapped, &[1]), Err(Error::BadSpan { .. })));
    let commands = add(&device, program, y, mapped);
    assert!(matches!(prepare(&device, &commands), Err(Error::BadSpan { .. })));
    let long = Span { bytes: 20, ..y };
    let commands = add(&device, program, long, y);
    assert!(matches!(prepare(&device, &commands), Err(Error::BadSpan { .. })));
}

#[test]
fn spans_that_overlap_share_memory_in_another_process_too() {
    if !can_run() {
        return;
    }
    let options = SoftOptions { schedule: Schedule::Forward, checks: Checks::Memory };
    let device = Soft::open(options).unwrap();
    let whole = Span { buffer: device.alloc(Memory::Bytes(20)).unwrap(), offset: 0, bytes: 20 };
    device.write(whole, &bytes([1_u32, 2, 3, 4, 5].map(u32::to_le_bytes))).unwrap();
    // One thread at a time, first to last: each sees what the one before wrote.
    let commands =
        add(&device, program("add", vec![ADD], Vec::new()), whole.part(0, 16), whole.part(4, 16));
    device.submit(prepare(&device, &commands).unwrap(), Timing::Off).unwrap();
    assert_eq!(values(&device, whole), [1, 3, 6, 10, 15]);
}

#[test]
fn a_device_with_a_fault_is_lost() {
    let Some(device) = soft() else { return };
    let (x, y) = (filled(&device, [0; 4]), filled(&device, [0; 4]));
    let fault = Text {
        file: "add.metal",
        text: ADD
            .text
            .replace("y[at]", "if (at & 1) threadgroup_barrier(mem_flags::mem_none); y[at]")
            .leak(),
    };
    let commands = add(&device, program("add", vec![fault], Vec::new()), x, y);
    let prepared = prepare(&device, &commands).unwrap();
    for _ in 0..2 {
        match device.submit(prepared, Timing::Off) {
            Err(Error::Lost { reason, .. }) => {
                assert!(reason.contains("kernel add, threadgroup (0, 0, 0), thread 1"), "{reason}");
                assert!(reason.contains("add.metal:5:15"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_does_not_compile_says_where() {
    let Some(device) = soft() else { return };
    let log = |program| match device.load(program) {
        Err(Error::Compile { log, .. }) => log,
        other => panic!("{other:?}"),
    };
    let typo = changed(RMS_NORM, "own[i] * own[i]", "own[i] * won[i]");
    let found = log(program("rms_norm", vec![RmsNorm::MSL, typo], Vec::new()));
    assert!(found.contains("crates/msl/tests/kernels/rms_norm.metal:21:21: error"), "{found}");
    let double = changed(RMS_NORM, "float sum", "double sum");
    let found = log(program("rms_norm", vec![RmsNorm::MSL, double], Vec::new()));
    assert!(found.contains("rms_norm.metal:19:3: Metal has no double"), "{found}");
    let unset = changed(RMS_NORM, "float sum = 0.0f", "float sum");
    let found = log(program("rms_norm", vec![RmsNorm::MSL, unset], Vec::new()));
    assert!(
        found.contains("rms_norm.metal:21:5: error: variable 'sum' is uninitialized"),
        "{found}"
    );
    let found = log(program("rms_morn", vec![RmsNorm::MSL, RMS_NORM], Vec::new()));
    assert!(found.contains("there is no kernel rms_morn"), "{found}");
    let found = log(program("mat_vec", vec![MatVec::MSL, MAT_VEC], Vec::new()));
    assert!(found.contains("function constant NEGATE is bool"), "{found}");
    let wrong = FunctionConstant { index: 0, value: Value::Uint(1) };
    let found = log(program("mat_vec", vec![MatVec::MSL, MAT_VEC], vec![wrong]));
    assert!(found.contains("the program says Some(\"uint\")"), "{found}");
    static HOST_ONLY: Program = Program { name: "host_only", host: Some(|_| ()), gpu: None };
    assert!(matches!(device.load(&HOST_ONLY), Err(Error::Unsupported { .. })));
}
