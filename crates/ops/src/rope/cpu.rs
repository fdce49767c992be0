//! `rope` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint heads of shared spans")]
use super::{AnglesArgs, Args};
use hal::cpu::HostLaunch;

/// The product of position and frequency is taken in f64: at position 100,000 an f32 angle is off by 0.004.
pub(super) fn angles(launch: &HostLaunch<'_>) {
    let args = AnglesArgs::read_from(launch.constants());
    let pairs = args.pairs as usize;
    // SAFETY: spans 0 to 2 are only read by this launch.
    let (counts, positions, frequencies) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1), launch.slice::<f32>(2)) };
    for t in launch.part(counts[0] as usize, 1) {
        // SAFETY: each thread has its own tokens.
        let table = unsafe { launch.shared::<f32>(3).part(t * 2 * pairs..(t + 1) * 2 * pairs) };
        let (cos, sin) = table.split_at_mut(pairs);
        for ((frequency, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
            let turns = f64::from(positions[t]) * f64::from(*frequency) / std::f64::consts::TAU;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "reduced to one turn before rounding"
            )]
            let angle = ((turns - turns.floor()) * std::f64::consts::TAU) as f32;
            let (s, c) = angle.sin_cos();
            (*cos, *sin) = (c * args.amplitude, s * args.amplitude);
        }
    }
}

pub(super) fn rope(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    // SAFETY: spans 0 and 1 are only read by this launch.
    let (counts, angles) = unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(1)) };
    let (n, pairs, heads) =
        (args.head_dim as usize, args.pairs as usize, (args.columns / args.head_dim) as usize);
    for item in launch.part(counts[0] as usize * heads, 1) {
        let t = item / heads;
        // SAFETY: each thread has its own heads.
        let x = unsafe { launch.shared::<f32>(2).part(item * n..(item + 1) * n) };
        rotate(x, &angles[t * 2 * pairs..(t + 1) * 2 * pairs], args.halves == 1);
    }
}

/// Rotates one head; `angles` holds cosines, then sines.
#[inline(always)]
pub(crate) fn rotate(x: &mut [f32], angles: &[f32], halves: bool) {
    let pairs = angles.len() / 2;
    let (cos, sin) = angles.split_at(pairs);
    if halves {
        let (first, second) = x[..2 * pairs].split_at_mut(pairs);
        for (((x0, x1), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*x0, *x1) = (*x0 * c - *x1 * s, *x0 * s + *x1 * c);
        }
    } else {
        for ((x, c), s) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
            *x = [x[0] * c - x[1] * s, x[0] * s + x[1] * c];
        }
    }
}
