//! `write_kv` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint rows of shared spans")]
use super::Args;
use hal::cpu::{HostLaunch, Shared};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

pub(super) fn write_kv(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let (kv_heads, n) = (args.kv_heads as usize, args.head_dim as usize);
    // SAFETY: spans 0, 4 and 5 are only read by this launch.
    let (counts, k, v) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(4), launch.slice::<f32>(5)) };
    for item in launch.part(counts[0] as usize * kv_heads, 1) {
        let place = Place::of(launch, (args.block_tokens, args.blocks), item / kv_heads);
        let at = place.head(kv_heads, item % kv_heads);
        store_k(launch.shared(6), &k[item * n..(item + 1) * n], at);
        store_v(launch.shared(7), &v[item * n..(item + 1) * n], at);
    }
}

/// Where a token's K and V go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// In place of a block: of a KV head's part of it, see [`Place::head`].
    block: usize,
    /// Within the block.
    token: usize,
    block_tokens: usize,
}

impl Place {
    /// For token `t`, of a launch whose spans 1 to 3 are positions, sequences and tables.
    pub(crate) fn of(
        launch: &HostLaunch<'_>,
        (block_tokens, blocks): (u32, u32),
        t: usize,
    ) -> Self {
        // SAFETY: these spans are only read by the launches that have them.
        let (positions, sequences) = unsafe { (launch.slice::<u32>(1), launch.slice::<u32>(2)) };
        // SAFETY: as above.
        let tables = unsafe { launch.slice::<u32>(3) };
        let (position, block_tokens) = (positions[t] as usize, block_tokens as usize);
        let entry = sequences[t] as usize * blocks as usize + position / block_tokens;
        Self { block: tables[entry] as usize, token: position % block_tokens, block_tokens }
    }

    /// One KV head's part of the block.
    pub(crate) const fn head(self, kv_heads: usize, head: usize) -> Self {
        Self { block: self.block * kv_heads + head, ..self }
    }
}

/// Stores a head of K across its block's rows.
pub(crate) fn store_k(cache: Shared<'_, u16>, k: &[f32], at: Place) {
    let first = at.block * at.block_tokens * k.len() + at.token;
    for (d, x) in k.iter().enumerate() {
        let at = first + d * at.block_tokens;
        // SAFETY: two tokens of a batch never share a place in the cache.
        unsafe { cache.part(at..at + 1)[0] = f16::from_f32(*x).to_bits() };
    }
}

/// Stores a head of V as a row of its block.
pub(crate) fn store_v(cache: Shared<'_, u16>, v: &[f32], at: Place) {
    let first = (at.block * at.block_tokens + at.token) * v.len();
    // SAFETY: as above.
    let to = unsafe { cache.part(first..first + v.len()) };
    to.reinterpret_cast_mut::<f16>().convert_from_f32_slice(v);
}
