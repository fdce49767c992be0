use super::{
    Error, FULL, Gguf, Metadata, PLAIN, Tokenizer, Value, f32s, fixtures, i32s, string, strings,
    tiny_bpe, with,
};
use crate::tokenizer::Fault;

fn tiny_spm() -> Metadata {
    Gguf::open(&fixtures().join("spm-llama2.gguf")).unwrap().metadata().clone()
}

/// The message of building from `metadata` with `key` changed.
#[track_caller]
fn message(metadata: &Metadata, key: &str, value: Option<Value>) -> String {
    Tokenizer::from_gguf(&with(metadata, &[(key, value)])).unwrap_err().to_string()
}

fn tokens(metadata: &Metadata) -> Vec<String> {
    metadata.strings("tokenizer.ggml.tokens").unwrap().iter().map(str::to_owned).collect()
}

fn renamed(metadata: &Metadata, id: usize, text: &str) -> Option<Value> {
    let mut tokens = tokens(metadata);
    text.clone_into(&mut tokens[id]);
    strings(tokens.iter().map(String::as_str))
}

#[test]
fn a_missing_key_or_wrong_type_is_named() {
    let bpe = tiny_bpe();
    for key in ["model", "tokens", "merges"] {
        let key = format!("tokenizer.ggml.{key}");
        assert_eq!(message(&bpe, &key, None), format!("metadata key `{key}` is missing"));
        assert!(message(&bpe, &key, Some(Value::U8(1))).contains(&format!("`{key}` holds u8 1")));
    }
}

#[test]
fn an_unknown_model_or_pre_tokenizer_is_named_with_the_supported_ones() {
    let unknown = message(&tiny_bpe(), "tokenizer.ggml.model", string("bert"));
    assert_eq!(
        unknown,
        "metadata key `tokenizer.ggml.model` is `bert`, which is not supported; supported: gpt2, llama"
    );
    let unknown = message(&tiny_bpe(), "tokenizer.ggml.pre", string("viking"));
    assert!(unknown.starts_with("metadata key `tokenizer.ggml.pre` is `viking`, which is not supported; supported: default, gpt-2,"), "{unknown}");
}

#[test]
fn bad_merges_are_named() {
    let bpe = tiny_bpe();
    let merges =
        |list: &[&str]| message(&bpe, "tokenizer.ggml.merges", strings(list.iter().copied()));
    let field = "metadata key `tokenizer.ggml.merges`";
    // A cycle would need a token shorter than its parts: some part or product is never there.
    assert_eq!(
        merges(&["h e", "he h", "heh e"]),
        format!(r#"{field}: merge 1 ("he h") names "heh", which is not in the vocabulary"#)
    );
    assert_eq!(
        merges(&["xyz e"]),
        format!(r#"{field}: merge 0 ("xyz e") names "xyz", which is not in the vocabulary"#)
    );
    for bad in ["", "he", "he ", " he", "  "] {
        assert_eq!(
            merges(&["h e", bad]),
            format!("{field}: merge 1 is {bad:?}, expected two tokens with a space between")
        );
    }
}

#[test]
fn bad_vocabularies_are_named() {
    let (bpe, spm) = (tiny_bpe(), tiny_spm());
    let key = "tokenizer.ggml.tokens";
    let field = "metadata key `tokenizer.ggml.tokens`";
    assert_eq!(message(&bpe, key, strings([])), format!("{field}: the vocabulary is empty"));
    assert_eq!(
        message(&bpe, key, renamed(&bpe, 258, "he")),
        format!(r#"{field}: tokens 257 and 258 are both "he""#)
    );
    assert_eq!(
        message(&bpe, key, renamed(&bpe, 258, &"x".repeat(1 << 20))),
        format!("{field}: token 258 has 1048576 bytes, more than the 4096 allowed")
    );
    assert_eq!(
        message(&spm, key, renamed(&spm, 3 + 0xC3, "<0xQQ>")),
        format!(r#"{field}: byte token 198 is "<0xQQ>", expected <0x00> to <0xFF>"#)
    );
    let untyped = with(&spm, &[("tokenizer.ggml.token_type", None)]);
    assert_eq!(
        message(&untyped, key, renamed(&spm, 3 + 0xC3, "<lost>")),
        format!("{field}: there is no token for byte 0xC3")
    );
}

#[test]
fn types_scores_and_ids_that_do_not_fit_are_named() {
    let (bpe, spm) = (tiny_bpe(), tiny_spm());
    assert_eq!(
        message(&bpe, "tokenizer.ggml.token_type", i32s(vec![1; 3])),
        "metadata key `tokenizer.ggml.token_type`: 3 entries for a vocabulary of 261"
    );
    assert_eq!(
        message(&bpe, "tokenizer.ggml.token_type", i32s(vec![7; 261])),
        "metadata key `tokenizer.ggml.token_type`: token 0 has type 7, expected 0 to 6"
    );
    let size = tokens(&spm).len();
    assert_eq!(
        message(&spm, "tokenizer.ggml.scores", f32s(vec![0.0; 5])),
        format!("metadata key `tokenizer.ggml.scores`: 5 entries for a vocabulary of {size}")
    );
    let mut scores = vec![0.0; size];
    scores[260] = f32::NAN;
    assert_eq!(
        message(&spm, "tokenizer.ggml.scores", f32s(scores)),
        "metadata key `tokenizer.ggml.scores`: token 260 has score NaN, expected a finite number"
    );
    for key in ["bos", "eos", "eot", "fim_pad"].map(|k| format!("tokenizer.ggml.{k}_token_id")) {
        assert_eq!(
            message(&bpe, &key, Some(Value::U32(261))),
            format!("metadata key `{key}`: id 261 is outside the vocabulary of 261")
        );
    }
    let missing = with(&bpe, &[("tokenizer.ggml.add_bos_token", Some(Value::Bool(true)))]);
    let error = Tokenizer::from_gguf(&missing).unwrap_err();
    assert!(
        matches!(
            error,
            Error::BadFile { field: "tokenizer.ggml.bos_token_id", fault: Fault::NoId }
        ),
        "{error}"
    );
}

/// Bytes without a token, which SmolLM2 has too, are dropped as in llama.cpp.
#[test]
fn a_byte_without_a_token_is_dropped() {
    let bpe = tiny_bpe();
    let tokenizer = Tokenizer::from_gguf(&with(
        &bpe,
        &[("tokenizer.ggml.tokens", renamed(&bpe, usize::from(b'x'), "nothing"))],
    ))
    .unwrap();
    assert_eq!(tokenizer.encode("axb", PLAIN).unwrap(), [97, 98]);
}

/// A word of a million letters and a text of a million special tokens: neither may be quadratic,
/// or this test would not end.
#[test]
fn long_texts_take_time_in_proportion() {
    let tokenizer = Tokenizer::from_gguf(&tiny_bpe()).unwrap();
    assert_eq!(tokenizer.encode(&"he".repeat(500_000), FULL).unwrap(), vec![257; 500_000]);
    assert_eq!(tokenizer.encode(&" ".repeat(1_000_000), FULL).unwrap(), vec![32; 1_000_000]);
    assert_eq!(tokenizer.encode(&"<|end|>".repeat(200_000), FULL).unwrap(), vec![260; 200_000]);
    let spm = Tokenizer::from_gguf(&tiny_spm()).unwrap();
    let the = spm.token_id("▁the").unwrap();
    assert_eq!(spm.encode("the ".repeat(200_000).trim_end(), PLAIN).unwrap(), vec![the; 200_000]);
}
