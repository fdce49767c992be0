//! `write_kv`: stores K and V of the batch's tokens in the cache, rounded to its [`crate::KvFormat`].
//!
//! Contract: token t of sequence s at position p goes to block `tables[s][p / block_tokens]`, place `p % block_tokens`. K and V
//! are `(blocks, kv_heads)` records each. In F16, a record of K is `(head_dim, block_tokens)`, so that scores of neighbouring positions
//! are neighbouring lanes, and one of V `(block_tokens, head_dim)`. In Q8_0, records hold int8 codes in the same order, then F16 scales
//! `(head_dim / 32, block_tokens)`: each 32 numbers of a head are rounded to multiples of their largest over 127, as llama.cpp does.
#[cfg(test)]
mod cases;
mod cpu;
pub mod reference;

pub(crate) use cpu::{Place, store_k, store_v};

use crate::Attention;
use crate::record::{Recorder, Spread, Tensor, read, write};

/// For GPUs: where numbers lie in a block.
pub(crate) const CACHE: hal::Text = hal::msl!("cache.metal");

/// Spans: counts, positions, sequences, tables, k, v, K cache (written), V cache (written).
pub static WRITE_KV: hal::Program = hal::Program {
    name: "write_kv",
    host: Some(cpu::write_kv),
    gpu: Some(hal::Gpu {
        texts: &[Args::MSL, CACHE, hal::msl!("kernel.metal")],
        entry: "write_kv",
        constants: &[],
    }),
};

hal::args! {
    /// Arguments of [`WRITE_KV`].
    pub struct Args {
        pub kv_heads: u32,
        pub head_dim: u32,
        pub block_tokens: u32,
        pub blocks: u32,
        /// Code of the cache's format.
        pub kv: u32,
    }
}

pub(crate) fn record(to: &mut Recorder<'_>, k: &Tensor, v: &Tensor, attention: &Attention) {
    let (inputs, cache) = (to.resources.inputs, to.resources.caches[attention.layer as usize]);
    let args = Args {
        kv_heads: attention.kv_heads,
        head_dim: attention.head_dim,
        block_tokens: inputs.limits.block_tokens,
        blocks: inputs.limits.blocks,
        kv: cache.shape.format.code(),
    };
    let operands = [
        to.counts(),
        read(inputs.positions()),
        read(inputs.sequences()),
        read(inputs.tables()),
        read(k.room.place()),
        read(v.room.place()),
        write(cache.k),
        write(cache.v),
    ];
    let spread = Spread { groups: to.bucket.tokens, ..Spread::default() };
    to.launch(&WRITE_KV, &operands, spread, |image| args.write_to(image));
}
