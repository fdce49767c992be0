//! What the driver promises, on whatever Metal there is: a Mac's, or crates/fake-metal.
#[cfg(fake_metal)]
mod faults;
#[cfg(fake_metal)]
mod misuse;

use super::super::MetalOptions;
use crate::{
    Buffer, Command, Commands, Device, Error, Executed, FunctionConstant, Gpu, Handle, Kernel,
    Launch, Memory, Prepared, Program, Result, Span, Text, Timing, Value,
};
use memmap2::MmapMut;
use std::sync::Arc;

/// `y[i] = (y[i] + x[i]) * FACTOR`, and `y[group] = sum of x in the group` through threadgroup memory.
const TEXT: Text = Text {
    file: "test.metal",
    text: "#include <metal_stdlib>
using namespace metal;
struct Count { uint count; };
constant uint FACTOR [[function_constant(0)]];
kernel void add(
    device const uint* x [[buffer(0)]],
    device uint* y [[buffer(1)]],
    constant Count& args [[buffer(2)]],
    uint at [[thread_position_in_grid]]) {
  if (at < args.count) {
    y[at] = (y[at] + x[at]) * FACTOR;
  }
}
kernel void sum(
    device const uint* x [[buffer(0)]],
    device uint* y [[buffer(1)]],
    constant Count& args [[buffer(2)]],
    threadgroup uint* partial [[threadgroup(0)]],
    uint at [[thread_position_in_grid]],
    uint group [[threadgroup_position_in_grid]],
    ushort lane [[thread_index_in_simdgroup]],
    ushort simd [[simdgroup_index_in_threadgroup]],
    ushort simds [[simdgroups_per_threadgroup]]) {
  const uint own = simd_sum(at < args.count ? x[at] : 0u);
  if (lane == 0) {
    partial[simd] = own;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simd == 0) {
    const uint all = simd_sum(lane < simds ? partial[lane] : 0u);
    if (lane == 0) {
      y[group] = all;
    }
  }
}
",
};

static ADD: Program =
    program("add", "add", &[FunctionConstant { index: 0, value: Value::Uint(1) }]);
static ADD_TWICE: Program =
    program("add_twice", "add", &[FunctionConstant { index: 0, value: Value::Uint(2) }]);
static SUM: Program =
    program("sum", "sum", &[FunctionConstant { index: 0, value: Value::Uint(0) }]);

const fn program(
    name: &'static str,
    entry: &'static str,
    constants: &'static [FunctionConstant],
) -> Program {
    Program { name, host: None, gpu: Some(Gpu { texts: &[TEXT], entry, constants }) }
}

/// None on a Mac whose GPU is refused (a virtual one, an Intel Mac's), with a line that says why.
fn metal() -> Option<Arc<dyn Device>> {
    match super::open(0, &MetalOptions::default()) {
        Ok(device) => Some(device),
        Err(why) => {
            eprintln!("SKIPPED: the Metal driver: {why}");
            None
        }
    }
}

fn filled(device: &dyn Device, words: &[u32]) -> Span {
    let bytes = words.len() as u64 * 4;
    let span = Span { buffer: device.alloc(Memory::Bytes(bytes)).unwrap(), offset: 0, bytes };
    let image: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    device.write(span, &image).unwrap();
    span
}

fn words(device: &dyn Device, span: Span) -> Vec<u32> {
    bytes(device, span).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn bytes(device: &dyn Device, span: Span) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(span.bytes).unwrap()];
    device.read(span, &mut bytes).unwrap();
    bytes
}

/// Adds a launch over `x` and `y` in groups of 32 threads.
fn push(commands: &mut Commands, kernel: Kernel, x: Span, y: Span) -> &mut Launch {
    let first = u32::try_from(commands.spans.len()).unwrap();
    commands.spans.extend([x, y]);
    let start = u32::try_from(commands.constants.len()).unwrap();
    let count = u32::try_from(x.bytes / 4).unwrap();
    commands.constants.extend(count.to_le_bytes());
    commands.list.push(Command::Launch(Launch {
        kernel,
        grid: [count.div_ceil(32), 1, 1],
        block: [32, 1, 1],
        scratch_bytes: 0,
        spans: first..first + 2,
        writes: 0b10,
        constants: start..start + 4,
    }));
    match commands.list.last_mut() {
        Some(Command::Launch(launch)) => launch,
        _ => unreachable!("it was pushed"),
    }
}

fn launch(kernel: Kernel, x: Span, y: Span) -> Commands {
    let mut commands = Commands::default();
    push(&mut commands, kernel, x, y);
    commands
}

#[expect(unsafe_code, reason = "the spans are what the kernels above ask for")]
fn prepare(device: &dyn Device, commands: &Commands) -> Result<Prepared> {
    // SAFETY: two spans of words and their count.
    unsafe { device.prepare(commands) }
}

fn run(device: &dyn Device, commands: &Commands) -> Result<()> {
    let prepared = prepare(device, commands)?;
    let result = device.submit(prepared, Timing::Off).and_then(|fence| device.wait(fence));
    device.free(Handle::Prepared(prepared));
    result
}

fn row(device: &dyn Device, kernel: &str) -> Executed {
    device.executed().into_iter().find(|row| row.kernel == kernel).unwrap()
}

#[test]
fn dependent_work_runs_in_order_and_independent_work_in_any() {
    let Some(device) = metal() else { return };
    let kernel = device.load(&ADD).unwrap();
    assert_eq!(device.load(&ADD).unwrap(), kernel);
    let (x, y) = (filled(&*device, &[1; 1000]), filled(&*device, &[0; 1000]));
    let others: Vec<Span> = (0..4).map(|n| filled(&*device, &[n; 100])).collect();
    let mut commands = launch(kernel, x, y);
    commands.list.push(Command::Copy { source: y, target: x });
    push(&mut commands, kernel, x, y);
    for pair in others.chunks(2) {
        push(&mut commands, kernel, pair[0], pair[1]);
    }
    let prepared = prepare(&*device, &commands).unwrap();
    for _ in 0..5 {
        device.wait(device.submit(prepared, Timing::Off).unwrap()).unwrap();
    }
    // Each submit: y += x; x = y; y += x. From (1, 0): (1,2), (3,6), (9,18), (27,54), (81,162).
    assert_eq!(words(&*device, y), [162; 1000]);
    assert_eq!(words(&*device, others[1]), [1; 100]);
    assert_eq!(words(&*device, others[3]), [3 + 5 * 2; 100]);
    let executed = row(&*device, "add");
    assert_eq!((executed.launches, executed.timed_launches, executed.time_ns), (20, 0, 0));
    device.wait(device.submit(prepared, Timing::PerKernel).unwrap()).unwrap();
    let executed = row(&*device, "add");
    assert_eq!((executed.launches, executed.timed_launches), (24, 4));
    assert!(executed.time_ns > 0);
    assert_eq!(row(&*device, "copy_words").launches, 6);
}

#[test]
fn steps_follow_each_other_without_a_wait_between() {
    let Some(device) = metal() else { return };
    let kernel = device.load(&ADD).unwrap();
    let (x, y) = (filled(&*device, &[1; 64]), filled(&*device, &[0; 64]));
    let there = prepare(&*device, &launch(kernel, x, y)).unwrap();
    let back = prepare(&*device, &launch(kernel, y, x)).unwrap();
    let mut fences = Vec::new();
    for _ in 0..6 {
        fences.push(device.submit(there, Timing::Off).unwrap());
        fences.push(device.submit(back, Timing::Off).unwrap());
    }
    // Fibonacci's numbers, from (1, 0): y += x; x += y.
    assert_eq!(words(&*device, y), [144; 64]);
    assert_eq!(words(&*device, x), [233; 64]);
    fences.into_iter().for_each(|fence| device.wait(fence).unwrap());
    // A write waits for the step that still reads what it replaces.
    device.submit(there, Timing::Off).unwrap();
    device.write(x, &[0; 256]).unwrap();
    assert_eq!(words(&*device, y), [144 + 233; 64]);
}

#[test]
fn freed_memory_lives_until_its_last_work_has_ended() {
    let Some(device) = metal() else { return };
    let kernel = device.load(&ADD).unwrap();
    let (x, y) = (filled(&*device, &[7; 64]), filled(&*device, &[1; 64]));
    let prepared = prepare(&*device, &launch(kernel, x, y)).unwrap();
    let fence = device.submit(prepared, Timing::Off).unwrap();
    device.free(Handle::Prepared(prepared));
    device.free(Handle::Buffer(x.buffer));
    device.wait(fence).unwrap();
    assert_eq!(words(&*device, y), [8; 64]);
    assert!(matches!(device.read(x, &mut [0; 4]), Err(Error::Stale { .. })));
    // Nobody waits here: the device does when it goes.
    let other = filled(&*device, &[7; 64]);
    let prepared = prepare(&*device, &launch(kernel, other, y)).unwrap();
    device.submit(prepared, Timing::Off).unwrap();
    device.free(Handle::Buffer(other.buffer));
}

#[test]
fn variants_of_one_text_differ_by_their_constants() {
    let Some(device) = metal() else { return };
    let (x, y) = (filled(&*device, &[3; 40]), filled(&*device, &[4; 40]));
    run(&*device, &launch(device.load(&ADD_TWICE).unwrap(), x, y)).unwrap();
    assert_eq!(words(&*device, y), [14; 40]);
    run(&*device, &launch(device.load(&ADD).unwrap(), x, y)).unwrap();
    assert_eq!(words(&*device, y), [17; 40]);
}

#[test]
fn a_buffer_is_bound_again_where_constants_took_its_place() {
    let Some(device) = metal() else { return };
    let kernel = device.load(&ADD).unwrap();
    let [x, y, z] = [3, 4, 5].map(|word| filled(&*device, &[word; 40]));
    // The second argument is a span, then the constants of a fill, then the same span.
    let mut commands = launch(kernel, x, y);
    commands.list.push(Command::Fill { target: z, byte: 1 });
    push(&mut commands, kernel, x, y);
    run(&*device, &commands).unwrap();
    assert_eq!(words(&*device, y), [10; 40]);
    assert_eq!(words(&*device, z), [0x0101_0101; 40]);
}

#[test]
fn threadgroups_share_memory() {
    let Some(device) = metal() else { return };
    let x = filled(&*device, &(0..1000).collect::<Vec<u32>>());
    let y = filled(&*device, &[0; 4]);
    let mut commands = Commands::default();
    let launch = push(&mut commands, device.load(&SUM).unwrap(), x, y);
    (launch.grid, launch.block, launch.scratch_bytes) = ([4, 1, 1], [256, 1, 1], 32);
    run(&*device, &commands).unwrap();
    // Sums of 0..256, 256..512, 512..768, 768..1000.
    assert_eq!(words(&*device, y), [32640, 98176, 163_712, 204_972]);
}

#[test]
fn copies_and_fills_may_begin_and_end_at_any_byte() {
    let Some(device) = metal() else { return };
    let source: Vec<u8> = (0..=255).collect();
    let [x, y] = [256, 256].map(|bytes| Span {
        buffer: device.alloc(Memory::Bytes(bytes)).unwrap(),
        offset: 0,
        bytes,
    });
    device.write(x, &source).unwrap();
    assert_eq!(bytes(&*device, y), [0; 256], "new memory is zero");
    let fill = |target, byte| Command::Fill { target, byte };
    let copy =
        |from, to, bytes| Command::Copy { source: x.part(from, bytes), target: y.part(to, bytes) };
    let list = vec![
        fill(y, 9),
        copy(1, 2, 5),
        copy(8, 16, 8),
        copy(0, 0, 0),
        fill(y.part(30, 3), 7),
        fill(y.part(100, 8), 6),
    ];
    run(&*device, &Commands { list, ..Commands::default() }).unwrap();
    let mut expected = [9; 256];
    expected[2..7].copy_from_slice(&[1, 2, 3, 4, 5]);
    expected[16..24].copy_from_slice(&[8, 9, 10, 11, 12, 13, 14, 15]);
    expected[30..33].fill(7);
    expected[100..108].fill(6);
    assert_eq!(bytes(&*device, y), expected);
}

/// Bytes that begin so far after a page.
struct Shifted(MmapMut, usize);

impl Shifted {
    fn new(contents: &[u8], shift: usize) -> Arc<Self> {
        let mut mapping = MmapMut::map_anon(shift + contents.len()).unwrap();
        mapping[shift..].copy_from_slice(contents);
        Arc::new(Self(mapping, shift))
    }
}

impl AsRef<[u8]> for Shifted {
    fn as_ref(&self) -> &[u8] {
        &self.0[self.1..]
    }
}

#[test]
fn a_mapping_is_read_in_place_or_copied_where_it_is_not_on_a_page() {
    let Some(device) = metal() else { return };
    let kernel = device.load(&ADD).unwrap();
    let contents: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
    for shift in [0, 4] {
        let mapping = Shifted::new(&contents, shift);
        let buffer = device.alloc(Memory::Mapped(Arc::clone(&mapping) as _)).unwrap();
        assert_eq!(Arc::strong_count(&mapping) > 1, shift == 0, "a copy needs no mapping");
        let mapped = Span { buffer, offset: 0, bytes: 20_000 };
        assert_eq!(bytes(&*device, mapped), contents);
        assert_eq!(device.resident(mapped).unwrap(), mapped.bytes, "as the residency set says");
        let y = filled(&*device, &[5; 100]);
        run(&*device, &launch(kernel, mapped.part(16_000, 400), y)).unwrap();
        assert_eq!(words(&*device, y), (4005..4105).collect::<Vec<u32>>());
        assert!(matches!(device.write(mapped, &[1]), Err(Error::BadSpan { .. })));
        let error = prepare(&*device, &launch(kernel, y, mapped.part(0, 400))).unwrap_err();
        assert!(error.to_string().contains("read-only"), "{error}");
        device.free(Handle::Buffer(buffer));
        assert!(matches!(device.resident(mapped), Err(Error::Stale { .. })));
        assert_eq!(Arc::strong_count(&mapping), 1, "the mapping is given back");
    }
    let empty = device.alloc(Memory::Mapped(Arc::new([]))).unwrap();
    assert!(bytes(&*device, Span { buffer: empty, offset: 0, bytes: 0 }).is_empty());
}

#[test]
fn stale_and_foreign_handles_are_errors() {
    let (Some(device), Some(other)) = (metal(), metal()) else { return };
    let kernel = device.load(&ADD).unwrap();
    let (x, y) = (filled(&*device, &[1]), filled(&*device, &[2]));
    let prepared = prepare(&*device, &launch(kernel, x, y)).unwrap();
    device.free(Handle::Buffer(x.buffer));
    assert!(matches!(device.submit(prepared, Timing::Off), Err(Error::Stale { what: "buffer" })));
    assert!(matches!(device.read(x, &mut [0; 4]), Err(Error::Stale { .. })));
    assert!(matches!(device.write(x, &[0; 4]), Err(Error::Stale { .. })));
    assert!(matches!(prepare(&*device, &launch(kernel, x, y)), Err(Error::Stale { .. })));
    device.free(Handle::Prepared(prepared));
    assert!(matches!(device.submit(prepared, Timing::Off), Err(Error::Stale { what: "prepared" })));
    let foreign = filled(&*other, &[1]);
    assert!(matches!(device.read(foreign, &mut [0; 4]), Err(Error::Stale { .. })));
    assert!(matches!(
        prepare(&*device, &launch(other.load(&ADD).unwrap(), y, y)),
        Err(Error::Stale { .. })
    ));
    assert!(matches!(device.wait(crate::Fence(u64::MAX)), Err(Error::Stale { what: "fence" })));
    device.free(Handle::Buffer(Buffer(foreign.buffer.0)));
    assert_eq!(words(&*other, foreign), [1], "a foreign handle frees nothing");
}

#[test]
fn what_metal_would_refuse_is_refused_when_it_is_prepared() {
    let Some(device) = metal() else { return };
    let kernel = device.load(&SUM).unwrap();
    let (x, y) = (filled(&*device, &[1; 64]), filled(&*device, &[0; 4]));
    let refused = |change: &dyn Fn(&mut Launch), expected: &str| {
        let mut commands = Commands { constants: vec![0; 8192], ..Commands::default() };
        let launch = push(&mut commands, kernel, x, y);
        launch.scratch_bytes = 16;
        change(launch);
        match prepare(&*device, &commands) {
            Err(Error::BadSpan { command: 0, reason }) => {
                assert!(reason.contains(expected), "{reason}");
            }
            other => panic!("{expected}: {other:?}"),
        }
    };
    refused(&|launch| launch.block = [2048, 1, 1], "2048 threads");
    refused(&|launch| launch.block = [0, 1, 1], "0 threads");
    refused(&|launch| launch.grid = [1, 0, 1], "0 threadgroups");
    refused(&|launch| launch.scratch_bytes = 24, "multiple of 16");
    refused(&|launch| launch.scratch_bytes = 1 << 20, "bytes of threadgroup memory");
    refused(&|launch| launch.constants = 0..8000, "8000 bytes of constants");
    let long = Span { bytes: 20, ..y };
    assert!(matches!(prepare(&*device, &launch(kernel, x, long)), Err(Error::BadSpan { .. })));
}

#[test]
fn more_memory_than_there_is_is_refused_with_numbers() {
    let Some(device) = metal() else { return };
    let Err(Error::OutOfMemory { needed, free, .. }) = device.alloc(Memory::Bytes(1 << 50)) else {
        panic!("a pebibyte was given")
    };
    assert_eq!(needed, 1 << 50);
    assert!(free <= device.info().memory_bytes);
}

#[test]
fn what_does_not_compile_says_where() {
    let Some(device) = metal() else { return };
    let log = |program: Program| match device.load(Box::leak(Box::new(program))) {
        Err(Error::Compile { log, .. }) => log,
        other => panic!("{other:?}"),
    };
    let before = Text { file: "args.rs", text: "struct Before { uint n; };\n" };
    let typo = Text {
        file: "typo.metal",
        text: TEXT.text.replace("partial[simd] = own", "partial[simd] = won").leak(),
    };
    let texts = vec![before, typo].leak();
    let constants = SUM.gpu.as_ref().unwrap().constants;
    let found = log(Program {
        name: "typo",
        host: None,
        gpu: Some(Gpu { texts, entry: "sum", constants }),
    });
    assert!(found.contains("typo.metal:26:"), "{found}");
    log(program("none", "no_such_entry", constants));
    static HOST_ONLY: Program = Program { name: "host_only", host: Some(|_| ()), gpu: None };
    assert!(matches!(device.load(&HOST_ONLY), Err(Error::Unsupported { .. })));
}

#[test]
fn kernels_are_kept_between_runs_and_broken_ones_made_anew() {
    if metal().is_none() {
        return;
    }
    let cache = std::env::temp_dir().join(format!("russet-metal-{}", std::process::id()));
    let options = MetalOptions { cache: Some(cache.clone()) };
    let files = || {
        let entries = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        entries.collect::<Vec<_>>()
    };
    let compute = || {
        let device = super::open(0, &options).unwrap();
        let (x, y) = (filled(&*device, &[3; 40]), filled(&*device, &[4; 40]));
        run(&*device, &launch(device.load(&ADD).unwrap(), x, y)).unwrap();
        assert_eq!(words(&*device, y), [7; 40]);
    };
    compute();
    let first = files();
    assert_eq!(first.len(), 1, "{first:?}");
    compute();
    std::fs::write(&first[0], "broken").unwrap();
    compute();
    assert_eq!(files(), first);
    assert_ne!(std::fs::read(&first[0]).unwrap(), b"broken");
    std::fs::remove_dir_all(&cache).unwrap();
    // A place that cannot be written is no reason to fail.
    let options = MetalOptions { cache: Some("/proc/none".into()) };
    super::open(0, &options).unwrap().load(&ADD).unwrap();
}
