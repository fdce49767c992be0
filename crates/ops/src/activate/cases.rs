//! Cases of `activate` and `softcap`: from numbers near zero to where the functions saturate.
use crate::conformance::{FLOAT, Forward, Setup, check};
use crate::{Activation, Ops, Weight};

struct Activate {
    gate: Weight,
    up: Option<Weight>,
    scale: f32,
    activation: Activation,
}

impl Forward for Activate {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let gate = ops.embed(&self.gate, self.scale);
        let up = self.up.as_ref().map(|up| ops.embed(up, 1.0));
        vec![ops.activate(gate, up.as_ref(), self.activation)]
    }
}

#[test]
fn activations() {
    for (seed, activation) in (1..).zip(Activation::ALL) {
        for (columns, scale) in [(1, 1.0), (17, 1.0), (1536, 3.0), (640, 1e-3), (64, 40.0)] {
            for gated in [true, false] {
                let mut setup = Setup::new(seed);
                let up = gated.then(|| setup.table(columns));
                let forward = Activate { gate: setup.table(columns), up, scale, activation };
                setup.batch(5);
                setup.batch(1);
                let name = format!("{activation:?} of {columns}, scale {scale}, gated {gated}");
                check(&name, &setup, &forward, &[FLOAT]);
            }
        }
    }
}

struct Softcap(Weight, f32, f32);

impl Forward for Softcap {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.0, self.1);
        vec![ops.softcap(x, self.2)]
    }
}

#[test]
fn softcaps() {
    for (seed, (scale, cap)) in (1..).zip([(1.0, 30.0), (20.0, 30.0), (300.0, 50.0), (1e-3, 50.0)])
    {
        let mut setup = Setup::new(seed);
        let table = setup.table(1003);
        setup.batch(5);
        setup.batch(1);
        check(
            &format!("softcap {cap}, scale {scale}"),
            &setup,
            &Softcap(table, scale, cap),
            &[FLOAT],
        );
    }
}
