//! Special tokens: found in the text before it is cut into words, the longest first.

use std::ops::Range;

use memchr::memmem;

use super::vocab::{Vocab, attr};

/// A stretch of the text: either one special token, or text still to be encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    Token(u32),
    Text(Range<usize>),
}

/// All special tokens of a vocabulary, ready to be searched for.
#[derive(Debug)]
pub(super) struct Specials {
    /// Longest first, then by id.
    ids: Vec<u32>,
    /// By first byte, the lengths of the special tokens that begin so, without repeats.
    lengths: Vec<Vec<usize>>,
}

impl Specials {
    pub(super) fn new(vocab: &Vocab) -> Self {
        let mut ids: Vec<u32> = vocab.all().filter(|&id| vocab.is(id, attr::SPECIAL)).collect();
        ids.sort_by_key(|&id| std::cmp::Reverse(vocab.text(id).len()));
        let mut lengths = vec![Vec::new(); 256];
        for &id in &ids {
            let text = vocab.text(id);
            let Some(&first) = text.as_bytes().first() else { continue };
            let of_first = &mut lengths[usize::from(first)];
            // Sorted by length, so a repeat is the last one.
            if of_first.last() != Some(&text.len()) {
                of_first.push(text.len());
            }
        }
        Self { ids, lengths }
    }

    /// Cuts `text` at the special tokens in it: each token in turn, the longest first, takes its
    /// occurrences from what the ones before left over. Control tokens count only if `parse`.
    pub(super) fn split(&self, text: &str, parse: bool, vocab: &Vocab) -> Vec<Fragment> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Text(0..text.len()));
        }
        for id in self.present(text, parse, vocab) {
            fragments = take(id, fragments, text, vocab);
        }
        fragments
    }

    /// The special tokens that occur in `text`, longest first. One pass over the text, so that
    /// a vocabulary with thousands of them does not mean thousands of searches.
    fn present(&self, text: &str, parse: bool, vocab: &Vocab) -> Vec<u32> {
        let mut found = hashbrown::HashSet::new();
        for (at, first) in text.bytes().enumerate() {
            for &len in &self.lengths[usize::from(first)] {
                let Some(id) = text.get(at..at + len).and_then(|t| vocab.id(t)) else { continue };
                let counts = if parse { attr::SPECIAL } else { attr::USER_DEFINED };
                // Without `parse` a user-defined token that is also control stays text.
                let control = !parse && vocab.is(id, attr::CONTROL | attr::UNKNOWN);
                if vocab.is(id, counts) && !control {
                    found.insert(id);
                }
            }
        }
        self.ids.iter().copied().filter(|id| found.contains(id)).collect()
    }
}

/// Cuts the occurrences of token `id` out of the text fragments.
fn take(id: u32, fragments: Vec<Fragment>, text: &str, vocab: &Vocab) -> Vec<Fragment> {
    let needle = vocab.text(id);
    let finder = memmem::Finder::new(needle);
    let mut out = Vec::with_capacity(fragments.len() + 2);
    for fragment in fragments {
        let Fragment::Text(Range { mut start, end }) = fragment else {
            out.push(fragment);
            continue;
        };
        while let Some(at) = finder.find(&text.as_bytes()[start..end]) {
            if at > 0 {
                out.push(Fragment::Text(start..start + at));
            }
            out.push(Fragment::Token(id));
            start += at + needle.len();
            if vocab.is(id, attr::STRIP_RIGHT) {
                let space = |b: &&u8| matches!(b, b' ' | b'\t'..=b'\r');
                start += text.as_bytes()[start..end].iter().take_while(space).count();
            }
        }
        if start < end {
            out.push(Fragment::Text(start..end));
        }
    }
    out
}
