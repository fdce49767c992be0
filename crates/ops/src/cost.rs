//! The reader that counts: what a step moves and computes, from which rooflines and memory plans come.
use crate::attend::words_fit;
use crate::linear::float_words;
use crate::linear::pack::packed_bytes;
use crate::simd::Family;
use crate::{Activation, Attention, Cache, KvFormat, Linear, Norm, Ops, Rope, Weight};

/// Bytes and operations of one step with `tokens` tokens, `rows` rows of logits, after `context` earlier tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    pub tokens: u64,
    pub rows: u64,
    pub context: u64,
    /// Whether the tokens are prompts', which have kernels of their own in some families.
    pub prompts: bool,
    /// The family of kernels for which matrices are packed, if they are.
    pub packed_for: Option<Family>,
    /// Weights read once, whatever the number of tokens.
    pub weight_bytes: u64,
    /// How the KV cache stores numbers.
    pub kv: KvFormat,
    /// KV cache read and written.
    pub kv_bytes: u64,
    /// Multiplications and additions of matrix products and attention.
    pub flops: u64,
    /// Those of `flops` that kernels take as integers, once each, however many products of bytes they are made of.
    pub integer_flops: u64,
}

/// A tensor's shape.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    rows: u64,
    columns: u64,
}

impl Cost {
    #[must_use]
    pub fn new(tokens: u64, rows: u64, context: u64) -> Self {
        Self { tokens, rows, context, ..Self::default() }
    }

    /// Weights and KV cache together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.weight_bytes + self.kv_bytes
    }

    /// Whose kernels for prompts are counted, if any are.
    fn family_of_prompts(&self) -> Option<Family> {
        self.packed_for.filter(|_| self.prompts)
    }

    fn read(&mut self, weight: Option<&Weight>) {
        self.weight_bytes += weight.map_or(0, Weight::bytes);
    }

    fn read_matrix(&mut self, weight: &Weight) {
        let Weight { format, rows, columns, .. } = *weight;
        let packed = |family| packed_bytes(family, format, rows.into(), columns as usize);
        self.weight_bytes += self.packed_for.and_then(packed).unwrap_or_else(|| weight.bytes());
    }

    /// Bytes of K and V of one token.
    fn token_bytes(&self, attention: &Attention) -> u64 {
        let Attention { kv_heads, head_dim, .. } = *attention;
        2 * Cache { kv_heads, head_dim, format: self.kv }.token_bytes()
    }

    /// Tokens that each token of the step sees, summed over the step.
    fn seen(&self, attention: &Attention) -> u64 {
        let window = u64::from(attention.window.unwrap_or(u32::MAX));
        (0..self.tokens).map(|t| (self.context + t + 1).min(window)).sum()
    }
}

impl Ops for Cost {
    type Tensor = Shape;

    fn embed(&mut self, table: &Weight, _: f32) -> Shape {
        self.weight_bytes += self.tokens * table.row_bytes();
        Shape { rows: self.tokens, columns: u64::from(table.columns) }
    }
    fn add_positions(&mut self, x: Shape, table: &Weight) -> Shape {
        self.weight_bytes += self.tokens * table.row_bytes();
        x
    }
    fn norm(&mut self, x: &Shape, norm: &Norm) -> Shape {
        self.read(Some(&norm.weight));
        self.read(norm.bias.as_ref());
        *x
    }
    fn linear(&mut self, x: &Shape, linear: &Linear) -> Shape {
        // A step in the middle of a prompt wants no logits: nothing of the head has to be read.
        if x.rows > 0 {
            self.read_matrix(&linear.weight);
            self.read(linear.bias.as_ref());
        }
        let flops = 2 * x.rows * x.columns * u64::from(linear.weight.rows);
        self.flops += flops;
        let quantized = linear.weight.format.block_elements() > 1;
        let as_integers = self.family_of_prompts().map_or(quantized, |family| {
            !family.accelerates() && (quantized || float_words::fits(family, &linear.weight))
        });
        self.integer_flops += if as_integers { flops } else { 0 };
        Shape { rows: x.rows, columns: u64::from(linear.weight.rows) }
    }
    fn add(&mut self, x: Shape, _: &Shape) -> Shape {
        x
    }
    fn activate(&mut self, gate: Shape, _: Option<&Shape>, _: Activation) -> Shape {
        gate
    }
    fn rope(&mut self, x: Shape, rope: &Rope, _: u32) -> Shape {
        self.read(Some(&rope.frequencies));
        x
    }
    fn write_kv(&mut self, k: &Shape, _: &Shape, attention: &Attention) {
        self.kv_bytes += k.rows * self.token_bytes(attention);
    }
    fn attend(&mut self, q: &Shape, attention: &Attention) -> Shape {
        // Each position is read once per step, however many tokens look at it.
        let window = u64::from(attention.window.unwrap_or(u32::MAX)) + self.tokens - 1;
        let read = (self.context + self.tokens).min(window);
        self.kv_bytes += read * self.token_bytes(attention);
        let flops = 4 * self.seen(attention) * q.columns;
        self.flops += flops;
        if self.family_of_prompts().is_some_and(|family| words_fit(family, attention.head_dim)) {
            self.integer_flops += flops;
        }
        *q
    }
    fn gather(&mut self, x: &Shape) -> Shape {
        Shape { rows: self.rows, columns: x.columns }
    }
    fn softcap(&mut self, x: Shape, _: f32) -> Shape {
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Format;

    #[test]
    fn a_product_and_attention_cost_what_arithmetic_says() {
        let mut cost = Cost::new(1, 1, 99);
        let weight =
            Weight { tensor: 0, format: Format::Q4_0, first_row: 0, rows: 10, columns: 64 };
        let x = Shape { rows: 1, columns: 64 };
        cost.linear(&x, &Linear { weight, bias: None });
        // 10 rows of two blocks of 18 bytes; 10 * 64 multiplications and as many additions.
        assert_eq!((cost.weight_bytes, cost.flops, cost.integer_flops), (360, 1280, 1280));
        cost.linear(&Shape { rows: 0, columns: 64 }, &Linear { weight, bias: None });
        assert_eq!((cost.weight_bytes, cost.flops), (360, 1280), "no rows, no work");
        let weight = Weight { format: Format::Bf16, rows: 16, columns: 128, ..weight };
        let linear = Linear { weight, bias: None };
        let family = Family::Avx512Vnni;
        if let Some(packed) = packed_bytes(family, Format::Bf16, 16, 128) {
            let mut cost = Cost { packed_for: Some(family), ..Cost::new(1, 1, 0) };
            cost.linear(&x, &linear);
            // Four quads of 256 bytes and a unit.
            assert_eq!((cost.weight_bytes, packed), (4 * (256 + 768), 4 * (256 + 768)));
        }
        let prompts = |packed_for| Cost { packed_for, prompts: true, ..Cost::new(1, 1, 0) };
        for (packed_for, integer_flops) in
            [(None, 0), (Some(Family::Avx2), 0), (Some(Family::Avx512Vnni), 2 * 16 * 64)]
        {
            let mut cost = prompts(packed_for);
            cost.linear(&x, &linear);
            assert_eq!((cost.flops, cost.integer_flops), (2 * 16 * 64, integer_flops));
        }
        let mut in_file = Cost::new(1, 1, 0);
        in_file.linear(&x, &linear);
        assert_eq!(in_file.weight_bytes, 16 * 128 * 2);
        let attention =
            Attention { layer: 0, heads: 4, kv_heads: 2, head_dim: 16, scale: 1.0, window: None };
        cost.attend(&x, &attention);
        // 100 positions, K and V, 2 heads of 16 in F16; scores and sums: 2 * 2 * 100 * 64.
        assert_eq!((cost.kv_bytes, cost.flops), (100 * 2 * 2 * 16 * 2, 1280 + 25600));
        // Heads of 64 go as integers there.
        let heads = Attention { head_dim: 64, ..attention };
        let mut cost = prompts(Some(Family::Avx512Vnni));
        cost.attend(&x, &heads);
        assert_eq!((cost.flops, cost.integer_flops), (4 * 64, 4 * 64));
        let windowed = Attention { window: Some(8), ..attention };
        let mut cost = Cost::new(1, 1, 99);
        cost.attend(&x, &windowed);
        assert_eq!(cost.kv_bytes, 8 * 2 * 2 * 16 * 2);
        let mut cost = Cost { kv: KvFormat::Q8_0, ..Cost::new(1, 1, 99) };
        cost.attend(&x, &Attention { head_dim: 64, ..attention });
        // A head of 64 is two groups of 32 codes and a scale of two bytes.
        assert_eq!(cost.kv_bytes, 100 * 2 * 2 * 2 * 34);
    }
}
