//! What the environment asks of the fake.
//!
//! | variable | meaning |
//! |---|---|
//! | `FAKE_METAL_SEED` | of all random orders; 1 |
//! | `FAKE_METAL_MEMORY` | `recommendedMaxWorkingSetSize`; 1 GiB |
//! | `FAKE_METAL_BUFFER` | `maxBufferLength`; as much |
//! | `FAKE_METAL_UNIFIED` | 0: memory of its own |
//! | `FAKE_METAL_FAMILY` | the newest `MTLGPUFamily` of Apple's, 1009 (Apple9); 0: none |
//! | `FAKE_METAL_WIDTH` | `threadExecutionWidth`; 32 |
//! | `FAKE_METAL_THREADS` | `maxTotalThreadsPerThreadgroup` of every pipeline; 1024 |
//! | `FAKE_METAL_MACOS` | major version; 15 |
//! | `FAKE_METAL_NONE` | 1: there is no device |
//! | `FAKE_METAL_REPORT` | 1: say at exit what was done |
//! | `FAKE_METAL_FAULT` | what fails: `alloc:N`, `library:N`, `pipeline:N` (from 0), `command-buffer:N:CODE` |
use std::sync::OnceLock;

/// See the module.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) memory: u64,
    pub(crate) buffer: u64,
    pub(crate) unified: bool,
    pub(crate) family: u64,
    pub(crate) width: usize,
    pub(crate) threads: usize,
    pub(crate) macos: u64,
    pub(crate) none: bool,
    pub(crate) report: bool,
    fault: Option<(String, u64, isize)>,
}

impl Settings {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    fn read() -> Self {
        let number = |name: &str, default: u64| {
            let text = std::env::var(format!("FAKE_METAL_{name}")).ok();
            text.and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        let small =
            |name: &str, default| usize::try_from(number(name, default)).unwrap_or(usize::MAX);
        let memory = number("MEMORY", 1 << 30);
        let fault = std::env::var("FAKE_METAL_FAULT").ok().and_then(|text| {
            let mut parts = text.split(':');
            let (what, nth) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?);
            Some((what, nth, parts.next().and_then(|code| code.parse().ok()).unwrap_or(0)))
        });
        Self {
            seed: number("SEED", 1),
            memory,
            buffer: number("BUFFER", memory),
            unified: number("UNIFIED", 1) != 0,
            family: number("FAMILY", 1009),
            width: small("WIDTH", 32),
            threads: small("THREADS", 1024),
            macos: number("MACOS", 15),
            none: number("NONE", 0) != 0,
            report: number("REPORT", 0) != 0,
            fault,
        }
    }

    /// The code of the fault that is asked for at the nth such event.
    pub(crate) fn fault(&self, what: &str, nth: u64) -> Option<isize> {
        self.fault.as_ref().filter(|fault| fault.0 == what && fault.1 == nth).map(|fault| fault.2)
    }
}

pub(crate) fn get() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(Settings::read)
}

/// Whether this event must fail: `seen` counts them.
pub(crate) fn fails(what: &str, seen: &std::sync::atomic::AtomicU64) -> bool {
    let nth = seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    get().fault(what, nth).is_some()
}
