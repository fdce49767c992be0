//! Cases of `linear` and of the composites that fuse it: every format, alone and beside others.
mod gpu;
mod packed;

use super::is_float;
use crate::conformance::{FLOAT, Forward, INT16, Setup, Tolerance, check, token};
use crate::format::Format;
use crate::simd::Family;
use crate::{Activation, Hidden, Linear, Norm, NormKind, Ops, Weight};

/// Sums of products of 2048 numbers in f32, of which the result may be a tenth.
const EXACT: Tolerance = Tolerance::Max(1e-5);

/// Prompts' tokens may be rounded more (see `quantize::words`): a weight to 1.5 / 4094 of its section's largest at most, with a
/// standard deviation of about 0.5 / 4094 or 4e-4 of the weights' own (the largest of 256 is 2.8 of those, and groups with
/// small scales lie beside it), an activation to 1.4e-4: 0.29 of a scale, which is 16 / 32752.
const WORDS: Tolerance = Tolerance::Norm(8e-4);

fn of(format: Format) -> Tolerance {
    if is_float(format) { FLOAT } else { INT16 }
}

struct Product {
    table: Weight,
    linear: Linear,
}

impl Forward for Product {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.table, 1.0);
        vec![ops.linear(&x, &self.linear)]
    }
}

fn linear(setup: &mut Setup, format: Format, rows: u32, columns: u32, bias: bool) -> Linear {
    let bias = bias.then(|| setup.bias(rows));
    Linear { weight: setup.matrix(format, rows, columns), bias }
}

/// Columns, rows, tokens, bias.
const SHAPES: [(u32, u32, u32, bool); 8] = [
    (32, 16, 1, false),
    (64, 17, 7, true),
    (256, 16, 33, true),
    (256, 5, 2, false),
    (576, 100, 2, false),
    (768, 1000, 1, true),
    (2048, 17, 7, false),
    (2048, 1, 2, true),
];

fn shapes(format: Format) -> impl Iterator<Item = (u32, u32, u32, bool)> {
    let blocks = u32::try_from(format.block_elements()).expect("small");
    SHAPES.into_iter().filter(move |shape| shape.0.is_multiple_of(blocks))
}

/// Inputs that int8 holds exactly leave nothing to the quantization: every format is held to f32 rounding.
#[test]
fn exact_inputs_give_exact_products() {
    for (seed, format) in (1..).zip(Format::ALL) {
        for (columns, rows, tokens, bias) in shapes(format) {
            let mut setup = Setup::new(seed);
            let table = setup.exact_table(columns);
            let linear = linear(&mut setup, format, rows, columns, bias);
            setup.batch(tokens);
            let name = format!("{format} {rows} x {columns}, {tokens} tokens, bias {bias}");
            check(&name, &setup, &Product { table, linear }, &[EXACT]);
        }
    }
}

/// Every family multiplies float formats itself: rows of any length, blocks whole and in part, more tokens than a cache holds.
#[test]
fn float_formats_in_every_family() {
    let shapes = [
        (1, 19, 3),
        (7, 5, 1),
        (33, 18, 2),
        (64, 17, 7),
        (100, 6, 5),
        (576, 21, 4),
        (2048, 6, 1),
        (2048, 5, 50),
        (4100, 9, 3),
        (8192, 8, 1),
    ];
    for family in Family::ALL.into_iter().filter(|family| family.runs_here()) {
        for (seed, format) in (1..).zip([Format::F32, Format::F16, Format::Bf16]) {
            for (columns, rows, tokens) in shapes {
                let mut setup = Setup::new(seed);
                setup.packed_for = Some(family);
                let table = setup.table(columns);
                let linear = linear(&mut setup, format, rows, columns, true);
                setup.batch(tokens);
                let name = format!("{family} {format} {rows} x {columns}, {tokens} tokens");
                check(&name, &setup, &Product { table, linear }, &[FLOAT]);
            }
        }
    }
}

/// Prompts' tokens beside others: as words where the matrix has whole tiles and the family has kernels for them.
#[test]
fn prompts_of_float_formats() {
    for (seed, format) in (1..).zip([Format::F16, Format::Bf16]) {
        for (columns, rows, tokens) in [(64, 48, 3), (576, 80, 7), (1024, 40, 9), (2048, 64, 300)] {
            for exact in [0, 1, 5].into_iter().filter(|exact| *exact < tokens) {
                let mut setup = Setup::new(seed);
                setup.prompts_from = Some(exact);
                let table = setup.table(columns);
                let linear = linear(&mut setup, format, rows, columns, true);
                setup.batch(tokens);
                let name =
                    format!("{format} {rows} x {columns}, {tokens} tokens of which {exact} exact");
                check(&name, &setup, &Product { table, linear }, &[WORDS]);
            }
        }
    }
}

#[test]
fn inputs_in_general() {
    for (seed, format) in (1..).zip(Format::ALL) {
        for (columns, rows, tokens) in [(256, 100, 7), (2048, 64, 2)] {
            let mut setup = Setup::new(seed);
            let table = setup.table(columns);
            let linear = linear(&mut setup, format, rows, columns, false);
            setup.batch(tokens);
            let name = format!("{format} {rows} x {columns}, {tokens} tokens");
            check(&name, &setup, &Product { table, linear }, &[of(format)]);
        }
    }
}

/// Rows of a fused matrix.
#[test]
fn part_of_a_matrix() {
    for (seed, format) in (1..).zip([Format::F16, Format::Q5_1, Format::Q6K]) {
        let mut setup = Setup::new(seed);
        let table = setup.exact_table(256);
        let whole = setup.matrix(format, 96, 256);
        let linear = Linear { weight: whole.part(33, 40), bias: None };
        setup.batch(4);
        check(&format!("part of {format}"), &setup, &Product { table, linear }, &[EXACT]);
    }
}

struct Qkv {
    table: Weight,
    norm: Norm,
    linears: [Linear; 3],
}

impl Forward for Qkv {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.table, 1.0);
        ops.qkv(&x, &self.norm, self.linears.each_ref()).into()
    }
}

fn norm(setup: &mut Setup, kind: NormKind, n: u32) -> Norm {
    let bias = (kind == NormKind::Layer).then(|| setup.bias(n));
    Norm { kind, weight: setup.gains(n), bias, epsilon: 1e-5 }
}

/// Three matrices of different rows and formats share their normalized input.
#[test]
fn three_matrices() {
    use Format::{F16, F32, Q4_0, Q4K, Q5_1, Q6K, Q8_0};
    let cases = [
        ([Q4_0, Q8_0, Q5_1], NormKind::Rms),
        ([Q4K, Q4K, Q6K], NormKind::Layer),
        ([F16, F32, F16], NormKind::Layer),
        ([Q4K, F16, Q8_0], NormKind::Rms),
        ([F32, Q6K, Q6K], NormKind::Layer),
        ([Q8_0, Q8_0, F32], NormKind::Rms),
    ];
    for (seed, (formats, kind)) in (1..).zip(cases) {
        for biases in [[false; 3], [true; 3], [false, true, false], [true, false, true]] {
            let mut setup = Setup::new(seed);
            let norm = norm(&mut setup, kind, 512);
            let mut rows = [96, 33, 50].into_iter().zip(biases);
            let linears = formats.map(|format| {
                let (rows, bias) = rows.next().expect("three");
                linear(&mut setup, format, rows, 512, bias)
            });
            let forward = Qkv { table: setup.table(512), norm, linears };
            setup.batch(5);
            setup.batch(1);
            let name = format!("qkv {formats:?} {kind:?} {biases:?}");
            check(&name, &setup, &forward, &formats.map(of));
        }
    }
}

struct Feed {
    table: Weight,
    norm: Norm,
    hidden: Hidden,
}

impl Forward for Feed {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.table, 1.0);
        vec![ops.gate_up(&x, &self.norm, &self.hidden)]
    }
}

/// An activation bends the error of its input by at most its slope, and the product with `up` brings a second error.
const HIDDEN: Tolerance = Tolerance::Norm(1.2e-4);

#[test]
fn hidden_rows() {
    use Format::{Bf16, F16, F32, Q4_0, Q4K, Q8_0};
    let pairs = [
        (F16, Some(F32)),
        (Q4_0, Some(Q8_0)),
        (F16, Some(Q4K)),
        (Q8_0, Some(F32)),
        (Bf16, None),
        (Q4K, None),
    ];
    for (seed, (gate, up)) in (1..).zip(pairs) {
        for activation in Activation::ALL {
            let mut setup = Setup::new(seed);
            let norm = norm(&mut setup, NormKind::Rms, 512);
            let hidden = Hidden {
                gate: linear(&mut setup, gate, 83, 512, true),
                up: up.map(|up| linear(&mut setup, up, 83, 512, seed % 2 == 0)),
                activation,
            };
            let forward = Feed { table: setup.table(512), norm, hidden };
            setup.batch(5);
            setup.batch(1);
            let exact = [Some(gate), up].into_iter().flatten().all(is_float);
            let tolerance = if exact { FLOAT } else { HIDDEN };
            let name = format!("hidden {gate} {up:?} {activation:?}");
            check(&name, &setup, &forward, &[tolerance]);
        }
    }
}

struct Project {
    x: Weight,
    y: Weight,
    linear: Linear,
    post_norm: Option<Norm>,
}

impl Forward for Project {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let (x, y) = (ops.embed(&self.x, 1.0), ops.embed(&self.y, 1.0));
        vec![ops.project(x, &y, &self.linear, self.post_norm.as_ref())]
    }
}

#[test]
fn products_accumulate() {
    for (seed, format) in (1..).zip([Format::F32, Format::Q4_1, Format::Iq4Xs]) {
        for (bias, post) in [(false, false), (true, false), (true, true)] {
            let mut setup = Setup::new(seed);
            let forward = Project {
                x: setup.table(100),
                y: setup.exact_table(256),
                linear: linear(&mut setup, format, 100, 256, bias),
                post_norm: post.then(|| norm(&mut setup, NormKind::Rms, 100)),
            };
            setup.batch(5);
            check(&format!("project {format}, {bias} {post}"), &setup, &forward, &[EXACT]);
        }
    }
}

struct Head {
    table: Weight,
    norm: Norm,
    linear: Linear,
}

impl Forward for Head {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.table, 1.0);
        let wanted = ops.gather(&x);
        vec![ops.head(&wanted, &self.norm, &self.linear)]
    }
}

#[test]
fn logits_of_the_wanted_rows() {
    for (seed, format) in (1..).zip([Format::F16, Format::Q8_0, Format::Q6K]) {
        let mut setup = Setup::new(seed);
        let norm = norm(&mut setup, NormKind::Rms, 256);
        let linear = linear(&mut setup, format, 1003, 256, false);
        let forward = Head { table: setup.table(256), norm, linear };
        let wanted = [false, true, true, false, false, true, false];
        let tokens = (0..).zip(wanted).map(|(i, wanted)| token(3 * i, i, i % 2, wanted));
        setup.step(tokens.collect());
        setup.step(vec![token(1, 0, 0, false), token(2, 1, 0, true)]);
        // A chunk of a prompt that asks for no logits.
        setup.step(vec![token(1, 0, 0, false), token(2, 1, 0, false)]);
        check(&format!("head {format}"), &setup, &forward, &[of(format)]);
    }
}
