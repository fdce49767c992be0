//! What only GPUs do: tiles for prompts, and the same bits in every bucket.
use super::super::gpu::{Mode, TENSOR_TEXTS, TEXTS, constants};
use super::{EXACT, Feed, Product, Project, Qkv, linear, norm};
use crate::conformance::{Forward, Setup, Tolerance, check, checked, token};
use crate::format::Format;
use crate::{Activation, Hidden, NormKind, Recorder, Tensor, Token};
use hal::Gpu;
use msl::{Checks, Soft};

use Format::{
    Bf16, F16, F32, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0,
};

/// Every format once, in launches of three: alike, of two kinds, and all different.
const TRIPLES: [[Format; 3]; 7] = [
    [Q4K, Q4K, Q4K],
    [Q4_0, Q4_0, Q8_0],
    [Q5_0, Q4_1, Q4_1],
    [Q5K, Q6K, Q5K],
    [F16, Q2K, Q3K],
    [Iq4Nl, Iq4Xs, Mxfp4],
    [Bf16, F32, Q5_1],
];

/// Weights are rounded to half: at most `2^-11` of each, with a standard deviation below 3e-4, and so are sums of many.
const HALVES: Tolerance = Tolerance::Norm(6e-4);

/// F32 and BF16 are not rounded at all, and neither is x.
const fn of(format: Format) -> Tolerance {
    match format {
        F32 | Bf16 => EXACT,
        _ => HALVES,
    }
}

fn qkv(
    setup: &mut Setup,
    formats: [Format; 3],
    kind: NormKind,
    rows: [u32; 3],
    columns: u32,
) -> Qkv {
    let norm = norm(setup, kind, columns);
    let mut rows = rows.into_iter().zip([true, false, true]);
    let linears = formats.map(|format| {
        let (rows, bias) = rows.next().expect("three");
        linear(setup, format, rows, columns, bias)
    });
    Qkv { table: setup.table(columns), norm, linears }
}

/// Tiles whole and in part, of rows and of tokens, beside tokens that are exact.
#[test]
fn prompts_go_through_tiles() {
    for (seed, formats) in (1..).zip(TRIPLES) {
        for (tokens, exact) in [(39, 0), (70, 5), (11, 10)] {
            let mut setup = Setup::new(seed);
            setup.prompts_from = Some(exact);
            let forward = qkv(&mut setup, formats, NormKind::Layer, [70, 33, 64], 512);
            setup.batch(tokens);
            setup.batch(exact + 1);
            let name = format!("prompts {formats:?}, {tokens} tokens of which {exact} exact");
            check(&name, &setup, &forward, &formats.map(of));
        }
    }
}

#[test]
fn prompts_of_hidden_rows() {
    let pairs = [(Q4K, Some(Q6K)), (F32, Some(Q8_0)), (Q4_1, None)];
    for (seed, (gate, up)) in (1..).zip(pairs) {
        for activation in Activation::ALL {
            let mut setup = Setup::new(seed);
            setup.prompts_from = Some(2);
            let hidden = Hidden {
                gate: linear(&mut setup, gate, 83, 256, true),
                up: up.map(|up| linear(&mut setup, up, 83, 256, seed % 2 == 0)),
                activation,
            };
            let norm = norm(&mut setup, NormKind::Rms, 256);
            let forward = Feed { table: setup.table(256), norm, hidden };
            setup.batch(35);
            // Twice `HALVES`: the product of two rounded factors.
            let name = format!("hidden rows of prompts {gate} {up:?} {activation:?}");
            check(&name, &setup, &forward, &[Tolerance::Norm(1.2e-3)]);
        }
    }
}

#[test]
fn prompts_accumulate() {
    for (seed, format) in (1..).zip([F16, Q4_0]) {
        let mut setup = Setup::new(seed);
        setup.prompts_from = Some(1);
        let forward = Project {
            x: setup.table(100),
            y: setup.table(96),
            linear: linear(&mut setup, format, 100, 96, true),
            post_norm: None,
        };
        setup.batch(37);
        check(&format!("project prompts {format}"), &setup, &forward, &[HALVES]);
    }
}

/// The outputs, as bits, of token `at` of a step.
fn bits_of(
    soft: &Soft,
    formats: [Format; 3],
    (step, prompts_from): (&[Token], u32),
    at: usize,
) -> Vec<u32> {
    let mut setup = Setup::new(2); // even: a bucket is no larger than its step
    setup.prompts_from = Some(prompts_from);
    let kind = if formats[0] == Q4K { NormKind::Rms } else { NormKind::Layer };
    let rows = [35, 66, 20];
    let forward = qkv(&mut setup, formats, kind, rows, 768);
    setup.step(step.to_vec());
    let ran = setup.run(soft, |to| forward.forward(to));
    let outputs = ran[0].outputs.iter().zip(rows);
    let own = |(y, rows): (&Vec<f32>, u32)| y[at * rows as usize..][..rows as usize].to_vec();
    outputs.flat_map(own).map(f32::to_bits).collect()
}

/// How many commands a step of `tokens` tokens is.
fn commands_of(
    soft: &Soft,
    tokens: u32,
    make: impl Fn(&mut Setup) -> Box<dyn Fn(&mut Recorder<'_>) -> Vec<Tensor>>,
) -> usize {
    let mut setup = Setup::new(2);
    let forward = make(&mut setup);
    setup.batch(tokens);
    let mut count = 0;
    setup.run_recorded(soft, |to| forward(to), |commands| count = commands.list.len());
    count
}

/// What shares an input is one launch, its norm included; many tokens are normalized once, before.
#[test]
fn decoding_takes_one_launch_each() {
    let Some(soft) = checked(Checks::None) else { return };
    for (tokens, norms) in [(1, 0), (3, 1)] {
        let qkv = commands_of(&soft, tokens, |setup| {
            let forward = qkv(setup, [Q4K, Q4K, Q6K], NormKind::Rms, [8, 8, 8], 256);
            Box::new(move |to| forward.forward(to))
        });
        assert_eq!(qkv, 1 + norms + 1, "embed, q and k and v");
        let hidden = commands_of(&soft, tokens, |setup| {
            let [gate, up] = [Q4K, Q6K].map(|format| linear(setup, format, 8, 256, false));
            let hidden = Hidden { gate, up: Some(up), activation: Activation::Silu };
            let norm = norm(setup, NormKind::Rms, 256);
            let forward = Feed { table: setup.table(256), norm, hidden };
            Box::new(move |to| forward.forward(to))
        });
        assert_eq!(hidden, 1 + norms + 1, "embed, gate and up");
        let project = commands_of(&soft, tokens, |setup| {
            let (x, y) = (setup.table(8), setup.table(256));
            let linear = linear(setup, Q4K, 8, 256, false);
            let forward = Project { x, y, linear, post_norm: None };
            Box::new(move |to| forward.forward(to))
        });
        assert_eq!(project, 2 + 1, "embed twice, the product with the residual");
    }
}

/// What a request gets does not depend on who else is there.
#[test]
fn a_tokens_bits_are_the_same_in_every_bucket() {
    let Some(soft) = checked(Checks::None) else { return };
    let own = token(7, 3, 0, false);
    // The token at `at` of `count` tokens.
    let among = |count: u32, at: u32| -> Vec<Token> {
        (0..count).map(|i| if i == at { own } else { token(i, i, 1, false) }).collect()
    };
    for formats in [[Q4K, Q4K, Q6K], [Q4_0, F16, Q5_1]] {
        let alone = bits_of(&soft, formats, (&among(1, 0), 1), 0);
        for (count, at, exact) in [(4, 2, 4), (4, 0, 1), (32, 30, 32), (45, 9, 10), (45, 1, 3)] {
            let step = among(count, at);
            let bits = bits_of(&soft, formats, (&step, exact), at as usize);
            assert_eq!(bits, alone, "{formats:?}: token {at} of {count}, {exact} exact");
        }
        let prompt = bits_of(&soft, formats, (&among(2, 1), 1), 1);
        assert_ne!(prompt, alone, "tiles round weights");
        for (count, at, exact) in [(4, 2, 0), (32, 31, 1), (45, 44, 3), (77, 40, 9)] {
            let step = among(count, at);
            let bits = bits_of(&soft, formats, (&step, exact), at as usize);
            assert_eq!(bits, prompt, "{formats:?}: prompt's token {at} of {count}, {exact} exact");
        }
    }
}

/// One past an end, a load wider than its alignment.
#[test]
fn memory_is_used_as_it_is_given() {
    let Some(soft) = checked(Checks::Memory) else { return };
    for (seed, formats) in (1..).zip(TRIPLES) {
        let mut setup = Setup::new(seed);
        setup.prompts_from = Some(2);
        let forward = qkv(&mut setup, formats, NormKind::Layer, [17, 5, 9], 256);
        setup.batch(4);
        setup.run(&soft, |to| forward.forward(to));
    }
    for (gate, up) in [(F16, Some(Q3K)), (Bf16, None)] {
        let mut setup = Setup::new(2);
        let (norm, columns) = (norm(&mut setup, NormKind::Rms, 256), 256);
        let hidden = Hidden {
            gate: linear(&mut setup, gate, 7, columns, true),
            up: up.map(|up| linear(&mut setup, up, 7, columns, true)),
            activation: Activation::Silu,
        };
        let forward = Feed { table: setup.table(columns), norm, hidden };
        setup.batch(1);
        setup.run(&soft, |to| forward.forward(to));
    }
}

/// Rows of floats that end anywhere, in sums and in tiles.
#[test]
fn floats_end_where_they_end() {
    let memory = checked(Checks::Memory);
    for (seed, format) in (1..).zip([F32, F16, Bf16]) {
        for columns in [1, 7, 33, 100, 515] {
            let mut setup = Setup::new(seed);
            setup.prompts_from = Some(2);
            let linear = linear(&mut setup, format, 19, columns, false);
            let forward = Product { table: setup.table(columns), linear };
            setup.batch(5);
            check(&format!("{format}, {columns} columns"), &setup, &forward, &[of(format)]);
            if let Some(soft) = memory.as_ref().filter(|_| columns == 33) {
                setup.run(soft, |to| forward.forward(to));
            }
        }
    }
}

/// A few blocks a row, and so many that each lane has several.
#[test]
fn prompts_of_every_length() {
    for (seed, format) in (1..).zip(Format::ALL) {
        for (columns, rows, tokens) in [(96, 130, 3), (576, 70, 33), (2048, 20, 9)] {
            if format.row_bytes(columns as usize).is_none() {
                continue;
            }
            let mut setup = Setup::new(seed);
            setup.prompts_from = Some(1);
            let linear = linear(&mut setup, format, rows, columns, true);
            let forward = Product { table: setup.table(columns), linear };
            setup.batch(tokens);
            let name = format!("{format} {rows} x {columns}, {tokens} tokens, one exact");
            check(&name, &setup, &forward, &[of(format)]);
        }
    }
}

#[test]
fn threads_do_not_race() {
    let Some(soft) = checked(Checks::Races) else { return };
    for tokens in [1, 3] {
        let mut setup = Setup::new(2);
        setup.prompts_from = Some(1);
        let (norm, gate) =
            (norm(&mut setup, NormKind::Layer, 64), linear(&mut setup, Q4_0, 9, 64, true));
        let up = Some(linear(&mut setup, F32, 9, 64, false));
        let hidden = Hidden { gate, up, activation: Activation::Gelu };
        let forward = Feed { table: setup.table(64), norm, hidden };
        setup.batch(tokens);
        setup.run(&soft, |to| forward.forward(to));
    }
}

/// Address spaces, NVIDIA's compiler and AMD's. The texts name formats by value, so that a compiler reads all of them
/// whichever the constants ask for.
#[test]
fn every_compiler_takes_the_kernels() {
    for (formats, mode) in [([Q4K, F16, F32], Mode::Mixed), ([Q3K, Iq4Xs, Mxfp4], Mode::One)] {
        let values = constants(formats, None, mode);
        let constants: Vec<_> = (0..)
            .zip(values)
            .map(|(index, value)| hal::FunctionConstant { index, value })
            .collect();
        let constants = constants.leak();
        let gpu = Gpu { texts: TEXTS, entry: "linear", constants };
        match msl::check(&gpu) {
            Ok(missing) => missing.iter().for_each(|line| eprintln!("SKIPPED: {line}")),
            Err(error) => panic!("{error}"),
        }
    }
}

/// No compiler here has the headers of tensor ops. What is left to check: the rest of the text keeps to the dialect.
#[test]
fn tensor_ops_are_all_that_is_foreign_in_their_text() {
    let Err(msl::Error::Dialect(complaints)) = msl::lint(&msl::Source::new(TENSOR_TEXTS)) else {
        panic!("the headers are foreign");
    };
    let lines: Vec<_> = complaints.iter().map(ToString::to_string).collect();
    assert!(lines.iter().all(|line| line.contains("a Mac compiles the text alone")), "{lines:#?}");
    assert_eq!(lines.len(), 2, "{lines:#?}");
}
