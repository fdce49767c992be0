//! `activate` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint parts of shared spans")]
use super::Args;
use crate::Activation;
use hal::cpu::HostLaunch;

pub(super) fn activate(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let part = part(launch, &args);
    // SAFETY: each thread has its own part.
    let gate = unsafe { launch.shared::<f32>(1).part(part.clone()) };
    // SAFETY: span 2 is only read by this launch.
    let up = (launch.span_count() > 2).then(|| unsafe { launch.slice::<f32>(2) });
    apply(Activation::ALL[args.activation as usize], gate, up.map(|up| &up[part]));
}

pub(super) fn softcap(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    // SAFETY: each thread has its own part.
    let x = unsafe { launch.shared::<f32>(1).part(part(launch, &args)) };
    x.iter_mut().for_each(|x| *x = args.cap * (*x / args.cap).tanh());
}

fn part(launch: &HostLaunch<'_>, args: &Args) -> std::ops::Range<usize> {
    // SAFETY: span 0 is only read by this launch.
    let counts = unsafe { launch.slice::<u32>(0) };
    launch.part(counts[args.count_index as usize] as usize * args.columns as usize, 16)
}

/// `gate = activation(gate) * up`.
fn apply(activation: Activation, gate: &mut [f32], up: Option<&[f32]>) {
    match activation {
        Activation::Silu => gate.iter_mut().for_each(|x| *x /= 1.0 + (-*x).exp()),
        Activation::Gelu => gate.iter_mut().for_each(|x| *x = gelu(*x)),
        Activation::ReluSquared => gate.iter_mut().for_each(|x| *x = x.max(0.0) * x.max(0.0)),
    }
    if let Some(up) = up {
        gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
    }
}

/// Tanh form, through `tanh(y) = 1 - 2 / (exp(2y) + 1)`.
fn gelu(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let inner = SQRT_2_OVER_PI * x * (1.0 + 0.044_715 * x * x);
    x * (1.0 - 1.0 / ((2.0 * inner).exp() + 1.0))
}
