use proptest::prelude::*;

use super::{FULL, Gguf, PLAIN, Tokenizer, fixtures, string, tiny_bpe, with};
use crate::tokenizer::{Control, Pre, pretokenize};

fn tiny_spm() -> Tokenizer {
    let file = Gguf::open(&fixtures().join("spm-no-prefix.gguf")).unwrap();
    Tokenizer::from_gguf(file.metadata()).unwrap()
}

/// Text of any characters, with many of those that the schemes look at.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        any::<char>().prop_map(String::from),
        "[ \\t\\r\\n]{1,4}",
        "[a-zA-Z]{1,6}",
        "[0-9]{1,5}",
        "'[a-zA-Z]{1,2}",
        "[\\p{L}\\p{M}\\p{N}\\p{P}\\p{S}]{1,4}",
    ];
    prop::collection::vec(part, 0..20).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn decoding_what_was_encoded_is_the_text(text in text()) {
        for pre in ["gpt-2", "smollm", "default", "llama-bpe", "qwen2", "qwen35"] {
            let metadata = with(&tiny_bpe(), &[("tokenizer.ggml.pre", string(pre)),
                ("tokenizer.ggml.add_bos_token", Some(super::Value::Bool(false)))]);
            let tokenizer = Tokenizer::from_gguf(&metadata).unwrap();
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, Control::Keep), text.as_str());
        }
        let spm = tiny_spm();
        let ids = spm.encode(&text, PLAIN).unwrap();
        prop_assert_eq!(spm.decode(&ids, Control::Keep), text.replace('▁', " "));
    }

    #[test]
    fn words_together_are_the_text(text in text()) {
        for pre in [Pre::Gpt2, Pre::Smollm, Pre::Default, Pre::Llama3, Pre::Qwen2, Pre::Qwen35, Pre::Tekken] {
            let mut words = Vec::new();
            pre.split(&text, &mut |word| words.push(word));
            prop_assert!(words.iter().all(|w| !w.is_empty()), "{pre:?}: {words:?}");
            prop_assert_eq!(words.concat(), text.as_str(), "{:?}", pre);
        }
    }

    #[test]
    fn a_stream_yields_what_decoding_at_once_does(ids in prop::collection::vec(0u32..400, 0..60)) {
        for tokenizer in [tiny_spm(), Tokenizer::from_gguf(&tiny_bpe()).unwrap()] {
            for control in [Control::Skip, Control::Keep] {
                let mut stream = tokenizer.stream(control);
                let mut text = String::new();
                for &id in &ids {
                    text.push_str(stream.push(id));
                }
                text.push_str(stream.finish());
                prop_assert_eq!(text, tokenizer.decode(&ids, control));
            }
        }
    }
}

#[test]
fn a_character_is_held_back_until_it_is_whole() {
    let tokenizer = Tokenizer::from_gguf(&tiny_bpe()).unwrap();
    let mut stream = tokenizer.stream(Control::Skip);
    let shown: Vec<String> =
        [0xF0, 0x9F, 0x99, 0x82, 0x21, 260, 0xC3].map(|id| stream.push(id).to_owned()).to_vec();
    assert_eq!(shown, ["", "", "", "🙂", "!", "", ""]);
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(stream.finish(), "");
}

#[test]
fn every_name_is_a_scheme() {
    for name in pretokenize::names().split(", ") {
        assert!(pretokenize::named(name).is_some(), "{name}");
    }
    assert_eq!(tiny_spm().encode("", FULL).unwrap(), [1]);
}

#[test]
fn control_tokens_are_shown_by_name() {
    let tokenizer = Tokenizer::from_gguf(&tiny_bpe()).unwrap();
    let ids = [u32::from(b'a'), 260, u32::from(b'b')];
    let shown = |stream: crate::tokenizer::Stream<'_>| {
        let mut stream = stream;
        ids.iter().map(|&id| stream.push(id).to_owned()).collect::<String>()
    };
    assert_eq!(shown(tokenizer.stream(Control::Skip)), "ab");
    assert_eq!(shown(tokenizer.stream(Control::Skip).showing(["<|no|>", "<|end|>"])), "a<|end|>b");
}

#[test]
fn a_piece_from_inside_a_text_gets_no_space() {
    let file = Gguf::open(&fixtures().join("spm-llama2.gguf")).unwrap();
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    for piece in ["a", " a", "<s>", "a </s> b", "é🙂"] {
        let bytes: Vec<u8> = tokenizer
            .encode_inside(piece)
            .unwrap()
            .into_iter()
            .flat_map(|id| {
                assert!(!tokenizer.is_control(id), "{piece}");
                tokenizer.token_bytes(id).to_vec()
            })
            .collect();
        assert_eq!(bytes, piece.as_bytes());
    }
    let whole = tokenizer.encode("a", PLAIN).unwrap();
    assert_eq!(tokenizer.decode(&whole, Control::Keep), " a");
}
