//! Reading the fields of a request: everything that is wrong is noted, not only the first.
use crate::http::Refused;
use serde_json::{Map, Value as Json};
use std::cell::RefCell;
use std::ops::RangeInclusive;

/// A client can send a million wrong fields; nobody reads so many errors.
const VIOLATIONS_MAX: usize = 32;

/// One thing that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// A path into the body, such as `messages[2].role`.
    pub(crate) field: String,
    /// What it must be; goes on where the field's name ends.
    pub(crate) message: String,
}

/// All that is wrong with a request, in the order in which it was found.
#[derive(Debug, Default)]
pub(crate) struct Violations(RefCell<Vec<Violation>>);

impl Violations {
    pub(crate) fn add(&self, field: impl Into<String>, message: impl Into<String>) {
        let mut all = self.0.borrow_mut();
        if all.len() < VIOLATIONS_MAX {
            all.push(Violation { field: field.into(), message: message.into() });
        }
    }

    /// The fields of a body.
    pub(crate) fn fields<'j>(&'j self, object: &'j Map<String, Json>) -> Fields<'j> {
        Fields { object, path: String::new(), violations: self }
    }

    /// # Errors
    /// When anything is wrong, all of it.
    pub(crate) fn check(self) -> Result<(), Vec<Violation>> {
        let all = self.0.into_inner();
        if all.is_empty() { Ok(()) } else { Err(all) }
    }
}

impl From<Vec<Violation>> for Refused {
    fn from(violations: Vec<Violation>) -> Self {
        let said: Vec<String> = violations
            .iter()
            .map(|violation| format!("`{}` {}", violation.field, violation.message))
            .collect();
        let field = violations.first().map_or("", |violation| &violation.field);
        Self::field(field, said.join("; "))
    }
}

/// An object of a request. Readers give None for a field that is missing or null, and for one that is wrong, which they note.
#[derive(Debug)]
pub(crate) struct Fields<'j> {
    object: &'j Map<String, Json>,
    path: String,
    violations: &'j Violations,
}

impl<'j> Fields<'j> {
    /// The object itself.
    pub(crate) fn object(&self) -> &'j Map<String, Json> {
        self.object
    }

    /// The path of a field in the body.
    fn path(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// Notes that a field is wrong; `message` goes on where its name ends.
    pub(crate) fn wrong(&self, name: &str, message: impl Into<String>) {
        self.violations.add(self.path(name), message);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'j Json> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub(crate) fn required(&self, name: &str) -> Option<&'j Json> {
        let value = self.get(name);
        if value.is_none() {
            self.wrong(name, "is required");
        }
        value
    }

    fn read<T>(
        &self,
        name: &str,
        read: impl FnOnce(&'j Json) -> Option<T>,
        expected: impl FnOnce() -> String,
    ) -> Option<T> {
        let value = self.get(name)?;
        let read = read(value);
        if read.is_none() {
            self.wrong(name, format!("must be {}, not {}", expected(), shown(value)));
        }
        read
    }

    pub(crate) fn text(&self, name: &str) -> Option<&'j str> {
        self.read(name, Json::as_str, || "a string".to_owned())
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.read(name, Json::as_bool, || "true or false".to_owned())
    }

    pub(crate) fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let expected = || format!("an integer from {} to {}", range.start(), range.end());
        self.read(name, |value| whole(value).filter(|i| range.contains(i)), expected)
    }

    /// An integer from `min` up.
    pub(crate) fn count(&self, name: &str, min: u32) -> Option<u32> {
        self.integer(name, i64::from(min)..=i64::from(u32::MAX)).and_then(|i| u32::try_from(i).ok())
    }

    pub(crate) fn number(&self, name: &str, range: RangeInclusive<f32>) -> Option<f32> {
        #[expect(clippy::cast_possible_truncation, reason = "samplers work in f32")]
        let in_range = |value: &Json| {
            let number = value.as_f64()? as f32;
            range.contains(&number).then_some(number)
        };
        let expected = || format!("a number from {} to {}", range.start(), range.end());
        self.read(name, in_range, expected)
    }

    /// Any integer of 64 bits, signed or not.
    pub(crate) fn seed(&self, name: &str) -> Option<u64> {
        let seed = |value: &Json| value.as_u64().or_else(|| whole(value).map(i64::cast_unsigned));
        self.read(name, seed, || "an integer of 64 bits".to_owned())
    }

    pub(crate) fn one_of(&self, name: &str, words: &[&'static str]) -> Option<&'static str> {
        let expected = || format!("one of {}", words.join(", "));
        let known = |value: &Json| {
            let word = value.as_str()?;
            words.iter().find(|known| **known == word).copied()
        };
        self.read(name, known, expected)
    }

    pub(crate) fn list(&self, name: &str) -> Option<&'j [Json]> {
        self.read(name, |value| value.as_array().map(Vec::as_slice), || "a list".to_owned())
    }

    pub(crate) fn inner(&self, name: &str) -> Option<Self> {
        let object = self.read(name, Json::as_object, || "an object".to_owned())?;
        Some(Self { object, path: self.path(name), violations: self.violations })
    }

    /// The objects of a list; those of its items that are none are noted.
    pub(crate) fn objects(&self, name: &str) -> Option<Vec<Self>> {
        let list = self.list(name)?;
        let inner = |(i, item): (usize, &'j Json)| {
            let path = format!("{}[{i}]", self.path(name));
            let Some(object) = item.as_object() else {
                self.violations.add(path, format!("must be an object, not {}", shown(item)));
                return None;
            };
            Some(Self { object, path, violations: self.violations })
        };
        Some(list.iter().enumerate().filter_map(inner).collect())
    }

    /// A string, or a list of up to `max` of them.
    pub(crate) fn texts(&self, name: &str, max: usize) -> Vec<String> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let texts: Option<Vec<String>> = match value {
            Json::String(text) => Some(vec![text.clone()]),
            Json::Array(list) if list.len() <= max => {
                list.iter().map(|item| item.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        texts.unwrap_or_else(|| {
            self.wrong(name, format!("must be a string or a list of up to {max} strings"));
            Vec::new()
        })
    }

    /// A list of token ids.
    pub(crate) fn token_ids(&self, name: &str) -> Option<Vec<u32>> {
        let ids: Option<Vec<u32>> = self.list(name)?.iter().map(token_id).collect();
        if ids.is_none() {
            self.wrong(name, "must be a list of token ids");
        }
        ids
    }
}

/// A token id, if `value` can be one.
pub(crate) fn token_id(value: &Json) -> Option<u32> {
    whole(value).and_then(|id| u32::try_from(id).ok())
}

/// An integer, also when it is written as `4.0`: JSON does not tell the two apart.
pub(crate) fn whole(value: &Json) -> Option<i64> {
    /// From here on not every integer is a number of 64 bits.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
    let from_float = |number: f64| number as i64;
    let is_whole = |number: &f64| number.fract() == 0.0 && number.abs() < EXACT_MAX;
    value.as_i64().or_else(|| value.as_f64().filter(is_whole).map(from_float))
}

/// A value in an error: numbers as they are, of others only the kind, because they may be long or private.
fn shown(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Bool(flag) => flag.to_string(),
        Json::Number(number) => number.to_string(),
        Json::String(_) => "this string".to_owned(),
        Json::Array(_) => "a list".to_owned(),
        Json::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn everything_wrong_is_noted_with_its_path() {
        let body = json!({
            "a": 3, "b": -1, "c": "word", "d": [{ "e": 1.5 }, 7], "seed": -1, "none": null,
            "stop": ["x", 1], "whole": 4.0,
        });
        let violations = Violations::default();
        let fields = violations.fields(body.as_object().unwrap());
        assert_eq!(fields.integer("a", 0..=3), Some(3));
        assert_eq!(fields.count("b", 1), None);
        assert_eq!(fields.count("whole", 1), Some(4));
        assert_eq!(fields.one_of("c", &["other"]), None);
        let inner = fields.objects("d").unwrap();
        assert_eq!(inner[0].number("e", 0.0..=1.0), None);
        assert_eq!(inner[0].required("f"), None);
        assert_eq!(fields.seed("seed"), Some(u64::MAX));
        assert_eq!(fields.flag("none"), None);
        assert!(fields.texts("stop", 4).is_empty());
        let refused = Refused::from(violations.check().unwrap_err());
        assert_eq!(refused.field.as_deref(), Some("b"));
        let expected = "`b` must be an integer from 1 to 4294967295, not -1; `c` must be one of other, not this string; \
             `d[1]` must be an object, not 7; `d[0].e` must be a number from 0 to 1, not 1.5; `d[0].f` is required; \
             `stop` must be a string or a list of up to 4 strings";
        assert_eq!(refused.message, expected);
    }

    #[test]
    fn a_million_wrong_items_make_a_short_error() {
        let body = json!({ "d": vec![0; 1_000_000] });
        let violations = Violations::default();
        violations.fields(body.as_object().unwrap()).objects("d");
        assert_eq!(violations.check().unwrap_err().len(), VIOLATIONS_MAX);
    }
}
