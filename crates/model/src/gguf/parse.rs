//! The GGUF header parser: a pure function of the file's bytes.
//!
//! No count or length read from the file decides an allocation before the bytes it stands for are
//! known to be there, so memory stays within a small factor of the file's size.

use ops::format::Format;

use super::TensorInfo;
use super::error::{Error, Fault, Unsupported};
use super::metadata::{Array, Metadata, Strings, Value};
use super::types::{TensorType, tensor_type};

/// What a sound file stays within.
pub mod limits {
    /// Metadata entries.
    pub const METADATA: u64 = 1 << 16;
    /// Tensors.
    pub const TENSORS: u64 = 1 << 20;
    /// Bytes of a metadata key (the format's own limit) or a tensor name.
    pub const KEY_BYTES: u64 = 65_535;
    /// Bytes of a string value.
    pub const STRING_BYTES: u64 = 1 << 28;
    /// Elements of an array.
    pub const ARRAY: u64 = 1 << 28;
    /// Arrays within arrays.
    pub const NESTING: u32 = 4;
    /// Dimensions of a tensor.
    pub const DIMENSIONS: u32 = 4;
}

/// The parsed header of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The version of the format: 2 or 3.
    pub version: u32,
    pub metadata: Metadata,
    /// In file order.
    pub tensors: Vec<TensorInfo>,
    /// Where the tensor data begins, from the start of the file.
    pub data_offset: u64,
}

const DEFAULT_ALIGNMENT: u64 = 32;

/// Parses and checks the header of a whole file.
pub fn parse(bytes: &[u8]) -> Result<Header, Error> {
    let mut reader = Reader { bytes, at: 0 };
    let version = version(&mut reader)?;
    // A tensor takes at least a name, a dimension count, one dimension, a type and an offset.
    let tensor_count = reader.count("the tensor count", limits::TENSORS, 8 + 4 + 8 + 4 + 8)?;
    // An entry takes at least a key length, a type and one byte.
    let entry_count = reader.count("the metadata count", limits::METADATA, 8 + 4 + 1)?;
    let metadata = metadata(&mut reader, entry_count)?;
    if let Some(parts) = metadata.opt_u64("split.count")?.filter(|&n| n > 1) {
        return Err(Unsupported::Split { parts }.into());
    }
    let alignment = metadata.opt_u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() {
        return Err(Fault::Alignment { found: alignment }.into());
    }
    let mut tensors = Vec::with_capacity(tensor_count);
    for index in 0..tensor_count {
        tensors.push(tensor(&mut reader, index, alignment)?);
    }
    let data_offset = to_u64(reader.at)
        .checked_next_multiple_of(alignment)
        .ok_or(Fault::Alignment { found: alignment })?;
    place_tensors(&mut tensors, data_offset, to_u64(bytes.len()))?;
    Ok(Header { version, metadata, tensors, data_offset })
}

fn version(reader: &mut Reader<'_>) -> Result<u32, Error> {
    let found = reader.array("the magic")?;
    if found != *b"GGUF" {
        return Err(Fault::Magic { found }.into());
    }
    match reader.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        found if matches!(found.swap_bytes(), 1..=3) => Err(Unsupported::BigEndian.into()),
        found => Err(Unsupported::Version { found }.into()),
    }
}

fn metadata(reader: &mut Reader<'_>, count: usize) -> Result<Metadata, Error> {
    let mut entries = Vec::with_capacity(count);
    for index in 0..count {
        let key = reader.string(limits::KEY_BYTES, &|| format!("metadata key {index}"))?.to_owned();
        let field = || format!("metadata key `{key}`");
        let type_id = reader.u32_of(&field)?;
        let value = reader.value(type_id, &field)?;
        entries.push((key, value));
    }
    Metadata::new(entries)
}

/// One entry of the tensor directory; its offset still counts from the start of the data.
fn tensor(reader: &mut Reader<'_>, index: usize, alignment: u64) -> Result<TensorInfo, Error> {
    let name =
        reader.string(limits::KEY_BYTES, &|| format!("the name of tensor {index}"))?.to_owned();
    let field = || format!("tensor `{name}`");
    let dimensions = reader.u32_of(&field)?;
    if !(1..=limits::DIMENSIONS).contains(&dimensions) {
        return Err(Fault::Dimensions { tensor: name, found: dimensions }.into());
    }
    let mut shape = Vec::with_capacity(4);
    for _ in 0..dimensions {
        shape.push(reader.u64_of(&field)?);
    }
    let type_id = reader.u32_of(&field)?;
    let offset = reader.u64_of(&field)?;
    let format = match tensor_type(type_id) {
        TensorType::Known(format) => format,
        TensorType::Foreign(type_name) => {
            return Err(Unsupported::TensorType { tensor: name, name: type_name }.into());
        }
        TensorType::Undefined => {
            return Err(Fault::TensorType { tensor: name, id: type_id }.into());
        }
    };
    if !offset.is_multiple_of(alignment) {
        return Err(Fault::Misaligned { tensor: name, offset, alignment }.into());
    }
    let bytes = tensor_bytes(&name, format, &shape)?;
    Ok(TensorInfo { name, format, shape, offset, bytes })
}

fn tensor_bytes(name: &str, format: Format, shape: &[u64]) -> Result<u64, Fault> {
    let bad_shape = || Fault::Shape { tensor: name.to_owned(), shape: shape.to_vec() };
    let elements = shape.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
    let elements = elements.filter(|&n| n > 0).ok_or_else(bad_shape)?;
    let block = format.block_elements();
    if !shape[0].is_multiple_of(to_u64(block)) {
        return Err(Fault::Row { tensor: name.to_owned(), columns: shape[0], format, block });
    }
    (elements / to_u64(block)).checked_mul(to_u64(format.block_bytes())).ok_or_else(bad_shape)
}

/// Makes offsets count from the start of the file, and checks that tensors lie inside it apart from
/// each other.
fn place_tensors(tensors: &mut [TensorInfo], data: u64, length: u64) -> Result<(), Error> {
    for t in tensors.iter_mut() {
        let end = data.checked_add(t.offset).and_then(|start| start.checked_add(t.bytes));
        if end.is_none_or(|end| end > length) {
            return Err(Fault::OutOfRange {
                tensor: t.name.clone(),
                offset: t.offset,
                bytes: t.bytes,
                available: length.saturating_sub(data),
            }
            .into());
        }
        t.offset += data;
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_unstable_by_key(|t| t.name.as_str());
    if let Some(pair) = order.windows(2).find(|p| p[0].name == p[1].name) {
        return Err(Fault::DuplicateTensor { tensor: pair[0].name.clone() }.into());
    }
    order.sort_unstable_by_key(|t| t.offset);
    match order.windows(2).find(|p| p[0].offset + p[0].bytes > p[1].offset) {
        Some(pair) => Err(Fault::Overlap {
            first: pair[0].name.clone(),
            second: pair[1].name.clone(),
            offset: pair[1].offset,
        }
        .into()),
        None => Ok(()),
    }
}

const _: () = assert!(usize::BITS <= 64, "a length in memory fits u64");

fn to_u64(n: usize) -> u64 {
    n as u64
}

/// What is being read, for an error message; called only when there is one.
type Field<'a> = &'a dyn Fn() -> String;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn truncated(&self, field: Field<'_>, offset: usize, needed: u64) -> Error {
        Fault::Truncated { field: field(), offset, needed, length: self.bytes.len() }.into()
    }

    fn take(&mut self, count: usize, field: Field<'_>) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.get(..count) else {
            return Err(self.truncated(field, self.at, to_u64(count)));
        };
        self.at += count;
        Ok(taken)
    }

    fn array_of<const N: usize>(&mut self, field: Field<'_>) -> Result<[u8; N], Error> {
        match self.bytes[self.at..].first_chunk() {
            Some(taken) => {
                self.at += N;
                Ok(*taken)
            }
            None => Err(self.truncated(field, self.at, to_u64(N))),
        }
    }

    fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N], Error> {
        self.array_of(&|| field.to_owned())
    }

    fn u32(&mut self, field: &str) -> Result<u32, Error> {
        self.array(field).map(u32::from_le_bytes)
    }

    fn u32_of(&mut self, field: Field<'_>) -> Result<u32, Error> {
        self.array_of(field).map(u32::from_le_bytes)
    }

    fn u64_of(&mut self, field: Field<'_>) -> Result<u64, Error> {
        self.array_of(field).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `bytes_each`, so that it can be trusted for an allocation.
    fn count(&mut self, field: &str, limit: u64, bytes_each: usize) -> Result<usize, Error> {
        self.count_of(&|| field.to_owned(), limit, bytes_each)
    }

    fn count_of(
        &mut self,
        field: Field<'_>,
        limit: u64,
        bytes_each: usize,
    ) -> Result<usize, Error> {
        let offset = self.at;
        let found = self.u64_of(field)?;
        if found > limit {
            return Err(Fault::Absurd { field: field(), offset, found, limit }.into());
        }
        let needed = found.saturating_mul(to_u64(bytes_each));
        match usize::try_from(found) {
            Ok(count) if needed <= to_u64(self.remaining()) => Ok(count),
            _ => Err(self.truncated(field, offset, needed)),
        }
    }

    fn string_bytes(&mut self, limit: u64, field: Field<'_>) -> Result<&'a [u8], Error> {
        let length = self.count_of(&|| format!("the length of {}", field()), limit, 1)?;
        self.take(length, field)
    }

    fn string(&mut self, limit: u64, field: Field<'_>) -> Result<&'a str, Error> {
        let bytes = self.string_bytes(limit, field)?;
        let offset = self.at - bytes.len();
        str::from_utf8(bytes).map_err(|_| Fault::NotUtf8 { field: field(), offset }.into())
    }

    fn bool(&mut self, field: Field<'_>) -> Result<bool, Error> {
        let offset = self.at;
        match self.array_of(field)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [found] => Err(Fault::Bool { field: field(), offset, found }.into()),
        }
    }

    fn value(&mut self, type_id: u32, field: Field<'_>) -> Result<Value, Error> {
        Ok(match type_id {
            0 => Value::U8(u8::from_le_bytes(self.array_of(field)?)),
            1 => Value::I8(i8::from_le_bytes(self.array_of(field)?)),
            2 => Value::U16(u16::from_le_bytes(self.array_of(field)?)),
            3 => Value::I16(i16::from_le_bytes(self.array_of(field)?)),
            4 => Value::U32(u32::from_le_bytes(self.array_of(field)?)),
            5 => Value::I32(i32::from_le_bytes(self.array_of(field)?)),
            6 => Value::F32(f32::from_le_bytes(self.array_of(field)?)),
            7 => Value::Bool(self.bool(field)?),
            8 => Value::String(self.string(limits::STRING_BYTES, field)?.to_owned()),
            9 => Value::Array(self.elements(limits::NESTING, field)?),
            10 => Value::U64(u64::from_le_bytes(self.array_of(field)?)),
            11 => Value::I64(i64::from_le_bytes(self.array_of(field)?)),
            12 => Value::F64(f64::from_le_bytes(self.array_of(field)?)),
            found => return Err(self.bad_type(found, field)),
        })
    }

    /// For a type id that was just read.
    fn bad_type(&self, found: u32, field: Field<'_>) -> Error {
        Fault::ValueType { field: field(), offset: self.at - 4, found }.into()
    }

    /// An array: the type of its elements, their count, the elements. `depth` more levels may follow.
    fn elements(&mut self, depth: u32, field: Field<'_>) -> Result<Array, Error> {
        let offset = self.at;
        if depth == 0 {
            let field = format!("the array nesting of {}", field());
            let limit = u64::from(limits::NESTING);
            return Err(Fault::Absurd { field, offset, found: limit + 1, limit }.into());
        }
        Ok(match self.u32_of(field)? {
            0 => Array::U8(self.numbers(field, u8::from_le_bytes)?),
            1 => Array::I8(self.numbers(field, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(field, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(field, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(field, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(field, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(field, f32::from_le_bytes)?),
            7 => Array::Bool(self.bools(field)?),
            8 => Array::Strings(self.strings(field)?),
            9 => Array::Arrays(self.arrays(depth - 1, field)?),
            10 => Array::U64(self.numbers(field, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(field, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(field, f64::from_le_bytes)?),
            found => return Err(self.bad_type(found, field)),
        })
    }

    fn element_count(&mut self, bytes_each: usize, field: Field<'_>) -> Result<usize, Error> {
        self.count_of(&|| format!("the element count of {}", field()), limits::ARRAY, bytes_each)
    }

    fn numbers<const N: usize, T>(
        &mut self,
        field: Field<'_>,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Error> {
        let count = self.element_count(N, field)?;
        let bytes = self.take(count * N, field)?;
        Ok(bytes.as_chunks().0.iter().map(|b| read(*b)).collect())
    }

    fn bools(&mut self, field: Field<'_>) -> Result<Vec<bool>, Error> {
        let count = self.element_count(1, field)?;
        (0..count).map(|_| self.bool(field)).collect()
    }

    fn strings(&mut self, field: Field<'_>) -> Result<Strings, Error> {
        let count = self.element_count(8, field)?;
        let start = self.at;
        let name = |index| move || format!("element {index} of {}", field());
        // Vocabularies have so many strings that looking at each by itself takes twice as long.
        let (mut text, mut ends) = (Vec::with_capacity(8 * count), Vec::with_capacity(count));
        for index in 0..count {
            text.extend_from_slice(self.string_bytes(limits::STRING_BYTES, &name(index))?);
            ends.push(text.len());
        }
        if let Some(strings) = Strings::from_utf8(text, ends) {
            return Ok(strings);
        }
        self.at = start;
        (0..count).map(|index| self.string(limits::STRING_BYTES, &name(index))).collect()
    }

    fn arrays(&mut self, depth: u32, field: Field<'_>) -> Result<Vec<Array>, Error> {
        let count = self.element_count(4 + 8, field)?;
        (0..count).map(|_| self.elements(depth, field)).collect()
    }
}
