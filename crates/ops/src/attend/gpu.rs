//! `attend` on GPUs: which kernels a step takes, and how they are spread.
//!
//! Tokens that continue an answer are split over fixed chunks of positions (Flash-Decoding, Dao et al. 2023), whose results one more
//! launch folds in order. Tokens of prompts go eight at a time through products of matrices (FlashAttention). In a step of one token,
//! what [`crate::rope_kv`] does is done by the launch that attends.
use super::CHUNK_POSITIONS;
use crate::gpu::Variants;
use crate::record::{Fresh, GROUP_THREADS, Grid, Operand, Recorder, RowsOf, Tensor, read, write};
use crate::rope_kv::HEAD;
use crate::write_kv::CACHE;
use crate::{Attention, Heads, Norm, Pairing, rope, rope_kv};
use hal::{Text, Value, msl};

const TEXTS: &[Text] = &[
    AttendArgs::MSL,
    CACHE,
    HEAD,
    msl!("chunk.metal"),
    msl!("kernel.metal"),
    msl!("prompt.metal"),
];
static CHUNKS: Variants = Variants::new("attend_chunks", TEXTS);
static TOKEN: Variants = Variants::new("attend_token", TEXTS);
static REDUCE: Variants = Variants::new("attend_reduce", TEXTS);
static WHOLE: Variants = Variants::new("attend_whole", TEXTS);
static PROMPT: Variants = Variants::new("attend_prompt", TEXTS);

/// Query heads that share each load of K and V, at most: their sums are a thread's registers.
const ROWS_MAX: u32 = 8;
/// Threadgroups for the chunks of one token and KV head, at most: in longer contexts each takes several.
const CHUNK_GROUPS_MAX: u32 = 64;
/// Steps of more tokens, or whose partial results would take more memory, have no partial results.
const SPLIT_TOKENS_MAX: u32 = 32;
const PARTIAL_BYTES_MAX: u64 = 64 << 20;
/// The count of tokens that continue an answer, see [`crate::Inputs::counts`].
const COUNT_OF_EXACT: u32 = 3;
/// Rows, numbers and positions of a product of matrices; positions of a block are whole tiles.
const TILE: u32 = 8;
/// Larger heads' sums would not fit in registers.
const PROMPT_HEAD_DIM_MAX: u32 = 256;

hal::args! {
    /// Arguments of all kernels; `window` is `u32::MAX` without one. Those from `pairs` on are for `attend_token` only.
    pub struct AttendArgs {
        pub heads: u32,
        pub kv_heads: u32,
        pub blocks: u32,
        pub window: u32,
        /// Which count says how many tokens are not for the prompts' kernel.
        pub count_index: u32,
        /// Chunks of a head's row that have a place among the partial results.
        pub slots: u32,
        pub scale: f32,
        /// 0 without rotation.
        pub pairs: u32,
        pub halves: u32,
        pub q_norm: u32,
        pub k_norm: u32,
        pub q_epsilon: f32,
        pub k_epsilon: f32,
    }
}

/// Batches of a KV head's query heads.
const fn batches(attention: &Attention) -> u32 {
    (attention.heads / attention.kv_heads).div_ceil(ROWS_MAX)
}

/// Query heads of a batch.
const fn rows(attention: &Attention) -> u32 {
    (attention.heads / attention.kv_heads).div_ceil(batches(attention))
}

/// Whether the launch that attends finishes q, k and v: in steps of one token, whose KV heads are each one threadgroup's.
pub(crate) fn fuses(to: &Recorder<'_>, heads: &Heads, attention: &Attention) -> bool {
    to.for_gpu() && to.bucket.tokens == 1 && batches(attention) == 1 && rope_kv::fuses(heads)
}

/// What the launches of one call have in common.
struct Call<'a> {
    attention: &'a Attention,
    args: AttendArgs,
    constants: [Value; 4],
    positions: [Operand; 4],
}

impl Call<'_> {
    /// `attend_token_f16_64x4_16`: cache, size of a head, rows, tokens of a block.
    fn program(&self, variants: &Variants) -> &'static hal::Program {
        variants.program(&self.constants, || {
            let [kv, sizes @ ..] = self.constants.map(|value| match value {
                Value::Uint(number) => number,
                _ => 0,
            });
            let kv = crate::KvFormat::from_code(kv).name().to_lowercase();
            let [head_dim, rows, block_tokens] = sizes;
            format!("{}_{kv}_{head_dim}x{rows}_{block_tokens}", variants.entry)
        })
    }

    /// Threadgroup memory of the kernels that work on chunks.
    fn chunk_bytes(&self, more: u32) -> u32 {
        let rows = rows(self.attention);
        let floats = rows * (self.attention.head_dim + CHUNK_POSITIONS + 2) + more;
        (4 * floats).next_multiple_of(16)
    }

    fn launch(&self, to: &mut Recorder<'_>, variants: &Variants, operands: &[Operand], grid: Grid) {
        to.launch_grid(self.program(variants), operands, grid, |image| self.args.write_to(image));
    }
}

fn call<'a>(to: &Recorder<'_>, attention: &'a Attention, fresh: Option<&Fresh>) -> Call<'a> {
    let (inputs, cache) = (to.resources.inputs, to.resources.caches[attention.layer as usize]);
    let (block_tokens, blocks) = (inputs.limits.block_tokens, inputs.limits.blocks);
    let chunks = super::chunks_max(blocks, block_tokens);
    let heads = fresh.map(|fresh| fresh.heads);
    let rope = heads.and_then(|heads| heads.rope);
    let norms = heads.map_or([None; 2], |heads| [heads.q_norm, heads.k_norm]);
    let epsilon = |norm: Option<Norm>| norm.map_or(0.0, |norm| norm.epsilon);
    let args = AttendArgs {
        heads: attention.heads,
        kv_heads: attention.kv_heads,
        blocks,
        window: attention.window.unwrap_or(u32::MAX),
        count_index: if takes_prompts(to, attention) { COUNT_OF_EXACT } else { 0 },
        // A window of whole chunks may begin and end inside of one.
        slots: attention.window.map_or(chunks, |window| {
            chunks.min(window.div_ceil(CHUNK_POSITIONS).saturating_add(1))
        }),
        scale: attention.scale,
        pairs: rope.map_or(0, |rope| rope.frequencies.columns),
        halves: u32::from(rope.is_some_and(|rope| rope.pairing == Pairing::Halves)),
        q_norm: u32::from(norms[0].is_some()),
        k_norm: u32::from(norms[1].is_some()),
        q_epsilon: epsilon(norms[0]),
        k_epsilon: epsilon(norms[1]),
    };
    let constants = [cache.shape.format.code(), attention.head_dim, rows(attention), block_tokens]
        .map(Value::Uint);
    let positions =
        [to.counts(), read(inputs.positions()), read(inputs.sequences()), read(inputs.tables())];
    Call { attention, args, constants, positions }
}

/// Whether there is a kernel of matrix products for the prompts of this step; else their tokens are as all others.
fn takes_prompts(to: &Recorder<'_>, attention: &Attention) -> bool {
    let whole = attention.head_dim.is_multiple_of(TILE)
        && to.resources.inputs.limits.block_tokens.is_multiple_of(TILE);
    to.bucket.tokens > 1 && whole && attention.head_dim <= PROMPT_HEAD_DIM_MAX
}

pub(super) fn record(to: &mut Recorder<'_>, q: &Tensor, attention: &Attention) -> Tensor {
    let cache = to.resources.caches[attention.layer as usize];
    let y = to.tensor(RowsOf::Tokens, q.columns);
    let fresh = to.fresh.take();
    let call = call(to, attention, fresh.as_ref());
    let partial_bytes = 4
        * u64::from(to.bucket.tokens * attention.heads)
        * u64::from(call.args.slots)
        * u64::from(attention.head_dim + 2);
    let split = to.bucket.tokens <= SPLIT_TOKENS_MAX && partial_bytes <= PARTIAL_BYTES_MAX;
    if fresh.is_some() || split {
        record_split(to, &call, [q, &y], fresh.as_ref(), partial_bytes);
    } else {
        let [counts, positions, sequences, tables] = call.positions;
        let q = read(q.room.place());
        let (k, v, y) = (read(cache.k), read(cache.v), write(y.room.place()));
        let groups = [attention.kv_heads * batches(attention), to.bucket.tokens, 1];
        let grid = grid(groups, call.chunk_bytes(0));
        call.launch(to, &WHOLE, &[counts, positions, sequences, tables, q, k, v, y], grid);
    }
    if takes_prompts(to, attention) {
        let [counts, positions, sequences, tables] = call.positions;
        let q = read(q.room.place());
        let (k, v, y) = (read(cache.k), read(cache.v), write(y.room.place()));
        let jobs = to.bucket.tokens.div_ceil(TILE) * attention.heads;
        let simds = GROUP_THREADS / 32;
        // As PROMPT_BYTES of the kernel.
        let bytes = 2 * TILE * attention.head_dim + 2 * 4 * TILE * 32;
        let grid = grid([jobs.div_ceil(simds), 1, 1], simds * bytes);
        call.launch(to, &PROMPT, &[counts, positions, sequences, tables, q, k, v, y], grid);
    }
    y
}

fn grid(groups: [u32; 3], scratch_bytes: u32) -> Grid {
    Grid { groups, threads: [GROUP_THREADS, 1, 1], scratch_bytes }
}

/// Chunks, then their fold.
fn record_split(
    to: &mut Recorder<'_>,
    call: &Call<'_>,
    [q, y]: [&Tensor; 2],
    fresh: Option<&Fresh>,
    partial_bytes: u64,
) {
    let attention = call.attention;
    let cache = to.resources.caches[attention.layer as usize];
    let partials = to.room(partial_bytes);
    let [counts, positions, sequences, tables] = call.positions;
    let parts = [counts, positions, sequences, tables, read(q.room.place())];
    let chunk_groups = call.args.slots.min(CHUNK_GROUPS_MAX);
    if let Some(fresh) = fresh {
        let angles = fresh.heads.rope.as_ref().map(|rope| rope::angles(to, rope));
        let weight =
            |norm: &Option<Norm>| norm.map_or(counts, |norm| read(to.weight(&norm.weight)));
        let finishing = [
            read(fresh.k.room.place()),
            read(fresh.v.room.place()),
            angles.map_or(counts, read),
            weight(&fresh.heads.q_norm),
            weight(&fresh.heads.k_norm),
            write(cache.k),
            write(cache.v),
            write(partials.place()),
        ];
        // Each SIMD group finishes a head at a time.
        let bytes = call.chunk_bytes(GROUP_THREADS / 32 * attention.head_dim);
        let grid = grid([chunk_groups, attention.kv_heads, 1], bytes);
        call.launch(to, &TOKEN, &[&parts[..], &finishing[..]].concat(), grid);
    } else {
        let operands =
            [&parts[..], &[read(cache.k), read(cache.v), write(partials.place())]].concat();
        let groups = [chunk_groups, attention.kv_heads * batches(attention), to.bucket.tokens];
        call.launch(to, &CHUNKS, &operands, grid(groups, call.chunk_bytes(0)));
    }
    let operands = [counts, positions, sequences, write(y.room.place()), read(partials.place())];
    let grid = grid([attention.heads, to.bucket.tokens, 1], 0);
    call.launch(to, &REDUCE, &operands, grid);
}
