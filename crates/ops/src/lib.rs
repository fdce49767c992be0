//! Operations: each folder is one op: its contract, its reference, its CPU kernel and its cases.
//!
//! A model's forward pass is written once, against [`Ops`]. [`Recorder`] turns it into commands for a device,
//! [`Reference`] computes it at once in plain f32 and f64, [`Cost`] counts what it moves and computes.
//!
//! Invariant: nothing here knows a model. Invariant: the reference shares no arithmetic with the kernels.

pub mod activate;
pub mod add;
pub mod attend;
mod cost;
pub mod embed;
mod families;
pub mod format;
pub mod gather;
mod gpu;
mod inputs;
pub mod linear;
pub mod norm;
pub mod quantize;
mod record;
mod reference;
pub mod rope;
pub mod rope_kv;
pub mod sample;
pub mod simd;
mod terms;
pub mod write_kv;

#[cfg(test)]
mod conformance;

pub use cost::Cost;
pub use families::kernels_chosen;
pub use inputs::{Batch, FEEDBACK, Inputs, Limits, Token};
pub use record::{Bucket, CacheSpans, Recorded, Recorder, Resources, Tensor, Tiles};
pub use reference::{Matrix, Reference};
pub use terms::{
    Activation, Attention, Cache, Epilogue, KvFormat, Linear, Norm, NormKind, Pairing, Rope, Weight,
};

/// The operations a forward pass is made of. `T` is the number of tokens in the batch, `S` the number of tokens whose
/// logits are wanted. Shapes are (rows, columns), row major.
///
/// Composite ops have bodies made of fine ones; a reader overrides a composite where fusing pays.
pub trait Ops {
    /// What flows between ops: f32, `(T | S, columns)`.
    type Tensor;

    /// Rows of `table` `(vocabulary, dim)` for the batch's tokens, times `scale` -> `(T, dim)`.
    fn embed(&mut self, table: &Weight, scale: f32) -> Self::Tensor;
    /// Adds the row of `table` `(context, dim)` for each token's position.
    fn add_positions(&mut self, x: Self::Tensor, table: &Weight) -> Self::Tensor;
    /// Normalizes each group of `norm.weight.columns` numbers of each row.
    fn norm(&mut self, x: &Self::Tensor, norm: &Norm) -> Self::Tensor;
    /// `x (T, in) · weight (out, in)ᵀ + bias` -> `(T, out)`.
    fn linear(&mut self, x: &Self::Tensor, linear: &Linear) -> Self::Tensor;
    /// `x + y`.
    fn add(&mut self, x: Self::Tensor, y: &Self::Tensor) -> Self::Tensor;
    /// `activation(gate) * up`, or `activation(gate)` alone.
    fn activate(
        &mut self,
        gate: Self::Tensor,
        up: Option<&Self::Tensor>,
        activation: Activation,
    ) -> Self::Tensor;
    /// Rotates each head of `x (T, heads * head_dim)` by its token's position.
    fn rope(&mut self, x: Self::Tensor, rope: &Rope, head_dim: u32) -> Self::Tensor;
    /// Stores `k` and `v` `(T, kv_heads * head_dim)` in the cache of `attention.layer` at each token's place.
    fn write_kv(&mut self, k: &Self::Tensor, v: &Self::Tensor, attention: &Attention);
    /// Attention of `q (T, heads * head_dim)` over the cache -> `(T, heads * head_dim)`.
    fn attend(&mut self, q: &Self::Tensor, attention: &Attention) -> Self::Tensor;
    /// The rows of `x (T, dim)` whose logits are wanted -> `(S, dim)`.
    fn gather(&mut self, x: &Self::Tensor) -> Self::Tensor;
    /// `cap * tanh(x / cap)`.
    fn softcap(&mut self, x: Self::Tensor, cap: f32) -> Self::Tensor;

    /// Composite: the three inputs of attention from one normalized row.
    fn qkv(&mut self, x: &Self::Tensor, norm: &Norm, linears: [&Linear; 3]) -> [Self::Tensor; 3] {
        let h = self.norm(x, norm);
        linears.map(|linear| self.linear(&h, linear))
    }

    /// Composite: per-head norms, rotation and the KV write; returns the finished `q`.
    fn rope_kv(
        &mut self,
        [q, k, v]: [Self::Tensor; 3],
        heads: &Heads,
        attention: &Attention,
    ) -> Self::Tensor {
        fine_rope_kv(self, [q, k, v], heads, attention)
    }

    /// Composite: the hidden row of a feed-forward block from one normalized row.
    fn gate_up(&mut self, x: &Self::Tensor, norm: &Norm, hidden: &Hidden) -> Self::Tensor {
        let h = self.norm(x, norm);
        let gate = self.linear(&h, &hidden.gate);
        let up = hidden.up.as_ref().map(|up| self.linear(&h, up));
        self.activate(gate, up.as_ref(), hidden.activation)
    }

    /// Composite: `x + post_norm(y · Wᵀ + b)`.
    fn project(
        &mut self,
        x: Self::Tensor,
        y: &Self::Tensor,
        linear: &Linear,
        post_norm: Option<&Norm>,
    ) -> Self::Tensor {
        let mut y = self.linear(y, linear);
        if let Some(norm) = post_norm {
            y = self.norm(&y, norm);
        }
        self.add(x, &y)
    }

    /// Composite: logits of rows `x (S, dim)` -> `(S, vocabulary)`.
    fn head(&mut self, x: &Self::Tensor, norm: &Norm, linear: &Linear) -> Self::Tensor {
        let h = self.norm(x, norm);
        self.linear(&h, linear)
    }
}

/// The fine ops of [`Ops::rope_kv`], for a reader that cannot fuse them all.
pub(crate) fn fine_rope_kv<O: Ops + ?Sized>(
    ops: &mut O,
    [q, k, v]: [O::Tensor; 3],
    heads: &Heads,
    attention: &Attention,
) -> O::Tensor {
    let q = match &heads.q_norm {
        Some(norm) => ops.norm(&q, norm),
        None => q,
    };
    let k = match &heads.k_norm {
        Some(norm) => ops.norm(&k, norm),
        None => k,
    };
    let (q, k) = match &heads.rope {
        Some(rope) => {
            let q = ops.rope(q, rope, attention.head_dim);
            (q, ops.rope(k, rope, attention.head_dim))
        }
        None => (q, k),
    };
    ops.write_kv(&k, &v, attention);
    q
}

/// What happens to q and k between their projection and attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    pub q_norm: Option<Norm>,
    pub k_norm: Option<Norm>,
    pub rope: Option<Rope>,
}

/// The first half of a feed-forward block: gated when there is an `up`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hidden {
    pub gate: Linear,
    pub up: Option<Linear>,
    pub activation: Activation,
}
