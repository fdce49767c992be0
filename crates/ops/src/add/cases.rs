//! Cases of `add`: one rounding.
use crate::conformance::{Forward, Setup, Tolerance, check};
use crate::{Ops, Weight};

struct Add(Weight, Weight);

impl Forward for Add {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let (x, y) = (ops.embed(&self.0, 1.0), ops.embed(&self.1, 3.0));
        // The second sum is of rows of logits.
        let (a, b) = (ops.gather(&x), ops.gather(&y));
        vec![ops.add(x, &y), ops.add(a, &b)]
    }
}

#[test]
fn sums() {
    for (seed, columns) in (1..).zip([1, 17, 576, 2049]) {
        let mut setup = Setup::new(seed);
        let forward = Add(setup.table(columns), setup.table(columns));
        for count in [6, 1, 4] {
            let chunk = setup.chunk(0, 0, count);
            setup.step(chunk);
        }
        check(&format!("add {columns}"), &setup, &forward, &[Tolerance::Max(2e-7)]);
    }
}
