//! `add` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint parts of shared spans")]
use super::Args;
use hal::cpu::HostLaunch;

pub(super) fn add(launch: &HostLaunch<'_>) {
    let args = Args::read_from(launch.constants());
    // SAFETY: spans 0 and 1 are only read by this launch.
    let (counts, y) = unsafe { (launch.slice::<u32>(0), launch.slice::<f32>(1)) };
    let length = counts[args.count_index as usize] as usize * args.columns as usize;
    let part = launch.part(length, 16);
    // SAFETY: each thread has its own part.
    let x = unsafe { launch.shared::<f32>(2).part(part.clone()) };
    x.iter_mut().zip(&y[part]).for_each(|(x, y)| *x += y);
}
