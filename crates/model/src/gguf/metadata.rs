//! The metadata of a GGUF file: typed values under dotted keys.

use std::fmt;

use super::error::{Error, Fault, Missing, Place};

/// One metadata value, as stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// A metadata array; every element has the same type.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Strings(Strings),
    Arrays(Vec<Self>),
}

impl Array {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Strings(v) => v.len(),
            Self::Arrays(v) => v.len(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of the elements, such as `u32`.
    #[must_use]
    pub const fn element_type(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::Strings(_) => "string",
            Self::Arrays(_) => "array",
        }
    }
}

/// Many strings in one allocation: vocabularies have hundreds of thousands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    /// Where each string ends in `text`.
    ends: Vec<usize>,
}

impl Strings {
    /// Strings one after the other, which end where `ends` says; None when one of them is not UTF-8.
    pub(super) fn from_utf8(text: Vec<u8>, ends: Vec<usize>) -> Option<Self> {
        let text = String::from_utf8(text).ok()?;
        ends.iter().all(|&end| text.is_char_boundary(end)).then_some(Self { text, ends })
    }

    pub fn push(&mut self, s: &str) {
        self.text.push_str(s);
        self.ends.push(self.text.len());
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.text[start..end])
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + Clone {
        self.ends.iter().enumerate().map(|(i, &end)| {
            let start = if i == 0 { 0 } else { self.ends[i - 1] };
            &self.text[start..end]
        })
    }
}

impl<'a> FromIterator<&'a str> for Strings {
    fn from_iter<I: IntoIterator<Item = &'a str>>(strings: I) -> Self {
        let mut all = Self::default();
        for s in strings {
            all.push(s);
        }
        all
    }
}

/// What a value is, for an error message: `u32 7`, `array of 3 string`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(v) => write!(f, "u8 {v}"),
            Self::I8(v) => write!(f, "i8 {v}"),
            Self::U16(v) => write!(f, "u16 {v}"),
            Self::I16(v) => write!(f, "i16 {v}"),
            Self::U32(v) => write!(f, "u32 {v}"),
            Self::I32(v) => write!(f, "i32 {v}"),
            Self::U64(v) => write!(f, "u64 {v}"),
            Self::I64(v) => write!(f, "i64 {v}"),
            Self::F32(v) => write!(f, "f32 {v}"),
            Self::F64(v) => write!(f, "f64 {v}"),
            Self::Bool(v) => write!(f, "bool {v}"),
            Self::String(v) => write!(f, "a string of {} bytes", v.len()),
            Self::Array(v) => write!(f, "an array of {} {}", v.len(), v.element_type()),
        }
    }
}

/// The metadata of a file, in file order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    /// Indices into `entries`, sorted by key.
    by_key: Vec<usize>,
    place: Place,
}

impl Metadata {
    /// Takes entries in file order; a key that occurs twice is a fault.
    pub fn new(entries: Vec<(String, Value)>) -> Result<Self, Error> {
        let mut by_key: Vec<usize> = (0..entries.len()).collect();
        by_key.sort_unstable_by_key(|&i| entries[i].0.as_str());
        if let Some(pair) = by_key.windows(2).find(|p| entries[p[0]].0 == entries[p[1]].0) {
            return Err(Fault::DuplicateKey { key: entries[pair[0]].0.clone() }.into());
        }
        Ok(Self { entries, by_key, place: Place::default() })
    }

    /// Errors of the getters name this file from now on.
    pub(super) fn set_place(&mut self, place: &Place) {
        self.place = place.clone();
    }

    /// The value under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = self.by_key.binary_search_by_key(&key, |&i| self.entries[i].0.as_str()).ok()?;
        Some(&self.entries[self.by_key[at]].1)
    }

    /// All entries, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn require<T>(&self, key: &str, found: Option<T>) -> Result<T, Error> {
        found.ok_or_else(|| Error::Missing {
            place: self.place.clone(),
            what: Missing::Key { key: key.to_owned() },
        })
    }

    /// The value under `key` through `read`, which answers `None` for a wrong type.
    fn opt<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match read(value) {
            Some(v) => Ok(Some(v)),
            None => Err(Error::BadFile {
                place: self.place.clone(),
                fault: Fault::WrongType { key: key.to_owned(), expected, found: value.to_string() },
            }),
        }
    }

    /// An unsigned integer; any integer type whose value fits will do.
    pub fn u32(&self, key: &str) -> Result<u32, Error> {
        self.require(key, self.opt_u32(key)?)
    }

    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.opt(key, "an integer that fits u32", |v| u32::try_from(integer(v)?).ok())
    }

    /// An unsigned integer; any integer type whose value fits will do.
    pub fn u64(&self, key: &str) -> Result<u64, Error> {
        self.require(key, self.opt_u64(key)?)
    }

    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.opt(key, "an integer that fits u64", |v| u64::try_from(integer(v)?).ok())
    }

    /// An f32, or an f64 rounded to it.
    pub fn f32(&self, key: &str) -> Result<f32, Error> {
        self.require(key, self.opt_f32(key)?)
    }

    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.opt(key, "an f32 or f64", |v| match v {
            Value::F32(v) => Some(*v),
            #[expect(clippy::cast_possible_truncation, reason = "rounding is what is asked for")]
            Value::F64(v) => Some(*v as f32),
            _ => None,
        })
    }

    pub fn bool(&self, key: &str) -> Result<bool, Error> {
        self.require(key, self.opt_bool(key)?)
    }

    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.opt(key, "a bool", |v| if let Value::Bool(v) = v { Some(*v) } else { None })
    }

    pub fn str(&self, key: &str) -> Result<&str, Error> {
        self.require(key, self.opt_str(key)?)
    }

    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.opt(
            key,
            "a string",
            |v| if let Value::String(v) = v { Some(v.as_str()) } else { None },
        )
    }

    pub fn strings(&self, key: &str) -> Result<&Strings, Error> {
        self.require(key, self.opt_strings(key)?)
    }

    pub fn opt_strings(&self, key: &str) -> Result<Option<&Strings>, Error> {
        self.opt(key, "an array of string", |v| match v {
            Value::Array(Array::Strings(v)) => Some(v),
            _ => None,
        })
    }

    pub fn f32s(&self, key: &str) -> Result<&[f32], Error> {
        self.require(key, self.opt_f32s(key)?)
    }

    pub fn opt_f32s(&self, key: &str) -> Result<Option<&[f32]>, Error> {
        self.opt(key, "an array of f32", |v| match v {
            Value::Array(Array::F32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    pub fn u32s(&self, key: &str) -> Result<&[u32], Error> {
        self.require(key, self.opt_u32s(key)?)
    }

    pub fn opt_u32s(&self, key: &str) -> Result<Option<&[u32]>, Error> {
        self.opt(key, "an array of u32", |v| match v {
            Value::Array(Array::U32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }

    pub fn i32s(&self, key: &str) -> Result<&[i32], Error> {
        self.require(key, self.opt_i32s(key)?)
    }

    pub fn opt_i32s(&self, key: &str) -> Result<Option<&[i32]>, Error> {
        self.opt(key, "an array of i32", |v| match v {
            Value::Array(Array::I32(v)) => Some(v.as_slice()),
            _ => None,
        })
    }
}

/// Any integer value, widened.
fn integer(value: &Value) -> Option<i128> {
    Some(match value {
        Value::U8(v) => i128::from(*v),
        Value::I8(v) => i128::from(*v),
        Value::U16(v) => i128::from(*v),
        Value::I16(v) => i128::from(*v),
        Value::U32(v) => i128::from(*v),
        Value::I32(v) => i128::from(*v),
        Value::U64(v) => i128::from(*v),
        Value::I64(v) => i128::from(*v),
        _ => return None,
    })
}
