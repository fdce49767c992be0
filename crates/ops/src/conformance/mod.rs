//! Every op's cases on every device that opens here, against the reference.
//!
//! A case is a [`Setup`] (weights, steps, caches) and a [`Forward`] (calls on any [`Ops`]). [`check`] runs it through
//! [`Reference`] and, recorded once and submitted for every step, on each device. Memory that no op may read is filled
//! with poison: NaN as a number, out of range as an index. Memory that no op may write must keep it.
mod checked;
mod gpus;
mod layer;
mod random;
mod recording;
mod setup;
mod stepwise;

pub(crate) use gpus::checked;
pub(crate) use random::{Random, random_row};
pub(crate) use setup::{POISON_F16, Setup, VOCABULARY, token};

use crate::{Matrix, Ops};
use hal::Device;
use hal::cpu::{Cpu, CpuOptions};

/// Calls on any reader; returns the tensors to compare.
pub(crate) trait Forward {
    fn forward<O: Ops>(&self, ops: &mut O) -> Vec<O::Tensor>;
}

/// How far a device may be from the reference.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tolerance {
    /// Every number: so much of the largest magnitude in its row.
    Max(f64),
    /// Every row: so much relative error in the Euclidean norm.
    Norm(f64),
}

/// Products and sums in f32 with 16 lanes: rows of a few thousand numbers round to a few 1e-7 of the result's scale.
pub(crate) const FLOAT: Tolerance = Tolerance::Max(1e-5);
/// Products with 16-bit inputs. The largest of 32 normal numbers is about 2.1 sigma, so a code's step is 2.1 / 32512 sigma and
/// its rounding error `step / sqrt(12)`: 2e-5 of the norm. Three times that covers rows of few numbers.
pub(crate) const INT16: Tolerance = Tolerance::Norm(6e-5);

/// A device to test.
pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) device: Box<dyn Device>,
    /// False when it only records.
    pub(crate) executes: bool,
}

/// Every device that opens here, opened anew (GPUs once a process): one that is lost takes no other case with it.
/// A new device is one line.
pub(crate) fn subjects() -> Vec<Subject> {
    let cpu = |threads| Subject {
        name: format!("cpu with {threads} threads"),
        device: Box::new(Cpu::open(CpuOptions { threads: Some(threads) }).expect("a cpu")),
        executes: true,
    };
    let null = Box::new(hal::null::Null::default());
    let null = Subject { name: "null".to_owned(), device: null, executes: false };
    let stepwise = Box::new(stepwise::Stepwise::open());
    let stepwise = Subject { name: "cpu by commands".to_owned(), device: stepwise, executes: true };
    let mut subjects = vec![null, stepwise, cpu(1), cpu(2), cpu(3)];
    subjects.extend(gpus::subjects());
    subjects
}

/// Runs a case everywhere. `tolerances` has one entry per tensor that `forward` returns, or one for all.
pub(crate) fn check(name: &str, setup: &Setup, forward: &impl Forward, tolerances: &[Tolerance]) {
    check_on(setup.subjects(), name, setup, forward, tolerances);
}

/// As [`check`], on some devices.
pub(crate) fn check_on(
    subjects: Vec<Subject>,
    name: &str,
    setup: &Setup,
    forward: &impl Forward,
    tolerances: &[Tolerance],
) {
    let expected = setup.expected(forward);
    for subject in subjects {
        let steps = setup.run(&*subject.device, |to| forward.forward(to));
        assert_eq!(steps.len(), expected.len());
        if !subject.executes {
            continue;
        }
        for (step, (ran, expected)) in steps.iter().zip(&expected).enumerate() {
            for (output, (got, want)) in ran.outputs.iter().zip(expected).enumerate() {
                let tolerance = tolerances[output.min(tolerances.len() - 1)];
                if let Err(difference) = compare(got, want, tolerance) {
                    let seed = setup.seed();
                    panic!(
                        "{name} on {}, seed {seed}, step {step}, output {output}: {difference}",
                        subject.name
                    );
                }
            }
        }
    }
}

/// What is wrong with `got`, if anything.
fn compare(got: &[f32], want: &Matrix, tolerance: Tolerance) -> Result<(), String> {
    if got.len() != want.data.len() {
        return Err(format!("{} numbers instead of {}", got.len(), want.data.len()));
    }
    for (row, (got, want)) in got.chunks_exact(want.columns).zip(want.rows()).enumerate() {
        compare_row(got, want, tolerance)
            .map_err(|difference| format!("row {row}, {difference}"))?;
    }
    Ok(())
}

fn compare_row(got: &[f32], want: &[f32], tolerance: Tolerance) -> Result<(), String> {
    let difference = |i: usize| (f64::from(got[i]) - f64::from(want[i])).abs();
    let norm = |f: &dyn Fn(usize) -> f64| (0..got.len()).map(|i| f(i).powi(2)).sum::<f64>().sqrt();
    if let Some(i) = (0..got.len()).find(|i| !got[*i].is_finite()) {
        return Err(format!("column {i}: {} instead of {}", got[i], want[i]));
    }
    match tolerance {
        Tolerance::Max(bound) => {
            let max = want.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
            let worst = (0..got.len()).max_by(|a, b| difference(*a).total_cmp(&difference(*b)));
            let worst = worst.expect("rows are not empty");
            let error = difference(worst);
            if error <= bound * f64::from(max) {
                return Ok(());
            }
            let (got, want) = (got[worst], want[worst]);
            Err(format!(
                "column {worst}: {got} instead of {want}, {:.2e} of the row's largest",
                error / f64::from(max)
            ))
        }
        Tolerance::Norm(bound) => {
            let (error, whole) = (norm(&difference), norm(&|i| f64::from(want[i])));
            if error <= bound * whole {
                return Ok(());
            }
            let error = error / whole;
            Err(format!("relative error {error:.2e} of the row, {bound:.2e} allowed"))
        }
    }
}

#[test]
fn a_wrong_number_is_caught() {
    let want = Matrix { columns: 2, data: vec![1.0, 100.0, 0.0, 0.0] };
    let compared = |got: [f32; 4], tolerance| compare(&got, &want, tolerance).is_ok();
    for tolerance in [Tolerance::Max(1e-3), Tolerance::Norm(1e-3)] {
        assert!(compared([1.05, 100.0, 0.0, 0.0], tolerance), "within the bound");
        assert!(!compared([1.2, 100.0, 0.0, 0.0], tolerance), "past the bound");
        assert!(!compared([1.0, f32::NAN, 0.0, 0.0], tolerance), "NaN");
        assert!(!compared([1.0, 100.0, 0.0, 1e-9], tolerance), "a row of zeros");
    }
    assert!(compare(&[1.0, 100.0], &want, FLOAT).is_err(), "a row is missing");
}
