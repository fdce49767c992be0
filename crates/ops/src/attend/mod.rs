//! `attend`: causal attention of the batch's tokens over the KV cache, in blocks with an online softmax.
//!
//! Contract: for token t (sequence s, position p) and head h, over positions j in `max(0, p + 1 - window) ..= p`:
//! `y = Σ softmax_j(scale * q·k_j) v_j`. The online form is FlashAttention's (Dao et al. 2022, arXiv 2205.14135).
#[cfg(test)]
mod cases;
mod cpu;
mod lanes;
pub mod reference;

use crate::Attention;
use crate::record::{Recorder, RowsOf, Spread, Tensor, read, write};
use crate::simd::Family;

/// Spans: counts, positions, sequences, tables, q, K cache, V cache, y (written).
pub static ATTEND: hal::Program = hal::Program { name: "attend", host: cpu::attend };

/// Rows, each a token's query head, that read a KV block together.
const TILE_ROWS: u32 = 32;

hal::args! {
    /// Arguments of [`ATTEND`]; `window` is `u32::MAX` without one.
    pub struct Args {
        pub heads: u32,
        pub kv_heads: u32,
        pub head_dim: u32,
        pub block_tokens: u32,
        pub blocks: u32,
        pub window: u32,
        pub family: u32,
        pub scale: f32,
    }
}

pub(crate) fn record(to: &mut Recorder<'_>, q: &Tensor, attention: &Attention) -> Tensor {
    let (inputs, cache) = (to.resources.inputs, to.resources.caches[attention.layer as usize]);
    let y = to.tensor(RowsOf::Tokens, q.columns);
    let args = Args {
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        head_dim: attention.head_dim,
        block_tokens: inputs.limits.block_tokens,
        blocks: inputs.limits.blocks,
        window: attention.window.unwrap_or(u32::MAX),
        family: Family::host().code(),
        scale: attention.scale,
    };
    let operands = [
        to.counts(),
        read(inputs.positions()),
        read(inputs.sequences()),
        read(inputs.tables()),
        read(q.room.place()),
        read(cache.k),
        read(cache.v),
        write(y.room.place()),
    ];
    // Queries, sums and weights of a tile.
    let row = 2 * args.head_dim.next_multiple_of(16) + args.block_tokens;
    let scratch_bytes = 4 * TILE_ROWS * row;
    let spread = Spread { groups: to.bucket.tokens * args.heads, scratch_bytes };
    to.launch(&ATTEND, &operands, spread, |image| args.write_to(image));
    y
}
