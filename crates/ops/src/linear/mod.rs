//! `linear`: `y = x · Wᵀ + bias` for one to three matrices that share their input, with an epilogue.
//!
//! Contract: x is `(rows, in)`, each W is `(out, in)` in its storage format, each y is `(rows, out)`. Quantized formats take
//! x as int8 blocks (see [`crate::quantize`]) and multiply integers; float formats take x in f32.
mod blocks;
#[cfg(test)]
mod cases;
mod cpu;
pub mod reference;

use crate::format::Format;
use crate::quantize::{self, Quantized};
use crate::record::{Operand, Recorder, RowsOf, Spread, Tensor, read, write};
use crate::{Activation, Epilogue, Hidden, Linear, Norm};

/// Spans: counts, codes, scales, sums, then per matrix W and y (written), then the biases that exist, in order.
pub static INTEGER: hal::Program = hal::Program { name: "linear_int8", host: cpu::integer };
/// Spans: counts, x, then as [`INTEGER`].
pub static FLOAT: hal::Program = hal::Program { name: "linear_float", host: cpu::float };

/// Matrices of one launch.
const PARTS: usize = 3;

hal::args! {
    /// Arguments of both programs. `bias_mask` has a bit per matrix; `epilogue` is 0 store, 1 accumulate, 2 + i gate and
    /// 5 + i activate with activation i.
    pub struct Args {
        pub columns: u32,
        pub count_index: u32,
        pub parts: u32,
        pub bias_mask: u32,
        pub epilogue: u32,
        pub rows_0: u32,
        pub rows_1: u32,
        pub rows_2: u32,
        pub format_0: u32,
        pub format_1: u32,
        pub format_2: u32,
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

/// An input in the forms that its matrices need.
struct Input {
    rows_of: RowsOf,
    columns: u32,
    float: Option<FloatInput>,
    integer: Option<Quantized>,
}

/// The given tensor, or a normalized copy of it.
enum FloatInput {
    Given(crate::record::Place),
    Made(Tensor),
}

fn input(to: &mut Recorder<'_>, x: &Tensor, norm: Option<&Norm>, linears: &[&Linear]) -> Input {
    let any = |float: bool| linears.iter().any(|linear| is_float(linear.weight.format) == float);
    let float = any(true).then(|| match norm {
        None => FloatInput::Given(x.room.place()),
        Some(norm) => {
            let y = to.tensor(x.rows_of, x.columns);
            crate::norm::record(to, x, norm, &y, false);
            FloatInput::Made(y)
        }
    });
    let integer = any(false).then(|| quantize::record(to, x, norm));
    Input { rows_of: x.rows_of, columns: x.columns, float, integer }
}

impl Input {
    fn operands(&self, float: bool) -> Vec<Operand> {
        match (&self.float, &self.integer) {
            (Some(FloatInput::Given(place)), _) if float => vec![read(*place)],
            (Some(FloatInput::Made(tensor)), _) if float => vec![read(tensor.room.place())],
            (_, Some(q)) => [&q.codes, &q.scales, &q.sums].map(|room| read(room.place())).to_vec(),
            _ => unreachable!("`input` made the form for every format"),
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
    let input = input(to, x, norm, &linears);
    let outputs = linears.map(|linear| to.tensor(x.rows_of, linear.weight.rows));
    for float in [true, false] {
        let same = |(linear, _): &(&Linear, &Tensor)| is_float(linear.weight.format) == float;
        let parts: Vec<_> = linears.iter().copied().zip(&outputs).filter(same).collect();
        if !parts.is_empty() {
            launch(to, &input, &parts, Epilogue::Store);
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
    let input = input(to, x, None, &[linear]);
    launch(to, &input, &[(linear, y)], epilogue);
}

/// Records the hidden row of a feed-forward block in as few launches as its formats allow.
pub(crate) fn record_hidden(
    to: &mut Recorder<'_>,
    x: &Tensor,
    norm: &Norm,
    hidden: &Hidden,
) -> Tensor {
    let gate = &hidden.gate;
    let Some(up) = &hidden.up else {
        let input = input(to, x, Some(norm), &[gate]);
        let y = to.tensor(x.rows_of, gate.weight.rows);
        launch(to, &input, &[(gate, &y)], Epilogue::Activate(hidden.activation));
        return y;
    };
    if is_float(gate.weight.format) != is_float(up.weight.format) {
        let [y, up] = record(to, x, Some(norm), [gate, up]);
        crate::activate::record(to, &y, Some(&up), hidden.activation);
        return y;
    }
    let input = input(to, x, Some(norm), &[gate, up]);
    let y = to.tensor(x.rows_of, gate.weight.rows);
    let second = to.tensor(x.rows_of, up.weight.rows);
    launch(to, &input, &[(gate, &y), (up, &second)], Epilogue::Gate(hidden.activation));
    y
}

fn launch(to: &mut Recorder<'_>, input: &Input, parts: &[(&Linear, &Tensor)], epilogue: Epilogue) {
    let float = is_float(parts[0].0.weight.format);
    let mut operands = vec![to.counts()];
    operands.extend(input.operands(float));
    let (mut rows, mut formats, mut bias_mask) = ([0; PARTS], [0; PARTS], 0);
    for (i, (linear, y)) in parts.iter().enumerate() {
        assert_eq!(linear.weight.columns, input.columns, "the loader checked the shapes");
        (rows[i], formats[i]) = (linear.weight.rows, linear.weight.format as u32);
        bias_mask |= u32::from(linear.bias.is_some()) << i;
        operands.extend([read(to.weight(&linear.weight)), write(y.room.place())]);
    }
    let biases = parts.iter().filter_map(|(linear, _)| linear.bias.as_ref());
    operands.extend(biases.map(|bias| read(to.weight(bias))));
    let args = Args {
        columns: input.columns,
        count_index: input.rows_of.count_index(),
        parts: u32::try_from(parts.len()).expect("at most three"),
        bias_mask,
        epilogue: epilogue.code(),
        rows_0: rows[0],
        rows_1: rows[1],
        rows_2: rows[2],
        format_0: formats[0],
        format_1: formats[1],
        format_2: formats[2],
    };
    let program = if float { &FLOAT } else { &INTEGER };
    let scratch_bytes = cpu::scratch_bytes(input.columns, float);
    let spread = Spread { groups: rows.iter().sum(), scratch_bytes };
    to.launch(program, &operands, spread, |image| args.write_to(image));
}
