//! Telling the user how far a transfer is. Everything goes to standard error.
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

/// Who watches a transfer.
pub(crate) trait Progress {
    /// One line: which source is tried, which was used.
    fn say(&mut self, line: &str);
    /// A transfer begins or begins again.
    fn start(&mut self, what: &str, bytes_total: Option<u64>);
    /// It is at this many bytes, counted from the beginning of the file.
    fn at(&mut self, bytes: u64);
    /// It ended, well or not.
    fn finish(&mut self);
}

/// Without a terminal, lines are at least this far apart.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// A bar on a terminal; without one a line every tenth.
#[derive(Debug, Default)]
pub(crate) struct Terminal {
    bar: Option<ProgressBar>,
    what: String,
    bytes_total: Option<u64>,
    tenth: u64,
    line_last: Option<Instant>,
}

impl Progress for Terminal {
    fn say(&mut self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write_line(line)),
            None => write_line(line),
        }
    }

    fn start(&mut self, what: &str, bytes_total: Option<u64>) {
        self.finish();
        what.clone_into(&mut self.what);
        self.bytes_total = bytes_total;
        self.tenth = 0;
        self.line_last = Some(Instant::now());
        if !stderr().is_terminal() {
            return;
        }
        let template = match bytes_total {
            Some(_) => "{msg} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{msg} {spinner} {bytes} {bytes_per_sec}",
        };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(bytes_total, ProgressDrawTarget::stderr());
        bar.set_style(style);
        bar.set_message(what.to_owned());
        self.bar = Some(bar);
    }

    fn at(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            return;
        }
        let Some(total) = self.bytes_total.filter(|total| *total > 0) else { return };
        let tenth = bytes.saturating_mul(10) / total;
        let soon = self.line_last.is_some_and(|last| last.elapsed() < LINE_EVERY);
        if tenth > self.tenth && !soon {
            self.tenth = tenth;
            self.line_last = Some(Instant::now());
            write_line(&format!("{} {}0 %", self.what, tenth));
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.bytes_total = None;
    }
}

/// A closed standard error must not end a download.
fn write_line(line: &str) {
    drop(writeln!(stderr(), "{line}"));
}
