//! `rope` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint heads of shared spans")]
use super::Args;
use hal::cpu::HostLaunch;

pub(super) fn rope(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    // SAFETY: spans 0 to 2 are only read by this launch.
    let (counts, positions, frequencies) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1), launch.slice::<f32>(2)) };
    let (head_dim, pairs) = (args.head_dim as usize, args.pairs as usize);
    // SAFETY: scratch belongs to this thread.
    let (cos, sin) = unsafe { launch.scratch::<f32>().part(0..2 * pairs) }.split_at_mut(pairs);
    let heads = (args.columns / args.head_dim) as usize;
    let mut turned = None;
    for item in launch.part(counts[0] as usize * heads, 1) {
        let position = positions[item / heads];
        if turned != Some(position) {
            angles(position, frequencies, args.amplitude, (cos, sin));
            turned = Some(position);
        }
        // SAFETY: each thread has its own heads.
        let x = unsafe { launch.shared::<f32>(3).part(item * head_dim..(item + 1) * head_dim) };
        if args.halves == 1 {
            let (first, second) = x[..2 * pairs].split_at_mut(pairs);
            for (((x0, x1), c), s) in first.iter_mut().zip(second).zip(&*cos).zip(&*sin) {
                (*x0, *x1) = (*x0 * c - *x1 * s, *x0 * s + *x1 * c);
            }
        } else {
            for ((x, c), s) in x.as_chunks_mut::<2>().0.iter_mut().zip(&*cos).zip(&*sin) {
                *x = [x[0] * c - x[1] * s, x[0] * s + x[1] * c];
            }
        }
    }
}

/// Cosines and sines of one position. The product is taken in f64: at position 100,000 an f32 angle is off by 0.004.
fn angles(
    position: u32,
    frequencies: &[f32],
    amplitude: f32,
    (cos, sin): (&mut [f32], &mut [f32]),
) {
    for ((frequency, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
        let turns = f64::from(position) * f64::from(*frequency) / std::f64::consts::TAU;
        #[expect(clippy::cast_possible_truncation, reason = "reduced to one turn before rounding")]
        let angle = ((turns - turns.floor()) * std::f64::consts::TAU) as f32;
        let (s, c) = angle.sin_cos();
        (*cos, *sin) = (c * amplitude, s * amplitude);
    }
}
