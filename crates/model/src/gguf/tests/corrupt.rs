//! One broken file for every error, and what its message must name.

use ops::format::Format;

use super::super::{Error, Fault, Gguf, Unsupported, parse};
use super::writer::{F32, File, Q4_0, array, sound, string};

fn owned(s: &str) -> String {
    s.to_owned()
}

/// Parses `bytes`, which must be `expected`, with a message that holds `names`.
#[track_caller]
fn is_bad(bytes: &[u8], expected: &Fault, names: &str) {
    let error = parse(bytes).expect_err(names);
    let Error::BadFile { fault, .. } = &error else {
        panic!("expected {expected:?}, found {error:?}")
    };
    assert_eq!(fault, expected);
    assert!(error.to_string().contains(names), "`{error}` should contain `{names}`");
}

#[track_caller]
fn is_unsupported(bytes: &[u8], expected: &Unsupported, names: &str) {
    let error = parse(bytes).expect_err(names);
    let Error::Unsupported { what, .. } = &error else {
        panic!("expected {expected:?}, found {error:?}")
    };
    assert_eq!(what, expected);
    assert!(error.to_string().contains(names), "`{error}` should contain `{names}`");
}

#[test]
fn magic() {
    for (found, names) in [
        (*b"GGML", "begins with GGML, not \"GGUF\""),
        (*b"vers", "a Git LFS pointer"),
        (*b"<!do", "a web page"),
        (*b"tjgg", "older than GGUF"),
        (*b"PK\x03\x04", "PK\\x03\\x04, not \"GGUF\" (a zip archive)"),
    ] {
        let file = File { magic: found, ..sound() };
        is_bad(&file.build(), &Fault::Magic { found }, names);
    }
}

#[test]
fn version() {
    for found in [0, 1, 4, u32::MAX] {
        let file = File { version: found, ..sound() };
        let names = format!("version {found} is not supported, expected 2 or 3");
        is_unsupported(&file.build(), &Unsupported::Version { found }, &names);
    }
    let file = File { version: 3 << 24, ..sound() };
    is_unsupported(&file.build(), &Unsupported::BigEndian, "big-endian");
}

/// Every proper prefix of a file is an error: its last byte belongs to a tensor.
#[test]
fn truncated() {
    let bytes = sound().build();
    for length in 0..bytes.len() {
        let error = parse(&bytes[..length]).expect_err("a prefix");
        assert!(
            matches!(
                error,
                Error::BadFile { fault: Fault::Truncated { .. } | Fault::OutOfRange { .. }, .. }
            ),
            "{length}: {error}"
        );
    }
    let fault = |field: &str, offset, needed, length| Fault::Truncated {
        field: owned(field),
        offset,
        needed,
        length,
    };
    is_bad(&bytes[..2], &fault("the magic", 0, 4, 2), "the magic at byte 0 needs 4 bytes");
    is_bad(&bytes[..6], &fault("the version", 4, 4, 6), "the version");
    // The key's text is at 32, its value's type at 33, the value at 37.
    let bytes = File::empty().entry("k", 10, &[0; 8]).build();
    let expected = fault("metadata key `k`", 37, 8, 40);
    is_bad(&bytes[..40], &expected, "metadata key `k` at byte 37 needs 8 bytes");
}

#[test]
fn absurd_counts() {
    let absurd = |field: &str, offset, found, limit| Fault::Absurd {
        field: owned(field),
        offset,
        found,
        limit,
    };
    let file = File { tensor_count: Some(u64::MAX), ..sound() };
    let expected = absurd("the tensor count", 8, u64::MAX, 1 << 20);
    is_bad(&file.build(), &expected, "the tensor count at byte 8 is 18446744073709551615");
    let file = File { entry_count: Some(1 << 17), ..sound() };
    let expected = absurd("the metadata count", 16, 1 << 17, 1 << 16);
    is_bad(&file.build(), &expected, "the metadata count at byte 16 is 131072, more than 65536");
    let mut long_key = File::empty();
    long_key.entries.push([&65_536_u64.to_le_bytes()[..], &[b'k'; 65_536]].concat());
    let expected = absurd("the length of metadata key 0", 24, 65_536, 65_535);
    is_bad(&long_key.build(), &expected, "the length of metadata key 0");
    let file = File::empty().entry("k", 8, &u64::MAX.to_le_bytes());
    let expected = absurd("the length of metadata key `k`", 37, u64::MAX, 1 << 28);
    is_bad(&file.build(), &expected, "metadata key `k`");
    let file = File::empty().entry("k", 9, &array(4, 1 << 40, &[]));
    let expected = absurd("the element count of metadata key `k`", 41, 1 << 40, 1 << 28);
    is_bad(&file.build(), &expected, "the element count of metadata key `k`");
    let deep = array(9, 1, &array(9, 1, &array(9, 1, &array(9, 1, &array(0, 0, &[])))));
    let file = File::empty().entry("k", 9, &deep);
    let expected = absurd("the array nesting of metadata key `k`", 37 + 4 * 12, 5, 4);
    is_bad(&file.build(), &expected, "the array nesting of metadata key `k`");
}

/// Counts within the limits, but without the bytes to back them: an error, and no allocation.
#[test]
fn counts_the_file_is_too_short_for() {
    let short = |field: &str, offset, needed, bytes: &[u8]| {
        let length = bytes.len();
        let expected = Fault::Truncated { field: owned(field), offset, needed, length };
        is_bad(bytes, &expected, field);
    };
    let file = File { tensor_count: Some(1 << 20), ..sound() };
    short("the tensor count", 8, 32 << 20, &file.build());
    let file = File { entry_count: Some(1 << 16), ..sound() };
    short("the metadata count", 16, 13 << 16, &file.build());
    let file = File::empty().entry("k", 9, &array(12, 1 << 28, &[]));
    short("the element count of metadata key `k`", 41, 8 << 28, &file.build());
    let file = File::empty().entry("k", 9, &array(8, 1 << 28, &[]));
    short("the element count of metadata key `k`", 41, 8 << 28, &file.build());
    let file = File::empty().entry("k", 9, &array(9, 1 << 28, &[]));
    short("the element count of metadata key `k`", 41, 12 << 28, &file.build());
    let one = [&1_u64.to_le_bytes()[..], b"a", &(1_u64 << 27).to_le_bytes()].concat();
    let file = File::empty().entry("k", 9, &array(8, 2, &one));
    short("the length of element 1 of metadata key `k`", 58, 1 << 27, &file.build());
}

#[test]
fn values() {
    let file = File::empty().entry("k", 13, &[0; 8]);
    let expected = Fault::ValueType { field: owned("metadata key `k`"), offset: 33, found: 13 };
    is_bad(&file.build(), &expected, "metadata key `k` at byte 33 has value type 13");
    let file = File::empty().entry("k", 9, &array(99, 1, &[0; 8]));
    let expected = Fault::ValueType { field: owned("metadata key `k`"), offset: 37, found: 99 };
    is_bad(&file.build(), &expected, "value type 99");
    let file = File::empty().entry("k", 7, &[2]);
    let expected = Fault::Bool { field: owned("metadata key `k`"), offset: 37, found: 2 };
    is_bad(&file.build(), &expected, "metadata key `k` at byte 37 is a bool of 2");
    let file = File::empty().entry("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]);
    let expected = Fault::NotUtf8 { field: owned("metadata key `k`"), offset: 45 };
    is_bad(&file.build(), &expected, "metadata key `k` at byte 45 is not UTF-8");
    // The second array is whole characters, but no string of it is.
    for (bytes, index, offset) in [([b'a', 0xff], 1, 66), ([0xc3, 0xa9], 0, 57)] {
        let elements = bytes.map(|byte| [1, 0, 0, 0, 0, 0, 0, 0, byte]);
        let file = File::empty().entry("k", 9, &array(8, 2, elements.as_flattened()));
        let field = format!("element {index} of metadata key `k`");
        let names = format!("{field} at byte {offset} is not UTF-8");
        is_bad(&file.build(), &Fault::NotUtf8 { field, offset }, &names);
    }
    let file = sound().entry("u8", 0, &[1]);
    is_bad(&file.build(), &Fault::DuplicateKey { key: owned("u8") }, "key `u8` occurs twice");
}

#[test]
fn alignment() {
    for found in [0_u64, 24, 3 << 30] {
        let file = sound().entry("general.alignment", 10, &found.to_le_bytes());
        let names = format!("`general.alignment` is {found}");
        is_bad(&file.build(), &Fault::Alignment { found }, &names);
    }
    let file = sound().entry("general.alignment", 8, &string("32"));
    let expected = Fault::WrongType {
        key: owned("general.alignment"),
        expected: "an integer that fits u64",
        found: owned("a string of 2 bytes"),
    };
    is_bad(&file.build(), &expected, "`general.alignment` holds a string of 2 bytes");
}

#[test]
fn split() {
    let file = sound().entry("split.count", 2, &3_u16.to_le_bytes());
    is_unsupported(&file.build(), &Unsupported::Split { parts: 3 }, "in 3 files (`split.count`)");
    let file = sound().entry("split.count", 2, &1_u16.to_le_bytes());
    parse(&file.build()).expect("a split in one part is whole");
}

#[test]
fn shapes() {
    for found in [0_u32, 5, u32::MAX] {
        let mut file = File::empty().tensor("t", &[1], F32, 0).data(4);
        file.tensors[0][9..13].copy_from_slice(&found.to_le_bytes());
        let expected = Fault::Dimensions { tensor: owned("t"), found };
        is_bad(&file.build(), &expected, &format!("tensor `t` has {found} dimensions"));
    }
    let shapes: [&[u64]; 5] = [&[0], &[32, 0], &[1 << 32, 1 << 32], &[u64::MAX, 0], &[1 << 62]];
    for shape in shapes {
        let file = File::empty().tensor("t", shape, F32, 0).data(4);
        let expected = Fault::Shape { tensor: owned("t"), shape: shape.to_vec() };
        is_bad(&file.build(), &expected, "tensor `t` has shape");
    }
    let file = File::empty().tensor("t", &[48, 2], Q4_0, 0).data(54);
    let (tensor, format) = (owned("t"), Format::Q4_0);
    let expected = Fault::Row { tensor, columns: 48, format, block: 32 };
    is_bad(
        &file.build(),
        &expected,
        "tensor `t` has rows of 48, not a multiple of the 32 of a Q4_0",
    );
}

/// Names from `enum ggml_type` in `ggml.h`; the rest of the ids are either run or undefined.
#[test]
fn tensor_types() {
    let file = |id| File::empty().tensor("t", &[256], id, 0).data(1024).build();
    let foreign = [
        (4, "Q4_2"),
        (5, "Q4_3"),
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (31, "Q4_0_4_4"),
        (32, "Q4_0_4_8"),
        (33, "Q4_0_8_8"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (36, "IQ4_NL_4_4"),
        (37, "IQ4_NL_4_8"),
        (38, "IQ4_NL_8_8"),
        (40, "NVFP4"),
        (41, "Q1_0"),
    ];
    for (id, name) in foreign {
        let names = format!(
            "tensor `t` has type {name}, which Russet does not run yet; supported: F32, F16, BF16, Q4_0"
        );
        is_unsupported(&file(id), &Unsupported::TensorType { tensor: owned("t"), name }, &names);
    }
    let run = [
        (0, "F32"),
        (1, "F16"),
        (2, "Q4_0"),
        (3, "Q4_1"),
        (6, "Q5_0"),
        (7, "Q5_1"),
        (8, "Q8_0"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (12, "Q4_K"),
        (13, "Q5_K"),
        (14, "Q6_K"),
        (20, "IQ4_NL"),
        (23, "IQ4_XS"),
        (30, "BF16"),
        (39, "MXFP4"),
    ];
    for (id, name) in run {
        let header = parse(&file(id)).expect(name);
        assert_eq!(header.tensors[0].format.name(), name);
    }
    for id in [42, 43, u32::MAX] {
        let expected = Fault::TensorType { tensor: owned("t"), id };
        is_bad(&file(id), &expected, &format!("tensor `t` has type id {id}"));
    }
}

#[test]
fn places() {
    let two = |second: &str, offset| {
        File::empty().tensor("a", &[16], F32, 0).tensor(second, &[16], F32, offset)
    };
    let expected = Fault::DuplicateTensor { tensor: owned("a") };
    is_bad(&two("a", 64).data(128).build(), &expected, "tensor `a` occurs twice");
    // Header 24, two directory entries of 33: the data begins at 96.
    let expected = Fault::Overlap { first: owned("a"), second: owned("b"), offset: 128 };
    is_bad(&two("b", 32).data(128).build(), &expected, "`a` and `b` overlap at byte 128");
    let expected = Fault::Misaligned { tensor: owned("b"), offset: 40, alignment: 32 };
    is_bad(&two("b", 40).data(128).build(), &expected, "tensor `b` has data offset 40");
    let out = |offset| Fault::OutOfRange { tensor: owned("b"), offset, bytes: 64, available: 128 };
    is_bad(&two("b", 96).data(128).build(), &out(96), "tensor `b` has 64 bytes at data offset 96");
    let far = u64::MAX - 31;
    is_bad(&two("b", far).data(128).build(), &out(far), "past the end of the file");
    is_bad(&two("b", 1 << 63).data(128).build(), &out(1 << 63), "tensor `b`");
}

#[test]
fn errors_name_the_file() {
    let (_dir, path) = super::on_disk(b"GGUF");
    let message = Gguf::open(&path).expect_err("truncated").to_string();
    let expected = format!("{}: the version at byte 4 needs 4 bytes", path.display());
    assert!(message.starts_with(&expected), "{message}");
    let (_dir, path) = super::on_disk(b"");
    let message = Gguf::open(&path).expect_err("empty").to_string();
    assert!(message.starts_with(&path.display().to_string()), "{message}");
    let absent = path.with_file_name("absent.gguf");
    let error = Gguf::open(&absent).expect_err("absent");
    assert!(matches!(error, Error::Io { .. }), "{error}");
    assert!(error.to_string().starts_with(&absent.display().to_string()), "{error}");
    let error = Gguf::open(path.parent().expect("directory")).expect_err("a directory");
    assert!(matches!(error, Error::Io { .. }), "{error}");
}
