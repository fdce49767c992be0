mod corrupt;
mod real;
mod writer;

use std::path::PathBuf;

use ops::format::Format;
use proptest::prelude::*;

use super::{Array, Error, Fault, Gguf, Missing, Strings, Value, parse};
use writer::{F32, File, sound};

/// Writes `bytes` to a file of a directory that is deleted when dropped.
fn on_disk(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("write");
    (dir, path)
}

#[test]
fn reads_every_value_type() {
    let header = parse(&sound().build()).expect("a sound file");
    assert_eq!(header.version, 3);
    let m = &header.metadata;
    assert_eq!(m.str("general.architecture").unwrap(), "llama");
    let scalars = [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-1)),
        ("u16", Value::U16(513)),
        ("i16", Value::I16(-2)),
        ("u32", Value::U32(7)),
        ("i32", Value::I32(-7)),
        ("f32", Value::F32(0.5)),
        ("bool", Value::Bool(true)),
        ("u64", Value::U64(1 << 40)),
        ("i64", Value::I64(9)),
        ("f64", Value::F64(0.25)),
        ("bools", Value::Array(Array::Bool(vec![false, true]))),
    ];
    for (key, expected) in scalars {
        assert_eq!(m.get(key), Some(&expected), "{key}");
    }
    assert_eq!(m.strings("strings").unwrap().iter().collect::<Vec<_>>(), ["a", "", "né"]);
    assert_eq!(m.f32s("f32s").unwrap(), [0.0, 1.0]);
    assert_eq!(m.u32s("u32s").unwrap(), [5]);
    assert_eq!(m.i32s("i32s").unwrap(), [-5]);
    let inner = [Array::I32(vec![1, 2]), Array::Strings(["x"].into_iter().collect())];
    assert_eq!(m.get("nested"), Some(&Value::Array(Array::Arrays(inner.to_vec()))));
    let keys: Vec<_> = m.iter().map(|(key, _)| key).take(3).collect();
    assert_eq!(keys, ["general.architecture", "u8", "i8"], "file order");
}

#[test]
fn getters_widen_and_name_the_key() {
    let m = parse(&sound().build()).expect("a sound file").metadata;
    assert_eq!(m.u32("u8").unwrap(), 200);
    assert_eq!(m.u64("i64").unwrap(), 9);
    assert_eq!(m.f32("f64").unwrap(), 0.25);
    assert!(m.bool("bool").unwrap());
    assert_eq!(m.opt_u32("absent").unwrap(), None);
    let missing = m.u32("absent").unwrap_err();
    assert!(
        matches!(&missing, Error::Missing { what: Missing::Key { key }, .. } if key == "absent")
    );
    assert_eq!(missing.to_string(), "metadata key `absent` is missing");
    let wrong = [
        (
            m.opt_u32("u64").err(),
            "`u64` holds u64 1099511627776, expected an integer that fits u32",
        ),
        (m.opt_u64("i32").err(), "`i32` holds i32 -7, expected an integer that fits u64"),
        (m.opt_f32("u8").err(), "`u8` holds u8 200, expected an f32 or f64"),
        (m.opt_bool("u8").err(), "`u8` holds u8 200, expected a bool"),
        (m.opt_str("u8").err(), "`u8` holds u8 200, expected a string"),
        (
            m.opt_strings("f32s").err(),
            "`f32s` holds an array of 2 f32, expected an array of string",
        ),
        (m.opt_f32s("i32s").err(), "`i32s` holds an array of 1 i32, expected an array of f32"),
        (m.opt_u32s("i32s").err(), "`i32s` holds an array of 1 i32, expected an array of u32"),
        (
            m.opt_i32s("strings").err(),
            "`strings` holds an array of 3 string, expected an array of i32",
        ),
    ];
    for (error, expected) in wrong {
        let error = error.expect(expected);
        assert!(matches!(error, Error::BadFile { fault: Fault::WrongType { .. }, .. }), "{error}");
        assert_eq!(error.to_string(), format!("metadata key {expected}"));
    }
}

#[test]
fn strings_by_index() {
    let strings: Strings = ["", "ab", "", "c"].into_iter().collect();
    assert_eq!(strings.len(), 4);
    let by_index = [strings.get(0), strings.get(1), strings.get(2), strings.get(3), strings.get(4)];
    assert_eq!(by_index, [Some(""), Some("ab"), Some(""), Some("c"), None]);
}

#[test]
fn opens_maps_and_finds() {
    let mut file = sound();
    file.data = (0..104).collect();
    let bytes = file.build();
    let (_dir, path) = on_disk(&bytes);
    let gguf = Gguf::open(&path).expect("a sound file");
    assert_eq!(
        (gguf.version(), gguf.path(), gguf.mapping().len()),
        (3, path.as_path(), bytes.len())
    );
    let b = gguf.tensor("b").unwrap();
    assert_eq!((b.format, b.shape.as_slice(), b.bytes), (Format::Q4_0, &[32, 2, 2][..], 72));
    assert_eq!((b.columns(), b.rows()), (32, 4));
    assert_eq!(gguf.bytes(b), &bytes[bytes.len() - 72..]);
    assert_eq!(gguf.bytes(gguf.find("a").unwrap()), (0..24).collect::<Vec<u8>>());
    assert_eq!(gguf.find("c"), None);
    let message = gguf.tensor("c").unwrap_err().to_string();
    assert_eq!(message, format!("{}: tensor `c` is missing", path.display()));
    let message = gguf.metadata().str("c").unwrap_err().to_string();
    assert_eq!(message, format!("{}: metadata key `c` is missing", path.display()));
}

#[test]
fn check_scales_names_tensor_and_block() {
    let mut file = sound();
    file.data[32 + 18 + 1] = 0x7c;
    let (_dir, path) = on_disk(&file.build());
    let gguf = Gguf::open(&path).expect("a sound header");
    gguf.check_scales(gguf.tensor("a").unwrap()).expect("finite weights");
    let error = gguf.check_scales(gguf.tensor("b").unwrap()).unwrap_err();
    let expected = Fault::Scale { tensor: "b".to_owned(), block: 1 };
    assert!(matches!(&error, Error::BadFile { fault, .. } if *fault == expected), "{error}");
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
}

#[test]
fn version_2_reads_alike() {
    let (mut two, three) = (sound(), parse(&sound().build()).unwrap());
    two.version = 2;
    let two = parse(&two.build()).unwrap();
    assert_eq!((two.version, two.metadata, two.tensors), (2, three.metadata, three.tensors));
}

#[test]
fn alignment_moves_the_data() {
    let mut file = sound()
        .entry("general.alignment", 4, &64_u32.to_le_bytes())
        .tensor("c", &[1], F32, 128)
        .data(132);
    file.alignment = 64;
    file.tensors.remove(1);
    let header = parse(&file.build()).expect("a sound file");
    assert_eq!(header.data_offset % 64, 0);
    assert_eq!(header.tensors[1].offset, header.data_offset + 128);
}

#[test]
fn a_header_alone_is_sound() {
    let header = parse(&File::empty().build()).expect("no tensors");
    assert!(header.tensors.is_empty() && header.metadata.is_empty());
}

/// The fuzz seeds, which `xtask/golden/formats.py` writes with the `gguf` package.
#[test]
fn reads_what_the_gguf_package_writes() {
    let seed = |name: &str| {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/gguf");
        let bytes = std::fs::read(format!("{root}/{name}.gguf")).expect("a seed");
        (parse(&bytes).expect(name), bytes)
    };
    let (values, _) = seed("values");
    for key in ["UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "UINT64", "INT64"] {
        assert_eq!(values.metadata.u32(&format!("k.{key}")).unwrap(), 7);
    }
    assert_eq!(values.metadata.f32("k.FLOAT32").unwrap(), 7.0);
    assert_eq!(values.metadata.f32("k.FLOAT64").unwrap(), 7.0);
    let nested = Array::Arrays(vec![Array::I32(vec![1, 2]), Array::I32(vec![3])]);
    assert_eq!(values.metadata.get("k.nested"), Some(&Value::Array(nested)));
    let (vocabulary, _) = seed("vocabulary");
    let tokens = vocabulary.metadata.strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.iter().collect::<Vec<_>>(), ["<s>", "a", "é", ""]);
    let scores = vocabulary.metadata.f32s("tokenizer.ggml.scores").unwrap();
    assert_eq!(scores, [0.0, -1.0, -2.5, -1000.0]);
    let (tensors, bytes) = seed("tensors");
    let [a, b] = tensors.tensors.as_slice() else { panic!("two tensors") };
    assert_eq!((a.shape.as_slice(), b.shape.as_slice()), (&[3][..], &[32, 2][..]));
    let at = usize::try_from(a.offset).unwrap();
    assert_eq!(bytes[at..at + 12], [0, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
    let (formats, _) = seed("formats");
    assert!(formats.tensors.iter().all(|t| t.name == t.format.name()), "named by their type");
    assert_eq!(formats.tensors.len(), 12);
}

proptest! {
    /// Whatever happens to the bytes, the parser answers, and tensors of a file it accepts lie inside.
    #[test]
    fn mutations_never_panic(
        edits in prop::collection::vec((0_usize..1200, any::<u8>()), 1..8),
        cut in 0_usize..1200,
    ) {
        let mut bytes = sound().build();
        for (at, byte) in edits {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        bytes.truncate(cut.max(8));
        if let Ok(header) = parse(&bytes) {
            for t in &header.tensors {
                prop_assert!(t.offset + t.bytes <= u64::try_from(bytes.len()).unwrap());
            }
        }
    }

    #[test]
    fn noise_behind_the_magic_never_panics(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0".to_vec();
        bytes.extend(noise);
        drop(parse(&bytes));
    }
}
