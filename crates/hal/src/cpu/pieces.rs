//! Work handed out in pieces, so that a thread that is slow, late or not running does not hold the others up.
//!
//! Every thread has a part of the items, the one that [`HostLaunch::part`] names, and a cursor into it. It takes pieces of
//! its own part first: it streams its own memory, whose pages it touched first, and nobody else writes its cursor. Then it
//! helps where most is left. A piece is a quarter of what is left in its part, so that pieces are few, and small at the end
//! of a launch, where balance is decided. This is guided self-scheduling (Polychronopoulos and Kuck 1987) on a queue per thread.
//!
//! Cursors are not reset between launches: a value carries the round that it belongs to, and rounds only grow. A cursor of an
//! earlier round is one that nobody has moved yet. A cursor of a later round says that no piece is left in this one, since a
//! thread leaves a round only when it has seen every part of it empty. So two launches without a barrier between them may
//! share the cursors, and a round costs nothing but its pieces.
use super::host::HostLaunch;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far a part has been handed out: the round in the high half, the next unit in the low half.
///
/// Padded to two cache lines, since processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Cursor(AtomicU64);

impl Cursor {
    /// Makes every round a later one again. No thread may be taking pieces.
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// What one piece takes of the units left in a part: one of so many.
const SHARE: u32 = 4;

/// One thread's view of one round of pieces.
struct Round<'a> {
    cursors: &'a [Cursor],
    number: u32,
    units: u32,
    /// The part that this thread takes from, and its bounds.
    from: usize,
    bounds: Range<u32>,
}

impl<'a> Round<'a> {
    fn new(cursors: &'a [Cursor], number: u32, units: u32, thread: usize) -> Self {
        let bounds = bounds(units, thread, cursors.len());
        Self { cursors, number, units, from: thread, bounds }
    }

    /// The units of a part with these bounds that nobody has taken, and the value of its cursor.
    fn left(&self, part: usize, bounds: &Range<u32>) -> (Range<u32>, u64) {
        let value = self.cursors[part].0.load(Ordering::Relaxed);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a cursor")]
        let (round, next) = ((value >> 32) as u32, value as u32);
        let start = match round.cmp(&self.number) {
            std::cmp::Ordering::Less => bounds.start,
            std::cmp::Ordering::Equal => next,
            std::cmp::Ordering::Greater => bounds.end,
        };
        (start..bounds.end, value)
    }

    /// The next piece, in units. None when every part is empty.
    fn take(&mut self) -> Option<Range<u32>> {
        loop {
            let (left, seen) = self.left(self.from, &self.bounds);
            if left.is_empty() {
                self.from = self.fullest()?;
                self.bounds = bounds(self.units, self.from, self.cursors.len());
                continue;
            }
            let end = left.start + (left.end - left.start).div_ceil(SHARE);
            let moved = u64::from(self.number) << 32 | u64::from(end);
            // Relaxed: who takes which piece is decided by this value alone. What is in the pieces is ordered by barriers.
            let cursor = &self.cursors[self.from].0;
            let taken = cursor.compare_exchange(seen, moved, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                return Some(left.start..end);
            }
        }
    }

    /// The part with most units left, of equal ones the next in order, so that two threads rarely help the same.
    fn fullest(&self) -> Option<usize> {
        let parts = self.cursors.len();
        let left = (1..parts).map(|distance| {
            let part = (self.from + distance) % parts;
            (self.left(part, &bounds(self.units, part, parts)).0.len(), part)
        });
        let most = left.reduce(|most, next| if next.0 > most.0 { next } else { most });
        most.filter(|(left, _)| *left > 0).map(|(_, part)| part)
    }
}

/// A thread's part of so many units.
#[expect(clippy::cast_possible_truncation, reason = "not more than the units")]
fn bounds(units: u32, part: usize, parts: usize) -> Range<u32> {
    let bound = |part: usize| (u64::from(units) * part as u64 / parts as u64) as u32;
    bound(part)..bound(part + 1)
}

impl HostLaunch<'_> {
    /// Calls `body` with pieces of `0..items` until none is left: over all threads, every item comes exactly once. Pieces
    /// begin at multiples of `unit` items.
    ///
    /// Which thread computes a piece, and how large it is, changes from run to run. So an item's result may depend on the
    /// item alone: not on the thread, and not on the items that came with it. What an item needs from another one of the
    /// same launch must come from [`HostLaunch::part`], which always names the same thread.
    ///
    /// Every thread must call this as often as the others, with the same numbers. Panics when there are more than 2^32
    /// units, or more than 256 calls in one launch.
    pub fn pieces(&self, items: usize, unit: usize, mut body: impl FnMut(Range<usize>)) {
        if self.threads == 1 {
            if items > 0 {
                body(0..items);
            }
            return;
        }
        let units = u32::try_from(items.div_ceil(unit)).expect("few enough units");
        let number = self.next_round();
        let mut round = Round::new(self.cursors, number, units, self.thread);
        while let Some(piece) = round.take() {
            let end = (piece.end as usize * unit).min(items);
            body(piece.start as usize * unit..end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursors(threads: usize) -> Vec<Cursor> {
        (0..threads).map(|_| Cursor::default()).collect()
    }

    #[test]
    fn a_part_is_taken_in_quarters_of_what_is_left() {
        let cursors = cursors(2);
        let mut round = Round::new(&cursors, 1, 32, 1);
        // By hand: a quarter, rounded up, of 16, 12, 9, 6, 4, 3, 2, 1; then of thread 0's part.
        for piece in [16..20, 20..23, 23..26, 26..28, 28..29, 29..30, 30..31, 31..32, 0..4] {
            assert_eq!(round.take(), Some(piece));
        }
        let mut owner = Round::new(&cursors, 1, 32, 0);
        assert_eq!(owner.take(), Some(4..7));
    }

    #[test]
    fn help_goes_where_most_is_left() {
        let cursors = cursors(3);
        let round = |from| Round::new(&cursors, 7, 30, from);
        assert_eq!(round(1).take(), Some(10..13));
        let mut first = round(0);
        while first.take().is_some_and(|piece| piece.end <= 10) {}
        assert_eq!(first.from, 2);
    }

    #[test]
    fn a_round_that_others_have_left_has_no_pieces() {
        let cursors = cursors(2);
        for number in 1..4 {
            let mut first = Round::new(&cursors, number, 5, 0);
            while first.take().is_some() {}
        }
        for number in 1..4 {
            let mut late = Round::new(&cursors, number, 5, 1);
            assert_eq!(late.take(), None);
        }
    }

    proptest! {
        /// Any interleaving of threads that go through several rounds, with no barrier between them. A thread that the
        /// schedule does not name comes late, after all others have ended.
        #[test]
        fn every_unit_is_taken_once_in_any_interleaving(
            threads in 1_usize..9,
            rounds in prop::collection::vec(0_u32..70, 1..5),
            schedule in prop::collection::vec(0_usize..8, 0..400),
        ) {
            let cursors = cursors(threads);
            let mut taken: Vec<Vec<u32>> = rounds.iter().map(|units| vec![0; *units as usize]).collect();
            let round = |from: usize, index: usize| {
                let number = u32::try_from(index).unwrap() + 1;
                rounds.get(index).map(|units| Round::new(&cursors, number, *units, from))
            };
            let mut at: Vec<_> = (0..threads).map(|thread| (0, round(thread, 0))).collect();
            let to_the_end = (0..threads).flat_map(|thread| std::iter::repeat_n(thread, 400));
            for thread in schedule.into_iter().filter(|thread| *thread < threads).chain(to_the_end) {
                let (index, Some(current)) = &mut at[thread] else { continue };
                match current.take() {
                    Some(piece) => piece.for_each(|unit| taken[*index][unit as usize] += 1),
                    None => at[thread] = (*index + 1, round(thread, *index + 1)),
                }
            }
            prop_assert!(at.iter().all(|(_, round)| round.is_none()));
            prop_assert!(taken.iter().flatten().all(|count| *count == 1), "{taken:?}");
        }
    }
}
