//! `gather` on the CPU.
#![expect(unsafe_code, reason = "a CPU kernel: threads write disjoint rows of shared spans")]
use super::Args;
use hal::cpu::HostLaunch;

pub(super) fn gather(launch: &HostLaunch<'_>) {
    let columns = Args::read_from(launch.constants()).columns as usize;
    // SAFETY: spans 0 to 2 are only read by this launch.
    let (counts, rows, x) =
        unsafe { (launch.slice::<u32>(0), launch.slice::<u32>(1), launch.slice::<f32>(2)) };
    for s in launch.part(counts[1] as usize, 1) {
        let from = rows[s] as usize * columns;
        // SAFETY: each thread has its own rows.
        let y = unsafe { launch.shared::<f32>(3).part(s * columns..(s + 1) * columns) };
        y.copy_from_slice(&x[from..from + columns]);
    }
}
