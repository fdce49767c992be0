//! Ctrl-C: the first ends what is being generated, the second the process.
use signal_hook::consts::SIGINT;
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

/// Whether the next Ctrl-C ends the process: always, but for the first one while something is generated.
static ENDS_PROCESS: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));
static STOPPED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(false)));

/// The exit status of a process that a SIGINT ended, by the shells' convention.
pub(crate) const EXIT_STATUS: u8 = 130;

/// Installs the handlers. Outside of [`generating`] Ctrl-C ends the process at once, as without them.
pub(crate) fn install() -> anyhow::Result<()> {
    // They run in this order: the first looks at the flag before the second sets it.
    flag::register_conditional_shutdown(SIGINT, i32::from(EXIT_STATUS), Arc::clone(&ENDS_PROCESS))?;
    flag::register(SIGINT, Arc::clone(&ENDS_PROCESS))?;
    flag::register(SIGINT, Arc::clone(&STOPPED))?;
    Ok(())
}

/// Runs `work` while Ctrl-C only sets the flag that [`stopped`] reads.
pub(crate) fn generating<T>(work: impl FnOnce() -> T) -> T {
    STOPPED.store(false, Ordering::SeqCst);
    ENDS_PROCESS.store(false, Ordering::SeqCst);
    let result = work();
    ENDS_PROCESS.store(true, Ordering::SeqCst);
    result
}

/// Whether Ctrl-C was pressed since [`generating`] began.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}
