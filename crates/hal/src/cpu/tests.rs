//! What every device must do, run on the CPU and the null device.
use super::*;
use crate::Launch;
use crate::null::Null;

/// `y[i] += x[i]` on u32.
static ADD: Program = Program { name: "test_add", host: Some(add), gpu: None };
static PANIC: Program =
    Program { name: "test_panic", host: Some(|_| panic!("on purpose")), gpu: None };

#[expect(unsafe_code, reason = "a kernel")]
fn add(launch: &HostLaunch<'_>) {
    let part = launch.part(launch.shared::<u32>(1).len(), 1);
    // SAFETY: span 0 is only read; `part` differs for each thread.
    let (x, y) = unsafe { (launch.slice::<u32>(0), launch.shared::<u32>(1).part(part.clone())) };
    for (y, x) in y.iter_mut().zip(&x[part]) {
        *y += *x;
    }
}

fn launch(kernel: Kernel, spans: &[Span]) -> Commands {
    let mut commands = Commands::default();
    push(&mut commands, kernel, spans, 0b10);
    commands
}

fn push(commands: &mut Commands, kernel: Kernel, spans: &[Span], writes: u32) {
    let first = u32::try_from(commands.spans.len()).unwrap();
    commands.spans.extend_from_slice(spans);
    let spans = first..u32::try_from(commands.spans.len()).unwrap();
    let grid = [1, 1, 1];
    commands.list.push(Command::Launch(Launch {
        kernel,
        grid,
        block: grid,
        scratch_bytes: 0,
        spans,
        writes,
        constants: 0..0,
    }));
}

#[expect(unsafe_code, reason = "the spans are what the kernels above ask for")]
fn prepare(device: &dyn Device, commands: &Commands) -> Result<Prepared> {
    // SAFETY: two spans of u32, as `add` expects.
    unsafe { device.prepare(commands) }
}

fn filled(device: &dyn Device, words: &[u32]) -> Span {
    let bytes = words.len() as u64 * 4;
    let span = Span { buffer: device.alloc(Memory::Bytes(bytes)).unwrap(), offset: 0, bytes };
    let image: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    device.write(span, &image).unwrap();
    span
}

fn words(device: &dyn Device, span: Span) -> Vec<u32> {
    let mut bytes = vec![0; usize::try_from(span.bytes).unwrap()];
    device.read(span, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn dependent_launches_run_in_order_on_every_thread_count() {
    for threads in 1..=4 {
        let cpu = Cpu::open(CpuOptions { threads: Some(threads) }).unwrap();
        let kernel = cpu.load(&ADD).unwrap();
        assert_eq!(cpu.load(&ADD).unwrap(), kernel);
        let (x, y) = (filled(&cpu, &[1; 1000]), filled(&cpu, &[0; 1000]));
        let mut commands = launch(kernel, &[x, y]);
        commands.list.push(Command::Copy { source: y, target: x });
        push(&mut commands, kernel, &[x, y], 0b10);
        let prepared = prepare(&cpu, &commands).unwrap();
        for _ in 0..5 {
            cpu.wait(cpu.submit(prepared, Timing::Off).unwrap()).unwrap();
        }
        // Each submit: y += x; x = y; y += x. From (1, 0): (1,2), (3,6), (9,18), (27,54), (81,162).
        assert_eq!(words(&cpu, y), [162; 1000]);
        assert_eq!(cpu.executed()[0].launches, 10);
        assert_eq!(cpu.executed()[0].timed_launches, 0);
        cpu.submit(prepared, Timing::PerKernel).unwrap();
        assert_eq!(cpu.executed()[0].timed_launches, 2);
    }
}

#[test]
fn stale_and_foreign_handles_are_errors() {
    let cpu = Cpu::open(CpuOptions::default()).unwrap();
    let null = Null::default();
    for device in [&cpu as &dyn Device, &null] {
        let kernel = device.load(&ADD).unwrap();
        let (x, y) = (filled(device, &[1]), filled(device, &[2]));
        let prepared = prepare(device, &launch(kernel, &[x, y])).unwrap();
        device.submit(prepared, Timing::Off).unwrap();
        device.free(Handle::Prepared(prepared));
        assert!(matches!(device.submit(prepared, Timing::Off), Err(Error::Stale { .. })));
        device.free(Handle::Buffer(x.buffer));
        assert!(matches!(device.read(x, &mut [0; 4]), Err(Error::Stale { .. })));
        assert!(prepare(device, &launch(kernel, &[x, y])).is_err());
    }
    let foreign = filled(&null, &[1]);
    assert!(matches!(cpu.read(foreign, &mut [0; 4]), Err(Error::Stale { .. })));
}

#[test]
fn freeing_a_buffer_disables_the_commands_that_use_it() {
    let cpu = Cpu::open(CpuOptions::default()).unwrap();
    let (x, y) = (filled(&cpu, &[1]), filled(&cpu, &[2]));
    let prepared = prepare(&cpu, &launch(cpu.load(&ADD).unwrap(), &[x, y])).unwrap();
    cpu.free(Handle::Buffer(x.buffer));
    assert!(matches!(cpu.submit(prepared, Timing::Off), Err(Error::Stale { what: "buffer" })));
}

#[test]
fn spans_are_checked_when_prepared() {
    let cpu = Cpu::open(CpuOptions::default()).unwrap();
    let kernel = cpu.load(&ADD).unwrap();
    let (x, y) = (filled(&cpu, &[1, 2]), filled(&cpu, &[2, 3]));
    let outside = Span { offset: 4, bytes: 8, ..y };
    let error = prepare(&cpu, &launch(kernel, &[x, outside])).unwrap_err();
    assert!(matches!(error, Error::BadSpan { command: 0, .. }), "{error}");
    let read_only = cpu.alloc(Memory::Mapped(std::sync::Arc::new(vec![0; 8]))).unwrap();
    let target = Span { buffer: read_only, offset: 0, bytes: 8 };
    let error = prepare(&cpu, &launch(kernel, &[x, target])).unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
    assert!(cpu.write(target, &[1]).is_err());
}

#[test]
fn more_memory_than_there_is_is_refused_with_numbers() {
    let cpu = Cpu::open(CpuOptions::default()).unwrap();
    let Err(Error::OutOfMemory { needed, .. }) = cpu.alloc(Memory::Bytes(1 << 60)) else {
        panic!("an exbibyte was given")
    };
    assert_eq!(needed, 1 << 60);
}

#[test]
fn a_panicking_kernel_loses_the_device_and_not_the_process() {
    let cpu = Cpu::open(CpuOptions { threads: Some(2) }).unwrap();
    let (x, y) = (filled(&cpu, &[1]), filled(&cpu, &[2]));
    let prepared = prepare(&cpu, &launch(cpu.load(&PANIC).unwrap(), &[x, y])).unwrap();
    for _ in 0..2 {
        assert!(matches!(cpu.submit(prepared, Timing::Off), Err(Error::Lost { .. })));
    }
}

/// `y[i] = 3 * y[i] + x[i]` in pieces, twice in one launch: an item left out or done twice shows for good.
static PIECES: Program = Program { name: "test_pieces", host: Some(pieces), gpu: None };

#[expect(unsafe_code, reason = "a kernel")]
fn pieces(launch: &HostLaunch<'_>) {
    // SAFETY: span 0 is only read.
    let x = unsafe { launch.slice::<u32>(0) };
    for unit in [1, 16] {
        launch.pieces(x.len(), unit, |piece| {
            assert!(piece.start.is_multiple_of(unit));
            // SAFETY: no item is in two pieces of one round, and each round has a span of its own.
            let y =
                unsafe { launch.shared::<u32>(if unit == 1 { 1 } else { 2 }).part(piece.clone()) };
            for (y, x) in y.iter_mut().zip(&x[piece]) {
                *y = y.wrapping_mul(3).wrapping_add(*x);
            }
        });
    }
}

#[test]
fn pieces_cover_every_item_once_under_any_number_of_threads() {
    for threads in 1..=8 {
        let cpu = Cpu::open(CpuOptions { threads: Some(threads) }).unwrap();
        let kernel = cpu.load(&PIECES).unwrap();
        for items in [1, 7, 333] {
            let [x, y, z, v, w] = [1, 0, 0, 0, 0].map(|word| filled(&cpu, &vec![word; items]));
            // The first two need no barrier between them; the third needs one after both.
            let mut commands = Commands::default();
            for spans in [[x, y, z], [x, v, w], [v, y, z]] {
                push(&mut commands, kernel, &spans, 0b110);
            }
            let prepared = prepare(&cpu, &commands).unwrap();
            let rounds = 20;
            let (mut direct, mut indirect) = (0_u32, 0_u32);
            for _ in 0..rounds {
                cpu.submit(prepared, Timing::Off).unwrap();
                direct = direct.wrapping_mul(3).wrapping_add(1);
                indirect = indirect.wrapping_mul(3).wrapping_add(1);
                indirect = indirect.wrapping_mul(3).wrapping_add(direct);
            }
            assert_eq!(words(&cpu, w), vec![direct; items]);
            for span in [y, z] {
                assert_eq!(words(&cpu, span), vec![indirect; items], "{threads} threads");
            }
        }
    }
}

#[test]
fn only_pages_that_were_touched_lie_in_memory() {
    let cpu = Cpu::open(CpuOptions { threads: Some(1) }).unwrap();
    // Larger than any page, and too small for the huge ones.
    let page = 1 << 16;
    let buffer = cpu.alloc(Memory::Bytes(8 * page)).unwrap();
    let span = |offset, bytes| Span { buffer, offset, bytes };
    assert_eq!(cpu.resident(span(0, 8 * page)).unwrap(), 0);
    cpu.write(span(3 * page, page), &vec![1; 1 << 16]).unwrap();
    assert_eq!(cpu.resident(span(0, 8 * page)).unwrap(), page);
    assert_eq!(cpu.resident(span(3 * page - 5, 105)).unwrap(), 100);
    assert_eq!(cpu.resident(span(4 * page - 7, 2 * page)).unwrap(), 7);
    assert_eq!(cpu.resident(span(5, 0)).unwrap(), 0);
    assert!(matches!(cpu.resident(span(8 * page, 1)), Err(Error::BadSpan { .. })));
    cpu.free(Handle::Buffer(buffer));
    assert!(matches!(cpu.resident(span(0, 1)), Err(Error::Stale { .. })));
}
