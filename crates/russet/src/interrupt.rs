//! Ctrl-C: the first ends what is being generated, the second the process.
use std::sync::atomic::{AtomicBool, Ordering};

/// What Ctrl-C would stop right now.
static GENERATING: AtomicBool = AtomicBool::new(false);
static STOPPED: AtomicBool = AtomicBool::new(false);

/// The exit status of a process that a SIGINT ended, by the shells' convention.
pub(crate) const EXIT_STATUS: u8 = 130;

/// Installs the handler. Outside of [`generating`] Ctrl-C ends the process at once, as without a handler.
pub(crate) fn install() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        let already = STOPPED.swap(true, Ordering::SeqCst);
        if already || !GENERATING.load(Ordering::SeqCst) {
            #[expect(clippy::exit, reason = "the user asked for the end of the process")]
            std::process::exit(i32::from(EXIT_STATUS));
        }
    })?;
    Ok(())
}

/// Runs `work` while Ctrl-C only sets the flag that [`stopped`] reads.
pub(crate) fn generating<T>(work: impl FnOnce() -> T) -> T {
    STOPPED.store(false, Ordering::SeqCst);
    GENERATING.store(true, Ordering::SeqCst);
    let result = work();
    GENERATING.store(false, Ordering::SeqCst);
    result
}

/// Whether Ctrl-C was pressed since [`generating`] began.
pub(crate) fn stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}
