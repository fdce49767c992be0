//! A step allocates nothing once it is warm: the batch is filled anew, written, submitted, and its samples read.
#![expect(unsafe_code, reason = "counts through the global allocator, and prepares commands")]
use hal::cpu::{Cpu, CpuOptions};
use hal::{Device, Memory, Span, Timing};
use ops::format::Format;
use ops::sample::Sampler;
use ops::{
    Activation, Attention, Batch, Bucket, Cache, CacheSpans, FEEDBACK, Heads, Hidden, Inputs,
    KvFormat, Limits, Linear, Norm, NormKind, Ops, Pairing, Recorder, Resources, Rope, Token,
    Weight,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, and how often it was asked by any thread.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; memory is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

const DIM: u32 = 64;
const HEAD_DIM: u32 = 16;
const VOCABULARY: u32 = 100;
const LIMITS: Limits = Limits {
    tokens: 8,
    rows: 4,
    sequences: 2,
    blocks: 4,
    block_tokens: 16,
    vocabulary: VOCABULARY,
};

/// Device memory; weights stay zero, which computes as well as anything.
fn span(device: &Cpu, bytes: u64) -> Span {
    let buffer = device.alloc(Memory::Bytes(bytes)).expect("memory");
    Span { buffer, offset: 0, bytes }
}

/// The model's tensors, in order.
fn weights() -> [Weight; 5] {
    let sizes = [
        (Format::Q8_0, VOCABULARY, DIM),
        (Format::F32, 1, DIM),
        (Format::Q4_0, DIM, DIM),
        (Format::F16, DIM, DIM),
        (Format::F32, 1, HEAD_DIM / 2),
    ];
    let mut tensor = 0..;
    sizes.map(|(format, rows, columns)| {
        let tensor = tensor.next().expect("endless");
        Weight { tensor, format, first_row: 0, rows, columns }
    })
}

/// Every op of a decode step, integer and float products both.
fn record(to: &mut Recorder<'_>) {
    let [table, gains, quantized, float, frequencies] = weights();
    let norm = Norm { kind: NormKind::Rms, weight: gains, bias: None, epsilon: 1e-5 };
    let [quantized, float, head] =
        [quantized, float, table].map(|weight| Linear { weight, bias: None });
    let rope = Rope { pairing: Pairing::Halves, frequencies, amplitude: 1.0 };
    let heads = Heads { q_norm: None, k_norm: None, rope: Some(rope) };
    let attention =
        Attention { layer: 0, heads: 4, kv_heads: 4, head_dim: HEAD_DIM, scale: 1.0, window: None };
    let hidden = Hidden { gate: quantized, up: Some(quantized), activation: Activation::Silu };
    let x = to.embed(&table, 1.0);
    let qkv = to.qkv(&x, &norm, [&quantized, &float, &quantized]);
    let q = to.rope_kv(qkv, &heads, &attention);
    let y = to.attend(&q, &attention);
    let x = to.project(x, &y, &float, Some(&norm));
    let y = to.gate_up(&x, &norm, &hidden);
    let x = to.project(x, &y, &quantized, None);
    let x = to.gather(&x);
    let logits = to.head(&x, &norm, &head);
    let logits = to.softcap(logits, 30.0);
    ops::sample::record(to, &logits);
}

#[test]
fn a_warm_step_allocates_nothing() {
    let device = Cpu::open(CpuOptions { threads: Some(2) }).expect("a cpu");
    let shape = Cache { kv_heads: 4, head_dim: HEAD_DIM, format: KvFormat::F16 };
    let places = u64::from(LIMITS.sequences * LIMITS.blocks * LIMITS.block_tokens);
    let cache = || span(&device, places * shape.token_bytes());
    let resources = Resources {
        tiles: None,
        weights: weights().iter().map(|weight| span(&device, weight.bytes())).collect(),
        inputs: Inputs { whole: span(&device, LIMITS.bytes()), limits: LIMITS },
        caches: vec![CacheSpans { k: cache(), v: cache(), shape }],
        sampled: span(&device, 4 * u64::from(LIMITS.rows)),
    };
    let mut recorder = Recorder::new(&device, &resources, Bucket { tokens: 8, rows: 4 });
    record(&mut recorder);
    let recorded = recorder.finish().expect("every program loads");
    let arena = span(&device, recorded.arena_bytes());
    let commands = recorded.commands(arena.buffer);
    // SAFETY: the recorder keeps the programs' contracts; tokens and blocks are within the limits.
    let prepared = unsafe { device.prepare(&commands) }.expect("valid commands");

    let mut batch = Batch::new(LIMITS);
    let mut sampled = [0; 4];
    let sampler = Sampler { temperature: 0.8, top_k: 40, top_p: 0.9, ..Sampler::GREEDY };
    let mut step = |position: u32, timing| {
        batch.clear();
        batch.set_block(0, position / LIMITS.block_tokens, position / LIMITS.block_tokens);
        let id = if position == 0 { 1 } else { FEEDBACK };
        let row = batch.push(Token { id, position, sequence: 0, wanted: true }).expect("a row");
        batch.set_sampler(row, &Sampler { draw: position, ..sampler });
        device.write(resources.inputs.whole, batch.image()).expect("it fits");
        let fence = device.submit(prepared, timing).expect("no kernel panics");
        device.wait(fence).expect("the work ends");
        device.read(resources.sampled, &mut sampled).expect("readable");
    };
    step(0, Timing::Off);
    step(1, Timing::PerKernel);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for position in 2..60 {
        step(position, if position % 2 == 0 { Timing::Off } else { Timing::PerKernel });
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "allocations in 58 steps");
}
