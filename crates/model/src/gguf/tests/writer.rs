//! A GGUF file in pieces, each of which a test can get wrong.

/// Tensor type ids, from `ggml.h`.
pub(super) const F32: u32 = 0;
pub(super) const Q4_0: u32 = 2;

pub(super) struct File {
    pub(super) magic: [u8; 4],
    pub(super) version: u32,
    /// Overrides of the counts that are written.
    pub(super) tensor_count: Option<u64>,
    pub(super) entry_count: Option<u64>,
    pub(super) entries: Vec<Vec<u8>>,
    pub(super) tensors: Vec<Vec<u8>>,
    pub(super) alignment: usize,
    pub(super) data: Vec<u8>,
}

pub(super) fn string(s: &str) -> Vec<u8> {
    let length = u64::try_from(s.len()).unwrap();
    [&length.to_le_bytes(), s.as_bytes()].concat()
}

/// An array value: element type, count, and the elements as written.
pub(super) fn array(element: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&element.to_le_bytes(), &count.to_le_bytes()[..], elements].concat()
}

impl File {
    /// Nothing but a header.
    pub(super) fn empty() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            data: Vec::new(),
        }
    }

    /// A metadata entry with the value as written.
    pub(super) fn entry(mut self, key: &str, type_id: u32, value: &[u8]) -> Self {
        self.entries.push([&string(key), &type_id.to_le_bytes()[..], value].concat());
        self
    }

    pub(super) fn tensor(mut self, name: &str, shape: &[u64], type_id: u32, offset: u64) -> Self {
        let mut t = string(name);
        t.extend(u32::try_from(shape.len()).unwrap().to_le_bytes());
        shape.iter().for_each(|n| t.extend(n.to_le_bytes()));
        t.extend(type_id.to_le_bytes());
        t.extend(offset.to_le_bytes());
        self.tensors.push(t);
        self
    }

    pub(super) fn data(mut self, bytes: usize) -> Self {
        self.data = vec![0; bytes];
        self
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let count = |n: Option<u64>, of: &[Vec<u8>]| n.unwrap_or(of.len().try_into().unwrap());
        let mut all = self.magic.to_vec();
        all.extend(self.version.to_le_bytes());
        all.extend(count(self.tensor_count, &self.tensors).to_le_bytes());
        all.extend(count(self.entry_count, &self.entries).to_le_bytes());
        all.extend(self.entries.concat());
        all.extend(self.tensors.concat());
        all.resize(all.len().next_multiple_of(self.alignment), 0);
        all.extend(&self.data);
        all
    }
}

/// A sound file with every value type and two tensors.
pub(super) fn sound() -> File {
    let nested = [array(5, 2, &[1, 0, 0, 0, 2, 0, 0, 0]), array(8, 1, &string("x"))].concat();
    File::empty()
        .entry("general.architecture", 8, &string("llama"))
        .entry("u8", 0, &[200])
        .entry("i8", 1, &[0xff])
        .entry("u16", 2, &[1, 2])
        .entry("i16", 3, &[0xfe, 0xff])
        .entry("u32", 4, &7_u32.to_le_bytes())
        .entry("i32", 5, &(-7_i32).to_le_bytes())
        .entry("f32", 6, &0.5_f32.to_le_bytes())
        .entry("bool", 7, &[1])
        .entry("u64", 10, &(1_u64 << 40).to_le_bytes())
        .entry("i64", 11, &9_i64.to_le_bytes())
        .entry("f64", 12, &0.25_f64.to_le_bytes())
        .entry("strings", 9, &array(8, 3, &[string("a"), string(""), string("né")].concat()))
        .entry("f32s", 9, &array(6, 2, &[0, 0, 0, 0, 0, 0, 0x80, 0x3f]))
        .entry("u32s", 9, &array(4, 1, &5_u32.to_le_bytes()))
        .entry("i32s", 9, &array(5, 1, &(-5_i32).to_le_bytes()))
        .entry("bools", 9, &array(7, 2, &[0, 1]))
        .entry("nested", 9, &array(9, 2, &nested))
        .tensor("a", &[2, 3], F32, 0)
        .tensor("b", &[32, 2, 2], Q4_0, 32)
        .data(32 + 4 * 18)
}
