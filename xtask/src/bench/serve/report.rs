//! Medians of both servers, ratios and goals, as a table and as JSON.
use super::scenario::{Batch, Beside};
use crate::bench::machine::Machine;
use crate::bench::report::{Target, median, verdict};
use serde_json::{Value, json};

/// What is wanted of a number.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// Of Russet's by the peer's.
    Ratio(Target),
    /// Of Russet's.
    Own(Target),
    /// Shown only.
    None,
}

/// One number that a run gives.
#[derive(Clone, Debug)]
pub(super) struct Measure {
    name: String,
    unit: &'static str,
    value: f64,
    goal: Goal,
}

impl Measure {
    fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value, goal: Goal::None }
    }

    fn goal(self, goal: Goal) -> Self {
        Self { goal, ..self }
    }
}

/// The value that the share `of` of all values does not exceed.
fn percentile(values: &[f64], of: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length"
    )]
    let rank = (of * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    median(values).unwrap_or(f64::NAN)
}

/// Of the first round, when nothing was cached, and of the later ones.
pub(super) fn of_batches(cold: &Batch, warm: &[Batch]) -> Vec<Measure> {
    let answers = || warm.iter().flat_map(|batch| &batch.0);
    let first: Vec<f64> = answers().map(super::client::Answer::first_ms).collect();
    let gaps: Vec<f64> = answers().flat_map(super::client::Answer::gaps_ms).collect();
    let speed = middle(warm.iter().map(Batch::tokens_per_second));
    vec![
        Measure::new("16 clients, nothing cached", "tokens/s", cold.tokens_per_second()),
        Measure::new("16 clients", "tokens/s", speed).goal(Goal::Ratio(Target::AtLeast(2.0))),
        Measure::new("first token, median", "ms", percentile(&first, 0.5)),
        Measure::new("first token, 95 %", "ms", percentile(&first, 0.95)),
        Measure::new("between tokens, median", "ms", percentile(&gaps, 0.5)),
        Measure::new("between tokens, 95 %", "ms", percentile(&gaps, 0.95)),
    ]
}

/// Of one client that asks about a known prefix, in milliseconds.
pub(super) fn of_warm(first_ms: &[f64]) -> Measure {
    Measure::new("first token after a known prefix, one client", "ms", percentile(first_ms, 0.5))
        .goal(Goal::Ratio(Target::AtMost(0.5)))
}

/// Of a stream beside a long prompt.
pub(super) fn of_beside(runs: &[Beside]) -> Vec<Measure> {
    let all =
        |of: fn(&Beside) -> &Vec<f64>| runs.iter().flat_map(of).copied().collect::<Vec<f64>>();
    let (alone, beside) = (all(|run| &run.alone_ms), all(|run| &run.beside_ms));
    let growth = Measure::new("growth of the mean", "x", mean(&beside) / mean(&alone))
        .goal(Goal::Own(Target::AtMost(1.5)));
    let of = |name: &str, gaps: &[f64]| {
        let numbers = [
            ("mean", mean(gaps)),
            ("median", percentile(gaps, 0.5)),
            ("99 %", percentile(gaps, 0.99)),
            ("longest", percentile(gaps, 1.0)),
        ];
        numbers.map(|(number, value)| {
            Measure::new(format!("between tokens of {name}, {number}"), "ms", value)
        })
    };
    let tokens = runs.first().map_or(0, |run| run.prompt_tokens);
    let prompt = middle(runs.iter().map(|run| run.prompt_ms));
    let prompt = Measure::new(format!("prompt of {tokens} tokens beside it"), "ms", prompt);
    let one = of("one stream alone", &alone);
    one.into_iter()
        .chain(of("one stream beside a long prompt", &beside))
        .chain([growth, prompt])
        .collect()
}

/// Of Russet alone: answers that were not the same in ten runs alone and ten in a full batch.
pub(super) fn of_differing(count: usize) -> Measure {
    Measure::new("answers of 20 to one request that differ", "", count as f64)
        .goal(Goal::Own(Target::AtMost(0.0)))
}

/// A line of the table: the medians of both sides over all pairs.
#[derive(Debug)]
struct Row {
    measure: Measure,
    medians: Vec<f64>,
    ratio: Option<f64>,
}

/// `pairs` has one list of measures per side; the last of Russet's may have no counterpart.
fn rows(pairs: &[Vec<Vec<Measure>>]) -> Vec<Row> {
    let Some(first) = pairs.first().and_then(|pair| pair.first()) else { return Vec::new() };
    let row = |(i, measure): (usize, &Measure)| {
        let of = |pair: &[Vec<Measure>], side: usize| Some(pair.get(side)?.get(i)?.value);
        let side = |side| median(pairs.iter().filter_map(|pair| of(pair, side)));
        let ratios = pairs.iter().filter_map(|pair| Some(of(pair, 0)? / of(pair, 1)?));
        let medians = [side(0), side(1)].into_iter().flatten().collect();
        Row { measure: measure.clone(), medians, ratio: median(ratios) }
    };
    first.iter().enumerate().map(row).collect()
}

impl Row {
    fn reached(&self) -> Option<(Target, bool)> {
        match self.measure.goal {
            Goal::Ratio(target) => self.ratio.map(|ratio| (target, target.reached(ratio))),
            Goal::Own(target) => self.medians.first().map(|own| (target, target.reached(*own))),
            Goal::None => None,
        }
    }
}

/// The numbers in Markdown.
pub(super) fn table(pairs: &[Vec<Vec<Measure>>]) -> String {
    let mut text =
        "\n| | russet serve | llama-server | ratio | to reach |\n|---|---:|---:|---:|---|\n"
            .to_owned();
    for row in rows(pairs) {
        let number = |side| row.medians.get(side).map_or("-".to_owned(), |n| format!("{n:.1}"));
        let ratio = row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"));
        let goal = row.reached().map_or("-".to_owned(), |(target, reached)| {
            format!("{}: {}", target.text("x"), verdict(reached))
        });
        let unit = if row.measure.unit.is_empty() {
            String::new()
        } else {
            format!(", {}", row.measure.unit)
        };
        let name = &row.measure.name;
        text += &format!("| {name}{unit} | {} | {} | {ratio} | {goal} |\n", number(0), number(1));
    }
    text
}

/// The same, with every pair's numbers, as one line.
pub(super) fn json(model: &str, pairs: &[Vec<Vec<Measure>>], machine: &Machine) -> String {
    let row = |(i, row): (usize, Row)| {
        let values = |pair: &Vec<Vec<Measure>>| {
            pair.iter().map(|side| side.get(i).map(|measure| measure.value)).collect::<Vec<_>>()
        };
        json!({
            "name": row.measure.name,
            "unit": row.measure.unit,
            "russet": row.medians.first(),
            "peer": row.medians.get(1),
            "ratio": row.ratio,
            "reached": row.reached().map(|(_, reached)| reached),
            "samples": pairs.iter().map(values).collect::<Vec<_>>(),
        })
    };
    let results: Vec<Value> = rows(pairs).into_iter().enumerate().map(row).collect();
    json!({ "serve": model, "results": results, "machine": machine.json() }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!([0.5, 0.95, 1.0].map(|of| percentile(&values, of)), [3.0, 5.0, 5.0]);
    }

    #[test]
    fn a_ratio_is_missed_and_an_own_goal_needs_no_peer() {
        let speed = |value| {
            Measure::new("speed", "tokens/s", value).goal(Goal::Ratio(Target::AtLeast(2.0)))
        };
        let pairs = [(30.0, 20.0), (10.0, 10.0), (90.0, 50.0)]
            .map(|(a, b)| vec![vec![speed(a), of_differing(0)], vec![speed(b)]]);
        // Ratios 1.5, 1 and 1.8.
        let expected = "| speed, tokens/s | 30.0 | 20.0 | 1.50x | at least 2x: **missed** |\n\
             | answers of 20 to one request that differ | 0.0 | - | - | at most 0x: reached |\n";
        let text = table(&pairs);
        assert!(text.ends_with(expected), "{text}");
    }
}
