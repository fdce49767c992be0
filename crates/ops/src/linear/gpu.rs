//! `linear` on GPUs: weights as in the file, x in f32, every product of a call in one launch.
//!
//! Tokens that continue an answer, and rows of logits, are multiplied by SIMD groups that sum along rows of W in f32: the
//! same bits in every bucket, whatever else is in it. Prompts' tokens go through tiles and the matrix units, with weights
//! rounded to half (F32 and BF16 stay float). A bucket of one token has the first way only.
use super::PARTS;
use crate::activate::FUNCTIONS;
use crate::format::{FORMATS, Format};
use crate::gpu::Variants;
use crate::record::{Grid, Operand, Recorder, RowsOf, Tensor, read, write};
use crate::{Epilogue, Hidden, Linear, Norm, NormKind};
use hal::{MatrixUnits, Text, Value};

hal::args! {
    /// Arguments of every kernel here. Rows of matrices that a launch lacks are 0; `bias_mask` has a bit per matrix;
    /// `epilogue` is [`Epilogue::code`]. `tiles` threadgroups share the prompts' tokens, `slots` the others.
    pub struct MatrixArgs {
        pub columns: u32,
        pub count_index: u32,
        pub rows_0: u32,
        pub rows_1: u32,
        pub rows_2: u32,
        pub bias_mask: u32,
        pub epilogue: u32,
        pub tiles: u32,
        pub slots: u32,
        pub epsilon: f32,
    }
}

/// The texts of every kernel here, around how tiles are multiplied.
macro_rules! texts {
    ($tile:literal) => {
        &[
            FORMATS,
            FUNCTIONS,
            MatrixArgs::MSL,
            hal::msl!("inputs.metal"),
            hal::msl!($tile),
            hal::msl!("kernel.metal"),
        ]
    };
}

pub(super) const TEXTS: &[Text] = texts!("tile.metal");
/// With the tensor ops of Metal 4.
pub(super) const TENSOR_TEXTS: &[Text] = texts!("tensor.metal");

/// The kernels over one set of texts.
struct Kernels {
    /// Spans: counts, x, weight and bias of the norm, then W, bias and y.
    one: Variants,
    /// Spans: as `one`, with three matrices.
    three: Variants,
    /// Spans: as `one`, but W and bias of gate and of up, and y.
    gated: Variants,
}

impl Kernels {
    const fn new(texts: &'static [Text]) -> Self {
        Self {
            one: Variants::new("linear", texts),
            three: Variants::new("linear_three", texts),
            gated: Variants::new("linear_gated", texts),
        }
    }

    /// Only prompts have tiles: everything else is the same with and without tensor ops.
    fn of(units: MatrixUnits, mode: Mode) -> &'static Self {
        match (units, mode) {
            (MatrixUnits::Tensor, Mode::Mixed) => &TENSOR_KERNELS,
            _ => &KERNELS,
        }
    }
}

static KERNELS: Kernels = Kernels::new(TEXTS);
static TENSOR_KERNELS: Kernels = Kernels::new(TENSOR_TEXTS);
/// Spans: counts, x, weight and bias of the norm, y.
static NORMALIZE: Variants = Variants::new("linear_norm", TEXTS);

// Mirrored in inputs.metal.
const THREADS: u32 = 128;
const SIMDS: u32 = 4;
const TOGETHER: u32 = 8;
const TILE_ROWS: u32 = 64;
const TILE_TOKENS: u32 = 32;
/// Columns of a step of tiles.
const TILE_COLUMNS: u32 = 32;
/// Threadgroups that share the exact tokens of a prompt's bucket. There are few such tokens, and a group that finds none
/// still has to start.
const SLOTS: u32 = 4;

/// Which tokens take which arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    One,
    Many,
    Mixed,
}

impl Mode {
    fn of(to: &Recorder<'_>, rows_of: RowsOf) -> Self {
        match (to.capacity(rows_of), rows_of) {
            (1, _) => Self::One,
            (_, RowsOf::Wanted) => Self::Many,
            (_, RowsOf::Tokens) => Self::Mixed,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Many => "many",
            Self::Mixed => "mixed",
        }
    }
}

/// The values of the function constants.
pub(super) fn constants(formats: [Format; PARTS], norm: Option<&Norm>, mode: Mode) -> Vec<Value> {
    let norm = norm.map_or(0, |norm| {
        1 + 2 * u32::from(norm.kind == NormKind::Layer) + 4 * u32::from(norm.bias.is_some())
    });
    let [first, second, third] = formats.map(|format| format as u32);
    [first, second, third, norm, mode as u32].map(Value::Uint).to_vec()
}

/// A norm's weight and bias; spans that a kernel does not touch are the counts.
fn norm_operands(to: &Recorder<'_>, norm: Option<&Norm>) -> [Operand; 2] {
    let of = |weight: Option<&crate::Weight>| match weight {
        Some(weight) => read(to.weight(weight)),
        None => to.counts(),
    };
    [of(norm.map(|norm| &norm.weight)), of(norm.and_then(|norm| norm.bias.as_ref()))]
}

fn bias_operand(to: &Recorder<'_>, linear: &Linear) -> Operand {
    linear.bias.as_ref().map_or_else(|| to.counts(), |bias| read(to.weight(bias)))
}

/// One product or several over the same x.
struct Product<'a> {
    x: &'a Tensor,
    norm: Option<&'a Norm>,
    linears: &'a [&'a Linear],
    epilogue: Epilogue,
}

impl Product<'_> {
    fn formats(&self) -> [Format; PARTS] {
        std::array::from_fn(|i| self.linears.get(i).unwrap_or(&self.linears[0]).weight.format)
    }

    const fn is_gated(&self) -> bool {
        matches!(self.epilogue, Epilogue::Gate(_))
    }

    fn args(&self, to: &Recorder<'_>) -> MatrixArgs {
        // Gate and up have the same rows, which a threadgroup takes together.
        let matrices = if self.is_gated() { 1 } else { self.linears.len() };
        let rows = |i: usize| if i < matrices { self.linears[i].weight.rows } else { 0 };
        let biases = self.linears.iter().enumerate();
        let tokens = to.capacity(self.x.rows_of);
        MatrixArgs {
            columns: self.x.columns,
            count_index: self.x.rows_of.count_index(),
            rows_0: rows(0),
            rows_1: rows(1),
            rows_2: rows(2),
            bias_mask: biases.map(|(i, linear)| u32::from(linear.bias.is_some()) << i).sum(),
            epilogue: self.epilogue.code(),
            tiles: tokens.div_ceil(TILE_TOKENS),
            slots: tokens.div_ceil(TOGETHER).min(SLOTS),
            epsilon: self.norm.map_or(0.0, |norm| norm.epsilon),
        }
    }

    fn grid(&self, args: &MatrixArgs, mode: Mode) -> Grid {
        let units = |per: u32| -> u32 {
            [args.rows_0, args.rows_1, args.rows_2].iter().map(|rows| rows.div_ceil(per)).sum()
        };
        let one = if self.is_gated() { 2 * SIMDS } else { 4 * SIMDS };
        let many = units(2 * SIMDS) * args.slots;
        let groups = match mode {
            Mode::One => units(one),
            Mode::Many => many,
            Mode::Mixed => units(TILE_ROWS) * args.tiles + many,
        };
        let wide = self.formats().iter().any(|f| matches!(f, Format::F32 | Format::Bf16));
        let weight_bytes = if wide { 4 } else { 2 };
        let tiles = TILE_COLUMNS * (4 * TILE_TOKENS + weight_bytes * TILE_ROWS);
        let scratch_bytes = match mode {
            Mode::Mixed => tiles.max(4 * TILE_ROWS * TILE_TOKENS),
            Mode::One | Mode::Many => 4 * SIMDS,
        };
        Grid { groups: [groups, 1, 1], threads: [THREADS, 1, 1], scratch_bytes }
    }

    /// Records the launch; `outputs` has a tensor for each matrix, or the gate's.
    fn record(&self, to: &mut Recorder<'_>, outputs: &[&Tensor]) {
        let mode = Mode::of(to, self.x.rows_of);
        // One token is normalized by every threadgroup for itself: that is cheaper than a launch. Many are not.
        let normalized = match self.norm {
            Some(norm) if mode != Mode::One => Some(normalize(to, self.x, norm)),
            _ => None,
        };
        let (x, norm) = match &normalized {
            Some(x) => (x, None),
            None => (self.x, self.norm),
        };
        let mut operands = vec![to.counts(), read(x.room.place())];
        operands.extend(norm_operands(to, norm));
        for (i, linear) in self.linears.iter().enumerate() {
            assert_eq!(linear.weight.columns, x.columns, "the loader checked the shapes");
            operands.extend([read(to.weight(&linear.weight)), bias_operand(to, linear)]);
            if !self.is_gated() || i == 1 {
                operands.push(write(outputs[if self.is_gated() { 0 } else { i }].room.place()));
            }
        }
        let kernels = Kernels::of(to.matrix_units(), mode);
        let variants = match (self.is_gated(), self.linears.len()) {
            (true, 2) => &kernels.gated,
            (false, 1) => &kernels.one,
            (false, PARTS) => &kernels.three,
            (_, matrices) => unreachable!("no op has {matrices} matrices"),
        };
        let (formats, args) = (self.formats(), self.args(to));
        let program = variants.program(&constants(formats, norm, mode), || {
            let names: Vec<_> = formats[..self.linears.len()].iter().map(|f| f.name()).collect();
            format!("{}_{}_{}", variants.entry, mode.name(), names.join("_"))
        });
        to.launch_grid(program, &operands, self.grid(&args, mode), |image| args.write_to(image));
    }
}

fn normalize(to: &mut Recorder<'_>, x: &Tensor, norm: &Norm) -> Tensor {
    let y = to.tensor(x.rows_of, x.columns);
    let none = [Format::F32; PARTS];
    let product = Product { x, norm: Some(norm), linears: &[], epilogue: Epilogue::Store };
    let args = product.args(to);
    let constants = constants(none, Some(norm), Mode::One);
    let program = NORMALIZE.program(&constants, || "linear_norm".to_owned());
    let [weight, bias] = norm_operands(to, Some(norm));
    let operands = [to.counts(), read(x.room.place()), weight, bias, write(y.room.place())];
    let groups = [to.capacity(x.rows_of), 1, 1];
    let grid = Grid { groups, threads: [THREADS, 1, 1], scratch_bytes: 4 * SIMDS };
    to.launch_grid(program, &operands, grid, |image| args.write_to(image));
    y
}

pub(super) fn record<const N: usize>(
    to: &mut Recorder<'_>,
    x: &Tensor,
    norm: Option<&Norm>,
    linears: [&Linear; N],
) -> [Tensor; N] {
    let outputs = linears.map(|linear| to.tensor(x.rows_of, linear.weight.rows));
    let product = Product { x, norm, linears: &linears, epilogue: Epilogue::Store };
    product.record(to, &outputs.each_ref());
    outputs
}

pub(super) fn record_into(
    to: &mut Recorder<'_>,
    x: &Tensor,
    linear: &Linear,
    epilogue: Epilogue,
    y: &Tensor,
) {
    Product { x, norm: None, linears: &[linear], epilogue }.record(to, &[y]);
}

pub(super) fn record_hidden(
    to: &mut Recorder<'_>,
    x: &Tensor,
    norm: &Norm,
    hidden: &Hidden,
) -> Tensor {
    let y = to.tensor(x.rows_of, hidden.gate.weight.rows);
    let norm = Some(norm);
    match &hidden.up {
        Some(up) => {
            assert_eq!(up.weight.rows, hidden.gate.weight.rows, "the loader checked the shapes");
            let epilogue = Epilogue::Gate(hidden.activation);
            Product { x, norm, linears: &[&hidden.gate, up], epilogue }.record(to, &[&y]);
        }
        None => {
            let epilogue = Epilogue::Activate(hidden.activation);
            Product { x, norm, linears: &[&hidden.gate], epilogue }.record(to, &[&y]);
        }
    }
    y
}
