//! `attend` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint heads of shared spans")]
use super::Args;
use hal::cpu::HostLaunch;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

pub(super) fn attend(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    // SAFETY: all spans but the last are only read by this launch.
    let (counts, positions, sequences) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1), launch.slice::<u32>(2)) };
    // SAFETY: as above.
    let (tables, q) = unsafe { (launch.slice::<u32>(3), launch.slice::<f32>(4)) };
    // SAFETY: as above.
    let (k, v) = unsafe { (launch.slice::<u16>(5), launch.slice::<u16>(6)) };
    let (heads, n) = (args.heads as usize, args.head_dim as usize);
    let block_floats = args.block_tokens as usize * n;
    // SAFETY: scratch belongs to this thread.
    let scratch =
        unsafe { launch.scratch::<f32>().part(0..block_floats + args.block_tokens as usize) };
    let (rows, scores) = scratch.split_at_mut(block_floats);
    for item in launch.part(counts[0] as usize * heads, 1) {
        let (t, head) = (item / heads, item % heads);
        let (position, sequence) = (positions[t] as usize, sequences[t] as usize);
        let table = &tables[sequence * args.blocks as usize..][..args.blocks as usize];
        let kv_head = head / (heads / args.kv_heads as usize);
        // SAFETY: each thread has its own heads.
        let y = unsafe { launch.shared::<f32>(7).part(item * n..(item + 1) * n) };
        let cache = BlockedCache { k, v, table, args: &args, kv_head };
        one_head(&q[item * n..(item + 1) * n], &cache, position, (rows, scores), y);
    }
}

/// What one KV head of one sequence may read.
struct BlockedCache<'a> {
    k: &'a [u16],
    v: &'a [u16],
    table: &'a [u32],
    args: &'a Args,
    kv_head: usize,
}

impl BlockedCache<'_> {
    /// Rows `range` of one block as f32.
    fn load<'r>(
        &self,
        from: &[u16],
        block: usize,
        range: &std::ops::Range<usize>,
        rows: &'r mut [f32],
    ) -> &'r [f32] {
        let (n, block_tokens) = (self.args.head_dim as usize, self.args.block_tokens as usize);
        let physical = self.table[block] as usize * self.args.kv_heads as usize + self.kv_head;
        let start = (physical * block_tokens + range.start) * n;
        let rows = &mut rows[..range.len() * n];
        from[start..start + rows.len()].reinterpret_cast::<f16>().convert_to_f32_slice(rows);
        rows
    }
}

fn one_head(
    q: &[f32],
    cache: &BlockedCache<'_>,
    position: usize,
    (rows, scores): (&mut [f32], &mut [f32]),
    y: &mut [f32],
) {
    let (n, block_tokens) = (q.len(), cache.args.block_tokens as usize);
    let first = (position + 1).saturating_sub(cache.args.window as usize);
    let (mut max, mut total) = (f32::NEG_INFINITY, 0.0);
    y.fill(0.0);
    for block in first / block_tokens..=position / block_tokens {
        let start = block * block_tokens;
        let range = first.saturating_sub(start)..(position + 1 - start).min(block_tokens);
        let scores = &mut scores[..range.len()];
        for (score, k) in
            scores.iter_mut().zip(cache.load(cache.k, block, &range, rows).chunks_exact(n))
        {
            *score = cache.args.scale * dot(q, k);
        }
        let block_max = scores.iter().copied().fold(max, f32::max);
        let shrink = (max - block_max).exp();
        max = block_max;
        total *= shrink;
        y.iter_mut().for_each(|y| *y *= shrink);
        for (score, v) in
            scores.iter().zip(cache.load(cache.v, block, &range, rows).chunks_exact(n))
        {
            let weight = (score - max).exp();
            total += weight;
            y.iter_mut().zip(v).for_each(|(y, v)| *y += weight * v);
        }
    }
    y.iter_mut().for_each(|y| *y /= total);
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}
