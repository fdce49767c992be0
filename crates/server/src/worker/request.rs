//! What a job asks for: everything that is wrong with it is found at once.
use super::error::Violation;
use crate::ask::whole;
use crate::models::Served;
use crate::service::Job;
use engine::{Params, Reuse};
use model::tokenizer::{Control, Special};
use ops::sample::Sampler;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

const PROMPT_CHARACTERS_MAX: usize = 32_768;
const TOKENS_MAX: u64 = 2048;
const STOPS_MAX: usize = 4;
const STOP_TOKENS_MAX: usize = 32;
/// What a repetition penalty of 0 becomes: logits are divided by it, and so strong a pull is nothing else.
const PENALTY_MIN: f32 = 1e-3;

/// See the module. Of fields that are wrong it holds the defaults.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) job_id: String,
    prompt: String,
    max_tokens: u64,
    temperature: f64,
    top_p: f64,
    top_k: u64,
    min_p: f64,
    repetition_penalty: f64,
    stop: Vec<String>,
    pub(super) seed: Option<u64>,
}

impl Request {
    /// Reads a body, with all that is wrong with it as far as no model is needed to see it.
    pub(super) fn read(body: &[u8]) -> (Self, Vec<Violation>) {
        let mut fields = Fields::new(body);
        let request = Self {
            job_id: fields.text("job_id", usize::MAX),
            prompt: fields.text("prompt", PROMPT_CHARACTERS_MAX),
            max_tokens: fields.integer("max_tokens", 1..=TOKENS_MAX).unwrap_or(TOKENS_MAX),
            temperature: fields.number("temperature", 0.0..=2.0).unwrap_or(1.0),
            top_p: fields.number("top_p", 0.0..=1.0).unwrap_or(1.0),
            top_k: fields.integer("top_k", 0..=u64::MAX).unwrap_or(0),
            min_p: fields.number("min_p", 0.0..=1.0).unwrap_or(0.0),
            repetition_penalty: fields.number("repetition_penalty", 0.0..=2.0).unwrap_or(1.0),
            stop: fields.stops(),
            seed: fields.integer("seed", 0..=u64::MAX),
        };
        (request, fields.end())
    }

    /// The prompt's tokens; adds what is wrong for this model.
    pub(super) fn check_with(&self, served: &Served, found: &mut Vec<Violation>) -> Vec<u32> {
        let vocabulary = served.tokenizer.vocab_size();
        if self.top_k > vocabulary as u64 {
            let message = format!("must be at most {vocabulary}, the vocabulary's size");
            found.push(Violation::new("top_k", "range", message));
        }
        for (i, stop) in self.stop.iter().enumerate() {
            let tokens = served.tokenizer.encode(stop, Special::default());
            if tokens.is_ok_and(|tokens| tokens.len() > STOP_TOKENS_MAX) {
                let message = format!("must have at most {STOP_TOKENS_MAX} tokens");
                found.push(Violation::new(&format!("stop[{i}]"), "length", message));
            }
        }
        let (tokens, context) =
            (served.tokenizer.encode_prompt(&self.prompt), served.facts.context_length as usize);
        match tokens {
            Ok(tokens) if tokens.len() < context => return tokens,
            Ok(tokens) => {
                let message = format!(
                    "has {} tokens, the context holds {context} with the answer",
                    tokens.len()
                );
                found.push(Violation::new("prompt", "length", message));
            }
            Err(error) => found.push(Violation::new("prompt", "length", error.to_string())),
        }
        Vec::new()
    }

    pub(super) fn job(self, served: &Served, prompt: Vec<u32>, seed: u64) -> Job {
        let sampler = Sampler {
            temperature: single(self.temperature),
            repetition_penalty: single(self.repetition_penalty).max(PENALTY_MIN),
            top_k: u32::try_from(self.top_k).unwrap_or(u32::MAX),
            top_p: single(self.top_p),
            min_p: single(self.min_p),
            seed,
            draw: 0,
            ..Sampler::GREEDY
        };
        let tokens_max = u32::try_from(self.max_tokens).unwrap_or(u32::MAX);
        let params = Params {
            end_tokens: served.tokenizer.end_of_generation().to_vec(),
            // The same job gives the same tokens, whatever ran before.
            reuse: Reuse::Prompts,
            ..Params::new(sampler, tokens_max)
        };
        Job { prompt, params, stops: self.stop, control: Control::Skip, markers: Vec::new() }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "sampling is done in f32")]
fn single(value: f64) -> f32 {
    value as f32
}

/// The body of a cancellation.
#[derive(Debug)]
pub(super) struct Cancel {
    pub(super) job_id: String,
}

impl Cancel {
    pub(super) fn read(body: &[u8]) -> Result<Self, Vec<Violation>> {
        let mut fields = Fields::new(body);
        let job_id = fields.text("job_id", usize::MAX);
        let violations = fields.end();
        if violations.is_empty() { Ok(Self { job_id }) } else { Err(violations) }
    }
}

/// The fields of a JSON object, taken out one by one.
struct Fields {
    object: Map<String, Value>,
    violations: Vec<Violation>,
}

impl Fields {
    fn new(body: &[u8]) -> Self {
        let (object, wrong) = match serde_json::from_slice(body) {
            Ok(Value::Object(object)) => (object, None),
            Ok(_) => (Map::new(), Some("must be a JSON object".to_owned())),
            // Serde's message would quote what was sent.
            Err(error) => {
                let (line, column) = (error.line(), error.column());
                (Map::new(), Some(format!("no JSON: line {line}, column {column}")))
            }
        };
        let violations = wrong.map(|message| Violation::new("body", "syntax", message));
        Self { object, violations: violations.into_iter().collect() }
    }

    /// Everything that was wrong; what is left over is nothing that is known.
    fn end(mut self) -> Vec<Violation> {
        for name in self.object.keys() {
            let name: String = name.chars().take(64).collect();
            let message = "there is no such field".to_owned();
            self.violations.push(Violation::new(&name, "unknown", message));
        }
        self.violations
    }

    fn wrong(&mut self, field: &str, constraint: &'static str, message: String) {
        self.violations.push(Violation::new(field, constraint, message));
    }

    /// Null is the same as nothing.
    fn take(&mut self, field: &str) -> Option<Value> {
        self.object.remove(field).filter(|value| !value.is_null())
    }

    /// A text that must be there, of 1 to `characters_max` characters.
    fn text(&mut self, field: &str, characters_max: usize) -> String {
        match self.take(field) {
            Some(Value::String(text)) => {
                let characters = text.chars().count();
                if (1..=characters_max).contains(&characters) {
                    return text;
                }
                let most = match characters_max {
                    usize::MAX => String::new(),
                    most => format!(" and at most {most}"),
                };
                let message = format!("must have at least 1{most} characters; it has {characters}");
                self.wrong(field, "length", message);
            }
            Some(_) => self.wrong(field, "type", "must be a string".to_owned()),
            None => self.wrong(field, "required", "is missing".to_owned()),
        }
        String::new()
    }

    fn integer(&mut self, field: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.take(field)?;
        let whole = || whole(&value).and_then(|number| u64::try_from(number).ok());
        let within = value.as_u64().or_else(whole).filter(|number| range.contains(number));
        if within.is_none() {
            let constraint = if value.is_i64() || value.is_u64() { "range" } else { "type" };
            let message = format!("must be an integer from {} to {}", range.start(), range.end());
            self.wrong(field, constraint, message);
        }
        within
    }

    fn number(&mut self, field: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.take(field)?;
        let within = value.as_f64().filter(|number| range.contains(number));
        if within.is_none() {
            let constraint = if value.is_number() { "range" } else { "type" };
            let message = format!("must be a number from {} to {}", range.start(), range.end());
            self.wrong(field, constraint, message);
        }
        within
    }

    /// Up to four texts that are not empty.
    fn stops(&mut self) -> Vec<String> {
        let Some(value) = self.take("stop") else { return Vec::new() };
        let Value::Array(values) = value else {
            self.wrong("stop", "type", "must be an array of strings".to_owned());
            return Vec::new();
        };
        if values.len() > STOPS_MAX {
            let message = format!("must have at most {STOPS_MAX} strings; it has {}", values.len());
            self.wrong("stop", "count", message);
            return Vec::new();
        }
        let mut stops = Vec::new();
        for (i, value) in values.into_iter().enumerate() {
            match value {
                Value::String(stop) if !stop.is_empty() => stops.push(stop),
                Value::String(_) => {
                    self.wrong(&format!("stop[{i}]"), "length", "is empty".to_owned());
                }
                _ => self.wrong(&format!("stop[{i}]"), "type", "must be a string".to_owned()),
            }
        }
        stops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(body: &str) -> Vec<(String, &'static str)> {
        let (_, violations) = Request::read(body.as_bytes());
        violations.into_iter().map(|v| (v.field, v.constraint)).collect()
    }

    fn one(field: &str, constraint: &'static str) -> Vec<(String, &'static str)> {
        vec![(field.to_owned(), constraint)]
    }

    /// A body that is right but for `fields`.
    fn with(fields: &str) -> String {
        format!(r#"{{"job_id":"j","prompt":"p",{fields}}}"#)
    }

    #[test]
    fn defaults_are_the_contracts() {
        let (r, violations) = Request::read(br#"{"job_id":"j","prompt":"p","seed":null}"#);
        assert_eq!(violations, []);
        assert_eq!((r.job_id.as_str(), r.prompt.as_str(), r.max_tokens), ("j", "p", 2048));
        assert_eq!((r.temperature, r.top_p, r.min_p, r.repetition_penalty), (1.0, 1.0, 0.0, 1.0));
        assert_eq!((r.top_k, r.seed, r.stop.len()), (0, None, 0));
    }

    #[test]
    fn every_limit_is_inclusive_and_enforced() {
        let limits = [
            ("max_tokens", vec!["1", "2048"], vec!["0", "2049", "-1"]),
            ("temperature", vec!["0", "0.0", "2", "2.0"], vec!["-0.001", "2.001", "1e300"]),
            ("top_p", vec!["0", "1"], vec!["-0.1", "1.1"]),
            ("min_p", vec!["0", "1"], vec!["-0.1", "1.1"]),
            ("repetition_penalty", vec!["0", "2"], vec!["-0.1", "2.1"]),
            ("top_k", vec!["0", "40"], vec!["-1"]),
            ("seed", vec!["0", "18446744073709551615"], vec!["-1"]),
        ];
        for (field, good, bad) in limits {
            for value in good {
                assert_eq!(found(&with(&format!("\"{field}\":{value}"))), [], "{field} {value}");
            }
            for value in bad {
                let found = found(&with(&format!("\"{field}\":{value}")));
                assert_eq!(found, one(field, "range"), "{field} {value}");
            }
            assert_eq!(found(&with(&format!("\"{field}\":\"1\""))), one(field, "type"));
        }
        for field in ["max_tokens", "top_k", "seed"] {
            assert_eq!(found(&with(&format!("\"{field}\":1.5"))), one(field, "type"));
        }
    }

    #[test]
    fn prompts_are_counted_in_characters() {
        let body = |count| format!(r#"{{"job_id":"j","prompt":"{}"}}"#, "é".repeat(count));
        assert_eq!(found(&body(32_768)), []);
        assert_eq!(found(&body(32_769)), one("prompt", "length"));
        assert_eq!(found(&body(0)), one("prompt", "length"));
    }

    #[test]
    fn stops_are_up_to_four_texts() {
        assert_eq!(found(&with(r#""stop":[]"#)), []);
        assert_eq!(found(&with(r#""stop":["a","b","c","d"]"#)), []);
        assert_eq!(found(&with(r#""stop":["a","b","c","d","e"]"#)), one("stop", "count"));
        assert_eq!(found(&with(r#""stop":"a""#)), one("stop", "type"));
        let both = found(&with(r#""stop":["a","",7]"#));
        assert_eq!(both, [("stop[1]".to_owned(), "length"), ("stop[2]".to_owned(), "type")]);
    }

    #[test]
    fn all_violations_are_told_and_no_text_of_the_body() {
        let (_, violations) = Request::read(
            br#"{"prompt":7,"max_tokens":0,"temperature":9,"stop":["",""],"secret":"s3cr3t"}"#,
        );
        let fields: Vec<&str> = violations.iter().map(|v| v.field.as_str()).collect();
        let all = ["job_id", "prompt", "max_tokens", "temperature", "stop[0]", "stop[1]", "secret"];
        assert_eq!(fields, all);
        assert_eq!(
            found("s3cr3t {"),
            [
                ("body".to_owned(), "syntax"),
                ("job_id".to_owned(), "required"),
                ("prompt".to_owned(), "required"),
            ]
        );
        let (_, broken) = Request::read(br#"{"prompt": s3cr3t}"#);
        for violation in violations.iter().chain(&broken) {
            assert!(!violation.message.contains("s3cr3t"), "{violation:?}");
        }
        assert_eq!(found("[]")[0], ("body".to_owned(), "syntax"));
    }
}
