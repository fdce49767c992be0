//! Greedy merging of neighbours, best pair first: the core of both kinds of tokenizer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No such symbol, or no token.
pub(super) const NONE: u32 = u32::MAX;

/// A stretch of the text, in a doubly linked list of its neighbours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// Byte offset in the text.
    pub(super) start: u32,
    /// Bytes; 0 once merged into the symbol before.
    pub(super) len: u32,
    /// The token it is, or [`NONE`].
    pub(super) id: u32,
    prev: u32,
    next: u32,
}

/// A pair that may merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Join {
    /// Lower merges first; then the leftmost.
    rank: u32,
    left: u32,
    right: u32,
    /// Bytes of both when the pair was seen: if either has grown since, the pair is gone.
    len: u32,
    id: u32,
}

/// Memory of [`Merge::run`], kept from word to word.
#[derive(Debug, Default)]
pub(super) struct Merge {
    pub(super) symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Join>>,
}

impl Merge {
    /// Starts over with no symbols.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol of `len` bytes after the last one.
    pub(super) fn push(&mut self, len: u32, id: u32) {
        let start = self.symbols.last().map_or(0, |s| s.start + s.len);
        let at = u32::try_from(self.symbols.len()).unwrap_or(NONE);
        let prev = at.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol { start, len, id, prev, next: at + 1 });
    }

    /// Merges until no pair is left; `join` tells rank and token of two neighbours, if they
    /// merge. What remains are the symbols with a length. O(n log n) in the number of symbols.
    pub(super) fn run(&mut self, join: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        let Some(last) = self.symbols.last_mut() else { return };
        last.next = NONE;
        for right in 1..self.symbols.len() {
            let right = u32::try_from(right).unwrap_or(NONE);
            self.offer(right - 1, right, &join);
        }
        while let Some(Reverse(best)) = self.queue.pop() {
            let (left, right) =
                (self.symbols[best.left as usize], self.symbols[best.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != best.len {
                continue;
            }
            self.symbols[best.right as usize].len = 0;
            let merged = &mut self.symbols[best.left as usize];
            (merged.len, merged.id, merged.next) = (best.len, best.id, right.next);
            if let Some(after) = self.symbols.get_mut(right.next as usize) {
                after.prev = best.left;
            }
            self.offer(left.prev, best.left, &join);
            self.offer(best.left, right.next, &join);
        }
    }

    fn offer(
        &mut self,
        left: u32,
        right: u32,
        join: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) {
        let (Some(l), Some(r)) =
            (self.symbols.get(left as usize), self.symbols.get(right as usize))
        else {
            return;
        };
        if let Some((rank, id)) = join(l, r) {
            self.queue.push(Reverse(Join { rank, left, right, len: l.len + r.len, id }));
        }
    }
}
