use serde_json::Value as Json;

use super::{FULL, GEMMA3, Gguf, PLAIN, SMOLLM2, Special, Tokenizer, fixtures, real, string, with};
use crate::tokenizer::{Kind, Pre};

fn fixture(name: &str) -> Json {
    let text = std::fs::read_to_string(fixtures().join(format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ids(json: &Json) -> Vec<u32> {
    json.as_array().unwrap().iter().map(number).collect()
}

fn number(json: &Json) -> u32 {
    u32::try_from(json.as_u64().unwrap()).unwrap()
}

fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> String {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Everything in the fixture that holds for one vocabulary under its own pre-tokenizer.
#[track_caller]
fn check(tokenizer: &Tokenizer, expected: &Json) {
    assert_eq!(tokenizer.vocab_size(), number(&expected["size"]) as usize);
    assert_eq!(tokenizer.bos(), Some(number(&expected["bos"])));
    assert_eq!(tokenizer.eos(), Some(number(&expected["eos"])));
    assert_eq!(tokenizer.end_of_generation(), ids(&expected["end_of_generation"]));
    let pieces = tokenizer
        .vocab
        .all()
        .flat_map(|id| tokenizer.token_bytes(id).iter().copied().chain([b'\n']));
    assert_eq!(fnv1a(pieces), expected["pieces_fnv1a"].as_str().unwrap(), "bytes of the tokens");
    for case in expected["cases"].as_array().unwrap() {
        check_text(tokenizer, case, "plain", PLAIN);
        check_text(tokenizer, case, "special", FULL);
    }
}

#[track_caller]
fn check_text(tokenizer: &Tokenizer, case: &Json, key: &str, special: Special) {
    let text = case["text"].as_str().unwrap();
    let found = tokenizer.encode(text, special).unwrap();
    assert_eq!(found, ids(&case[key]), "{key}: {text:?}");
}

#[test]
fn smollm2_ids_are_those_of_llama_cpp() {
    let Some(metadata) = real(SMOLLM2) else { return };
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(tokenizer.kind(), Kind::Bpe(Pre::Smollm));
    check(&tokenizer, &fixture("smollm2"));
}

#[test]
fn gemma3_ids_are_those_of_llama_cpp() {
    let Some(metadata) = real(GEMMA3) else { return };
    let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
    assert_eq!(tokenizer.kind(), Kind::SentencePiece);
    check(&tokenizer, &fixture("gemma3"));
}

#[test]
fn sentencepiece_space_prefix_byte_fallback_and_stripping_are_as_in_llama_cpp() {
    for name in ["spm-llama2", "spm-phi3", "spm-no-prefix"] {
        let file = Gguf::open(&fixtures().join(format!("{name}.gguf"))).unwrap();
        check(&Tokenizer::from_gguf(file.metadata()).unwrap(), &fixture(name));
    }
}

/// The text of a block of code points, as tokens.py writes it.
fn block_text(first: u32, end: u32, step: usize) -> String {
    let chars = (first..end).step_by(step).map(|c| char::from_u32(c).unwrap());
    chars.map(|c| format!("a{c}b {c}\n{c}{c}1")).collect()
}

/// Nearly every code point, between letters, after a space, at a line's start and before a digit:
/// whatever the pre-tokenizer takes for a letter, mark, digit or sign changes some id.
#[test]
fn every_pre_tokenizer_cuts_as_in_llama_cpp() {
    let Some(metadata) = real(SMOLLM2) else { return };
    let expected = fixture("smollm2");
    let blocks: Vec<[u32; 3]> =
        expected["blocks"].as_array().unwrap().iter().map(|b| ids(b).try_into().unwrap()).collect();
    for (name, expected_pre) in expected["pre"].as_object().unwrap() {
        let metadata = with(&metadata, &[("tokenizer.ggml.pre", string(name))]);
        let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
        if let Some(plain) = expected_pre["plain"].as_array() {
            for (case, plain) in expected["cases"].as_array().unwrap().iter().zip(plain) {
                let text = case["text"].as_str().unwrap();
                let found = tokenizer.encode(text, PLAIN).unwrap();
                assert_eq!(found, ids(plain), "{name}: {text:?}");
            }
        }
        for (&[first, end, step], hash) in
            blocks.iter().zip(expected_pre["blocks"].as_array().unwrap())
        {
            let text = block_text(first, end, step as usize);
            let found = tokenizer.encode(&text, PLAIN).unwrap();
            let found = fnv1a(found.into_iter().flat_map(u32::to_le_bytes));
            assert_eq!(found, hash.as_str().unwrap(), "{name}: U+{first:04X} to U+{end:04X}");
        }
    }
}
