//! `linear`: `y = x · Wᵀ + bias` for one to three matrices that share their input, with an epilogue.
//!
//! Contract: x is `(rows, in)`, each W is `(out, in)` in its storage format, each y is `(rows, out)`. Quantized formats take
//! x as int8 blocks (see [`crate::quantize`]) and multiply integers; float formats take x in f32.
//!
//! Weights of quantized formats may lie in packed tiles ([`pack`]), where a family of kernels (see [`crate::simd`]) multiplies
//! them at the speed of memory or of the dot-product units. Tiles that are not packed yet are packed for the moment, with the same
//! bits. Other weights lie as in the file and go through [`blocks`], which also defines what codes, scales and offsets are. BF16
//! weights lie [`dense`] where a family reads them so.
//!
//! GPUs take weights as they lie in the file and x in f32: see [`gpu`].
mod accelerate;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_pack;
#[cfg(target_arch = "x86_64")]
mod avx2_words;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_dense;
#[cfg(target_arch = "x86_64")]
mod avx512_pack;
#[cfg(target_arch = "x86_64")]
mod avx512_words;
mod blocks;
#[cfg(test)]
mod cases;
mod cpu;
mod dense;
mod float;
pub(crate) mod float_words;
mod gpu;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
#[cfg(target_arch = "aarch64")]
mod neon_numbers;
#[cfg(target_arch = "aarch64")]
mod neon_pack;
pub mod pack;
pub mod packing;
pub mod reference;
#[cfg(target_arch = "x86_64")]
mod tile_words;
mod tiles;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod turn;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod units;

pub use tiles::FUSED_TOKENS;

use crate::format::Format;
use crate::quantize::{self, Quantized};
use crate::record::{Operand, Recorder, Room, RowsOf, Spread, Tensor, read, write};
use crate::{Activation, Epilogue, Hidden, Linear, Norm, NormKind};

/// Spans: counts, codes, scales, sums, then per matrix W and y (written), then the biases that exist, in order; where a matrix has
/// tiles, they stand for W, and after all biases come its rows as in the file and the word that tells how many tiles of its tensor
/// are packed.
pub static INTEGER: hal::Program =
    hal::Program { name: "linear_int8", host: Some(cpu::integer), gpu: None };
/// Spans: counts, x, then as [`INTEGER`].
pub static FLOAT: hal::Program =
    hal::Program { name: "linear_float", host: Some(cpu::multiply_float), gpu: None };

/// Spans: counts, x, a panel of which only the words of prompts are read, then as [`INTEGER`]. See [`float_words`].
pub static FLOAT_WORDS: hal::Program =
    hal::Program { name: "linear_float_words", host: Some(float_words::multiply), gpu: None };

/// Spans: counts, panel, then as [`INTEGER`]; all matrices have tiles.
pub static TILES: hal::Program =
    hal::Program { name: "linear_tiles", host: Some(tiles::from_panel), gpu: None };
/// Spans: counts, x, then weight and bias of the norm if there is one, then as [`TILES`] from the matrices on.
pub static TILES_OF_ROWS: hal::Program =
    hal::Program { name: "linear_tiles_of_rows", host: Some(tiles::from_rows), gpu: None };

/// Spans: counts, x, a panel of the rows that continue an answer, then as [`TILES`] from the matrices on. See [`accelerate`].
pub static TILES_ACCELERATE: hal::Program =
    hal::Program { name: "linear_tiles_accelerate", host: Some(accelerate::multiply), gpu: None };

/// Matrices of one launch.
const PARTS: usize = 3;

hal::args! {
    /// Arguments of all programs. `bias_mask` and `tiles_mask` have a bit per matrix; `epilogue` is 0 store, 1 accumulate, 2 + i gate
    /// and 5 + i activate with activation i. `first_tile` counts the tiles of the tensor before the matrix. `norm` counts the norm's vectors; it, `layer` and `epsilon` are for
    /// [`TILES_OF_ROWS`] only.
    pub struct Args {
        pub columns: u32,
        pub count_index: u32,
        pub parts: u32,
        pub bias_mask: u32,
        pub tiles_mask: u32,
        pub epilogue: u32,
        pub rows_0: u32,
        pub rows_1: u32,
        pub rows_2: u32,
        pub format_0: u32,
        pub format_1: u32,
        pub format_2: u32,
        pub first_tile_0: u32,
        pub first_tile_1: u32,
        pub first_tile_2: u32,
        pub family: u32,
        pub norm: u32,
        pub layer: u32,
        pub epsilon: f32,
    }
}

impl Epilogue {
    const fn code(self) -> u32 {
        match self {
            Self::Store => 0,
            Self::Accumulate => 1,
            Self::Gate(activation) => 2 + activation as u32,
            Self::Activate(activation) => 5 + activation as u32,
        }
    }

    fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Store,
            1 => Self::Accumulate,
            2..5 => Self::Gate(Activation::ALL[code as usize - 2]),
            _ => Self::Activate(Activation::ALL[code as usize - 5]),
        }
    }
}

/// Formats whose products are taken in f32.
const fn is_float(format: Format) -> bool {
    matches!(format, Format::F32 | Format::F16 | Format::Bf16)
}

/// How a matrix takes its input: one program for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Float,
    /// Prompts as words.
    FloatWords,
    Integer,
    Tiles,
    /// Prompts as numbers.
    TilesAccelerate,
}

const FORMS: [Form; 5] =
    [Form::Float, Form::FloatWords, Form::Integer, Form::Tiles, Form::TilesAccelerate];

impl Form {
    fn of(to: &Recorder<'_>, x: &Tensor, linear: &Linear) -> Self {
        let prompts = x.rows_of == RowsOf::Tokens && to.capacity(x.rows_of) > FUSED_TOKENS;
        if prompts && float_words::fits(to.family, &linear.weight) {
            Self::FloatWords
        } else if is_float(linear.weight.format) {
            Self::Float
        } else if to.tiles(&linear.weight).is_some() {
            if prompts && to.family.accelerates() { Self::TilesAccelerate } else { Self::Tiles }
        } else {
            Self::Integer
        }
    }
}

/// An input in the form that a launch needs.
enum Input<'a> {
    /// Numbers, with a norm that the launch applies itself.
    Given(&'a Tensor, Option<&'a Norm>),
    Normalized(Tensor),
    /// Numbers, and a panel: of the two, one has what the launch reads of prompts.
    Both(Box<Input<'a>>, Room),
    Quantized(Quantized),
    Panel(Room),
}

impl<'a> Input<'a> {
    fn new(to: &mut Recorder<'_>, form: Form, x: &'a Tensor, norm: Option<&'a Norm>) -> Self {
        match (form, norm) {
            (Form::Float, None) => Self::Given(x, None),
            (Form::Float, Some(norm)) => {
                let y = to.tensor(x.rows_of, x.columns);
                crate::norm::record(to, x, norm, &y, false);
                Self::Normalized(y)
            }
            (Form::FloatWords | Form::TilesAccelerate, norm) => {
                let numbers = Self::new(to, Form::Float, x, norm);
                let x = if let Self::Normalized(y) = &numbers { y } else { x };
                let panel = quantize::record_panel(to, x, None);
                Self::Both(Box::new(numbers), panel)
            }
            (Form::Integer, norm) => Self::Quantized(quantize::record(to, x, norm)),
            (Form::Tiles, norm) if to.capacity(x.rows_of) <= FUSED_TOKENS => Self::Given(x, norm),
            (Form::Tiles, norm) => Self::Panel(quantize::record_panel(to, x, norm)),
        }
    }

    fn operands(&self, to: &Recorder<'_>) -> Vec<Operand> {
        match self {
            Self::Given(x, norm) => {
                let norm = quantize::norm_operands(to, *norm);
                std::iter::once(read(x.room.place())).chain(norm).collect()
            }
            Self::Normalized(x) => vec![read(x.room.place())],
            Self::Both(numbers, panel) => {
                let mut operands = numbers.operands(to);
                operands.push(read(panel.place()));
                operands
            }
            Self::Quantized(q) => [&q.codes, &q.scales, &q.sums].map(|r| read(r.place())).to_vec(),
            Self::Panel(room) => vec![read(room.place())],
        }
    }

    const fn norm(&self) -> Option<&Norm> {
        match self {
            Self::Given(_, norm) => *norm,
            _ => None,
        }
    }
}

/// Records products of `norm(x)` with each matrix.
pub(crate) fn record<const N: usize>(
    to: &mut Recorder<'_>,
    x: &Tensor,
    norm: Option<&Norm>,
    linears: [&Linear; N],
) -> [Tensor; N] {
    if to.for_gpu() {
        return gpu::record(to, x, norm, linears);
    }
    let outputs = linears.map(|linear| to.tensor(x.rows_of, linear.weight.rows));
    for form in FORMS {
        let same = |(linear, _): &(&Linear, &Tensor)| Form::of(to, x, linear) == form;
        let parts: Vec<_> = linears.iter().copied().zip(&outputs).filter(same).collect();
        if !parts.is_empty() {
            launch(to, form, (x, norm), &parts, Epilogue::Store);
        }
    }
    outputs
}

/// Records one product that is added to, or activated into, an existing tensor.
pub(crate) fn record_into(
    to: &mut Recorder<'_>,
    x: &Tensor,
    linear: &Linear,
    epilogue: Epilogue,
    y: &Tensor,
) {
    if to.for_gpu() {
        return gpu::record_into(to, x, linear, epilogue, y);
    }
    launch(to, Form::of(to, x, linear), (x, None), &[(linear, y)], epilogue);
}

/// Records the hidden row of a feed-forward block in as few launches as its formats allow.
pub(crate) fn record_hidden(
    to: &mut Recorder<'_>,
    x: &Tensor,
    norm: &Norm,
    hidden: &Hidden,
) -> Tensor {
    if to.for_gpu() {
        return gpu::record_hidden(to, x, norm, hidden);
    }
    let gate = &hidden.gate;
    let form = Form::of(to, x, gate);
    let Some(up) = &hidden.up else {
        let y = to.tensor(x.rows_of, gate.weight.rows);
        launch(to, form, (x, Some(norm)), &[(gate, &y)], Epilogue::Activate(hidden.activation));
        return y;
    };
    if form != Form::of(to, x, up) {
        let [y, up] = record(to, x, Some(norm), [gate, up]);
        crate::activate::record(to, &y, Some(&up), hidden.activation);
        return y;
    }
    let y = to.tensor(x.rows_of, gate.weight.rows);
    let second = to.tensor(x.rows_of, up.weight.rows);
    let parts = [(gate, &y), (up, &second)];
    launch(to, form, (x, Some(norm)), &parts, Epilogue::Gate(hidden.activation));
    y
}

fn launch(
    to: &mut Recorder<'_>,
    form: Form,
    (x, norm): (&Tensor, Option<&Norm>),
    parts: &[(&Linear, &Tensor)],
    epilogue: Epilogue,
) {
    let input = Input::new(to, form, x, norm);
    let mut operands = vec![to.counts()];
    operands.extend(input.operands(to));
    let (mut rows, mut formats, mut first_tiles) = ([0; PARTS], [0; PARTS], [0; PARTS]);
    let (mut bias_mask, mut tiles_mask, mut room) = (0, 0, 0);
    for (i, (linear, y)) in parts.iter().enumerate() {
        assert_eq!(linear.weight.columns, x.columns, "the loader checked the shapes");
        (rows[i], formats[i]) = (linear.weight.rows, linear.weight.format as u32);
        first_tiles[i] = pack::tiles(linear.weight.first_row);
        bias_mask |= u32::from(linear.bias.is_some()) << i;
        let tiles = to.tiles(&linear.weight).map(|(tiles, _)| tiles);
        if tiles.is_some() {
            tiles_mask |= 1 << i;
            room = room.max(tiles::room_bytes(linear.weight.format, x.columns));
        }
        let weight = tiles.unwrap_or_else(|| to.weight(&linear.weight));
        operands.extend([read(weight), write(y.room.place())]);
    }
    let biases = parts.iter().filter_map(|(linear, _)| linear.bias.as_ref());
    operands.extend(biases.map(|bias| read(to.weight(bias))));
    for (linear, _) in parts {
        if let Some((_, ready)) = to.tiles(&linear.weight) {
            operands.extend([read(to.weight(&linear.weight)), read(ready)]);
        }
    }
    let args = Args {
        columns: x.columns,
        count_index: x.rows_of.count_index(),
        parts: u32::try_from(parts.len()).expect("at most three"),
        bias_mask,
        tiles_mask,
        epilogue: epilogue.code(),
        rows_0: rows[0],
        rows_1: rows[1],
        rows_2: rows[2],
        format_0: formats[0],
        format_1: formats[1],
        format_2: formats[2],
        first_tile_0: first_tiles[0],
        first_tile_1: first_tiles[1],
        first_tile_2: first_tiles[2],
        family: to.family.code(),
        norm: input.norm().map_or(0, |norm| 1 + u32::from(norm.bias.is_some())),
        layer: u32::from(input.norm().is_some_and(|norm| norm.kind == NormKind::Layer)),
        epsilon: input.norm().map_or(0.0, |norm| norm.epsilon),
    };
    let (program, scratch_bytes) = match (form, &input) {
        (Form::Float, _) => {
            (&FLOAT, room + accelerate::scratch_bytes(to.family, x.columns).max(4 * x.columns))
        }
        (Form::TilesAccelerate, _) => {
            (&TILES_ACCELERATE, room + accelerate::scratch_bytes(to.family, x.columns))
        }
        (Form::FloatWords, _) => {
            let words = tiles::words_scratch_bytes(to.family, x.columns);
            (&FLOAT_WORDS, room + words.max(4 * x.columns))
        }
        (Form::Integer, _) => (&INTEGER, cpu::scratch_bytes(x.columns)),
        (Form::Tiles, Input::Panel(_)) => {
            (&TILES, room + tiles::words_scratch_bytes(to.family, x.columns))
        }
        (Form::Tiles, _) => {
            let panel = tiles::fused_scratch_bytes(to.capacity(x.rows_of), x.columns);
            (&TILES_OF_ROWS, room + panel)
        }
    };
    let spread = Spread { groups: rows.iter().sum(), scratch_bytes };
    to.launch(program, &operands, spread, |image| args.write_to(image));
}
