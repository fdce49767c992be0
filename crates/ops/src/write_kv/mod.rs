//! `write_kv`: stores K and V of the batch's tokens in the cache, rounded to F16.
//!
//! Contract: token t of sequence s at position p goes to block `tables[s][p / block_tokens]`, place `p % block_tokens`. Layout: K
//! `(blocks, kv_heads, head_dim, block_tokens)`, so that scores of neighbouring positions are neighbouring lanes; V
//! `(blocks, kv_heads, block_tokens, head_dim)`.
#[cfg(test)]
mod cases;
mod cpu;

pub(crate) use cpu::{Place, store_k, store_v};

use crate::Attention;
use crate::record::{Recorder, Spread, Tensor, read, write};

/// Spans: counts, positions, sequences, tables, k, v, K cache (written), V cache (written).
pub static WRITE_KV: hal::Program = hal::Program { name: "write_kv", host: cpu::write_kv };

hal::args! {
    /// Arguments of [`WRITE_KV`].
    pub struct Args {
        pub kv_heads: u32,
        pub head_dim: u32,
        pub block_tokens: u32,
        pub blocks: u32,
    }
}

pub(crate) fn record(to: &mut Recorder<'_>, k: &Tensor, v: &Tensor, attention: &Attention) {
    let (inputs, cache) = (to.resources.inputs, to.resources.caches[attention.layer as usize]);
    let args = Args {
        kv_heads: attention.kv_heads,
        head_dim: attention.head_dim,
        block_tokens: inputs.limits.block_tokens,
        blocks: inputs.limits.blocks,
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
