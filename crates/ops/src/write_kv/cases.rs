//! Cases of `write_kv`: the cache bit for bit, with every place that no token owns untouched.
use crate::conformance::{Forward, POISON_F16, Setup, subjects, token};
use crate::{Attention, Cache, Matrix, Ops, Weight};
use half::f16;

struct Rows(Weight, Weight);

impl Forward for Rows {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        vec![ops.embed(&self.0, 1.0), ops.embed(&self.1, 1.0)]
    }
}

/// Adds what a step's tokens must leave in the cache.
fn store(
    cache: &mut [u16],
    transposed: bool,
    setup: &Setup,
    step: usize,
    rows: &Matrix,
    shape: Cache,
) {
    let (limits, tables) = (setup.limits(), setup.tables());
    let (n, heads) = (shape.head_dim as usize, shape.kv_heads as usize);
    let block_tokens = limits.block_tokens;
    for (token, row) in setup.steps()[step].iter().zip(rows.rows()) {
        let entry = token.sequence * limits.blocks + token.position / block_tokens;
        let block = tables[entry as usize] as usize;
        for (head, values) in row.chunks_exact(n).enumerate() {
            let place = (token.position % block_tokens) as usize;
            let start = (block * heads + head) * block_tokens as usize * n;
            for (d, x) in values.iter().enumerate() {
                let at = if transposed { d * block_tokens as usize + place } else { place * n + d };
                cache[start + at] = f16::from_f32(*x).to_bits();
            }
        }
    }
}

#[test]
fn only_the_tokens_places_are_written() {
    for (seed, (kv_heads, head_dim)) in (1..).zip([(1, 16), (3, 64), (2, 80), (2, 7)]) {
        let mut setup = Setup::new(seed);
        let shape = Cache { kv_heads, head_dim };
        setup.caches = vec![shape];
        let rows = Rows(setup.table(kv_heads * head_dim), setup.table(kv_heads * head_dim));
        let mut tokens = setup.chunk(1, 0, 19);
        tokens.extend(setup.chunk(0, 0, 16));
        setup.step(tokens);
        setup.step(vec![token(1, 19, 1, true), token(2, 16, 0, true)]);
        let attention =
            Attention { layer: 0, heads: kv_heads, kv_heads, head_dim, scale: 1.0, window: None };
        let expected = setup.expected(&rows);
        for subject in subjects().iter().filter(|subject| subject.executes) {
            let ran = setup.run(&*subject.device, |to| {
                let tensors = rows.forward(to);
                to.write_kv(&tensors[0], &tensors[1], &attention);
                tensors
            });
            let mut caches = ran[0].caches[0].clone().map(|cache| vec![POISON_F16; cache.len()]);
            for (step, ran) in ran.iter().enumerate() {
                for (transposed, (cache, rows)) in
                    [true, false].into_iter().zip(caches.iter_mut().zip(&expected[step]))
                {
                    store(cache, transposed, &setup, step, rows, shape);
                }
                assert!(ran.caches[0] == caches, "{}, seed {seed}, step {step}", subject.name);
            }
        }
    }
}
