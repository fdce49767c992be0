//! The vocabulary: token texts, what kind each token is, and the bytes it stands for.

use std::hash::BuildHasher as _;
use std::panic::resume_unwind;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{Error, Fault, Kind};
use crate::gguf::{Metadata, Strings};

const VOCAB_MAX: usize = 1 << 24;
/// The longest token in use anywhere is a run of some hundred spaces.
const TOKEN_BYTES_MAX: usize = 4096;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

/// What kind a token is: a set of these bits.
pub(super) mod attr {
    pub(in crate::tokenizer) const NORMAL: u8 = 1;
    pub(in crate::tokenizer) const UNKNOWN: u8 = 2;
    pub(in crate::tokenizer) const CONTROL: u8 = 4;
    pub(in crate::tokenizer) const USER_DEFINED: u8 = 8;
    pub(in crate::tokenizer) const BYTE: u8 = 16;
    /// Whitespace after the token is dropped.
    pub(in crate::tokenizer) const STRIP_RIGHT: u8 = 32;

    /// Tokens that are matched in the text before anything else.
    pub(in crate::tokenizer) const SPECIAL: u8 = UNKNOWN | CONTROL | USER_DEFINED;
}

/// Texts of tokens by id, ids by text, and the bytes each token stands for.
#[derive(Debug)]
pub(super) struct Vocab {
    /// As in the file: byte-level BPE in GPT-2's byte alphabet, SentencePiece with `▁` for a space.
    texts: Strings,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    attrs: Vec<u8>,
    /// What decoding emits, one after the other, and where each ends.
    pieces: Vec<u8>,
    piece_ends: Vec<u32>,
}

impl Vocab {
    pub(super) fn new(metadata: &Metadata, kind: Kind) -> Result<Self, Error> {
        let texts = texts(metadata.strings(TOKENS)?)?;
        let attrs = attrs(metadata, texts.len())?;
        let hasher = DefaultHashBuilder::default();
        let (ids, spelled) = std::thread::scope(|scope| {
            let spelled = scope.spawn(|| spelled(&texts, &attrs, kind));
            (index(&texts, &hasher), spelled.join())
        });
        let ids = ids?;
        let (pieces, piece_ends) = spelled.unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(Self { texts, ids, hasher, attrs, pieces, piece_ends })
    }

    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// The text of a token as in the file; empty for an id outside the vocabulary.
    pub(super) fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).unwrap_or_default()
    }

    pub(super) fn id(&self, text: &str) -> Option<u32> {
        self.ids.find(self.hasher.hash_one(text), |&id| self.text(id) == text).copied()
    }

    pub(super) fn is(&self, id: u32, bits: u8) -> bool {
        self.attrs.get(id as usize).is_some_and(|a| a & bits != 0)
    }

    pub(super) fn set(&mut self, id: u32, bits: u8) {
        if let Some(a) = self.attrs.get_mut(id as usize) {
            *a |= bits;
        }
    }

    /// All ids, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> + use<> {
        0..u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    /// The bytes a token stands for; empty for an id outside the vocabulary.
    pub(super) fn piece(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.piece_ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.piece_ends[id - 1] };
        &self.pieces[start as usize..end as usize]
    }
}

/// What tokens stand for, one after the other, and where each ends.
fn spelled(texts: &Strings, attrs: &[u8], kind: Kind) -> Result<(Vec<u8>, Vec<u32>), Error> {
    let alphabet = matches!(kind, Kind::Bpe(_)).then(Alphabet::new);
    let mut pieces = Vec::with_capacity(texts.len() * 8);
    let mut ends = Vec::with_capacity(texts.len());
    for ((id, text), &attr) in (0u32..).zip(texts.iter()).zip(attrs) {
        match (attr, &alphabet) {
            (attr::NORMAL, Some(alphabet)) => alphabet.decode(text, &mut pieces),
            (attr::NORMAL, None) => unescape(text, &mut pieces),
            (attr::BYTE, _) => pieces.push(byte_of(id, text)?),
            (a, _) if a & attr::SPECIAL != 0 => pieces.extend_from_slice(text.as_bytes()),
            // Unused tokens stand for nothing.
            _ => {}
        }
        ends.push(u32::try_from(pieces.len()).map_err(|_| too_many(pieces.len()))?);
    }
    Ok((pieces, ends))
}

fn too_many(found: usize) -> Error {
    let fault = Fault::TooMany { found, limit: VOCAB_MAX };
    Error::BadFile { field: TOKENS, fault }
}

/// Checks sizes and gives nameless tokens the name llama.cpp gives them.
fn texts(tokens: &Strings) -> Result<Strings, Error> {
    let bad = |fault| Error::BadFile { field: TOKENS, fault };
    if tokens.is_empty() {
        return Err(bad(Fault::Empty));
    }
    if tokens.len() > VOCAB_MAX {
        return Err(too_many(tokens.len()));
    }
    let too_long = |(_, text): &(usize, &str)| text.len() > TOKEN_BYTES_MAX;
    if let Some((id, text)) = tokens.iter().enumerate().find(too_long) {
        return Err(bad(Fault::TokenTooLong { id, bytes: text.len(), limit: TOKEN_BYTES_MAX }));
    }
    if !tokens.iter().any(str::is_empty) {
        return Ok(tokens.clone());
    }
    let mut named = Strings::default();
    for (id, text) in tokens.iter().enumerate() {
        if text.is_empty() { named.push(&format!("[EMPTY_{id}]")) } else { named.push(text) }
    }
    Ok(named)
}

fn attrs(metadata: &Metadata, size: usize) -> Result<Vec<u8>, Error> {
    let Some(types) = metadata.opt_i32s(TYPES)? else { return Ok(vec![attr::NORMAL; size]) };
    let bad = |fault| Error::BadFile { field: TYPES, fault };
    if types.len() != size {
        return Err(bad(Fault::Count { found: types.len(), expected: size }));
    }
    let attr = |(id, &found): (usize, &i32)| {
        Ok(match found {
            1 => attr::NORMAL,
            2 => attr::UNKNOWN,
            3 => attr::CONTROL,
            4 => attr::USER_DEFINED,
            6 => attr::BYTE,
            0 | 5 => 0, // undefined, unused
            _ => return Err(bad(Fault::Type { id, found })),
        })
    };
    types.iter().enumerate().map(attr).collect()
}

fn index(texts: &Strings, hasher: &DefaultHashBuilder) -> Result<HashTable<u32>, Error> {
    let text = |id: u32| texts.get(id as usize).unwrap_or_default();
    let mut ids = HashTable::with_capacity(texts.len());
    for (id, new) in (0u32..).zip(texts.iter()) {
        let entry = ids.entry(
            hasher.hash_one(new),
            |&old| text(old) == new,
            |&old| hasher.hash_one(text(old)),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(old) => {
                let fault =
                    Fault::Duplicate { first: *old.get(), second: id, text: new.to_owned() };
                return Err(Error::BadFile { field: TOKENS, fault });
            }
            hashbrown::hash_table::Entry::Vacant(free) => {
                free.insert(id);
            }
        }
    }
    Ok(ids)
}

/// `▁` is a space.
fn unescape(text: &str, out: &mut Vec<u8>) {
    for (i, part) in text.split('▁').enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(part.as_bytes());
    }
}

/// The name of a byte's token in a SentencePiece vocabulary.
pub(super) fn byte_name(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

fn byte_of(id: u32, text: &str) -> Result<u8, Error> {
    text.strip_prefix("<0x")
        .and_then(|t| t.strip_suffix('>'))
        .filter(|hex| hex.len() == 2)
        .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        .ok_or_else(|| {
            let fault = Fault::ByteName { id, text: text.to_owned() };
            Error::BadFile { field: TOKENS, fault }
        })
}

/// GPT-2's alphabet: each byte as one visible character. Printable Latin-1 stands for itself,
/// the others in order for U+0100 on.
#[derive(Debug)]
pub(super) struct Alphabet {
    chars: [char; 256],
}

impl Alphabet {
    pub(super) fn new() -> Self {
        let mut next = 0x100u32;
        let chars = std::array::from_fn(|byte| match u8::try_from(byte) {
            Ok(b @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)) => char::from(b),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap_or_default()
            }
        });
        Self { chars }
    }

    pub(super) fn char(&self, byte: u8) -> char {
        self.chars[usize::from(byte)]
    }

    fn byte(c: char) -> Option<u8> {
        Some(match u32::from(c) {
            b @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(b).ok()?,
            n @ 0x100..=0x120 => u8::try_from(n - 0x100).ok()?,
            n @ 0x121..=0x142 => u8::try_from(n - 0x121 + 0x7F).ok()?,
            0x143 => 0xAD,
            _ => return None,
        })
    }

    /// The bytes of `text`; a character outside the alphabet stands for itself.
    fn decode(&self, text: &str, out: &mut Vec<u8>) {
        for c in text.chars() {
            match Self::byte(c) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}
