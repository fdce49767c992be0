//! `norm` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint rows of shared spans")]
use super::Args;
use hal::cpu::HostLaunch;

pub(super) fn norm(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let n = args.group as usize;
    // SAFETY: spans 0, 1, 3 and 4 are only read by this launch.
    let (counts, x, weight) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(1), launch.slice::<f32>(3)) };
    // SAFETY: as above.
    let bias = (args.bias == 1).then(|| unsafe { launch.slice::<f32>(4) });
    // SAFETY: scratch belongs to this thread.
    let normalized = unsafe { launch.scratch::<f32>().part(0..n) };
    let groups = counts[args.count_index as usize] as usize * (args.columns / args.group) as usize;
    for g in launch.part(groups, 1) {
        let range = g * n..(g + 1) * n;
        normalize(&x[range.clone()], args.layer == 1, (weight, bias), args.epsilon, normalized);
        // SAFETY: each thread has its own groups.
        let y = unsafe { launch.shared::<f32>(2).part(range) };
        if args.accumulate == 1 {
            y.iter_mut().zip(&*normalized).for_each(|(y, x)| *y += x);
        } else {
            y.copy_from_slice(normalized);
        }
    }
}

/// One group: `y = normalized(x) * weight + bias`.
pub(crate) fn normalize(
    x: &[f32],
    layer: bool,
    (weight, bias): (&[f32], Option<&[f32]>),
    epsilon: f32,
    y: &mut [f32],
) {
    #[expect(clippy::cast_precision_loss, reason = "a row has far fewer than 2^24 numbers")]
    let n = x.len() as f32;
    let mean = if layer { sum(x, |x| x) / n } else { 0.0 };
    let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
    let factor = 1.0 / (variance + epsilon).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = (x - mean) * factor * w;
    }
    if let Some(bias) = bias {
        y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
}

/// Sums in 16 lanes: vectorizes, and rounds less than one running sum.
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; 16];
    let (blocks, rest) = x.as_chunks::<16>();
    for block in blocks {
        for (lane, x) in lanes.iter_mut().zip(block) {
            *lane += f(*x);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
}
