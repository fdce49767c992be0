//! Random answers under the mask, and masks against languages small enough to write down.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use model::chat::{Choice, Delta, Format, OutputParser};
use model::gguf::{Array, Gguf, Metadata, Value};
use model::tokenizer::{Control, Tokenizer};
use serde_json::{Value as Json, json};

use super::{Constraint, Error, Grammar, Vocabulary};

/// A tokenizer and its vocabulary.
struct Words {
    tokenizer: Arc<Tokenizer>,
    vocabulary: Vocabulary,
}

fn words(metadata: &Metadata) -> Words {
    let tokenizer = Arc::new(Tokenizer::from_gguf(metadata).unwrap());
    Words { vocabulary: Vocabulary::new(Arc::clone(&tokenizer)).unwrap(), tokenizer }
}

/// Byte-level BPE: each byte, three merges, and control tokens, two of them ends. Byte `b` is token `b`.
static BPE: LazyLock<Words> = LazyLock::new(|| {
    let mut spare = (0x100..).filter_map(char::from_u32);
    let shown = |b: &u8| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let letter = |b: u8| if shown(&b) { char::from(b) } else { spare.next().unwrap() };
    let mut tokens: Vec<String> = (0..=255).map(letter).map(String::from).collect();
    let more = ["na", "me", "name", "<tool_call>", "</tool_call>", "<|im_end|>", "<|endoftext|>"];
    tokens.extend(more.map(str::to_owned));
    let types = (0..tokens.len()).map(|id| if id < 259 { 1 } else { 3 }).collect();
    let text = |text: &str| Value::String(text.to_owned());
    let texts = |texts: &[&str]| Value::Array(Array::Strings(texts.iter().copied().collect()));
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let entries = [
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", texts(&tokens)),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(types))),
        ("tokenizer.ggml.merges", texts(&["n a", "m e", "na me"])),
        ("tokenizer.ggml.eos_token_id", Value::U32(END)),
    ];
    words(&Metadata::new(entries.map(|(key, value)| (key.to_owned(), value)).into()).unwrap())
});
const TOOL_CALL: u32 = 259;
const END: u32 = 261;

/// SentencePiece with byte tokens.
static SENTENCEPIECE: LazyLock<Words> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tokens/spm-llama2.gguf");
    words(Gguf::open(&path).unwrap().metadata())
});

/// SmolLM2's 49,152 tokens.
static SMOLLM2: LazyLock<Option<Words>> = LazyLock::new(|| {
    let file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let path: PathBuf = std::env::home_dir().unwrap().join(".cache/russet/models").join(file);
    if path.exists() {
        return Some(words(Gguf::open(&path).unwrap().metadata()));
    }
    eprintln!("SKIPPED: {} is not there (cargo xtask models fetches it)", path.display());
    None
});

fn all_words() -> impl Iterator<Item = &'static Words> {
    [&*BPE, &*SENTENCEPIECE].into_iter().chain(SMOLLM2.as_ref())
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % n
    }
}

fn set(mask: &[u32]) -> Vec<u32> {
    let bits = u32::try_from(mask.len() * 32).unwrap();
    (0..bits).filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1).collect()
}

impl Words {
    fn constrain(&self, grammar: &Grammar) -> Result<Constraint, Error> {
        self.vocabulary.constrain(grammar)
    }

    fn allowed(&self, constraint: &mut Constraint) -> Vec<u32> {
        let mut mask = vec![u32::MAX; self.vocabulary.mask_words()];
        constraint.mask(&mut mask).unwrap();
        set(&mask)
    }

    fn is_end(&self, id: u32) -> bool {
        self.tokenizer.end_of_generation().contains(&id)
    }

    fn text(&self, ids: &[u32], control: Control) -> String {
        self.tokenizer.decode(ids, control)
    }

    /// A random answer, uniform over what is allowed, one time in three over what closes something; `None` if it
    /// doesn't end. `masked`: obey the mask.
    fn answer(&self, mut constraint: Constraint, seed: u64, masked: bool) -> Option<Vec<u32>> {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut ids = Vec::new();
        while ids.len() < 800 {
            let mut from = self.allowed(&mut constraint);
            if from.iter().any(|&id| self.is_end(id)) && random.below(3) == 0 {
                return Some(ids);
            }
            from.retain(|&id| !self.is_end(id));
            if from.is_empty() {
                assert!(constraint.is_finished());
                return Some(ids);
            }
            assert!(!constraint.is_finished());
            let closes =
                |id: &&u32| matches!(self.tokenizer.token_bytes(**id), b"\"" | b"}" | b"]");
            let closing: Vec<u32> = from.iter().filter(closes).copied().collect();
            if !closing.is_empty() && random.below(3) == 0 {
                from = closing;
            }
            if !masked && random.below(8) == 0 {
                from = (0..u32::try_from(self.tokenizer.vocab_size()).unwrap()).collect();
            }
            let id = from[random.below(from.len())];
            ids.push(id);
            match constraint.accept(id) {
                Ok(()) => {}
                Err(Error::NotAllowed { token, .. }) if !masked && token == id => {}
                Err(error) => panic!("{error} after {:?}", self.text(&ids, Control::Keep)),
            }
        }
        None
    }
}

/// What a schema allows, checked by hand.
type Check = fn(&Json) -> bool;

fn schemas() -> Vec<(Json, Check)> {
    vec![
        (
            json!({
                "type": "object",
                "properties": {
                    "name": {"type": "string", "minLength": 2, "maxLength": 8},
                    "age": {"type": "integer", "minimum": 18, "maximum": 120},
                    "tags": {"type": "array", "items": {"enum": ["red", "green", 3, null]}, "minItems": 1, "maxItems": 3},
                    "ok": {"type": "boolean"},
                },
                "required": ["name", "age", "tags"],
                "additionalProperties": false,
            }),
            |json| {
                let fields = json.as_object().unwrap();
                let letters = json["name"].as_str().unwrap().chars().count();
                let tags = json["tags"].as_array().unwrap();
                fields.keys().all(|key| ["name", "age", "tags", "ok"].contains(&key.as_str()))
                    && (2..=8).contains(&letters)
                    && (18..=120).contains(&json["age"].as_i64().unwrap())
                    && (1..=3).contains(&tags.len())
                    && tags.iter().all(|tag| {
                        [json!("red"), json!("green"), json!(3), json!(null)].contains(tag)
                    })
                    && (json.get("ok").is_none() || json["ok"].is_boolean())
            },
        ),
        (
            json!({
                "$defs": {"node": {"anyOf": [
                    {"type": "null"},
                    {
                        "type": "object",
                        "properties": {"v": {"type": "number", "minimum": -2, "maximum": 2}, "next": {"$ref": "#/$defs/node"}},
                        "required": ["v", "next"],
                        "additionalProperties": false,
                    },
                ]}},
                "$ref": "#/$defs/node",
            }),
            |json| {
                let mut node = json;
                while !node.is_null() {
                    let fields = node.as_object().unwrap();
                    if fields.len() != 2 || !(-2.0..=2.0).contains(&node["v"].as_f64().unwrap()) {
                        return false;
                    }
                    node = &fields["next"];
                }
                true
            },
        ),
        (json!({"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}), |json| {
            let (letters, digits) = json.as_str().unwrap().split_once('-').unwrap();
            letters.len() == 2
                && letters.bytes().all(|b| b.is_ascii_uppercase())
                && !digits.is_empty()
                && digits.bytes().all(|b| b.is_ascii_digit())
        }),
        (json!({"const": {"a": [1, "two"]}}), |json| *json == json!({"a": [1, "two"]})),
    ]
}

#[test]
fn random_answers_keep_to_their_schema() {
    for words in all_words() {
        for (schema, check) in schemas() {
            let constraint = words.constrain(&Grammar::JsonSchema(schema.clone())).unwrap();
            let mut finished = 0;
            for seed in 1..=30 {
                let Some(ids) = words.answer(constraint.clone(), seed, true) else { continue };
                let text = words.text(&ids, Control::Keep);
                let json: Json =
                    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                assert!(check(&json), "{schema}: {text}");
                finished += 1;
            }
            assert!(finished >= 20, "{schema}: {finished} of 30 ended");
        }
    }
}

#[test]
fn any_object_is_an_object() {
    for words in all_words() {
        let constraint = words.constrain(&Grammar::JsonObject).unwrap();
        let answers: Vec<_> =
            (1..=30).filter_map(|seed| words.answer(constraint.clone(), seed, true)).collect();
        assert!(answers.len() >= 10, "{} of 30 ended", answers.len());
        for ids in answers {
            let text = words.text(&ids, Control::Keep);
            assert!(serde_json::from_str::<Json>(&text).unwrap().is_object(), "{text}");
        }
    }
}

/// What the tests above would say if masks were not obeyed.
#[test]
fn answers_that_ignore_the_mask_are_found_out() {
    let (schema, check) = schemas().swap_remove(0);
    let constraint = BPE.constrain(&Grammar::JsonSchema(schema)).unwrap();
    let wrong = |seed: &u64| {
        let ids = BPE.answer(constraint.clone(), *seed, false)?;
        let json = serde_json::from_str::<Json>(&BPE.text(&ids, Control::Keep));
        json.is_err().then_some(()).or_else(|| (!check(&json.unwrap())).then_some(()))
    };
    assert!((1..=30).filter(|seed| wrong(seed).is_some()).count() >= 20);
}

#[test]
fn random_answers_match_their_regex() {
    let patterns = [
        "[a-c]{2,5}x?",
        r"(\d{1,3}\.){3}\d{1,3}",
        "(é|漢|🙂)+",
        r#"a/b\\"[^a-z\n]{0,3}"#,
        "(?i)yes|no",
    ];
    for words in all_words() {
        for pattern in patterns {
            let constraint = words.constrain(&Grammar::Regex(pattern.to_owned())).unwrap();
            let whole = regex::Regex::new(&format!("^(?:{pattern})$")).unwrap();
            for seed in 1..=20 {
                let Some(ids) = words.answer(constraint.clone(), seed, true) else { continue };
                let text = words.text(&ids, Control::Keep);
                assert!(whole.is_match(&text), "{pattern}: {text:?}");
            }
        }
    }
}

/// Every mask on the way through a finite language, against the words of the language.
#[test]
fn masks_are_those_of_the_language() {
    let language = ["name", "nap", "names", "", "é", "ê"];
    let grammar = Grammar::Regex("(name|nap|names|é|ê)?".to_owned());
    let mut masks = 0;
    let mut todo = vec![(BPE.constrain(&grammar).unwrap(), Vec::new())];
    while let Some((mut constraint, so_far)) = todo.pop() {
        let starts = |text: &[u8]| language.iter().any(|word| word.as_bytes().starts_with(text));
        let expected = (0..264u32).filter(|&id| match id {
            0..TOOL_CALL => starts(&[&so_far, BPE.tokenizer.token_bytes(id)].concat()),
            END | 262 => language.iter().any(|word| word.as_bytes() == so_far),
            _ => false,
        });
        let expected: Vec<u32> = expected.collect();
        let found = BPE.allowed(&mut constraint);
        let forced = constraint.forced().unwrap();
        if forced.is_empty() {
            assert_eq!(found, expected, "after {so_far:?}");
        } else {
            // No choice of bytes: only the tokenizer's own spelling.
            assert_eq!(found, forced[..1]);
            assert!(expected.contains(&found[0]));
        }
        let ends = language.iter().any(|word| word.as_bytes() == so_far);
        assert_eq!(constraint.may_end().unwrap(), ends);
        for id in found.into_iter().filter(|id| !BPE.is_end(*id)) {
            let mut next = constraint.clone();
            next.accept(id).unwrap();
            todo.push((next, [&so_far, BPE.tokenizer.token_bytes(id)].concat()));
        }
        masks += 1;
    }
    assert!(masks > 10, "{masks}");
}

#[test]
fn what_must_come_is_known_before() {
    let mut constraint = BPE.constrain(&Grammar::Regex("names: [ab]".to_owned())).unwrap();
    let name = 258;
    let forced = [name, u32::from(b's'), u32::from(b':'), u32::from(b' ')];
    assert_eq!(constraint.forced().unwrap(), forced);
    let before = format!("{constraint:?}");
    for token in [u32::from(b'x'), TOOL_CALL, END, 262, 264, u32::MAX] {
        let error = constraint.accept(token).unwrap_err();
        assert!(matches!(error, Error::NotAllowed { token: t, .. } if t == token), "{error}");
    }
    assert_eq!(format!("{constraint:?}"), before);
    forced.iter().for_each(|&id| constraint.accept(id).unwrap());
    assert!(constraint.forced().unwrap().is_empty());
    let mut other = constraint.clone();
    constraint.accept(u32::from(b'a')).unwrap();
    assert!(constraint.is_finished());
    assert_eq!(BPE.allowed(&mut constraint), [END, 262]);
    assert!(constraint.accept(u32::from(b'a')).is_err());
    constraint.accept(262).unwrap();
    assert!(!other.is_finished());
    assert_eq!(BPE.allowed(&mut other), [97, 98]);
}

#[test]
fn control_tokens_come_only_where_they_are_named() {
    let lark = format!("start: <[{TOOL_CALL}]> /.*/");
    let mut constraint = BPE.constrain(&Grammar::Lark(lark)).unwrap();
    assert_eq!(BPE.allowed(&mut constraint), [TOOL_CALL]);
    constraint.accept(TOOL_CALL).unwrap();
    let allowed = BPE.allowed(&mut constraint);
    assert!(!allowed.contains(&TOOL_CALL) && allowed.contains(&u32::from(b'<')), "{allowed:?}");
    assert!(allowed.contains(&END));
    // The text of a control token is text like any other.
    let mut text = BPE.constrain(&Grammar::Lark("start: \"<tool_call>\"".to_owned())).unwrap();
    assert_eq!(BPE.allowed(&mut text), [u32::from(b'<')]);
}

#[test]
fn a_bad_grammar_is_told_what_is_wrong() {
    let lark = |text: &str| Grammar::Lark(text.to_owned());
    let regex = |text: &str| Grammar::Regex(text.to_owned());
    let deep = (0..40).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}));
    let any = |count: usize| (0..count).map(|i| (format!("k{i}"), json!({}))).collect::<Json>();
    let multiples: Vec<Json> = [97.0, 89.0, 0.83, 790.0].map(|n| json!({"multipleOf": n})).into();
    let patterns: Vec<Json> = (0..13).map(|i| json!({"pattern": format!("a{i}")})).collect();
    let wide: Vec<String> = (0..30_000).map(|i| format!("value number {i}")).collect();
    let cases = [
        (Grammar::JsonSchema(json!([])), "Invalid", "expected an object"),
        (Grammar::JsonSchema(json!({"type": "strin"})), "Invalid", "strin"),
        (
            Grammar::JsonSchema(json!({"type": "array", "uniqueItems": true})),
            "Invalid",
            "uniqueItems",
        ),
        (Grammar::JsonSchema(json!({"$ref": "#"})), "Invalid", "no text"),
        (
            Grammar::JsonSchema(
                json!({"required": ["a"], "properties": {"a": false}, "type": "object"}),
            ),
            "Invalid",
            "'a'",
        ),
        (
            Grammar::JsonSchema(json!({"pattern": "(?=a)b", "type": "string"})),
            "Invalid",
            "look-around",
        ),
        (Grammar::JsonSchema(deep), "TooComplex", "nested"),
        (Grammar::JsonSchema(json!({"enum": wide})), "TooComplex", "bytes"),
        (Grammar::JsonSchema(json!({"properties": any(1001)})), "TooComplex", "1001 properties"),
        (Grammar::JsonSchema(json!({"anyOf": multiples})), "TooComplex", "multipleOf"),
        (
            Grammar::JsonSchema(json!({"type": "string", "allOf": patterns})),
            "TooComplex",
            "12 patterns",
        ),
        (regex("(a"), "Invalid", "unclosed group"),
        (regex(&"(".repeat(100_000)), "TooComplex", "nested"),
        (regex("((((a{30}){30}){30}){30}){30}"), "TooComplex", "24300000 bytes"),
        (
            Grammar::JsonSchema(json!({"items": {"type": "string", "pattern": "^(a{100}){100}$"}})),
            "TooComplex",
            "10000 bytes",
        ),
        (lark("start: b"), "Invalid", "unknown name"),
        (lark("start: a\na: a"), "Invalid", "no text"),
        (lark("start: <[261]>"), "Invalid", "no text"),
        (lark("start: <|nope|>"), "Invalid", "<|nope|>"),
        (lark(""), "Invalid", "start"),
    ];
    for (grammar, kind, words) in cases {
        let error = BPE.constrain(&grammar).unwrap_err();
        let found = format!("{error:?}");
        assert!(
            found.starts_with(kind) && error.to_string().contains(words),
            "{grammar:?}: {found}"
        );
    }
}

#[test]
fn forced_calls_are_calls() {
    let weather = json!({"type": "object", "properties": {"city": {"type": "string", "maxLength": 6}, "days": {"$ref": "#/$defs/n"}},
        "required": ["city", "days"], "additionalProperties": false, "$defs": {"n": {"type": "integer", "minimum": 1, "maximum": 7}}});
    let tools = [
        json!({"type": "function", "function": {"name": "weather", "parameters": weather}}),
        json!({"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "additionalProperties": false}}}),
    ];
    let templates = [
        "<tool_call> <think>",
        "[TOOL_CALLS]",
        "<|tool_call|>",
        "<|python_tag|>",
        "<start_of_turn>",
    ];
    for (template, words) in templates.iter().flat_map(|t| all_words().map(move |w| (t, w))) {
        for (parallel, function, prompt) in
            [(true, None, ""), (false, Some("weather"), "<think>\n")]
        {
            let format = Format::of_template(template);
            let choice = Choice { tools: &tools, function, parallel };
            let lark = format.call_grammar(choice, &words.tokenizer, prompt).unwrap();
            let mut constraint = words.constrain(&Grammar::Lark(lark.clone())).unwrap();
            let thinks = template.contains("<think>") && !prompt.is_empty();
            let thought = if thinks { "So.\n</think>" } else { "" };
            for id in words.tokenizer.encode_inside(thought).unwrap() {
                constraint.accept(id).unwrap();
            }
            let mut calls = 0;
            for seed in 1..=12 {
                let Some(ids) = words.answer(constraint.clone(), seed, true) else { continue };
                let mut stream = words.tokenizer.stream(Control::Skip).showing(format.markers());
                let mut text = thought.to_owned();
                ids.iter().for_each(|&id| text.push_str(stream.push(id)));
                text.push_str(stream.finish());
                calls += check_calls(format, prompt, &text, function);
            }
            assert!(calls > 0, "{lark}");
        }
    }
}

/// Takes an answer apart and checks its calls; gives their number.
fn check_calls(format: Format, prompt: &str, text: &str, only: Option<&str>) -> usize {
    let names = ["weather", "clock"].map(str::to_owned);
    let mut parser = OutputParser::new(format, names, prompt);
    let mut deltas = parser.push(text);
    deltas.extend(parser.finish());
    let mut calls: Vec<(String, String)> = Vec::new();
    for delta in deltas {
        match delta {
            Delta::ToolCall { name, .. } => calls.push((name, String::new())),
            Delta::ToolArguments { index, piece } => calls[index].1.push_str(&piece),
            Delta::Reasoning(_) if !prompt.is_empty() => {}
            other => panic!("{other:?} in {text}"),
        }
    }
    for (name, arguments) in &calls {
        let json: Json = serde_json::from_str(arguments).unwrap();
        assert!(only.is_none_or(|only| only == name), "{text}");
        match name.as_str() {
            "weather" => assert!((1..=7).contains(&json["days"].as_i64().unwrap()), "{text}"),
            _ => assert_eq!(json, json!({}), "{text}"),
        }
    }
    assert!(!calls.is_empty() && (only.is_none() || calls.len() == 1), "{text}");
    calls.len()
}
