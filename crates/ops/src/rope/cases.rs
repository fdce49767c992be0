//! Cases of `rope`: both pairings, part of a head, an amplitude, positions to the end of a long context.
use crate::conformance::{Forward, Setup, Tolerance, check, token};
use crate::{Ops, Pairing, Rope, Weight};

/// An f32 angle below one turn is off by 2e-7, its sine and cosine likewise, and each result is a sum of two products.
const ROTATED: &[Tolerance] = &[Tolerance::Max(2e-6)];

struct Rotate {
    table: Weight,
    rope: Rope,
    head_dim: u32,
}

impl Forward for Rotate {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.table, 1.0);
        vec![ops.rope(x, &self.rope, self.head_dim)]
    }
}

/// `base^(-i / pairs)`, as in the paper.
fn frequencies(setup: &mut Setup, pairs: u32, base: f32) -> Weight {
    let one = |i| base.powf(-(i as f32) / pairs as f32);
    let values: Vec<f32> = (0..pairs).map(one).collect();
    setup.floats(pairs, &values)
}

#[test]
fn heads_are_rotated() {
    // Heads, head_dim, pairs, base, amplitude.
    let cases = [
        (9, 64, 32, 1e4, 1.0),
        (4, 256, 128, 1e6, 1.0),
        (3, 80, 16, 1e4, 1.0),
        (2, 16, 8, 1e4, 1.3),
        (1, 2, 1, 1e4, 1.0),
    ];
    for (seed, (heads, head_dim, pairs, base, amplitude)) in (1..).zip(cases) {
        for pairing in [Pairing::Adjacent, Pairing::Halves] {
            let mut setup = Setup::new(seed);
            let frequencies = frequencies(&mut setup, pairs, base);
            let rope = Rope { pairing, frequencies, amplitude };
            let forward = Rotate { table: setup.table(heads * head_dim), rope, head_dim };
            let positions = [0, 1, 2, 777, 4095, 4095, 65_536, 131_071];
            let tokens = (0..).zip(positions).map(|(i, p)| token(i * 3, p, i % 2, true));
            setup.step(tokens.collect());
            setup.step(vec![token(8, 131_070, 0, true)]);
            let name =
                format!("{pairing:?} {heads} x {head_dim}, {pairs} pairs, times {amplitude}");
            check(&name, &setup, &forward, ROTATED);
        }
    }
}
