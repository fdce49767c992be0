//! `write_kv` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint rows of shared spans")]
use super::Args;
use hal::cpu::HostLaunch;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

pub(super) fn write_kv(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let (kv_heads, n, block_tokens) =
        (args.kv_heads as usize, args.head_dim as usize, args.block_tokens as usize);
    // SAFETY: spans 0 to 5 are only read by this launch.
    let (counts, positions, sequences) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1), launch.slice::<u32>(2)) };
    // SAFETY: as above.
    let tables = unsafe { launch.slice::<u32>(3) };
    for item in launch.part(counts[0] as usize * kv_heads, 1) {
        let (t, head) = (item / kv_heads, item % kv_heads);
        let (position, sequence) = (positions[t] as usize, sequences[t] as usize);
        let block = tables[sequence * args.blocks as usize + position / block_tokens] as usize;
        let to = ((block * kv_heads + head) * block_tokens + position % block_tokens) * n;
        for (source, target) in [(4, 6), (5, 7)] {
            // SAFETY: span 4 and 5 are only read; two tokens of a batch never share a place in the cache.
            let (x, y) = unsafe {
                (launch.slice::<f32>(source), launch.shared::<u16>(target).part(to..to + n))
            };
            y.reinterpret_cast_mut::<f16>().convert_from_f32_slice(&x[item * n..(item + 1) * n]);
        }
    }
}
