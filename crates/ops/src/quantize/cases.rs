//! Cases of `quantize`: codes, scales and sums by their definition, with and without a norm before.
use super::{BLOCK, GROUP};
use crate::conformance::{Forward, Setup, subjects};
use crate::record::RowsOf;
use crate::{Norm, NormKind, Ops, Recorder, Tensor, Weight};

struct Input(Weight, Option<Norm>);

impl Forward for Input {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.0, 1.0);
        vec![match &self.1 {
            Some(norm) => ops.norm(&x, norm),
            None => x,
        }]
    }
}

/// Records and names the three parts as tensors of 4-byte words.
fn record(to: &mut Recorder<'_>, input: &Input) -> Vec<Tensor> {
    let x = to.embed(&input.0, 1.0);
    let y = super::record(to, &x, input.1.as_ref());
    let tensor = |room, columns| Tensor { rows_of: RowsOf::Tokens, columns, room };
    let n = x.columns;
    vec![tensor(y.codes, n / 2), tensor(y.scales, n / 32), tensor(y.sums, n / 16)]
}

/// Checks one row. f32 rounds the scale and the product `x / scale`: a code may be off where that is next to a tie.
fn check_row(x: &[f32], codes: &[i16], scales: &[f32], sums: &[f32]) {
    let close = |a: f32, b: f64, of: f64| (f64::from(a) - b).abs() <= 2e-6 * of;
    for (b, (x, codes)) in x.chunks_exact(BLOCK).zip(codes.chunks_exact(BLOCK)).enumerate() {
        let max = x.iter().fold(0.0, |max: f64, x| max.max(f64::from(*x).abs()));
        let scale = max / 32512.0;
        assert!(close(scales[b], scale, scale), "scale {} of {max}", scales[b]);
        for (x, code) in x.iter().zip(codes) {
            let error = (f64::from(*x) - f64::from(*code) * scale).abs();
            // f32 moves x / scale by up to 0.004; a code whose low byte would be -128 is one more.
            let turned = *code & 0xff == 0x81;
            assert!(*code & 0xff != 0x80, "code {code} has the low byte -128");
            assert!(
                error <= scale * if turned { 1.51 } else { 0.51 },
                "code {code} for {x}, scale {scale}"
            );
        }
        for (g, codes) in codes.chunks_exact(GROUP).enumerate() {
            let total: f64 = codes.iter().map(|code| f64::from(*code)).sum();
            let sum = sums[b * BLOCK / GROUP + g];
            assert!(close(sum, scale * total, scale * total.abs()), "sum {sum} of {total}");
        }
    }
}

fn check(setup: &Setup, input: &Input) {
    let expected = setup.expected(input);
    // GPUs take activations as they are.
    for subject in subjects().iter().filter(|subject| !subject.device.info().kind.is_gpu()) {
        let steps = setup.run(&*subject.device, |to| record(to, input));
        for (ran, expected) in steps.iter().zip(&expected).filter(|_| subject.executes) {
            let x = &expected[0];
            let n = x.columns;
            let halves = |word: &f32| {
                let [a, b, c, d] = word.to_le_bytes();
                [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])]
            };
            let codes: Vec<i16> = ran.outputs[0].iter().flat_map(halves).collect();
            let rows = codes.chunks_exact(n).zip(ran.outputs[1].chunks_exact(n / BLOCK));
            for ((x, (codes, scales)), sums) in
                x.rows().zip(rows).zip(ran.outputs[2].chunks_exact(n / GROUP))
            {
                check_row(x, codes, scales, sums);
            }
        }
    }
}

#[test]
fn codes_scales_and_sums_are_as_defined() {
    let norms = [None, Some((NormKind::Rms, false)), Some((NormKind::Layer, true))];
    for (seed, columns) in (1..).zip([32, 64, 576, 2048]) {
        for norm in norms {
            let mut setup = Setup::new(seed);
            let norm = norm.map(|(kind, bias)| Norm {
                kind,
                weight: setup.gains(columns),
                bias: bias.then(|| setup.bias(columns)),
                epsilon: 1e-6,
            });
            let input = Input(setup.table(columns), norm);
            setup.batch(7);
            setup.batch(2);
            check(&setup, &input);
        }
    }
}

#[test]
fn zeros_and_lone_numbers() {
    let mut setup = Setup::new(1);
    let mut values = vec![0.0; 40 * 96];
    for row in values.chunks_exact_mut(96) {
        // A block of zeros, one of a single number, one of extremes.
        (row[40], row[64], row[95]) = (-3.0e-20, 1e30, -1e30);
    }
    let input = Input(setup.floats(96, &values), None);
    setup.batch(3);
    check(&setup, &input);
}
