//! How a CPU kernel sees its launch.
use super::pieces::Cursor;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU32;

/// A kernel: called on every thread of the pool at the same time, each with its own thread number.
pub type Host = fn(&HostLaunch<'_>);

/// A span as the CPU sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostSpan {
    pub(crate) pointer: *mut u8,
    pub(crate) bytes: usize,
}

/// One thread's view of one launch.
#[derive(Debug)]
pub struct HostLaunch<'a> {
    pub(crate) spans: &'a [HostSpan],
    pub(crate) constants: &'a [u8],
    pub(crate) scratch: HostSpan,
    /// One for each thread, see [`HostLaunch::pieces`].
    pub(crate) cursors: &'a [Cursor],
    /// The launch's place among those of its submit, from 0.
    pub(crate) index: usize,
    /// Rounds of pieces that this thread has begun in this launch.
    pub(crate) rounds: Cell<u8>,
    /// This thread's number, from 0.
    pub thread: usize,
    /// How many threads run this launch.
    pub threads: usize,
}

/// Numbers that may be read from any bit pattern and have no padding.
pub trait Plain: Copy + 'static {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for u16 {}
impl Plain for i16 {}
impl Plain for u32 {}
impl Plain for i32 {}
impl Plain for f32 {}

impl HostLaunch<'_> {
    /// The constants' image, see [`crate::args!`].
    #[must_use]
    pub fn constants(&self) -> &[u8] {
        self.constants
    }

    /// How many spans the launch has: optional operands come last.
    #[must_use]
    pub fn span_count(&self) -> usize {
        self.spans.len()
    }

    /// Span `index` as numbers to read. Panics if the span is not aligned for `T`.
    ///
    /// # Safety
    /// No thread may write the part that is read while the slice lives: true for a span that its launch does not
    /// mark as written, since a barrier stands between a writer and this launch.
    #[expect(unsafe_code, reason = "the caller keeps the contract above")]
    #[must_use]
    pub unsafe fn slice<T: Plain>(&self, index: usize) -> &[T] {
        let span = self.spans[index];
        let length = checked_length::<T>(span);
        // SAFETY: the device checked that the span lies in a live buffer; alignment was checked just now; T is plain.
        unsafe { std::slice::from_raw_parts(span.pointer.cast::<T>(), length) }
    }

    /// Span `index` as numbers that the threads of this launch write in disjoint parts.
    #[must_use]
    pub fn shared<T: Plain>(&self, index: usize) -> Shared<'_, T> {
        let span = self.spans[index];
        Shared {
            pointer: span.pointer.cast(),
            length: checked_length::<T>(span),
            life: PhantomData,
        }
    }

    /// This thread's own memory, as `T`s; its content is what an earlier launch left there.
    #[must_use]
    pub fn scratch<T: Plain>(&self) -> Shared<'_, T> {
        Shared {
            pointer: self.scratch.pointer.cast(),
            length: checked_length::<T>(self.scratch),
            life: PhantomData,
        }
    }

    /// The number of a new round of pieces: the same on every thread, never 0, and larger in later launches.
    pub(crate) fn next_round(&self) -> u32 {
        let round = self.rounds.get();
        self.rounds.set(round.checked_add(1).expect("few rounds of pieces in a launch"));
        u32::try_from((self.index + 1) << 8 | usize::from(round)).expect("few launches in a submit")
    }

    /// This thread's part of `items`, in multiples of `unit` items: contiguous, so that each thread streams its own memory.
    #[must_use]
    pub fn part(&self, items: usize, unit: usize) -> std::ops::Range<usize> {
        let units = items.div_ceil(unit);
        let start = units * self.thread / self.threads * unit;
        let end = units * (self.thread + 1) / self.threads * unit;
        start.min(items)..end.min(items)
    }
}

fn checked_length<T>(span: HostSpan) -> usize {
    assert!(span.pointer.cast::<T>().is_aligned(), "span is not aligned for its element");
    span.bytes / size_of::<T>()
}

impl<'a> Shared<'a, u32> {
    /// A word that several threads change at the same time; it is part of no slice meanwhile. Panics past the end.
    #[expect(unsafe_code, reason = "an atomic in a span")]
    #[must_use]
    pub fn atomic(&self, index: usize) -> &'a AtomicU32 {
        assert!(index < self.length, "the word lies in its span");
        // SAFETY: in bounds as asserted, aligned as the span is; other slices of a word would have needed their own promise.
        unsafe { AtomicU32::from_ptr(self.pointer.add(index)) }
    }
}

/// A span that several threads write at the same time, each in its own part.
#[derive(Clone, Copy, Debug)]
pub struct Shared<'a, T> {
    pointer: *mut T,
    length: usize,
    life: PhantomData<&'a T>,
}

impl<'a, T: Plain> Shared<'a, T> {
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// A part to write. Panics if `range` leaves the span.
    ///
    /// # Safety
    /// While the slice lives, no other slice of the same elements may be used, on this thread or another.
    #[expect(unsafe_code, reason = "the caller keeps parts disjoint")]
    #[must_use]
    pub unsafe fn part(&self, range: std::ops::Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "part leaves its span");
        // SAFETY: in bounds as asserted; the caller promises that it is not aliased.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }
}
