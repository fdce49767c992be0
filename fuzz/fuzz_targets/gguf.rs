//! The GGUF header parser on any bytes: it answers, and what it accepts can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::gguf::{Header, TensorInfo, Value, parse};

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(header) => check(&header, bytes),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn check(header: &Header, bytes: &[u8]) {
    for (key, value) in header.metadata.iter() {
        assert_eq!(header.metadata.get(key).map(Value::to_string), Some(value.to_string()));
    }
    let mut places: Vec<(usize, usize)> = header.tensors.iter().map(|t| read(t, bytes)).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|p| p[0].1 <= p[1].0), "tensors overlap");
}

/// Reads all of a tensor and returns where it begins and ends.
fn read(tensor: &TensorInfo, bytes: &[u8]) -> (usize, usize) {
    let start = usize::try_from(tensor.offset).expect("an offset in the file");
    let end = start + usize::try_from(tensor.bytes).expect("a length in the file");
    let data = &bytes[start..end];
    let bad = tensor.format.first_bad_block(data);
    assert!(bad.is_none_or(|block| block < data.len() / tensor.format.block_bytes()));
    let weights = tensor.columns() * tensor.rows();
    let mut out = vec![0.0; usize::try_from(weights).expect("weights in the file")];
    tensor.format.dequantize(data, &mut out);
    (start, end)
}
