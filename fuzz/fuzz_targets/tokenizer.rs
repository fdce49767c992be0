//! The tokenizer builder on any GGUF header, and any text through what it builds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::chat::{ChatTemplate, LocalTime, Message};
use model::gguf::parse;
use model::tokenizer::{Control, Special, Tokenizer};

fuzz_target!(|input: (&str, &[u8])| {
    let (text, bytes) = input;
    let Ok(header) = parse(bytes) else { return };
    let tokenizer = match Tokenizer::from_gguf(&header.metadata) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for (add_special, parse_special) in [(false, false), (true, true)] {
        let special = Special { add_special, parse_special };
        check(&tokenizer, &tokenizer.encode(text, special).expect("a short text"));
    }
    if let Ok(template) = ChatTemplate::from_gguf(&header.metadata, &tokenizer) {
        let message = Message { role: "user".to_owned(), content: text.to_owned() };
        let _prompt_or_error = template.render(&[message], true, LocalTime(0));
    }
});

/// Ids lie in the vocabulary, and decoding them in steps is decoding them at once.
fn check(tokenizer: &Tokenizer, ids: &[u32]) {
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    let mut stream = tokenizer.stream(Control::Keep);
    let mut text = String::new();
    for &id in ids {
        text.push_str(stream.push(id));
    }
    text.push_str(stream.finish());
    assert_eq!(text, tokenizer.decode(ids, Control::Keep));
}
