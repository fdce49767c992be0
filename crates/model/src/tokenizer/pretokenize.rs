//! Cutting text into the words that byte-pair merges never cross.
//!
//! Each scheme is a regular expression in the model's `tokenizer.json`; the expressions are quoted
//! beside the code. They are scanned by hand: a regex engine with look-ahead costs more to build than
//! the whole vocabulary, and llama.cpp, whose token ids are the ones to meet, reads some of them its
//! own way (`tekken` knows only ASCII case, contractions fold only ASCII).

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory as _};

/// A pre-tokenization scheme: what `tokenizer.ggml.pre` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pre {
    /// GPT-2's own expression.
    Gpt2,
    /// Every digit alone, then GPT-2's.
    Smollm,
    /// llama.cpp's scheme for files that name none: punctuation apart, digits in threes.
    Default,
    /// Llama 3: digits in threes.
    Llama3,
    /// Qwen 2, 2.5 and 3: every digit alone.
    Qwen2,
    /// Qwen 3.5: as Qwen 2, and combining marks are part of a word.
    Qwen35,
    /// Mistral's Tekken: a new word at each lower-to-upper step.
    Tekken,
}

/// Every supported name of `tokenizer.ggml.pre`, with its scheme and whether a word that is a token
/// is taken whole, without merging.
const NAMES: &[(&str, Pre, bool)] = &[
    ("default", Pre::Default, false),
    ("gpt-2", Pre::Gpt2, false),
    ("phi-2", Pre::Gpt2, false),
    ("mpt", Pre::Gpt2, false),
    ("olmo", Pre::Gpt2, false),
    ("exaone4", Pre::Gpt2, false),
    ("smollm", Pre::Smollm, false),
    ("starcoder", Pre::Smollm, false),
    ("refact", Pre::Smollm, false),
    ("command-r", Pre::Smollm, false),
    ("llama-bpe", Pre::Llama3, true),
    ("llama3", Pre::Llama3, true),
    ("llama-v3", Pre::Llama3, true),
    ("falcon3", Pre::Llama3, true),
    ("lfm2", Pre::Llama3, true),
    ("dbrx", Pre::Llama3, false),
    ("smaug-bpe", Pre::Llama3, false),
    ("qwen2", Pre::Qwen2, false),
    ("deepseek-r1-qwen", Pre::Qwen2, false),
    ("stablelm2", Pre::Qwen2, false),
    ("megrez", Pre::Qwen2, false),
    ("qwen35", Pre::Qwen35, false),
    ("tekken", Pre::Tekken, true),
];

/// The scheme of a name, and whether words that are tokens skip merging.
pub(super) fn named(name: &str) -> Option<(Pre, bool)> {
    NAMES.iter().find(|(n, ..)| *n == name).map(|&(_, pre, whole)| (pre, whole))
}

/// The supported names, for an error message.
pub(super) fn names() -> String {
    NAMES.iter().map(|(n, ..)| *n).collect::<Vec<_>>().join(", ")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Mark,
    Number,
    Punctuation,
    Space,
    Other,
}

fn class(c: char) -> Class {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            '\t'..='\r' | ' ' => Class::Space,
            '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~' => Class::Other,
            '!'..='~' => Class::Punctuation,
            _ => Class::Other,
        };
    }
    if c.is_whitespace() {
        return Class::Space;
    }
    match c.general_category_group() {
        GeneralCategoryGroup::Letter => Class::Letter,
        GeneralCategoryGroup::Mark => Class::Mark,
        GeneralCategoryGroup::Number => Class::Number,
        GeneralCategoryGroup::Punctuation => Class::Punctuation,
        _ => Class::Other,
    }
}

fn is_letter(c: char) -> bool {
    class(c) == Class::Letter
}

fn is_number(c: char) -> bool {
    class(c) == Class::Number
}

fn is_space(c: char) -> bool {
    class(c) == Class::Space
}

fn is_newline(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// Bytes of the longest prefix of `text` whose characters all satisfy `is`.
fn run(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.find(|c| !is(c)).unwrap_or(text.len())
}

impl Pre {
    /// Calls `emit` with each word of `text`, in order; together they are `text`.
    pub(super) fn split<'a>(self, text: &'a str, emit: &mut impl FnMut(&'a str)) {
        match self {
            Self::Gpt2 => words(text, gpt2_word, emit),
            // \p{N}, then GPT-2
            Self::Smollm => isolate(text, |t| single(t, is_number), &mut |segment| {
                words(segment, gpt2_word, emit);
            }),
            Self::Default => split_default(text, emit),
            Self::Llama3 => words(text, |t| modern_word(t, &LLAMA3), emit),
            Self::Qwen2 => words(text, |t| modern_word(t, &QWEN2), emit),
            Self::Qwen35 => words(text, |t| modern_word(t, &QWEN35), emit),
            Self::Tekken => words(text, |t| modern_word(t, &TEKKEN), emit),
        }
    }
}

/// Cuts `text` into words by `first_word`, which tells the bytes of the first one.
fn words<'a>(text: &'a str, first_word: impl Fn(&str) -> usize, emit: &mut impl FnMut(&'a str)) {
    let mut rest = text;
    while !rest.is_empty() {
        let (word, tail) = rest.split_at(first_word(rest));
        emit(word);
        rest = tail;
    }
}

/// Emits every match alone and what lies between matches as it is. `matched` tells the bytes of
/// a match at the start of its argument, 0 for none.
fn isolate<'a>(text: &'a str, matched: impl Fn(&str) -> usize, emit: &mut impl FnMut(&'a str)) {
    let mut rest = text;
    let mut at = 0;
    while let Some(c) = rest[at..].chars().next() {
        let bytes = matched(&rest[at..]);
        if bytes == 0 {
            at += c.len_utf8();
            continue;
        }
        if at > 0 {
            emit(&rest[..at]);
        }
        emit(&rest[at..at + bytes]);
        rest = &rest[at + bytes..];
        at = 0;
    }
    if !rest.is_empty() {
        emit(rest);
    }
}

/// Bytes of the first character if it satisfies `is`, else 0.
fn single(text: &str, is: impl Fn(char) -> bool) -> usize {
    text.chars().next().filter(|&c| is(c)).map_or(0, char::len_utf8)
}

/// Four passes: `[\p{P}$+<=>^~|]+`, GPT-2, `\p{N}+`, `[0-9][0-9][0-9]`.
fn split_default<'a>(text: &'a str, emit: &mut impl FnMut(&'a str)) {
    let punctuation = |c| {
        class(c) == Class::Punctuation || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
    };
    let three = |t: &str| {
        let digits = t.len() >= 3 && t.as_bytes()[..3].iter().all(u8::is_ascii_digit);
        if digits { 3 } else { 0 }
    };
    isolate(text, |t| run(t, punctuation), &mut |segment| {
        words(segment, gpt2_word, &mut |word| {
            isolate(word, |t| run(t, is_number), &mut |part| isolate(part, three, emit));
        });
    });
}

/// `'s|'t|'re|'ve|'m|'ll|'d` at the start of `text`: its bytes, or 0.
fn contraction(text: &str, fold: bool) -> usize {
    let Some(tail) = text.strip_prefix('\'') else { return 0 };
    let is = |suffix: &str| {
        tail.as_bytes().get(..suffix.len()).is_some_and(|t| {
            if fold { t.eq_ignore_ascii_case(suffix.as_bytes()) } else { t == suffix.as_bytes() }
        })
    };
    if ["s", "t", "m", "d"].into_iter().any(is) {
        2
    } else if ["re", "ve", "ll"].into_iter().any(is) {
        3
    } else {
        0
    }
}

/// `\s+(?!\S)|\s+`: whitespace, leaving the last of several for the word that follows.
fn whitespace(text: &str) -> usize {
    let bytes = run(text, is_space);
    if bytes == text.len() {
        return bytes;
    }
    let last = text[..bytes].chars().next_back().map_or(0, char::len_utf8);
    if bytes > last { bytes - last } else { bytes }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2_word(text: &str) -> usize {
    let short = contraction(text, false);
    if short > 0 {
        return short;
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    let lead = text.len() - body.len();
    match body.chars().next().map(class) {
        Some(Class::Letter) => lead + run(body, is_letter),
        Some(Class::Number) => lead + run(body, is_number),
        None | Some(Class::Space) => whitespace(text),
        Some(_) => {
            lead + run(body, |c| !matches!(class(c), Class::Letter | Class::Number | Class::Space))
        }
    }
}

/// What sets the schemes after GPT-2 apart. The common expression:
/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,D}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
struct Modern {
    /// D of the expression.
    digits: usize,
    /// Combining marks are letters.
    marks: bool,
    /// Words break at case, no contractions, `[\r\n/]*` after punctuation.
    tekken: bool,
}

const LLAMA3: Modern = Modern { digits: 3, marks: false, tekken: false };
const QWEN2: Modern = Modern { digits: 1, marks: false, tekken: false };
const QWEN35: Modern = Modern { digits: 1, marks: true, tekken: false };
const TEKKEN: Modern = Modern { digits: 1, marks: false, tekken: true };

impl Modern {
    fn is_letter(&self, c: char) -> bool {
        matches!(class(c), Class::Letter) || self.marks && class(c) == Class::Mark
    }
}

fn modern_word(text: &str, scheme: &Modern) -> usize {
    let short = if scheme.tekken { 0 } else { contraction(text, true) };
    if short > 0 {
        return short;
    }
    let letters = letters(text, scheme);
    if letters > 0 {
        return letters;
    }
    let number: usize =
        text.chars().take(scheme.digits).take_while(|&c| is_number(c)).map(char::len_utf8).sum();
    if number > 0 {
        return number;
    }
    let body = text.strip_prefix(' ').unwrap_or(text);
    let marks =
        run(body, |c| !matches!(class(c), Class::Number | Class::Space) && !scheme.is_letter(c));
    if marks > 0 {
        let tail = run(&body[marks..], |c| is_newline(c) || scheme.tekken && c == '/');
        return text.len() - body.len() + marks + tail;
    }
    let space = run(text, is_space);
    match text[..space].rfind(is_newline) {
        Some(last) => last + 1,
        None => whitespace(text),
    }
}

/// `[^\r\n\p{L}\p{N}]?\p{L}+` at the start of `text`: its bytes, or 0.
fn letters(text: &str, scheme: &Modern) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    if is_newline(first) || is_number(first) {
        return 0;
    }
    let lead = if scheme.is_letter(first) { 0 } else { first.len_utf8() };
    let word = &text[lead..];
    let bytes =
        if scheme.tekken { cased_letters(word) } else { run(word, |c| scheme.is_letter(c)) };
    if bytes == 0 { 0 } else { lead + bytes }
}

/// `U*W+|U+W*` where U is a letter but a-z and W a letter but A-Z: llama.cpp's reading of
/// Tekken's `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|...`. Its bytes, or 0.
fn cased_letters(word: &str) -> usize {
    let upper = run(word, |c| is_letter(c) && !c.is_ascii_lowercase());
    let lower = run(&word[upper..], |c| is_letter(c) && !c.is_ascii_uppercase());
    if lower > 0 {
        return upper + lower;
    }
    // Backtracking: W+ takes what U* gives back, up to the last letter that is both.
    match word[..upper].char_indices().rfind(|(_, c)| !c.is_ascii_uppercase()) {
        Some((at, c)) => at + c.len_utf8(),
        None => upper,
    }
}
