//! Cases of `write_kv`: the cache bit for bit, with every place that no token owns untouched.
use super::reference::quantize;
use crate::conformance::{Forward, POISON_F16, Setup, token};
use crate::{Attention, Cache, KvFormat, Matrix, Ops, Weight};
use half::f16;

struct Rows(Weight, Weight);

impl Forward for Rows {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        vec![ops.embed(&self.0, 1.0), ops.embed(&self.1, 1.0)]
    }
}

/// Adds what a step's tokens must leave in the cache.
fn store(
    cache: &mut [u8],
    transposed: bool,
    setup: &Setup,
    step: usize,
    rows: &Matrix,
    shape: Cache,
) {
    let (limits, tables) = (setup.limits(), setup.tables());
    let (n, heads) = (shape.head_dim as usize, shape.kv_heads as usize);
    let block_tokens = limits.block_tokens as usize;
    for (token, row) in setup.steps()[step].iter().zip(rows.rows()) {
        let entry = token.sequence * limits.blocks + token.position / limits.block_tokens;
        let block = tables[entry as usize] as usize;
        let place = (token.position % limits.block_tokens) as usize;
        let index = |d| if transposed { d * block_tokens + place } else { place * n + d };
        for (head, values) in row.chunks_exact(n).enumerate() {
            let mut put = |at: usize, bytes: &[u8]| {
                let bits = if shape.format == KvFormat::F16 { 32 * 16 } else { 32 * 8 + 16 };
                let record = (block * heads + head) * block_tokens * n * bits / (32 * 8);
                cache[record + at..][..bytes.len()].copy_from_slice(bytes);
            };
            if shape.format == KvFormat::F16 {
                for (d, x) in values.iter().enumerate() {
                    put(2 * index(d), &f16::from_f32(*x).to_ne_bytes());
                }
                continue;
            }
            for (group, x) in values.chunks(32).enumerate() {
                let (scale, codes) = quantize(x);
                for (i, code) in codes.into_iter().enumerate() {
                    put(index(32 * group + i), &[code.cast_unsigned()]);
                }
                let at = n * block_tokens + 2 * (group * block_tokens + place);
                put(at, &scale.to_ne_bytes());
            }
        }
    }
}

/// llama.cpp's codes and scale for a group, made with the `gguf` package: `quantize(numbers, Q8_0)`.
#[test]
fn a_group_is_rounded_as_in_a_file() {
    let numbers: Vec<f32> = (0..32_u8).map(|i| f32::from(i) * 0.37 - 4.0).collect();
    let (scale, codes) = quantize(&numbers);
    assert_eq!(scale.to_bits(), 0x2b87);
    let expected = [
        -68, -62, -55, -49, -43, -37, -30, -24, -18, -11, -5, 1, 7, 14, 20, 26, 33, 39, 45, 52, 58,
        64, 70, 77, 83, 89, 96, 102, 108, 114, 121, 127,
    ];
    assert_eq!(codes, expected);
    assert_eq!(quantize(&[0.0; 32]), (f16::ZERO, vec![0; 32]));
}

#[test]
fn only_the_tokens_places_are_written() {
    let halves = [(1, 16), (3, 64), (2, 80), (2, 7)].map(|shape| (shape, KvFormat::F16));
    let coded = [(1, 32), (3, 64), (2, 96)].map(|shape| (shape, KvFormat::Q8_0));
    for (seed, ((kv_heads, head_dim), format)) in (1..).zip(halves.into_iter().chain(coded)) {
        let mut setup = Setup::new(seed);
        let shape = Cache { kv_heads, head_dim, format };
        setup.caches = vec![shape];
        let rows = Rows(setup.table(kv_heads * head_dim), setup.table(kv_heads * head_dim));
        let mut tokens = setup.chunk(1, 0, 19);
        tokens.extend(setup.chunk(0, 0, 16));
        setup.step(tokens);
        setup.step(vec![token(1, 19, 1, true), token(2, 16, 0, true)]);
        let attention =
            Attention { layer: 0, heads: kv_heads, kv_heads, head_dim, scale: 1.0, window: None };
        let expected = setup.expected(&rows);
        for subject in setup.subjects().iter().filter(|subject| subject.executes) {
            let ran = setup.run(&*subject.device, |to| {
                let tensors = rows.forward(to);
                to.write_kv(&tensors[0], &tensors[1], &attention);
                tensors
            });
            let bytes = |cache: Vec<u16>| cache.into_iter().flat_map(u16::to_le_bytes).collect();
            let poison = |cache: Vec<u16>| POISON_F16.to_le_bytes().repeat(cache.len());
            let mut caches: [Vec<u8>; 2] = ran[0].caches[0].clone().map(poison);
            for (step, ran) in ran.iter().enumerate() {
                for (transposed, (cache, rows)) in
                    [true, false].into_iter().zip(caches.iter_mut().zip(&expected[step]))
                {
                    store(cache, transposed, &setup, step, rows, shape);
                }
                let found: [Vec<u8>; 2] = ran.caches[0].clone().map(bytes);
                assert!(found == caches, "{}, seed {seed}, step {step}", subject.name);
            }
        }
    }
}
