//! `attend`: causal attention of the batch's tokens over the KV cache, in blocks with an online softmax.
//!
//! Contract: for token t (sequence s, position p) and head h, over positions j in `max(0, p + 1 - window) ..= p`:
//! `y = Σ softmax_j(scale * q·k_j) v_j`. The online form is FlashAttention's (Dao et al. 2022, arXiv 2205.14135).
#[cfg(test)]
mod cases;
mod cpu;
pub(crate) mod gpu;
mod lanes;
mod part;
pub mod reference;
#[cfg(target_arch = "x86_64")]
mod words;

use crate::Attention;
use crate::record::{Recorder, RowsOf, Spread, Tensor, read, write};
use crate::simd::Family;

/// On the CPU; see `gpu` for others. Spans: counts, positions, sequences, tables, q, K cache, V cache, y, counters (all 0, and again afterwards) and partial results
/// (written; empty where tiles are not to be shared).
pub static ATTEND: hal::Program =
    hal::Program { name: "attend", host: Some(cpu::attend), gpu: None };

/// Rows, each a token's query head, that read the KV cache together.
const TILE_ROWS: u32 = 32;
/// The same of prompts that are multiplied as words.
const PROMPT_ROWS: usize = 256;
/// Positions that are summed under one largest score. Chunks begin at its multiples in every sequence.
const CHUNK_POSITIONS: u32 = 256;
const CHUNK: usize = CHUNK_POSITIONS as usize;
/// Larger steps have tiles enough for all threads; partial results of theirs would take much memory.
const SHARED_TOKENS_MAX: u32 = 32;

/// A head's row of sums takes whole lanes.
const fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

/// Numbers that a row leaves of a chunk: sums, largest score, total, and what keeps the next row aligned.
const fn partial_row(head_dim: u32) -> u32 {
    head_dim.next_multiple_of(16) + 16
}

/// Whether prompts are multiplied as words, see `words`.
pub(crate) const fn words_fit(family: Family, head_dim: u32) -> bool {
    matches!(family, Family::Avx512Vnni) && head_dim.is_multiple_of(64)
}

/// Scratch of one thread: queries and sums of a tile; weights of a few rows, as they are and under two groups' scales. Or what
/// prompts need.
fn scratch_bytes(family: Family, head_dim: u32) -> u32 {
    let row = 2 * head_dim.next_multiple_of(16);
    let exact = 4 * (TILE_ROWS * row + 3 * 8 * CHUNK_POSITIONS);
    exact.max(words_bytes(family, head_dim))
}

#[cfg(target_arch = "x86_64")]
fn words_bytes(family: Family, head_dim: u32) -> u32 {
    if !words_fit(family, head_dim) {
        return 0;
    }
    let n = head_dim as usize;
    let bytes = 4 * (PROMPT_ROWS * n + words::scratch_len(n));
    u32::try_from(bytes).expect("a few rows and one chunk")
}
#[cfg(not(target_arch = "x86_64"))]
const fn words_bytes(_: Family, _: u32) -> u32 {
    0
}

/// Chunks of a whole sequence.
const fn chunks_max(blocks: u32, block_tokens: u32) -> u32 {
    (blocks * block_tokens).div_ceil(CHUNK_POSITIONS)
}

hal::args! {
    /// Arguments of [`ATTEND`]; `window` is `u32::MAX` without one.
    pub struct Args {
        pub heads: u32,
        pub kv_heads: u32,
        pub head_dim: u32,
        pub block_tokens: u32,
        pub blocks: u32,
        pub window: u32,
        /// Code of the cache's format.
        pub kv: u32,
        pub family: u32,
        pub scale: f32,
    }
}

pub(crate) fn record(to: &mut Recorder<'_>, q: &Tensor, attention: &Attention) -> Tensor {
    if to.for_gpu() {
        return gpu::record(to, q, attention);
    }
    let (inputs, cache) = (to.resources.inputs, to.resources.caches[attention.layer as usize]);
    let y = to.tensor(RowsOf::Tokens, q.columns);
    let args = Args {
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        head_dim: attention.head_dim,
        block_tokens: inputs.limits.block_tokens,
        blocks: inputs.limits.blocks,
        window: attention.window.unwrap_or(u32::MAX),
        kv: cache.shape.format.code(),
        family: to.family.code(),
        scale: attention.scale,
    };
    let partial_bytes = if to.bucket.tokens <= SHARED_TOKENS_MAX {
        let rows = to.bucket.tokens * args.heads * chunks_max(args.blocks, args.block_tokens);
        4 * u64::from(rows) * u64::from(partial_row(args.head_dim))
    } else {
        0
    };
    let partials = to.room(partial_bytes);
    let operands = [
        to.counts(),
        read(inputs.positions()),
        read(inputs.sequences()),
        read(inputs.tables()),
        read(q.room.place()),
        read(cache.k),
        read(cache.v),
        write(y.room.place()),
        write(inputs.counters()),
        write(partials.place()),
    ];
    let scratch_bytes = scratch_bytes(to.family, args.head_dim);
    let spread = Spread { groups: to.bucket.tokens * args.heads, scratch_bytes };
    to.launch(&ATTEND, &operands, spread, |image| args.write_to(image));
    y
}
