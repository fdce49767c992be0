//! Cases of `gather`: copies, so not a bit may differ.
use crate::conformance::{Forward, Setup, Tolerance, check, token};
use crate::{Ops, Weight};

struct Gather(Weight);

impl Forward for Gather {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.0, 1.0);
        vec![ops.gather(&x)]
    }
}

#[test]
fn wanted_rows_are_copied() {
    for (seed, columns) in (1..).zip([1, 5, 576]) {
        let mut setup = Setup::new(seed);
        let table = setup.table(columns);
        // All, none, one, and some of a batch in which sequences are mixed.
        let masks: [u32; 5] = [0b1_1111_1111, 0, 0b1_0000_0000, 0b1, 0b1_0110_1010];
        for mask in masks {
            let tokens = (0..9).map(|i| token(i * 4, i, i % 3, mask >> i & 1 == 1));
            setup.step(tokens.collect());
        }
        check(&format!("gather {columns}"), &setup, &Gather(table), &[Tolerance::Max(0.0)]);
    }
}
