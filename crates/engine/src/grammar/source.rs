//! What a request asks for, checked before anything is built from it.

use llguidance::api::TopLevelGrammar;
use serde_json::{Value as Json, json};

use super::Error;

/// A real schema of hundreds of fields has some 20 KB.
const SOURCE_BYTES_MAX: usize = 256 << 10;
/// Schemas, groups of a regex and nested rules are read by recursion.
const DEPTH_MAX: usize = 64;
const FORCED_BYTES_MAX: usize = 4096;
/// The lexer counts remainders of all `multipleOf` at once.
const MULTIPLE_MAX: u64 = 10_000;
/// Whether all patterns of an `allOf` can match at once takes twice as long with each.
const JOINED_PATTERNS_MAX: usize = 12;
/// The time to compile grows with the square.
const PROPERTIES_MAX: usize = 1000;
/// Room for a line's indentation. Without a limit small models write white space until they run out of tokens.
const JSON_SPACE: &str = r"[ \t\n\r]{1,64}";

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// JSON that a schema describes; see llguidance's documentation for the keywords it knows, others are refused.
    JsonSchema(Json),
    /// Any JSON object.
    JsonObject,
    /// A regular expression in the syntax of the `regex` crate, anchored at both ends, without look-around.
    Regex(String),
    /// A context-free grammar in llguidance's form of Lark; `<|name|>` or `<[7]>` stands for a control token.
    Lark(String),
}

/// What costs much in a schema.
#[derive(Default)]
struct Parts {
    /// The least common multiple of all `multipleOf`.
    multiple: u64,
    patterns: usize,
    /// Several patterns may hold for one string.
    joins: bool,
}

impl Grammar {
    /// What it is called in errors.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::JsonSchema(_) | Self::JsonObject => "JSON schema",
            Self::Regex(_) => "regex",
            Self::Lark(_) => "Lark grammar",
        }
    }

    /// The grammar in llguidance's form, once it is known to be of sane size.
    pub(super) fn checked(&self) -> Result<TopLevelGrammar, Error> {
        Ok(match self {
            Self::JsonSchema(schema) => TopLevelGrammar::from_json_schema(self.schema(schema)?),
            Self::JsonObject => {
                TopLevelGrammar::from_json_schema(self.schema(&json!({ "type": "object" }))?)
            }
            Self::Regex(pattern) => {
                self.check_text(pattern)?;
                self.check_pattern(pattern)?;
                TopLevelGrammar::from_regex(pattern)
            }
            Self::Lark(source) => {
                self.check_text(source)?;
                TopLevelGrammar::from_lark(source.clone())
            }
        })
    }

    fn schema(&self, schema: &Json) -> Result<Json, Error> {
        let mut fields = match schema {
            Json::Object(fields) => fields.clone(),
            Json::Bool(true) => serde_json::Map::new(),
            _ => return Err(self.invalid("expected an object".to_owned())),
        };
        let depth = depth(schema);
        if depth > DEPTH_MAX {
            return Err(self.too_deep(depth));
        }
        let bytes = schema.to_string().len();
        if bytes > SOURCE_BYTES_MAX {
            return Err(self.too_long(bytes));
        }
        self.check_parts(schema, &mut Parts { multiple: 1, ..Parts::default() })?;
        fields.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": JSON_SPACE }));
        Ok(Json::Object(fields))
    }

    /// Checks the parts of a schema that is known not to nest too deep.
    fn check_parts(&self, schema: &Json, parts: &mut Parts) -> Result<(), Error> {
        let patterns = schema.get("pattern").and_then(Json::as_str);
        let keys = schema.get("patternProperties").and_then(Json::as_object);
        for pattern in
            patterns.into_iter().chain(keys.into_iter().flat_map(|k| k.keys().map(String::as_str)))
        {
            self.check_pattern(pattern)?;
            parts.patterns += 1;
        }
        parts.joins |= schema.get("allOf").is_some()
            || schema.get("$ref").is_some() && schema.get("pattern").is_some();
        if let Some(Json::Number(of)) = schema.get("multipleOf") {
            let of = digits(of);
            parts.multiple = parts.multiple.saturating_mul(of / gcd(parts.multiple, of));
        }
        let properties = schema.get("properties").and_then(Json::as_object).map_or(0, |p| p.len());
        let over = if parts.multiple > MULTIPLE_MAX {
            format!("`multipleOf` has a common multiple above {MULTIPLE_MAX}")
        } else if parts.joins && parts.patterns > JOINED_PATTERNS_MAX {
            format!("more than {JOINED_PATTERNS_MAX} patterns beside `allOf`")
        } else if properties > PROPERTIES_MAX {
            format!("an object has {properties} properties, {PROPERTIES_MAX} are allowed")
        } else {
            return children(schema).try_for_each(|child| self.check_parts(child, parts));
        };
        Err(Error::TooComplex { grammar: self.name(), what: over })
    }

    /// Says what is wrong in the caller's terms (llguidance shows the Lark around a pattern), and refuses patterns that
    /// force a text so long that finding it takes seconds.
    fn check_pattern(&self, pattern: &str) -> Result<(), Error> {
        let parsed =
            regex_syntax::parse(pattern).map_err(|error| self.invalid(error.to_string()))?;
        let bytes = parsed.properties().minimum_len().unwrap_or(0);
        if bytes > FORCED_BYTES_MAX {
            let what =
                format!("a pattern wants {bytes} bytes or more, {FORCED_BYTES_MAX} are allowed");
            return Err(Error::TooComplex { grammar: self.name(), what });
        }
        Ok(())
    }

    fn check_text(&self, text: &str) -> Result<(), Error> {
        if text.len() > SOURCE_BYTES_MAX {
            return Err(self.too_long(text.len()));
        }
        let mut depth = 0usize;
        for byte in text.bytes() {
            // Literals may hold brackets too, so this is not exact; no sane grammar comes near the limit.
            match byte {
                b'(' | b'[' | b'{' => depth += 1,
                b')' | b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > DEPTH_MAX {
                return Err(self.too_deep(depth));
            }
        }
        Ok(())
    }

    fn invalid(&self, what: String) -> Error {
        Error::Invalid { grammar: self.name(), what }
    }

    fn too_long(&self, bytes: usize) -> Error {
        let what = format!("{bytes} bytes, more than the {SOURCE_BYTES_MAX} allowed");
        Error::TooComplex { grammar: self.name(), what }
    }

    fn too_deep(&self, depth: usize) -> Error {
        let what = format!("nested {depth} deep or more, {DEPTH_MAX} are allowed");
        Error::TooComplex { grammar: self.name(), what }
    }
}

/// How deep a value nests; without recursion, which a hostile one could exhaust.
fn depth(value: &Json) -> usize {
    let mut level = vec![value];
    let mut depth = 0;
    while !level.is_empty() {
        depth += 1;
        level = level.iter().flat_map(|value| children(value)).collect();
    }
    depth
}

fn children(value: &Json) -> Box<dyn Iterator<Item = &Json> + '_> {
    match value {
        Json::Array(items) => Box::new(items.iter()),
        Json::Object(fields) => Box::new(fields.values()),
        _ => Box::new(std::iter::empty()),
    }
}

/// The digits of a number as an integer, at least 1, without zeros at the end: 0.25 and 250 are 25.
fn digits(number: &serde_json::Number) -> u64 {
    let text = number.to_string();
    let digits = text.split(['e', 'E']).next().unwrap_or_default().replace(['.', '-'], "");
    digits.trim_end_matches('0').parse().unwrap_or(1).max(1)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
