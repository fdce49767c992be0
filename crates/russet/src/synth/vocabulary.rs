//! A vocabulary for byte-level BPE: all bytes, then tokens that merge two earlier ones, then one that ends a text.
use super::blocks::Random;
use model::gguf::Strings;
use std::collections::HashSet;

/// As GGUF's `tokenizer.ggml.*` has it.
#[derive(Debug)]
pub(super) struct Vocabulary {
    pub(super) tokens: Strings,
    pub(super) types: Vec<i32>,
    pub(super) merges: Strings,
    /// The id of the token that ends a text.
    pub(super) end: u32,
}

/// Bytes, the end, and room for a few merges.
pub(crate) const SIZE_MIN: u32 = 300;

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
/// Bytes of the longest token that is merged again, which leaves tokens about as long as those of real vocabularies.
const PART_BYTES_MAX: usize = 5;

impl Vocabulary {
    /// `size` tokens, at least [`SIZE_MIN`].
    pub(super) fn new(size: u32, random: &mut Random) -> Self {
        let (mut tokens, mut merges) = (Strings::default(), Strings::default());
        let bytes: Vec<String> = alphabet().map(String::from).collect();
        bytes.iter().for_each(|byte| tokens.push(byte));
        let words = words(size as usize - bytes.len() - 1, random);
        for (left, right) in words {
            tokens.push(&format!("{left}{right}"));
            merges.push(&format!("{left} {right}"));
        }
        tokens.push("<|end|>");
        let mut types = vec![NORMAL; tokens.len()];
        types[tokens.len() - 1] = CONTROL;
        Self { tokens, types, merges, end: size - 1 }
    }
}

/// GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes in order for U+0100 on.
fn alphabet() -> impl Iterator<Item = char> {
    let others = (0x100_u32..).filter_map(char::from_u32);
    let mut others = others.fuse();
    (0..=u8::MAX).map(move |byte| match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => others.next().unwrap_or_default(),
    })
}

/// A space in that alphabet.
const SPACE: char = '\u{120}';

/// `count` different pairs of letters, of a space and a letter, or of earlier pairs: words with and without a space before.
fn words(count: usize, random: &mut Random) -> Vec<(String, String)> {
    let mut rights: Vec<String> = ('a'..='z').map(String::from).collect();
    let mut lefts = rights.clone();
    lefts.push(SPACE.to_string());
    let mut known: HashSet<String> = HashSet::with_capacity(count);
    let mut pairs = Vec::with_capacity(count);
    while pairs.len() < count {
        let (left, right) =
            (&lefts[random.below(lefts.len())], &rights[random.below(rights.len())]);
        let word = format!("{left}{right}");
        if !known.insert(word.clone()) {
            continue;
        }
        pairs.push((left.clone(), right.clone()));
        if word.len() <= PART_BYTES_MAX {
            if !word.starts_with(SPACE) {
                rights.push(word.clone());
            }
            lefts.push(word);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_once_and_every_merge_makes_a_token() {
        let vocabulary = Vocabulary::new(5000, &mut Random::new(1, 0));
        let tokens: HashSet<&str> = vocabulary.tokens.iter().collect();
        assert_eq!(tokens.len(), 5000);
        assert_eq!(vocabulary.types.len(), 5000);
        assert_eq!(vocabulary.merges.len(), 5000 - 257);
        for merge in vocabulary.merges.iter() {
            let (left, right) = merge.split_once(' ').unwrap();
            assert!([left, right, &format!("{left}{right}")].iter().all(|t| tokens.contains(t)));
        }
        // Published in GPT-2's encoder.json: byte 0 is U+0100, a space U+0120, 0xad U+0143.
        let alphabet: Vec<char> = alphabet().collect();
        assert_eq!([0, 0x20, 0xad].map(|b: usize| alphabet[b]), ['\u{100}', SPACE, '\u{143}']);
    }
}
