//! The header of a GGUF file that is about to be written. The tensors' data follows it, each padded to [`ALIGNMENT`].
//! Source: `docs/gguf.md` in the ggml repository. Version 3, little endian.
use super::metadata::{Array, Strings, Value};
use super::types::{TensorType, tensor_type};
use ops::format::Format;

/// Every tensor begins at a multiple of this many bytes from the start of the data.
pub const ALIGNMENT: u64 = 32;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;

/// Collects metadata and tensors; [`HeaderWriter::finish`] gives the bytes.
#[derive(Debug, Default)]
pub struct HeaderWriter {
    metadata: Vec<u8>,
    keys: u64,
    directory: Vec<u8>,
    tensors: u64,
    /// Bytes of the data so far, padding included.
    data_bytes: u64,
}

impl HeaderWriter {
    /// Adds a key. Each may be set once.
    pub fn set(&mut self, key: &str, value: &Value) {
        string(&mut self.metadata, key);
        put(&mut self.metadata, type_id(value).to_le_bytes());
        match value {
            Value::U8(v) => put(&mut self.metadata, v.to_le_bytes()),
            Value::I8(v) => put(&mut self.metadata, v.to_le_bytes()),
            Value::U16(v) => put(&mut self.metadata, v.to_le_bytes()),
            Value::I16(v) => put(&mut self.metadata, v.to_le_bytes()),
            Value::U32(v) => put(&mut self.metadata, v.to_le_bytes()),
            Value::I32(v) => put(&mut self.metadata, v.to_le_bytes()),
            Value::U64(v) => put(&mut self.metadata, v.to_le_bytes()),
            Value::I64(v) => put(&mut self.metadata, v.to_le_bytes()),
            Value::F32(v) => put(&mut self.metadata, v.to_le_bytes()),
            Value::F64(v) => put(&mut self.metadata, v.to_le_bytes()),
            Value::Bool(v) => self.metadata.push(u8::from(*v)),
            Value::String(v) => string(&mut self.metadata, v),
            Value::Array(v) => array(&mut self.metadata, v),
        }
        self.keys += 1;
    }

    /// Adds a tensor after those added before, with its dimensions in ggml's `ne` order (the contiguous one first), and
    /// returns the bytes of its data, without the padding that must follow. None where a row is no whole number of blocks, or
    /// the size does not fit in `u64`.
    pub fn tensor(&mut self, name: &str, format: Format, shape: &[u64]) -> Option<u64> {
        let columns = usize::try_from(*shape.first()?).ok()?;
        let row_bytes = u64::try_from(format.row_bytes(columns)?).ok()?;
        let bytes = shape[1..].iter().try_fold(row_bytes, |bytes, n| bytes.checked_mul(*n))?;
        let end = self.data_bytes.checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT)?;
        let dimensions = u32::try_from(shape.len()).ok()?;
        string(&mut self.directory, name);
        put(&mut self.directory, dimensions.to_le_bytes());
        for dimension in shape {
            put(&mut self.directory, dimension.to_le_bytes());
        }
        put(&mut self.directory, format_id(format)?.to_le_bytes());
        put(&mut self.directory, self.data_bytes.to_le_bytes());
        self.data_bytes = end;
        self.tensors += 1;
        Some(bytes)
    }

    /// Bytes of all tensors, padding included.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The header, padded so that the data follows at once.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.metadata.len() + self.directory.len());
        put(&mut out, *MAGIC);
        put(&mut out, VERSION.to_le_bytes());
        put(&mut out, self.tensors.to_le_bytes());
        put(&mut out, self.keys.to_le_bytes());
        out.extend_from_slice(&self.metadata);
        out.extend_from_slice(&self.directory);
        while !(out.len() as u64).is_multiple_of(ALIGNMENT) {
            out.push(0);
        }
        out
    }
}

fn put<const N: usize>(out: &mut Vec<u8>, bytes: [u8; N]) {
    out.extend_from_slice(&bytes);
}

fn string(out: &mut Vec<u8>, text: &str) {
    put(out, (text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn strings(out: &mut Vec<u8>, strings: &Strings) {
    for text in strings.iter() {
        string(out, text);
    }
}

fn numbers<const N: usize, T: Copy>(out: &mut Vec<u8>, values: &[T], bytes: fn(T) -> [u8; N]) {
    out.extend(values.iter().flat_map(|value| bytes(*value)));
}

fn array(out: &mut Vec<u8>, array_: &Array) {
    put(out, element_type_id(array_).to_le_bytes());
    put(out, (array_.len() as u64).to_le_bytes());
    match array_ {
        Array::U8(v) => numbers(out, v, u8::to_le_bytes),
        Array::I8(v) => numbers(out, v, i8::to_le_bytes),
        Array::U16(v) => numbers(out, v, u16::to_le_bytes),
        Array::I16(v) => numbers(out, v, i16::to_le_bytes),
        Array::U32(v) => numbers(out, v, u32::to_le_bytes),
        Array::I32(v) => numbers(out, v, i32::to_le_bytes),
        Array::U64(v) => numbers(out, v, u64::to_le_bytes),
        Array::I64(v) => numbers(out, v, i64::to_le_bytes),
        Array::F32(v) => numbers(out, v, f32::to_le_bytes),
        Array::F64(v) => numbers(out, v, f64::to_le_bytes),
        Array::Bool(v) => out.extend(v.iter().map(|v| u8::from(*v))),
        Array::Strings(v) => strings(out, v),
        Array::Arrays(v) => v.iter().for_each(|v| array(out, v)),
    }
}

const ARRAY: u32 = 9;

/// `enum gguf_type`.
const fn type_id(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => ARRAY,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

const fn element_type_id(array: &Array) -> u32 {
    match array {
        Array::U8(_) => 0,
        Array::I8(_) => 1,
        Array::U16(_) => 2,
        Array::I16(_) => 3,
        Array::U32(_) => 4,
        Array::I32(_) => 5,
        Array::F32(_) => 6,
        Array::Bool(_) => 7,
        Array::Strings(_) => 8,
        Array::Arrays(_) => ARRAY,
        Array::U64(_) => 10,
        Array::I64(_) => 11,
        Array::F64(_) => 12,
    }
}

/// The id that the reader takes for this format.
fn format_id(format: Format) -> Option<u32> {
    (0..=u32::from(u8::MAX))
        .find(|id| matches!(tensor_type(*id), TensorType::Known(known) if known == format))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte for byte what `docs/gguf.md` describes, written out by hand.
    #[test]
    fn a_small_header() {
        let mut writer = HeaderWriter::default();
        writer.set("a", &Value::U32(7));
        let mut names = Strings::default();
        names.push("x");
        names.push("yz");
        writer.set("b", &Value::Array(Array::Strings(names)));
        assert_eq!(writer.tensor("w", Format::Q8_0, &[64, 3]), Some(204));
        assert_eq!(writer.tensor("v", Format::F32, &[2]), Some(8));
        assert_eq!(writer.data_bytes(), 224 + 32);
        let mut expected = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
        expected.extend(b"\x01\0\0\0\0\0\0\0a\x04\0\0\0\x07\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0b\x09\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0x\x02\0\0\0\0\0\0\0yz");
        expected.extend(b"\x01\0\0\0\0\0\0\0w\x02\0\0\0\x40\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
        expected.extend(b"\x08\0\0\0\0\0\0\0\0\0\0\0");
        expected.extend(b"\x01\0\0\0\0\0\0\0v\x01\0\0\0\x02\0\0\0\0\0\0\0");
        expected.extend(b"\0\0\0\0\xe0\0\0\0\0\0\0\0");
        expected.resize(expected.len().next_multiple_of(32), 0);
        assert_eq!(writer.finish(), expected);
    }

    #[test]
    fn rows_of_whole_blocks_only() {
        let mut writer = HeaderWriter::default();
        assert_eq!(writer.tensor("w", Format::Q4K, &[128, 2]), None);
        assert_eq!(writer.tensor("w", Format::F32, &[1 << 40, 1 << 40]), None);
        assert_eq!(writer.data_bytes(), 0);
    }
}
