use super::{Format, iq4, k, mxfp4};

/// Blocks and the weights the `gguf` package reads from them (`xtask/golden/formats.py`).
fn fixture(format: Format) -> (Vec<u8>, Vec<f32>) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/formats");
    let all = std::fs::read(format!("{root}/{format}.bin")).expect("fixture");
    let each = format.block_bytes() + 4 * format.block_elements();
    assert_eq!(all.len() % each, 0, "{format}: whole blocks");
    let (blocks, weights) = all.split_at(all.len() / each * format.block_bytes());
    (blocks.to_vec(), weights.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// The gguf package rounds after the same f32 operations in the same order, so every bit agrees.
#[test]
fn dequantize_equals_the_gguf_package_bit_for_bit() {
    for format in Format::ALL {
        let (blocks, expected) = fixture(format);
        let mut found = vec![f32::NAN; expected.len()];
        format.dequantize(&blocks, &mut found);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{format} weight {i}: {found} {expected}"
            );
        }
        assert_eq!(format.first_bad_block(&blocks), None, "{format}");
    }
}

/// Sizes from the table in the gguf package (`GGML_QUANT_SIZES`).
#[test]
fn block_sizes() {
    let sizes = Format::ALL.map(|f| (f.name(), f.block_elements(), f.block_bytes()));
    let expected = [
        ("F32", 1, 4),
        ("F16", 1, 2),
        ("BF16", 1, 2),
        ("Q4_0", 32, 18),
        ("Q4_1", 32, 20),
        ("Q5_0", 32, 22),
        ("Q5_1", 32, 24),
        ("Q8_0", 32, 34),
        ("Q2_K", 256, 84),
        ("Q3_K", 256, 110),
        ("Q4_K", 256, 144),
        ("Q5_K", 256, 176),
        ("Q6_K", 256, 210),
        ("IQ4_NL", 32, 18),
        ("IQ4_XS", 256, 136),
        ("MXFP4", 32, 17),
    ];
    assert_eq!(sizes, expected);
}

#[test]
fn row_bytes_wants_whole_blocks_and_no_overflow() {
    assert_eq!(Format::Q4K.row_bytes(512), Some(288));
    assert_eq!(Format::Q4K.row_bytes(0), Some(0));
    assert_eq!(Format::Q4K.row_bytes(128), None);
    assert_eq!(Format::F32.row_bytes(usize::MAX), None);
}

#[test]
#[should_panic(expected = "Q4_0: 17 bytes do not hold 32 weights")]
fn dequantize_refuses_other_lengths() {
    Format::Q4_0.dequantize(&[0; 17], &mut [0.0; 32]);
}

/// Byte offsets of every scale, from the structs in `ggml-common.h`.
#[test]
fn first_bad_block_sees_every_scale() {
    let f16_at: [(Format, &[usize]); 13] = [
        (Format::F16, &[0]),
        (Format::Q4_0, &[0]),
        (Format::Q4_1, &[0, 2]),
        (Format::Q5_0, &[0]),
        (Format::Q5_1, &[0, 2]),
        (Format::Q8_0, &[0]),
        (Format::Q2K, &[80, 82]),
        (Format::Q3K, &[108]),
        (Format::Q4K, &[0, 2]),
        (Format::Q5K, &[0, 2]),
        (Format::Q6K, &[208]),
        (Format::Iq4Nl, &[0]),
        (Format::Iq4Xs, &[0]),
    ];
    for (format, places) in f16_at {
        let (sound, _) = fixture(format);
        for &at in places {
            for bits in [0x7c00_u16, 0xfc00, 0x7e00, 0xfe01] {
                let mut bytes = sound.clone();
                let at = 2 * format.block_bytes() + at;
                bytes[at..at + 2].copy_from_slice(&bits.to_le_bytes());
                assert_eq!(format.first_bad_block(&bytes), Some(2), "{format} {at} {bits:#x}");
            }
        }
    }
}

#[test]
fn first_bad_block_of_the_other_formats() {
    let mut f32s: Vec<u8> = [1.0_f32, 2.0, f32::NAN].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(Format::F32.first_bad_block(&f32s), Some(2));
    f32s[4..8].copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
    assert_eq!(Format::F32.first_bad_block(&f32s), Some(1));
    // 0x7f80 is infinity; 0x7c00 is an ordinary bf16, though infinity as f16.
    assert_eq!(Format::Bf16.first_bad_block(&[0x00, 0x7c, 0x80, 0x7f]), Some(1));
    let mut mx = vec![0; 2 * 17];
    mx[0] = 254;
    assert_eq!(Format::Mxfp4.first_bad_block(&mx), None);
    mx[17] = 255;
    assert_eq!(Format::Mxfp4.first_bad_block(&mx), Some(1));
}

/// 2^(e - 128) by definition.
#[test]
fn mxfp4_scale_is_a_power_of_two() {
    for e in 0..=254_u8 {
        let expected = (f64::from(e) - 128.0).exp2();
        assert_eq!(f64::from(mxfp4::scale_half(e)), expected, "{e}");
    }
}

/// Group scales of blocks made by hand: each field alone at its largest.
#[test]
fn packed_group_scales() {
    let mut s = [0; 12];
    s[9] = 0xf0; // low nibble of group 5's minimum
    s[5] = 0xc0; // its two high bits, above group 1's minimum
    assert_eq!(k::scale_min(&s, 5), (0, 63));
    assert_eq!(k::scale_min(&s, 1), (0, 0));
    let mut s = [0; 12];
    s[1] = 0xf0; // low nibble of group 9
    s[9] = 0x30; // two high bits of group 9
    assert_eq!(k::q3_scale(&s, 9), 31);
    assert_eq!(k::q3_scale(&s, 1), -32);
    assert_eq!(iq4::xs_scale(0xc000, [0, 0, 0, 0xf0], 7), 31);
    assert_eq!(iq4::xs_scale(0xc000, [0, 0, 0, 0xf0], 6), -32);
}
