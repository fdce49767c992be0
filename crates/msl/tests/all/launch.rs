//! Launches a kernel of a test on the soft device.
use hal::{FunctionConstant, Gpu, Program, Text, Value};
use msl::{Checks, Schedule, SoftOptions, Trial};

hal::args! {
    /// Of `rms_norm.metal`.
    pub struct RmsNorm {
        pub columns: u32,
        pub epsilon: f32,
    }
}
hal::args! {
    /// Of `softmax.metal`.
    pub struct Softmax {
        pub columns: u32,
    }
}
hal::args! {
    /// Of `mat_vec.metal`.
    pub struct MatVec {
        pub rows: u32,
        pub columns: u32,
    }
}
hal::args! {
    /// Of `mat_mul.metal`.
    pub struct MatMul {
        pub columns: u32,
        pub inner: u32,
    }
}
hal::args! {
    /// Of `histogram.metal`.
    pub struct Histogram {
        pub count: u32,
    }
}

/// A program of one kernel; tests change the text, so it is made here and never freed.
pub(crate) fn program(
    entry: &'static str,
    texts: Vec<Text>,
    constants: Vec<FunctionConstant>,
) -> &'static Program {
    let gpu = Gpu { texts: texts.leak(), entry, constants: constants.leak() };
    Box::leak(Box::new(Program { name: entry, host: None, gpu: Some(gpu) }))
}

/// Runs a trial.
#[expect(unsafe_code, reason = "the launch is what the kernel under test asks for")]
pub(crate) fn run(trial: &Trial, options: SoftOptions) -> hal::Result<Vec<Vec<u8>>> {
    // SAFETY: the test's spans and constants are those of its kernel; a broken kernel runs with checks, or stays inside.
    unsafe { trial.run(options) }
}

/// Whether clang is here; otherwise the test says that it skips.
pub(crate) fn can_run() -> bool {
    let found = msl::clang();
    if let Err(error) = &found {
        eprintln!("SKIPPED: kernels on the soft device: {error}");
    }
    found.is_ok()
}

pub(crate) fn plain(schedule: Schedule) -> SoftOptions {
    SoftOptions { schedule, checks: Checks::None }
}

pub(crate) const SCHEDULES: [Schedule; 4] =
    [Schedule::Forward, Schedule::Reverse, Schedule::Random(1), Schedule::Random(2)];

/// Each schedule, then each check.
pub(crate) fn everything() -> Vec<SoftOptions> {
    let checks = [Checks::Memory, Checks::Races];
    let checked = checks.map(|checks| SoftOptions { schedule: Schedule::Random(3), checks });
    SCHEDULES.map(plain).into_iter().chain(checked).collect()
}

pub(crate) fn bytes<const N: usize>(values: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    values.into_iter().flatten().collect()
}

pub(crate) fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

pub(crate) fn u32s(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Numbers in (-1, 1), the same at every run.
pub(crate) fn numbers(count: usize, seed: u32) -> Vec<f32> {
    words(count, seed)
        .into_iter()
        .map(|word| (f64::from(word) / 2_147_483_648.0 - 1.0) as f32)
        .collect()
}

pub(crate) fn words(count: usize, seed: u32) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_769) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..count).map(|_| next()).collect()
}

pub(crate) const RMS_NORM: Text = hal::msl!("../kernels/rms_norm.metal");
pub(crate) const SOFTMAX: Text = hal::msl!("../kernels/softmax.metal");
pub(crate) const MAT_VEC: Text = hal::msl!("../kernels/mat_vec.metal");
pub(crate) const MAT_MUL: Text = hal::msl!("../kernels/mat_mul.metal");
pub(crate) const HISTOGRAM: Text = hal::msl!("../kernels/histogram.metal");
pub(crate) const NEIGHBOURS: Text = hal::msl!("../kernels/neighbours.metal");
pub(crate) const FUNCTIONS: Text = hal::msl!("../kernels/functions.metal");
pub(crate) const VOCABULARY: Text = hal::msl!("../kernels/vocabulary.metal");
pub(crate) const LANES: Text = hal::msl!("../kernels/lanes.metal");

const NAN: [u8; 4] = f32::NAN.to_le_bytes();

/// A kernel's case with the numbers it should give, by f64 arithmetic. `text` may be a changed one.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) trial: Trial,
    pub(crate) numbers: Vec<f64>,
    pub(crate) tolerance: f64,
}

impl Expected {
    /// Runs it; the error is a fault, or numbers that are not as expected.
    pub(crate) fn check(&self, options: SoftOptions) -> Result<(), String> {
        let found = run(&self.trial, options).map_err(|error| error.to_string())?;
        let found = f32s(&found[0]);
        for (i, (found, expected)) in found.iter().zip(&self.numbers).enumerate() {
            // A NaN is not within the tolerance.
            let near = (f64::from(*found) - expected).abs() <= self.tolerance;
            if !near {
                return Err(format!("number {i} is {found}, expected {expected}"));
            }
        }
        Ok(())
    }
}

pub(crate) fn rms_norm(text: Text, rows: usize, columns: usize, threads: u32) -> Expected {
    let (x, w) = (numbers(rows * columns, 1), numbers(columns, 2));
    let epsilon = 1e-5_f32;
    let row = |row: &[f32]| {
        let squares: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
        let scale = 1.0 / (squares / columns as f64 + f64::from(epsilon)).sqrt();
        row.iter().zip(&w).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)).collect::<Vec<f64>>()
    };
    let mut constants = Vec::new();
    RmsNorm { columns: columns as u32, epsilon }.write_to(&mut constants);
    let expected = x.chunks(columns).flat_map(row).collect();
    let trial = Trial {
        program: program("rms_norm", vec![RmsNorm::MSL, text], Vec::new()),
        spans: vec![
            (bytes(x.iter().map(|x| x.to_le_bytes())), false),
            (bytes(w.iter().map(|w| w.to_le_bytes())), false),
            (NAN.repeat(rows * columns), true),
        ],
        constants,
        grid: [rows as u32, 1, 1],
        block: [threads, 1, 1],
        scratch_bytes: 128,
    };
    Expected { trial, numbers: expected, tolerance: 1e-5 }
}

pub(crate) fn neighbours(text: Text) -> Expected {
    let x = numbers(128, 10);
    let of = |at: usize| 2.0 * f64::from(x[at / 64 * 64 + (at + 1) % 64]);
    let trial = Trial {
        program: program("neighbours", vec![text], Vec::new()),
        spans: vec![
            (bytes(x.iter().map(|x| x.to_le_bytes())), false),
            (NAN.repeat(128), true),
            (NAN.repeat(128), true),
        ],
        constants: Vec::new(),
        grid: [2, 1, 1],
        block: [64, 1, 1],
        scratch_bytes: 0,
    };
    Expected { trial, numbers: (0..128).map(of).collect(), tolerance: 0.0 }
}

pub(crate) fn softmax(text: Text, rows: usize, columns: usize, threads: u32) -> Expected {
    let x: Vec<f32> = numbers(rows * columns, 3).iter().map(|x| x * 5.0).collect();
    let row = |row: &[f32]| {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        row.iter().map(|x| f64::from(*x).exp() / sum).collect::<Vec<f64>>()
    };
    let mut constants = Vec::new();
    Softmax { columns: columns as u32 }.write_to(&mut constants);
    let expected = x.chunks(columns).flat_map(row).collect();
    let trial = Trial {
        program: program("softmax", vec![Softmax::MSL, text], Vec::new()),
        spans: vec![
            (bytes(x.iter().map(|x| x.to_le_bytes())), false),
            (NAN.repeat(rows * columns), true),
        ],
        constants,
        grid: [rows as u32, 1, 1],
        block: [threads, 1, 1],
        scratch_bytes: 0,
    };
    Expected { trial, numbers: expected, tolerance: 1e-6 }
}

pub(crate) fn mat_vec(text: Text, rows: usize, columns: usize, negate: bool) -> Expected {
    let x = numbers(columns, 4);
    let codes = words(rows * columns / 32 * 5, 5);
    // Scales that half holds exactly: 2^-3 to 2^0.
    let blocks: Vec<(u32, Vec<u8>)> = codes
        .chunks(5)
        .map(|word| (word[0] % 4, bytes(word[1..].iter().map(|word| word.to_le_bytes()))))
        .collect();
    let image = blocks.iter().flat_map(|(scale, codes)| {
        let half = u16::try_from((12 + scale) << 10).unwrap();
        half.to_le_bytes().into_iter().chain(codes.iter().copied())
    });
    let product = |(b, (scale, codes)): (usize, &(u32, Vec<u8>))| {
        let part = &x[b % (columns / 32) * 32..][..32];
        let sum: f64 = (0..16)
            .map(|i| {
                let (low, high) = (f64::from(codes[i] & 15) - 8.0, f64::from(codes[i] >> 4) - 8.0);
                low * f64::from(part[i]) + high * f64::from(part[i + 16])
            })
            .sum();
        sum * 2_f64.powi(*scale as i32 - 3)
    };
    let products: Vec<f64> = blocks.iter().enumerate().map(product).collect();
    let sign = if negate { -1.0 } else { 1.0 };
    let expected =
        products.chunks(columns / 32).map(|row| sign * row.iter().sum::<f64>()).collect();
    let mut constants = Vec::new();
    MatVec { rows: rows as u32, columns: columns as u32 }.write_to(&mut constants);
    let negate = FunctionConstant { index: 0, value: Value::Bool(negate) };
    let trial = Trial {
        program: program("mat_vec", vec![MatVec::MSL, text], vec![negate]),
        spans: vec![
            (image.collect(), false),
            (bytes(x.iter().map(|x| x.to_le_bytes())), false),
            (NAN.repeat(rows), true),
        ],
        constants,
        grid: [rows.div_ceil(4) as u32, 1, 1],
        block: [128, 1, 1],
        scratch_bytes: 0,
    };
    Expected { trial, numbers: expected, tolerance: 1e-3 }
}

/// A kernel that must not survive its checks, once a fault is put into its text.
pub(crate) fn changed(text: Text, from: &str, to: &str) -> Text {
    assert!(text.text.contains(from), "{}: {from}", text.file);
    Text { file: text.file, text: text.text.replacen(from, to, 1).leak() }
}
