//! `rope_kv`: what happens to q, k and v between their projection and attention, in one pass over them.
//!
//! Contract: each head of q and k is normalized (when there is a norm) and rotated (when there is a rotation); q is updated in
//! place, k and v go to the cache as [`crate::write_kv`] says.
mod cpu;

use crate::record::{GROUP_THREADS, Grid, Recorder, Tensor, read, write};
use crate::write_kv::CACHE;
use crate::{Attention, Heads, Norm, NormKind, Pairing, rope};

/// For GPUs: what happens to one head.
pub(crate) const HEAD: hal::Text = hal::msl!("head.metal");

/// Spans: counts, positions, sequences, tables, k, v, q (updated), K cache and V cache (written), angles, q norm and k norm (anything
/// where there are none).
pub static ROPE_KV: hal::Program = hal::Program {
    name: "rope_kv",
    host: Some(cpu::rope_kv),
    gpu: Some(hal::Gpu {
        texts: &[Args::MSL, CACHE, HEAD, hal::msl!("kernel.metal")],
        entry: "rope_kv",
        constants: &[],
    }),
};

hal::args! {
    /// Arguments of [`ROPE_KV`].
    pub struct Args {
        pub heads: u32,
        pub kv_heads: u32,
        pub head_dim: u32,
        /// 0 without rotation.
        pub pairs: u32,
        pub halves: u32,
        pub q_norm: u32,
        pub k_norm: u32,
        pub block_tokens: u32,
        pub blocks: u32,
        /// Code of the cache's format.
        pub kv: u32,
        pub q_epsilon: f32,
        pub k_epsilon: f32,
    }
}

/// Whether the kernel knows these norms: plain RMS over a head.
pub(crate) fn fuses(heads: &Heads) -> bool {
    let plain = |norm: &Norm| norm.kind == NormKind::Rms && norm.bias.is_none();
    heads.q_norm.iter().chain(&heads.k_norm).all(plain)
}

pub(crate) fn record(
    to: &mut Recorder<'_>,
    [q, k, v]: [&Tensor; 3],
    heads: &Heads,
    attention: &Attention,
) {
    let (inputs, cache) = (to.resources.inputs, to.resources.caches[attention.layer as usize]);
    let angles = heads.rope.as_ref().map(|rope| rope::angles(to, rope));
    let epsilon = |norm: &Option<Norm>| norm.map_or(0.0, |norm| norm.epsilon);
    let args = Args {
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        head_dim: attention.head_dim,
        pairs: heads.rope.map_or(0, |rope| rope.frequencies.columns),
        halves: u32::from(heads.rope.is_some_and(|rope| rope.pairing == Pairing::Halves)),
        q_norm: u32::from(heads.q_norm.is_some()),
        k_norm: u32::from(heads.k_norm.is_some()),
        block_tokens: inputs.limits.block_tokens,
        blocks: inputs.limits.blocks,
        kv: cache.shape.format.code(),
        q_epsilon: epsilon(&heads.q_norm),
        k_epsilon: epsilon(&heads.k_norm),
    };
    let weight =
        |norm: &Option<Norm>| norm.map_or(to.counts(), |norm| read(to.weight(&norm.weight)));
    let operands = [
        to.counts(),
        read(inputs.positions()),
        read(inputs.sequences()),
        read(inputs.tables()),
        read(k.room.place()),
        read(v.room.place()),
        write(q.room.place()),
        write(cache.k),
        write(cache.v),
        angles.map_or(to.counts(), read),
        weight(&heads.q_norm),
        weight(&heads.k_norm),
    ];
    let head_bytes = 4 * attention.head_dim;
    let mut grid = Grid::row(to.bucket.tokens);
    // On a GPU, each SIMD group works on a head.
    let heads = if to.for_gpu() { GROUP_THREADS / 32 } else { 1 };
    grid.scratch_bytes = (heads * head_bytes).next_multiple_of(16);
    to.launch_grid(&ROPE_KV, &operands, grid, |image| args.write_to(image));
}
