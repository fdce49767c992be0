//! Kernels on the soft device against f64 arithmetic.
use crate::launch::*;
use msl::{Schedule, SoftOptions, Trial};

#[test]
fn reductions_through_threadgroup_memory_are_right_in_every_order() {
    if !can_run() {
        return;
    }
    for schedule in SCHEDULES {
        rms_norm(RMS_NORM, 5, 300, 128).check(plain(schedule)).unwrap();
        softmax(SOFTMAX, 5, 257, 96).check(plain(schedule)).unwrap();
        mat_vec(MAT_VEC, 7, 1056, false).check(plain(schedule)).unwrap();
        mat_vec(MAT_VEC, 7, 1056, true).check(plain(schedule)).unwrap();
    }
    // Enough threads that several of ours run them.
    rms_norm(RMS_NORM, 64, 2048, 256).check(plain(Schedule::Forward)).unwrap();
}

/// The sum of products that an 8 x 8 tile kernel makes, of numbers the type holds exactly.
fn mat_mul(entry: &'static str, encode: fn(f32) -> Vec<u8>, options: SoftOptions) {
    let (rows, columns, inner) = (16, 24, 40);
    let small =
        |seed| words(rows.max(columns) * inner, seed).into_iter().map(|w| (w % 17) as f32 - 8.0);
    let a: Vec<f32> = small(6).take(rows * inner).collect();
    let b: Vec<f32> = small(7).take(inner * columns).collect();
    let mut constants = Vec::new();
    MatMul { columns: columns as u32, inner: inner as u32 }.write_to(&mut constants);
    let trial = Trial {
        program: program(entry, vec![MatMul::MSL, MAT_MUL], Vec::new()),
        spans: vec![
            (a.iter().flat_map(|x| encode(*x)).collect(), false),
            (b.iter().flat_map(|x| encode(*x)).collect(), false),
            (vec![0xff; rows * columns * 4], true),
        ],
        constants,
        grid: [columns as u32 / 8, rows as u32 / 8, 1],
        block: [32, 1, 1],
        scratch_bytes: 0,
    };
    let found = f32s(&run(&trial, options).unwrap()[0]);
    for (at, found) in found.iter().enumerate() {
        let (row, column) = (at / columns, at % columns);
        // Small integers: exact in every type, and so is their sum.
        let expected: f32 = (0..inner).map(|k| a[row * inner + k] * b[k * columns + column]).sum();
        assert_eq!(*found, expected, "{entry}, row {row}, column {column}");
    }
}

/// The bits of a small integer as IEEE half.
fn half(x: f32) -> Vec<u8> {
    if x == 0.0 {
        return vec![0, 0];
    }
    let exponent = x.abs().log2().floor();
    let fraction = (x.abs() / exponent.exp2() - 1.0) * 1024.0;
    let sign = if x < 0.0 { 0x8000 } else { 0 };
    let bits = sign | (exponent as u16 + 15) << 10 | fraction as u16;
    bits.to_le_bytes().to_vec()
}

#[test]
fn matrices_of_a_simd_group_multiply_exactly() {
    if !can_run() {
        return;
    }
    for options in everything() {
        mat_mul("mat_mul_half", half, options);
        mat_mul("mat_mul_bfloat", |x| x.to_le_bytes()[2..].to_vec(), options);
        mat_mul("mat_mul_float", |x| x.to_le_bytes().to_vec(), options);
    }
}

#[test]
fn atomics_count_every_thread_once() {
    if !can_run() {
        return;
    }
    let x: Vec<u32> = words(1000, 8).iter().map(|word| word % 200).collect();
    let mut constants = Vec::new();
    Histogram { count: 1000 }.write_to(&mut constants);
    let trial = Trial {
        program: program("histogram", vec![Histogram::MSL, HISTOGRAM], Vec::new()),
        spans: vec![
            (bytes(x.iter().map(|x| x.to_le_bytes())), false),
            (vec![0; 256], true),
            (vec![0; 4], true),
            (vec![0; 4], true),
        ],
        constants,
        grid: [8, 1, 1],
        block: [128, 1, 1],
        scratch_bytes: 0,
    };
    let expected: Vec<u32> =
        (0..64).map(|bin| x.iter().filter(|x| **x % 64 == bin).count() as u32).collect();
    for options in everything() {
        let found = run(&trial, options).unwrap();
        assert_eq!(u32s(&found[0]), expected);
        assert_eq!(u32s(&found[1]), [*x.iter().max().unwrap()]);
        // Integers below 2^24: exact in any order.
        assert_eq!(f32s(&found[2]), [x.iter().sum::<u32>() as f32]);
    }
}

#[test]
fn lanes_tell_each_other_what_metal_says() {
    if !can_run() {
        return;
    }
    let x: Vec<u32> = words(64, 9).iter().map(|word| word >> 8).collect();
    let trial = Trial {
        program: program("lanes", vec![LANES], Vec::new()),
        spans: vec![(bytes(x.iter().map(|x| x.to_le_bytes())), false), (vec![0xff; 64 * 64], true)],
        constants: Vec::new(),
        grid: [1, 1, 1],
        block: [64, 1, 1],
        scratch_bytes: 0,
    };
    let expected = |at: usize| {
        let (group, lane) = (&x[at / 32 * 32..][..32], at % 32);
        let mask = group.iter().rev().fold(0, |mask, v| mask << 1 | v & 1);
        [
            group.iter().sum(),
            *group.iter().max().unwrap(),
            *group.iter().min().unwrap(),
            group[(lane + 5) % 32],
            group[lane ^ 9],
            group[7],
            if lane < 30 { group[lane + 2] } else { 0 },
            if lane >= 3 { group[lane - 3] } else { 0 },
            group[..=lane].iter().sum(),
            group[..lane].iter().sum(),
            mask,
            u32::from(group.contains(&x[3])),
            0,
            group.iter().fold(0, |a, b| a | b),
            group.iter().fold(0, |a, b| a ^ b),
            group.iter().fold(u32::MAX, |a, b| a & b),
        ]
    };
    for options in everything() {
        let found = u32s(&run(&trial, options).unwrap()[0]);
        for at in 0..64 {
            assert_eq!(found[at * 16..][..16], expected(at), "thread {at}, {options:?}");
        }
    }
}

/// One thread a value; the results of each.
fn elementwise(entry: &'static str, x: &[[u8; 4]], results: usize) -> Vec<u8> {
    let trial = Trial {
        program: program(entry, vec![FUNCTIONS], Vec::new()),
        spans: vec![(x.concat(), false), (vec![0xff; 4 * results * x.len()], true)],
        constants: Vec::new(),
        grid: [x.len() as u32, 1, 1],
        block: [1, 1, 1],
        scratch_bytes: 0,
    };
    run(&trial, plain(Schedule::Forward)).unwrap().remove(0)
}

#[test]
fn functions_of_floats_are_near_those_of_f64() {
    if !can_run() {
        return;
    }
    let x = [-3.7_f32, -1.5, -0.5, -0.3, 0.0, 0.1, 0.5, 1.0, 2.5, 6.0];
    let found = f32s(&elementwise("functions", &x.map(f32::to_le_bytes), 24));
    for (x, found) in x.iter().zip(found.chunks(24)) {
        let v = f64::from(*x);
        let p = v.abs() + 0.25;
        let expected = [
            v.exp(),
            v.exp2(),
            p.ln(),
            p.log2(),
            p.sqrt(),
            1.0 / p.sqrt(),
            v.sin(),
            v.cos(),
            v.tan(),
            v.tanh(),
            p.powf(v),
            v.floor(),
            v.ceil(),
            v.round_ties_even(),
            v.trunc(),
            v - v.floor(),
            v * v + p,
            v.clamp(-0.5, 0.5),
            v + (p - v) * 0.25,
            v % 0.75,
            if v == 0.0 { 0.0 } else { v.signum() },
            v.exp() + p.ln(),
            2.0 * v * p + v + 2.0 * p,
            if v < 0.0 { p } else { v },
        ];
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            // A few roundings of f32.
            assert!(error <= 1e-6 * expected.abs().max(1.0), "{i} of {v}: {found}, {expected}");
        }
    }
}

#[test]
fn functions_of_bits_are_exact() {
    if !can_run() {
        return;
    }
    let x = [0, 1, 0x8000_0000, 0xffff_ffff, 0x1234_5678, 0x00f0_0a00];
    let found = u32s(&elementwise("bit_functions", &x.map(u32::to_le_bytes), 8));
    for (x, found) in x.iter().zip(found.chunks(8)) {
        let expected = [
            x.count_ones(),
            x.leading_zeros(),
            x.trailing_zeros(),
            x.reverse_bits(),
            x.rotate_left(7),
            ((u64::from(*x) * 0x9e37_79b9) >> 32) as u32,
            x >> 5 & 0x1ff,
            x.wrapping_add(x >> 16),
        ];
        assert_eq!(found, expected, "{x:x}");
    }
}

#[test]
fn half_and_bfloat_are_rounded_after_every_operation() {
    if !can_run() {
        return;
    }
    // half: (1 + 2^-10)^2 = 1 + 2^-9 + 2^-20 is a tie broken by the last term if it is kept; minus 1 - 2^-9 it is 0
    // only when the product was rounded first. bfloat: the same with 2^-7.
    let halves: [u16; 3] = [0x3c01, 0x3c01, 0xbc02];
    let bfloats: [u16; 3] = [0x3f81, 0x3f81, 0xbf82];
    let trial = Trial {
        program: program("rounding", vec![LANES], Vec::new()),
        spans: vec![
            (bytes(halves.map(u16::to_le_bytes)), false),
            (bytes(bfloats.map(u16::to_le_bytes)), false),
            (vec![0xff; 2], true),
            (vec![0xff; 2], true),
        ],
        constants: Vec::new(),
        grid: [1, 1, 1],
        block: [1, 1, 1],
        scratch_bytes: 0,
    };
    assert_eq!(run(&trial, plain(Schedule::Forward)).unwrap(), [[0, 0], [0, 0]]);
}

#[test]
fn what_metal_refuses_is_refused() {
    if !can_run() {
        return;
    }
    let good = rms_norm(RMS_NORM, 2, 64, 64).trial;
    let refused = |trial: &Trial| match run(trial, plain(Schedule::Forward)) {
        Err(hal::Error::BadSpan { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let threads = Trial { block: [1025, 1, 1], ..good.clone() };
    assert!(refused(&threads).contains("1025 threads"));
    let scratch = Trial { scratch_bytes: 32784, ..good.clone() };
    assert!(refused(&scratch).contains("32784 bytes"));
    let uneven = Trial { scratch_bytes: 100, ..good.clone() };
    assert!(refused(&uneven).contains("multiple of 16"));
    let none = Trial { scratch_bytes: 0, ..good.clone() };
    assert!(refused(&none).contains("threadgroup memory"));
    let constants = Trial { constants: vec![0; 12], ..good.clone() };
    assert!(refused(&constants).contains("its constants have 8 bytes, the launch 12"));
    let mut wrong = good;
    wrong.spans[0].1 = true;
    assert!(refused(&wrong).contains("it reads buffer 0, the launch says it writes it"));
    wrong.spans.remove(0);
    assert!(refused(&wrong).contains("3 device pointers, the launch 2 spans"));
    let declared = changed(SOFTMAX, "partial[32]", "partial[8193]");
    let error = softmax(declared, 1, 64, 32).check(plain(Schedule::Forward)).unwrap_err();
    assert!(error.contains("more than 32768 bytes of threadgroup memory"), "{error}");
}
