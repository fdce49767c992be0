//! Cases of `embed` and `positions`: every format, ids of this step and of the last step's samples.
use crate::conformance::{Forward, Setup, Tolerance, check, token};
use crate::format::Format;
use crate::{FEEDBACK, Ops, Weight};

/// One multiplication, and one addition for positions: an f32 rounding of each.
const ROUNDING: &[Tolerance] = &[Tolerance::Max(2e-7)];

struct Embed(Weight, f32);

impl Forward for Embed {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        vec![ops.embed(&self.0, self.1)]
    }
}

struct Positions(Weight, Weight);

impl Forward for Positions {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor> {
        let x = ops.embed(&self.0, 1.0);
        vec![ops.add_positions(x, &self.1)]
    }
}

/// Rows of blocks, and for the float formats rows of any length.
fn columns(format: Format) -> &'static [u32] {
    match format.block_elements() {
        1 => &[1, 3, 576],
        32 => &[32, 576],
        _ => &[256, 768],
    }
}

#[test]
fn every_format_embeds() {
    for (seed, format) in (1..).zip(Format::ALL) {
        for (columns, scale) in columns(format).iter().zip([25.3, 1.0, 1e-3]) {
            let mut setup = Setup::new(seed);
            let table = setup.matrix(format, crate::conformance::VOCABULARY, *columns);
            setup.batch(9);
            setup.batch(1);
            check(&format!("embed {format} {columns}"), &setup, &Embed(table, scale), ROUNDING);
        }
    }
}

#[test]
fn a_fed_back_token_is_the_last_steps_sample() {
    let mut setup = Setup::new(1);
    let table = setup.table(48);
    setup.sampled = vec![11, 39, 0, 22];
    setup.step(vec![
        token(FEEDBACK | 3, 0, 0, true),
        token(5, 1, 0, true),
        token(FEEDBACK, 2, 0, true),
        token(FEEDBACK | 1, 3, 0, true),
    ]);
    check("feedback", &setup, &Embed(table, 1.0), ROUNDING);
}

#[test]
fn part_of_a_table_embeds() {
    let mut setup = Setup::new(2);
    let table = setup.matrix(Format::Q4_0, 100, 64).part(60, crate::conformance::VOCABULARY);
    setup.batch(9);
    check("part", &setup, &Embed(table, 1.0), ROUNDING);
}

#[test]
fn positions_are_added() {
    for (seed, format) in (1..).zip([Format::F32, Format::F16, Format::Q8_0]) {
        let mut setup = Setup::new(seed);
        let (table, positions) = (setup.table(96), setup.matrix(format, 1024, 96));
        setup.step(vec![token(1, 1023, 0, true), token(2, 0, 1, false), token(3, 77, 0, true)]);
        check(&format!("positions {format}"), &setup, &Positions(table, positions), ROUNDING);
    }
}

/// Address spaces, NVIDIA's compiler and AMD's.
#[test]
fn every_compiler_takes_the_kernels() {
    let format = hal::Value::Uint(Format::Q5K as u32);
    let constants = vec![hal::FunctionConstant { index: 0, value: format }].leak();
    for entry in ["embed", "positions"] {
        let gpu = hal::Gpu { texts: super::gpu::TEXTS, entry, constants };
        match msl::check(&gpu) {
            Ok(missing) => missing.iter().for_each(|line| eprintln!("SKIPPED: {line}")),
            Err(error) => panic!("{error}"),
        }
    }
}
