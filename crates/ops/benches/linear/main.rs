//! `linear` against the machine: bytes of weights per second in decode beside the read bandwidth, operations per second in
//! prompts beside the peak of the dot-product instruction, all measured in this run.
//!
//! `cargo bench -p ops --bench linear -- [FORMAT ...] [rows=R columns=C] [tokens=T,..] [threads=N] [family=F] [plain] [cached] [exact]`
#![expect(clippy::print_stdout, reason = "a program that prints a table")]
#![expect(unsafe_code, reason = "runs recorded commands and dot-product instructions")]

mod limits;

use hal::cpu::{Cpu, CpuOptions};
use hal::{Buffer, Device, Memory, Prepared, Span, Timing};
use ops::format::Format;
use ops::linear::pack;
use ops::simd::Family;
use ops::{Batch, Bucket, Inputs, Limits, Linear, Ops, Recorder, Resources, Tiles, Token, Weight};
use std::time::Instant;

/// Weights of one decode pass: far more than any cache holds.
const STREAMED_BYTES: u64 = 160 << 20;
/// Passes of which the fastest counts: other work on the machine only ever slows one down.
const PASSES: usize = 15;

struct Options {
    formats: Vec<Format>,
    rows: u32,
    columns: u32,
    threads: usize,
    packed: bool,
    family: Family,
    /// Read one matrix over and over, from the caches: what the kernel could do with faster memory.
    cached: bool,
    tokens: Vec<u32>,
    /// Multiply as for tokens that continue an answer, however many there are.
    exact: bool,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self {
            formats: Vec::new(),
            rows: 2048,
            columns: 2048,
            threads: hal::cpu::default_threads(),
            packed: true,
            family: Family::host(),
            cached: false,
            tokens: vec![1, 4, 512],
            exact: false,
        };
        for word in std::env::args().skip(1) {
            let number = |text: &str| text.parse::<u32>().expect("a number");
            match word.split_once('=') {
                Some(("rows", value)) => options.rows = number(value),
                Some(("columns", value)) => options.columns = number(value),
                Some(("threads", value)) => options.threads = number(value) as usize,
                Some(("family", value)) => {
                    let family = Family::ALL.into_iter().find(|family| family.name() == value);
                    options.family = family.filter(|family| family.runs_here()).expect("a family");
                }
                Some(("tokens", value)) => {
                    options.tokens = value.split(',').map(number).collect();
                }
                _ if word == "plain" => options.packed = false,
                _ if word == "exact" => options.exact = true,
                _ if word == "cached" => options.cached = true,
                _ if word == "--bench" => {}
                _ => {
                    let format = Format::ALL.into_iter().find(|format| format.name() == word);
                    options.formats.push(format.expect("the name of a format"));
                }
            }
        }
        if options.formats.is_empty() {
            options.formats = Format::ALL.to_vec();
        }
        options
    }
}

fn main() {
    let options = Options::parse();
    let reader = limits::Reader::new(options.threads);
    let peak = limits::int8_peak(options.threads);
    let (rows, columns) = (options.rows, options.columns);
    println!(
        "{rows} x {columns}, {} threads, {}; read {:.1} GB/s, int8 dot {peak:.0} Gop/s",
        options.threads,
        options.family,
        reader.bandwidth(),
    );
    for format in &options.formats {
        if format.row_bytes(columns as usize).is_none() {
            continue;
        }
        for tokens in &options.tokens {
            line(&options, *format, *tokens, (&reader, peak));
        }
    }
}

fn line(options: &Options, format: Format, tokens: u32, (reader, peak): (&limits::Reader, f64)) {
    let Step { device, prepared, bytes, products, packed } = Step::new(options, format, tokens);
    let pass = || {
        let start = Instant::now();
        let fence = device.submit(prepared, Timing::Off).expect("no panic");
        device.wait(fence).expect("it ends");
        start.elapsed().as_secs_f64()
    };
    let mut bandwidth = reader.bandwidth();
    let mut seconds: Vec<f64> = (0..PASSES).map(|_| pass()).collect();
    bandwidth = bandwidth.max(reader.bandwidth());
    seconds.sort_by(f64::total_cmp);
    let (best, median) = (seconds[0], seconds[PASSES / 2]);
    let (rate, rate_median) = (bytes as f64 / best / 1e9, bytes as f64 / median / 1e9);
    let gops = products * 2.0 / best / 1e9;
    println!(
        "{:7} {:6} tokens {tokens:4}  {rate:6.1} GB/s ({:3.0} % of {bandwidth:.1}, median {rate_median:.1})  {gops:7.0} Gop/s ({:3.0} %)",
        format.name(),
        if packed { "packed" } else { "plain" },
        100.0 * rate / bandwidth,
        100.0 * gops / peak
    );
}

/// One prepared pass over copies of a matrix.
struct Step {
    device: Cpu,
    prepared: Prepared,
    bytes: u64,
    /// Multiplications.
    products: f64,
    packed: bool,
}

impl Step {
    fn new(options: &Options, format: Format, tokens: u32) -> Self {
        let device = Cpu::open(CpuOptions { threads: Some(options.threads) }).expect("a cpu");
        let (rows, columns) = (options.rows, options.columns);
        let packed_bytes =
            pack::packed_bytes(options.family, format, rows.into(), columns as usize)
                // Not any bytes are tiles of BF16 rows.
                .filter(|_| options.packed && format != Format::Bf16);
        let row_bytes = format.row_bytes(columns as usize).expect("whole blocks") as u64;
        let bytes = packed_bytes.unwrap_or(row_bytes * u64::from(rows));
        // Few copies do for prompts, whose time is in arithmetic.
        let wanted = if tokens > 16 { bytes.max(32 << 20) } else { STREAMED_BYTES };
        let copies = u32::try_from(wanted.div_ceil(bytes)).expect("few copies");
        let span = |bytes| span(&device, bytes);
        // One buffer, as a loader takes it: small ones would not get huge pages.
        let distinct = if options.cached { 1 } else { u64::from(copies) };
        let all = weights(&device, bytes * distinct);
        let weights = (0..u64::from(copies)).map(|i| all.part(i % distinct * bytes, bytes));
        let limits =
            Limits { tokens, rows: 1, sequences: 1, blocks: 1, block_tokens: 1, vocabulary: 1 };
        let inputs = Inputs { whole: span(limits.bytes()), limits };
        let mut batch = Batch::new(limits);
        if tokens > ops::linear::FUSED_TOKENS && !options.exact {
            batch.start_prompts();
        }
        for position in 0..tokens {
            batch.push(Token { id: 0, position, sequence: 0, wanted: false });
        }
        device.write(inputs.whole, batch.image()).expect("it fits");
        let table = span(4 * u64::from(columns));
        let numbers = (0..columns).flat_map(|i| (i as f32 * 0.37).sin().to_le_bytes());
        device.write(table, &numbers.collect::<Vec<u8>>()).expect("it fits");
        let mut in_file = vec![table];
        let mut tiles = None;
        if packed_bytes.is_some() {
            // Rows as in the file are not read where all tiles are ready.
            let rows = span(row_bytes * u64::from(rows));
            in_file.extend(weights.clone().map(|_| rows));
            let spans: Vec<_> = std::iter::once(None).chain(weights.map(Some)).collect();
            let ready = span(4 * spans.len() as u64);
            device.write(ready, &vec![0xff; 4 * spans.len()]).expect("it fits");
            tiles = Some(Tiles { spans, ready, wanted: ready });
        } else {
            in_file.extend(weights);
        }
        let resources =
            Resources { weights: in_file, tiles, inputs, caches: Vec::new(), sampled: span(4) };
        let prepared =
            record((&device, options.family), &resources, (format, rows, columns), tokens);
        let bytes = bytes * u64::from(copies);
        let products = f64::from(rows) * f64::from(columns) * f64::from(copies) * f64::from(tokens);
        Self { device, prepared, bytes, products, packed: packed_bytes.is_some() }
    }
}

fn span(device: &dyn Device, bytes: u64) -> Span {
    let buffer: Buffer = device.alloc(Memory::Bytes(bytes)).expect("memory");
    Span { buffer, offset: 0, bytes }
}

fn weights(device: &dyn Device, bytes: u64) -> Span {
    let span = span(device, bytes);
    let mut pattern = vec![0; usize::try_from(bytes).expect("memory")];
    limits::fill(&mut pattern);
    device.write(span, &pattern).expect("it fits");
    span
}

fn record(
    (device, family): (&Cpu, Family),
    resources: &Resources,
    (format, rows, columns): (Format, u32, u32),
    tokens: u32,
) -> Prepared {
    let bucket = Bucket { tokens, rows: 1 };
    let mut recorder = Recorder::new(device, resources, bucket).with_family(family);
    let weight = |tensor, format, rows| Weight { tensor, format, first_row: 0, rows, columns };
    let x = recorder.embed(&weight(0, Format::F32, 1), 1.0);
    for tensor in 1..resources.weights.len() {
        let tensor = u32::try_from(tensor).expect("few");
        let linear = Linear { weight: weight(tensor, format, rows), bias: None };
        drop(recorder.linear(&x, &linear));
    }
    let recorded = recorder.finish().expect("every program loads");
    let arena = span(device, recorded.arena_bytes());
    let commands = recorded.commands(arena.buffer);
    // SAFETY: the recorder keeps the programs' contracts; the only token is in the table.
    unsafe { device.prepare(&commands) }.expect("valid commands")
}
