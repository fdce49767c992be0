//! Cases of `norm`: row and group sizes that are no multiple of a vector, large and small inputs, accumulation.
use crate::conformance::{FLOAT, Forward, Setup, check};
use crate::format::Format;
use crate::{Linear, Norm, NormKind, Ops, Weight};

struct Norms {
    table: Weight,
    scale: f32,
    norm: Norm,
}

impl Forward for Norms {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.table, self.scale);
        vec![ops.norm(&x, &self.norm)]
    }
}

fn norm(setup: &mut Setup, kind: NormKind, n: u32, with_bias: bool) -> Norm {
    let bias = with_bias.then(|| setup.bias(n));
    Norm { kind, weight: setup.gains(n), bias, epsilon: 1e-5 }
}

#[test]
fn rows_of_every_size() {
    let sizes = [1, 3, 16, 576, 640, 2048, 4097];
    for (seed, n) in (1..).zip(sizes) {
        for (kind, bias) in
            [(NormKind::Rms, false), (NormKind::Layer, true), (NormKind::Layer, false)]
        {
            for scale in [1.0, 1e4, 1e-4] {
                let mut setup = Setup::new(seed);
                let norm = norm(&mut setup, kind, n, bias);
                let table = setup.table(n);
                setup.batch(5);
                setup.batch(1);
                let name = format!("{kind:?} norm of {n}, bias {bias}, scale {scale}");
                check(&name, &setup, &Norms { table, scale, norm }, &[FLOAT]);
            }
        }
    }
}

/// QK-norm: each head on its own.
#[test]
fn groups_smaller_than_the_row() {
    for (seed, (groups, n)) in (1..).zip([(9, 64), (4, 256), (3, 5), (7, 1)]) {
        for kind in [NormKind::Rms, NormKind::Layer] {
            let mut setup = Setup::new(seed);
            let norm = norm(&mut setup, kind, n, kind == NormKind::Layer);
            let table = setup.table(groups * n);
            setup.batch(6);
            let name = format!("{kind:?} norm of {groups} groups of {n}");
            check(&name, &setup, &Norms { table, scale: 1.0, norm }, &[FLOAT]);
        }
    }
}

/// A mean far from zero, where one pass over the squares would cancel.
#[test]
fn a_large_mean_is_subtracted_before_squaring() {
    let mut setup = Setup::new(1);
    let values: Vec<f32> = setup.random.normals(40 * 640).iter().map(|x| 100.0 + x).collect();
    let table = setup.floats(640, &values);
    let norm = norm(&mut setup, NormKind::Layer, 640, true);
    setup.batch(4);
    check("large mean", &setup, &Norms { table, scale: 1.0, norm }, &[FLOAT]);
}

struct PostNorm {
    x: Weight,
    y: Weight,
    linear: Linear,
    norm: Norm,
}

impl Forward for PostNorm {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let (x, y) = (ops.embed(&self.x, 1.0), ops.embed(&self.y, 1.0));
        vec![ops.project(x, &y, &self.linear, Some(&self.norm))]
    }
}

#[test]
fn a_norm_accumulates_into_the_residual() {
    for (seed, kind) in (1..).zip([NormKind::Rms, NormKind::Layer]) {
        let mut setup = Setup::new(seed);
        let forward = PostNorm {
            x: setup.table(576),
            y: setup.table(64),
            linear: Linear { weight: setup.matrix(Format::F32, 576, 64), bias: None },
            norm: norm(&mut setup, kind, 576, true),
        };
        setup.batch(6);
        check(&format!("{kind:?} post norm"), &setup, &forward, &[FLOAT]);
    }
}
