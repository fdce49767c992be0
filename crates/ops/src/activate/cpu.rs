//! `activate` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint parts of shared spans")]
use super::Args;
use crate::Activation;
use crate::simd::{self, Family};
use hal::cpu::HostLaunch;

pub(super) fn activate(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    let part = part(launch, &args);
    // SAFETY: each thread has its own part.
    let gate = unsafe { launch.shared::<f32>(1).part(part.clone()) };
    // SAFETY: span 2 is only read by this launch.
    let up = (args.gated == 1).then(|| unsafe { launch.slice::<f32>(2) });
    let activation = Activation::ALL[args.activation as usize];
    simd::activate(Family::host(), activation, gate, up.map(|up| &up[part]));
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
