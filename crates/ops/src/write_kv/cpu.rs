//! `write_kv` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint rows of shared spans")]
use super::Args;
use crate::KvFormat;
use hal::cpu::{HostLaunch, Shared};
use half::f16;
use half::slice::HalfFloatSliceExt;

pub(super) fn write_kv(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let (kv_heads, n) = (args.kv_heads as usize, args.head_dim as usize);
    let format = KvFormat::from_code(args.kv);
    // SAFETY: spans 0, 4 and 5 are only read by this launch.
    let (counts, k, v) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(4), launch.slice::<f32>(5)) };
    for item in launch.part(counts[0] as usize * kv_heads, 1) {
        let place = Place::of(launch, (args.block_tokens, args.blocks), item / kv_heads);
        let at = place.head(kv_heads, item % kv_heads);
        store_k(launch.shared(6), format, &k[item * n..(item + 1) * n], at);
        store_v(launch.shared(7), format, &v[item * n..(item + 1) * n], at);
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

    /// Where the record begins.
    const fn record(self, format: KvFormat, head_dim: usize) -> usize {
        self.block * self.block_tokens * format.head_bytes(head_dim)
    }

    /// Where the scale of a group of 32 numbers lies.
    const fn scale(self, record: usize, head_dim: usize, group: usize) -> usize {
        record + head_dim * self.block_tokens + 2 * (group * self.block_tokens + self.token)
    }

    /// One KV head's part of the block.
    pub(crate) const fn head(self, kv_heads: usize, head: usize) -> Self {
        Self { block: self.block * kv_heads + head, ..self }
    }
}

/// Stores a head of K across its block's rows.
pub(crate) fn store_k(cache: Shared<'_, u8>, format: KvFormat, k: &[f32], at: Place) {
    let record = at.record(format, k.len());
    match format {
        KvFormat::F16 => {
            for (d, x) in k.iter().enumerate() {
                let code = f16::from_f32(*x).to_ne_bytes();
                write(cache, record + 2 * (d * at.block_tokens + at.token), &code);
            }
        }
        KvFormat::Q8_0 => {
            for (group, x) in k.as_chunks().0.iter().enumerate() {
                let (scale, codes) = quantized(x);
                for (d, code) in (group * KvFormat::GROUP..).zip(codes) {
                    write(cache, record + d * at.block_tokens + at.token, &[code.cast_unsigned()]);
                }
                write(cache, at.scale(record, k.len(), group), &scale.to_ne_bytes());
            }
        }
    }
}

/// Stores a head of V as a row of its block.
pub(crate) fn store_v(cache: Shared<'_, u8>, format: KvFormat, v: &[f32], at: Place) {
    let n = v.len();
    let record = at.record(format, n);
    match format {
        KvFormat::F16 => {
            let mut halves = [f16::ZERO; 16];
            for (i, v) in v.chunks(16).enumerate() {
                halves[..v.len()].convert_from_f32_slice(v);
                let bytes = halves.map(f16::to_ne_bytes);
                let first = record + 2 * (at.token * n + 16 * i);
                write(cache, first, &bytes.as_flattened()[..2 * v.len()]);
            }
        }
        KvFormat::Q8_0 => {
            for (group, x) in v.as_chunks().0.iter().enumerate() {
                let (scale, codes) = quantized(x);
                let first = record + at.token * v.len() + group * KvFormat::GROUP;
                write(cache, first, &codes.map(i8::cast_unsigned));
                write(cache, at.scale(record, v.len(), group), &scale.to_ne_bytes());
            }
        }
    }
}

fn write(cache: Shared<'_, u8>, at: usize, bytes: &[u8]) {
    // SAFETY: two tokens of a batch never share a place in the cache.
    unsafe { cache.part(at..at + bytes.len()) }.copy_from_slice(bytes);
}

/// Scale and codes of 32 numbers: as llama.cpp rounds to Q8_0.
fn quantized(x: &[f32; KvFormat::GROUP]) -> (f16, [i8; KvFormat::GROUP]) {
    let largest = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let step = largest / 127.0;
    let inverse = if step == 0.0 { 0.0 } else { 1.0 / step };
    #[expect(clippy::cast_possible_truncation, reason = "at most 127 in magnitude")]
    let codes = x.map(|x| (x * inverse).round() as i8);
    (f16::from_f32(step), codes)
}
