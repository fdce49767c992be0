//! Byte-level byte-pair encoding (GPT-2): a word's bytes, merged by rank.

use std::ops::Range;
use std::panic::resume_unwind;

use hashbrown::HashMap;

use super::merge::{Merge, NONE};
use super::pretokenize::{self, Pre};
use super::vocab::{Alphabet, Vocab};
use super::{Error, Fault};
use crate::gguf::{Metadata, Strings};

const MERGES: &str = "tokenizer.ggml.merges";
const MERGES_MAX: usize = 1 << 24;

/// Rank and product of each pair of tokens.
type Merges = HashMap<(u32, u32), (u32, u32)>;

#[derive(Debug)]
pub(super) struct Bpe {
    pre: Pre,
    /// A word that is a token is taken whole.
    whole_words: bool,
    alphabet: Alphabet,
    /// The token of each byte, or [`NONE`]: vocabularies may lack bytes that no UTF-8 text has.
    bytes: [u32; 256],
    merges: Merges,
}

impl Bpe {
    pub(super) fn new(metadata: &Metadata, vocab: &Vocab, pre: Pre) -> Result<Self, Error> {
        let alphabet = Alphabet::new();
        let mut name = [0; 4];
        let bytes = std::array::from_fn(|byte| {
            let byte = u8::try_from(byte).unwrap_or(u8::MAX);
            vocab.id(alphabet.char(byte).encode_utf8(&mut name)).unwrap_or(NONE)
        });
        let whole_words = metadata
            .opt_str(super::PRE)?
            .and_then(pretokenize::named)
            .is_some_and(|(_, whole)| whole);
        let merges = merges(metadata.strings(MERGES)?, vocab)?;
        Ok(Self { pre, whole_words, alphabet, bytes, merges })
    }

    /// Appends the tokens of `text`. Bytes without a token are dropped, as llama.cpp does.
    pub(super) fn encode(&self, text: &str, vocab: &Vocab, out: &mut Vec<u32>) {
        let mut merge = Merge::default();
        let mut spelled = String::new();
        self.pre.split(text, &mut |word| {
            if self.whole_words {
                spelled.clear();
                spelled.extend(word.bytes().map(|b| self.alphabet.char(b)));
                if let Some(id) = vocab.id(&spelled) {
                    out.push(id);
                    return;
                }
            }
            merge.clear();
            for byte in word.bytes() {
                merge.push(1, self.bytes[usize::from(byte)]);
            }
            merge.run(|left, right| self.merges.get(&(left.id, right.id)).copied());
            let tokens = merge.symbols.iter().filter(|s| s.len > 0 && s.id != NONE);
            out.extend(tokens.map(|s| s.id));
        });
    }
}

/// Reads the merges; of two for the same pair the first counts.
fn merges(list: &Strings, vocab: &Vocab) -> Result<Merges, Error> {
    if list.len() > MERGES_MAX {
        let fault = Fault::TooMany { found: list.len(), limit: MERGES_MAX };
        return Err(Error::BadFile { field: MERGES, fault });
    }
    // A large vocabulary's merges take longer than all else that comes before a first token but the weights.
    let middle = list.len() / 2;
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| resolved(list, middle..list.len(), vocab));
        (resolved(list, 0..middle, vocab), second.join())
    });
    let (first, second) = (first?, second.unwrap_or_else(|panic| resume_unwind(panic))?);
    let mut merges = HashMap::with_capacity(list.len());
    for (rank, (pair, product)) in (0..).zip(first.into_iter().chain(second)) {
        merges.entry(pair).or_insert((rank, product));
    }
    Ok(merges)
}

/// A pair of tokens, and the token that it makes.
type Resolved = ((u32, u32), u32);

/// Finds the tokens of some of the merges.
fn resolved(list: &Strings, range: Range<usize>, vocab: &Vocab) -> Result<Vec<Resolved>, Error> {
    let bad = |fault| Error::BadFile { field: MERGES, fault };
    let mut all = Vec::with_capacity(range.len());
    let (mut made, mut next) = (String::new(), 0);
    for index in range {
        let text = list.get(index).unwrap_or_default();
        // The first character may be a space itself, so the separator is looked for after it.
        let first = text.chars().next().map_or(0, char::len_utf8);
        let (left, right) = text[first..]
            .find(' ')
            .map(|at| (&text[..first + at], &text[first + at + 1..]))
            .filter(|(_, right)| !right.is_empty())
            .ok_or_else(|| bad(Fault::Merge { index, text: text.to_owned() }))?;
        made.clear();
        made.push_str(left);
        made.push_str(right);
        let id = |part: &str| {
            vocab.id(part).ok_or_else(|| {
                let missing = part.to_owned();
                bad(Fault::MergeToken { index, text: text.to_owned(), missing })
            })
        };
        let pair = (id(left)?, id(right)?);
        // Vocabularies list most of what is made in the order of the merges.
        let product = if vocab.text(next) == made { next } else { id(&made)? };
        next = product.saturating_add(1);
        all.push((pair, product));
    }
    Ok(all)
}
