//! The same products from packed tiles, with every family that has kernels here.
use super::{EXACT, Feed, HIDDEN, Head, Product, Project, Qkv, WORDS, linear, norm, of};
use crate::conformance::{Forward as _, Setup, Tolerance, check, token};
use crate::format::Format;
use crate::linear::pack::packed_bytes;
use crate::quantize::words;
use crate::simd::Family;
use crate::{Activation, Hidden, NormKind};

fn families() -> Vec<Family> {
    let has_kernels = |family: &Family| {
        family.runs_here() && packed_bytes(*family, Format::Q4_0, 16, 64).is_some()
    };
    let families: Vec<_> = Family::ALL.into_iter().filter(has_kernels).collect();
    let missing = |family: &&Family| family.is_of_this_architecture() && !family.runs_here();
    for family in Family::ALL.iter().filter(missing) {
        eprintln!("SKIPPED: packed tiles with {family}: not all that it needs is here");
    }
    families
}

fn setup(family: Family, seed: u64) -> Setup {
    let mut setup = Setup::new(seed);
    setup.packed_for = Some(family);
    setup
}

/// Columns, rows, tokens, bias: every width of a tile of tokens, whole and in part, and steps that fill less than the bucket.
const SHAPES: [(u32, u32, u32, bool); 10] = [
    (64, 16, 1, false),
    (576, 48, 1, true),
    (256, 32, 2, false),
    (256, 16, 3, true),
    (512, 48, 6, false),
    (768, 16, 9, true),
    (256, 64, 16, false),
    (1024, 80, 33, true),
    (2048, 48, 23, false),
    (2048, 32, 37, false),
];

/// Inputs that int8 holds exactly leave nothing to the quantization: every format is held to f32 rounding.
#[test]
fn exact_inputs_give_exact_products() {
    for family in families_of_answers() {
        for (seed, format) in (1..).zip(Format::ALL) {
            for (columns, rows, tokens, bias) in SHAPES {
                let fits = packed_bytes(family, format, rows.into(), columns as usize).is_some();
                if !fits {
                    continue;
                }
                let mut setup = setup(family, seed);
                let table = setup.exact_table(columns);
                let linear = linear(&mut setup, format, rows, columns, bias);
                setup.batch(tokens);
                setup.batch(tokens.div_ceil(2));
                let name = format!("{family} {format} {rows} x {columns}, {tokens} tokens");
                check(&name, &setup, &Product { table, linear }, &[EXACT]);
            }
        }
    }
}

/// Families whose answers' tokens take kernels of their own: a library multiplies prompts only.
fn families_of_answers() -> impl Iterator<Item = Family> {
    families().into_iter().filter(|family| !family.accelerates())
}

/// Steps without prompts and with some, whose first token this is: as far as the family has kernels of its own for them.
fn prompts(family: Family) -> impl Iterator<Item = Option<u32>> {
    let own = words::are_for(family) || family.accelerates();
    let none = (!family.accelerates()).then_some(None);
    none.into_iter().chain(own.then_some(Some(1)))
}

/// Each case with each of [`prompts`].
fn each_with<T: Copy>(
    cases: impl IntoIterator<Item = T>,
    family: Family,
) -> impl Iterator<Item = (T, Option<u32>)> {
    cases.into_iter().flat_map(move |case| prompts(family).map(move |prompts| (case, prompts)))
}

/// A product of two, one of them through a function whose slope is at most 1.2.
const HIDDEN_WORDS: Tolerance = Tolerance::Norm(2e-3);

/// `of_words` if there are prompts, which the family multiplies as words, else `exact`.
fn tolerance(
    (family, prompts): (Family, Option<u32>),
    of_words: Tolerance,
    exact: Tolerance,
) -> Tolerance {
    if prompts.is_some() && words::are_for(family) { of_words } else { exact }
}

#[test]
fn prompts_are_close_and_exact_rows_beside_them_stay_exact() {
    let own = |family: &Family| prompts(*family).flatten().count() > 0;
    let families: Vec<_> = families().into_iter().filter(own).collect();
    if families.is_empty() {
        eprintln!(
            "SKIPPED: prompts: no family of this processor has kernels of their own for them"
        );
    }
    for family in families {
        for (seed, format) in (1..).zip(Format::ALL) {
            for (columns, rows, tokens, bias) in SHAPES {
                if packed_bytes(family, format, rows.into(), columns as usize).is_none() {
                    continue;
                }
                let exact: &[u32] = if family.accelerates() { &[5] } else { &[0, 1, 5] };
                for exact in exact.iter().copied().filter(|exact| *exact < tokens) {
                    let mut setup = setup(family, seed);
                    setup.prompts_from = Some(exact);
                    let table = setup.table(columns);
                    let linear = linear(&mut setup, format, rows, columns, bias);
                    setup.batch(tokens);
                    setup.batch(tokens.div_ceil(2));
                    let name = format!(
                        "{family} {format} {rows} x {columns}, {tokens} tokens of which {exact} exact"
                    );
                    let forward = Product { table, linear };
                    let tolerance = tolerance((family, Some(exact)), WORDS, of(format));
                    check(&name, &setup, &forward, &[tolerance]);
                }
            }
        }
    }
}

/// So many that two threads begin with their own: the second with what is not the first of the prompts'.
#[test]
fn tokens_of_a_long_prompt() {
    for family in families() {
        let mut setup = setup(family, 1);
        let exact = prompts(family).flatten().next().map(|_| 21);
        setup.prompts_from = exact;
        let table = setup.table(256);
        let linear = linear(&mut setup, Format::Q4K, 48, 256, true);
        setup.batch(550);
        let forward = Product { table, linear };
        let tolerance = tolerance((family, exact), WORDS, of(Format::Q4K));
        check(&format!("{family} 550 tokens"), &setup, &forward, &[tolerance]);
    }
}

#[test]
fn part_of_a_matrix() {
    for (family, format) in
        families_of_answers().flat_map(|f| [(f, Format::Q5_1), (f, Format::Q6K)])
    {
        let mut setup = setup(family, 1);
        let table = setup.exact_table(256);
        let whole = setup.matrix(format, 96, 256);
        let linear = crate::Linear { weight: whole.part(32, 48), bias: None };
        setup.batch(4);
        check(&format!("{family} part of {format}"), &setup, &Product { table, linear }, &[EXACT]);
    }
}

/// Packed and unpacked matrices, of different formats and sizes, share a normalized input.
#[test]
fn three_matrices() {
    use Format::{F16, Q4_0, Q4K, Q5_1, Q6K, Q8_0};
    for family in families() {
        let cases = [([Q4_0, Q8_0, Q5_1], NormKind::Rms), ([Q4K, F16, Q6K], NormKind::Layer)];
        for (seed, (formats, kind)) in (1..).zip(cases) {
            let shapes = [([96, 32, 48], 3), ([96, 33, 16], 20)];
            for ((heights, tokens), prompts) in each_with(shapes, family) {
                let mut setup = setup(family, seed);
                setup.prompts_from = prompts;
                let norm = norm(&mut setup, kind, 512);
                let mut heights = heights.into_iter();
                let linears = formats.map(|format| {
                    let rows = heights.next().expect("three");
                    linear(&mut setup, format, rows, 512, rows == 32)
                });
                let forward = Qkv { table: setup.table(512), norm, linears };
                setup.batch(tokens);
                setup.batch(1);
                let name = format!("{family} qkv {formats:?}, prompts from {prompts:?}");
                let tolerances =
                    formats.map(|format| tolerance((family, prompts), WORDS, of(format)));
                check(&name, &setup, &forward, &tolerances);
            }
        }
    }
}

#[test]
fn hidden_rows() {
    for family in families() {
        for (up, activation) in
            [None, Some(Format::Q8_0)].into_iter().flat_map(|up| Activation::ALL.map(|a| (up, a)))
        {
            for (tokens, prompts) in each_with([1, 4, 21], family) {
                let mut setup = setup(family, 1);
                setup.prompts_from = prompts;
                let norm = norm(&mut setup, NormKind::Rms, 512);
                let hidden = Hidden {
                    gate: linear(&mut setup, Format::Q4K, 80, 512, true),
                    up: up.map(|up| linear(&mut setup, up, 80, 512, false)),
                    activation,
                };
                let forward = Feed { table: setup.table(512), norm, hidden };
                setup.batch(tokens);
                let name = format!("{family} hidden {activation:?}, prompts from {prompts:?}");
                let tolerance = tolerance((family, prompts), HIDDEN_WORDS, HIDDEN);
                check(&name, &setup, &forward, &[tolerance]);
            }
        }
    }
}

#[test]
fn products_accumulate() {
    let cases = families().into_iter().flat_map(|f| each_with([1, 19], f).map(move |c| (f, c)));
    for (family, (tokens, prompts)) in cases {
        let mut setup = setup(family, 1);
        setup.prompts_from = prompts;
        let forward = Project {
            x: setup.table(96),
            y: setup.exact_table(256),
            linear: linear(&mut setup, Format::Q4_1, 96, 256, true),
            post_norm: None,
        };
        setup.batch(tokens);
        let name = format!("{family} project, prompts from {prompts:?}");
        check(&name, &setup, &forward, &[tolerance((family, prompts), WORDS, EXACT)]);
    }
}

#[test]
fn logits_of_the_wanted_rows() {
    for family in families_of_answers() {
        let mut setup = setup(family, 1);
        let norm = norm(&mut setup, NormKind::Rms, 256);
        let linear = linear(&mut setup, Format::Q8_0, 1008, 256, false);
        let forward = Head { table: setup.table(256), norm, linear };
        setup.step(vec![token(1, 0, 0, false), token(2, 1, 0, true)]);
        // A chunk of a prompt that asks for no logits.
        setup.step(vec![token(1, 0, 0, false), token(2, 1, 0, false)]);
        check(&format!("{family} head"), &setup, &forward, &[of(Format::Q8_0)]);
    }
}

/// Tiles that are packed for the moment give the bits of those that were packed before, whoever packed them.
#[test]
fn products_do_not_tell_where_a_tile_was() {
    for family in families() {
        for (seed, format) in (1..).zip(Format::ALL) {
            for (columns, rows, tokens, prompts) in [(512, 64, 1, None), (768, 48, 21, Some(2))] {
                if packed_bytes(family, format, rows.into(), columns as usize).is_none() {
                    continue;
                }
                let mut setup = setup(family, seed);
                setup.prompts_from = prompts;
                let table = setup.table(columns);
                let product =
                    Product { table, linear: linear(&mut setup, format, rows, columns, true) };
                setup.batch(tokens);
                for subject in setup.subjects() {
                    let mut run = |ready| {
                        setup.ready = ready;
                        let ran = setup.run(&*subject.device, |to| product.forward(to));
                        ran.into_iter().flat_map(|ran| ran.outputs).flatten().map(f32::to_bits)
                    };
                    let all: Vec<u32> = run(Some(u32::MAX)).collect();
                    assert!(run(Some(0)).eq(all.iter().copied()), "{family} {format}: none ready");
                    assert!(run(Some(1)).eq(all.iter().copied()), "{family} {format}: one ready");
                }
            }
        }
    }
}
