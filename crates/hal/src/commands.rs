//! Recorded work: flat arrays, no pointers, so that it can be kept, compared, sent and translated.
use crate::{Buffer, Error, Kernel, Result};
use std::ops::Range;

/// A byte range of a buffer: the only way a command names memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    pub buffer: Buffer,
    pub offset: u64,
    pub bytes: u64,
}

impl Span {
    /// The part of this span that starts at `offset` and is `bytes` long. Panics if it would leave the span.
    #[must_use]
    pub fn part(self, offset: u64, bytes: u64) -> Self {
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= self.bytes),
            "part leaves its span"
        );
        Self { buffer: self.buffer, offset: self.offset + offset, bytes }
    }

    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.buffer == other.buffer
            && self.offset < other.offset + other.bytes
            && other.offset < self.offset + self.bytes
    }
}

/// One kernel over a grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    pub kernel: Kernel,
    /// Threadgroups in each direction. The CPU device ignores it: its kernels split the work by thread.
    pub grid: [u32; 3],
    /// Threads of one threadgroup in each direction.
    pub block: [u32; 3],
    /// Memory private to a threadgroup (on the CPU: to a thread).
    pub scratch_bytes: u32,
    /// Into [`Commands::spans`].
    pub spans: Range<u32>,
    /// Bit i is set when span i is written; every span may be read.
    pub writes: u32,
    /// Into [`Commands::constants`].
    pub constants: Range<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Launch(Launch),
    Copy { source: Span, target: Span },
    Fill { target: Span, byte: u8 },
}

/// Work in program order. A device may run neighbours at the same time where [`crate::barriers`] allows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    pub list: Vec<Command>,
    pub spans: Vec<Span>,
    pub constants: Vec<u8>,
}

impl Commands {
    /// What the launch's kernel gets to see.
    #[must_use]
    pub fn spans_of(&self, launch: &Launch) -> &[Span] {
        &self.spans[launch.spans.start as usize..launch.spans.end as usize]
    }

    /// Calls `f` with each span of `command` and whether it is written.
    pub(crate) fn accesses(&self, command: &Command, mut f: impl FnMut(&Span, bool)) {
        match command {
            Command::Launch(launch) => {
                for (i, span) in self.spans_of(launch).iter().enumerate() {
                    f(span, launch.writes >> i & 1 == 1);
                }
            }
            Command::Copy { source, target } => {
                f(source, false);
                f(target, true);
            }
            Command::Fill { target, .. } => f(target, true),
        }
    }

    /// Checks every span against its buffer: `buffer` tells a buffer's size and whether it may be written.
    ///
    /// # Errors
    /// [`Error::BadSpan`] names the command; a stale buffer's error is passed on.
    pub fn check(&self, buffer: impl Fn(Buffer) -> Result<(u64, bool)>) -> Result<()> {
        for (command, entry) in self.list.iter().enumerate() {
            let bad = |reason| Error::BadSpan { command, reason };
            let mut result = Ok(());
            self.accesses(entry, |span, written| {
                let check = || {
                    let (bytes, writable) = buffer(span.buffer)?;
                    if span.offset.checked_add(span.bytes).is_none_or(|end| end > bytes) {
                        return Err(bad(format!(
                            "span {span:?} leaves its buffer of {bytes} bytes"
                        )));
                    }
                    if written && !writable {
                        return Err(bad(format!("writes into the read-only span {span:?}")));
                    }
                    Ok(())
                };
                if result.is_ok() {
                    result = check();
                }
            });
            result?;
            if let Command::Copy { source, target } = entry
                && (source.bytes != target.bytes || source.overlaps(target))
            {
                return Err(bad(
                    "a copy needs two spans of one length that do not overlap".to_owned()
                ));
            }
        }
        Ok(())
    }
}
