//! `rope_kv` on the CPU: an item is a head of q, k or v of one token.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint heads of shared spans")]
use super::Args;
use crate::KvFormat;
use crate::norm::normalize;
use crate::rope::rotate;
use crate::write_kv::{Place, store_k, store_v};
use hal::cpu::HostLaunch;

pub(super) fn rope_kv(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let (heads, kv_heads, n) =
        (args.heads as usize, args.kv_heads as usize, args.head_dim as usize);
    // SAFETY: all spans but q and the caches are only read by this launch.
    let (counts, k, v) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(4), launch.slice::<f32>(5)) };
    let format = KvFormat::from_code(args.kv);
    let optional = |at: usize, present: bool| {
        // SAFETY: as above.
        present.then(|| unsafe { launch.slice::<f32>(at) })
    };
    let angles = optional(9, args.pairs > 0);
    let q_norm = optional(10, args.q_norm == 1).map(|weight| (weight, args.q_epsilon));
    let k_norm = optional(11, args.k_norm == 1).map(|weight| (weight, args.k_epsilon));
    // SAFETY: scratch belongs to this thread.
    let scratch = unsafe { launch.scratch::<f32>().part(0..n) };
    let per_token = heads + 2 * kv_heads;
    for item in launch.part(counts[0] as usize * per_token, 1) {
        let (t, head) = (item / per_token, item % per_token);
        let width = 2 * args.pairs as usize;
        let angles = angles.map(|angles| &angles[t * width..(t + 1) * width]);
        if head < heads {
            let at = (t * heads + head) * n;
            // SAFETY: each thread has its own heads.
            let q = unsafe { launch.shared::<f32>(6).part(at..at + n) };
            scratch.copy_from_slice(q);
            finish(scratch, q, q_norm, angles, args.halves == 1);
            continue;
        }
        let kv_head = (head - heads) % kv_heads;
        let from = (t * kv_heads + kv_head) * n;
        let place = Place::of(launch, (args.block_tokens, args.blocks), t);
        if head < heads + kv_heads {
            finish(&k[from..from + n], scratch, k_norm, angles, args.halves == 1);
            store_k(launch.shared(7), format, scratch, place.head(kv_heads, kv_head));
        } else {
            store_v(launch.shared(8), format, &v[from..from + n], place.head(kv_heads, kv_head));
        }
    }
}

/// Normalizes and rotates one head.
fn finish(
    x: &[f32],
    y: &mut [f32],
    norm: Option<(&[f32], f32)>,
    angles: Option<&[f32]>,
    halves: bool,
) {
    match norm {
        Some((weight, epsilon)) => normalize(x, false, (weight, None), epsilon, y),
        None => y.copy_from_slice(x),
    }
    if let Some(angles) = angles {
        rotate(y, angles, halves);
    }
}
