//! SentencePiece BPE as llama.cpp reads it: characters merged into tokens by score, and what is no
//! token spelled in byte tokens.

use hashbrown::HashSet;

use super::merge::{Merge, NONE};
use super::vocab::{Vocab, byte_name};
use super::{Error, Fault};
use crate::gguf::Metadata;

const SCORES: &str = "tokenizer.ggml.scores";
const SPACE: char = '▁';

#[derive(Debug)]
pub(super) struct SentencePiece {
    /// By token: lower merges first.
    ranks: Vec<u32>,
    /// The token of each byte.
    bytes: [u32; 256],
    /// Characters that stand before a `▁` inside some token. After any other, no token
    /// crosses, so the text is cut there and each part merged alone.
    before_space: HashSet<char>,
}

impl SentencePiece {
    pub(super) fn new(metadata: &Metadata, vocab: &Vocab) -> Result<Self, Error> {
        let mut bytes = [NONE; 256];
        for (id, byte) in bytes.iter_mut().zip(0..=u8::MAX) {
            *id = byte_token(vocab, byte)?;
        }
        let mut before_space = HashSet::new();
        for id in vocab.all() {
            let text = vocab.text(id);
            let inner =
                text.match_indices(SPACE).filter_map(|(at, _)| text[..at].chars().next_back());
            before_space.extend(inner);
        }
        Ok(Self { ranks: ranks(metadata, vocab)?, bytes, before_space })
    }

    /// Appends the tokens of `text`, with a space before it if `space_before`.
    pub(super) fn encode(&self, text: &str, space_before: bool, vocab: &Vocab, out: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 4);
        if space_before {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let mut merge = Merge::default();
        let mut rest = escaped.as_str();
        while !rest.is_empty() {
            let (part, tail) = rest.split_at(self.first_part(rest));
            self.encode_part(part, vocab, &mut merge, out);
            rest = tail;
        }
    }

    /// Bytes up to the first place that no token crosses.
    fn first_part(&self, text: &str) -> usize {
        let cut = |&(at, _): &(usize, &str)| {
            text[..at].chars().next_back().is_some_and(|c| !self.before_space.contains(&c))
        };
        text.match_indices(SPACE).find(cut).map_or(text.len(), |(at, _)| at)
    }

    fn encode_part(&self, part: &str, vocab: &Vocab, merge: &mut Merge, out: &mut Vec<u32>) {
        merge.clear();
        let mut utf8 = [0; 4];
        for c in part.chars() {
            let text: &str = c.encode_utf8(&mut utf8);
            merge.push(u32::try_from(text.len()).unwrap_or(0), vocab.id(text).unwrap_or(NONE));
        }
        merge.run(|left, right| {
            let (start, end) = (left.start as usize, (right.start + right.len) as usize);
            let id = vocab.id(&part[start..end])?;
            Some((self.ranks[id as usize], id))
        });
        for symbol in merge.symbols.iter().filter(|s| s.len > 0) {
            if symbol.id != NONE {
                out.push(symbol.id);
                continue;
            }
            let start = symbol.start as usize;
            let spelled = &part.as_bytes()[start..start + symbol.len as usize];
            out.extend(spelled.iter().map(|&b| self.bytes[usize::from(b)]));
        }
    }
}

/// The byte's own token, or for ASCII the character's.
fn byte_token(vocab: &Vocab, byte: u8) -> Result<u32, Error> {
    let character = || {
        let c = char::from(byte);
        vocab.id(c.is_ascii().then_some(c)?.encode_utf8(&mut [0; 4]))
    };
    vocab
        .id(&byte_name(byte))
        .or_else(character)
        .ok_or(Error::BadFile { field: "tokenizer.ggml.tokens", fault: Fault::NoByte { byte } })
}

/// Scores as ranks: the higher the score, the lower the rank; equal scores stay equal.
fn ranks(metadata: &Metadata, vocab: &Vocab) -> Result<Vec<u32>, Error> {
    let Some(scores) = metadata.opt_f32s(SCORES)? else { return Ok(vec![0; vocab.len()]) };
    let bad = |fault| Error::BadFile { field: SCORES, fault };
    if scores.len() != vocab.len() {
        return Err(bad(Fault::Count { found: scores.len(), expected: vocab.len() }));
    }
    let rank = |(id, &score): (usize, &f32)| {
        if !score.is_finite() {
            return Err(bad(Fault::Score { id, score }));
        }
        // Bits of an f32 as an integer that sorts alike; adding 0 makes -0 into 0.
        let bits = (score + 0.0).to_bits();
        let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        Ok(!ascending)
    };
    scores.iter().enumerate().map(rank).collect()
}
