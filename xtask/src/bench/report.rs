//! Medians, ratios and targets, as a table and as JSON.
use super::machine::Machine;
use super::measure::{Results, Sample, Test, name};
use anyhow::Result;
use serde_json::{Value, json};
use std::path::Path;

/// What a number has to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    pub(super) fn reached(self, value: f64) -> bool {
        match self {
            Self::AtLeast(limit) => value >= limit,
            Self::AtMost(limit) => value <= limit,
        }
    }

    pub(super) fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(limit) => format!("at least {limit}{unit}"),
            Self::AtMost(limit) => format!("at most {limit}{unit}"),
        }
    }
}

/// Ratios to reach: of SmolLM2 in `Q4_1`, and of all other models.
struct Ratios {
    decode: f64,
    prompt: f64,
}

const SMOLLM2_Q4_1: Ratios = Ratios { decode: 2.0, prompt: 4.0 };
const OTHERS: Ratios = Ratios { decode: 1.6, prompt: 2.5 };
const FIRST: f64 = 0.5;
const MEMORY: f64 = 1.1;
const READ_PERCENT: f64 = 75.0;
const INT8_PERCENT: f64 = 45.0;

/// One line of the table.
#[derive(Debug)]
struct Row {
    name: String,
    unit: &'static str,
    /// One number per side.
    medians: Vec<f64>,
    /// Median of the ratios of each pair: Russet's number by the peer's.
    ratio: Option<f64>,
    ratio_target: Target,
    /// Percent of what the machine can do, its limit's name and the target.
    limit: Option<(f64, &'static str, Target)>,
}

impl Row {
    fn new(name: String, unit: &'static str, pairs: &[Vec<f64>], target: Target) -> Self {
        let sides = pairs.first().map_or(0, Vec::len);
        let of_side = |side| median(pairs.iter().filter_map(|pair| pair.get(side).copied()));
        let ratios = pairs.iter().filter_map(|pair| Some(pair.first()? / pair.get(1)?));
        Self {
            name,
            unit,
            medians: (0..sides).filter_map(of_side).collect(),
            ratio: median(ratios),
            ratio_target: target,
            limit: None,
        }
    }
}

pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = *values.get(values.len() / 2)?;
    let even = values.len().is_multiple_of(2);
    Some(if even { f64::midpoint(values[values.len() / 2 - 1], middle) } else { middle })
}

/// A number of every sample; None where one lacks it.
fn each(results: &Results, number: impl Fn(&Sample) -> Option<f64>) -> Option<Vec<Vec<f64>>> {
    results.pairs.iter().map(|pair| pair.iter().map(&number).collect()).collect()
}

fn rows(model: &Path, results: &[Results]) -> Vec<Row> {
    let name = name(model).to_lowercase();
    let targets =
        if name.contains("smollm2") && name.contains("q4_1") { SMOLLM2_Q4_1 } else { OTHERS };
    results.iter().flat_map(|results| rows_of(results, &targets)).collect()
}

fn rows_of(results: &Results, targets: &Ratios) -> Vec<Row> {
    let test = results.test;
    let (tokens, target, limit) = match test {
        Test::First => {
            let ms = each(results, |sample| Some(1e3 * sample.seconds)).unwrap_or_default();
            return vec![Row::new(test.name(), "ms", &ms, Target::AtMost(FIRST))];
        }
        Test::Prompt { tokens, .. } => {
            (tokens, targets.prompt, ("int8 peak", Target::AtLeast(INT8_PERCENT)))
        }
        Test::Decode { tokens, .. } => {
            (tokens, targets.decode, ("read bandwidth", Target::AtLeast(READ_PERCENT)))
        }
    };
    let rates = each(results, |sample| Some(f64::from(tokens) / sample.seconds));
    let target = Target::AtLeast(target);
    let mut speed = Row::new(test.name(), "tokens/s", &rates.unwrap_or_default(), target);
    let percent = |sample: &Sample| match test {
        Test::Prompt { .. } => sample.int8_percent.filter(|percent| *percent > 0.0),
        _ => sample.read_percent,
    };
    let percents = results.pairs.iter().filter_map(|pair| percent(pair.first()?));
    speed.limit = median(percents).map(|percent| (percent, limit.0, limit.1));
    let memory = match test {
        Test::Decode { .. } => each(results, |sample| Some(sample.memory_bytes_peak? / 1e6)),
        _ => None,
    };
    let memory = memory.map(|megabytes| {
        let name = format!("peak memory of {}", test.name());
        Row::new(name, "MB", &megabytes, Target::AtMost(MEMORY))
    });
    [Some(speed), memory].into_iter().flatten().collect()
}

pub(super) fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "**missed**" }
}

/// The numbers of one model in Markdown.
pub(super) fn table(model: &Path, results: &[Results]) -> String {
    let mut text = format!(
        "\n{}\n\n| | Russet | llama.cpp | ratio | to reach | of this machine's limit | to reach |\n\
         |---|---:|---:|---:|---|---:|---|\n",
        name(model)
    );
    for row in rows(model, results) {
        let number = |side| row.medians.get(side).map_or("-".to_owned(), |n| format!("{n:.1}"));
        let ratio = row.ratio.map_or("- | -".to_owned(), |ratio| {
            let target = row.ratio_target;
            format!("{ratio:.2}x | {}: {}", target.text("x"), verdict(target.reached(ratio)))
        });
        let limit = row.limit.map_or("- | -".to_owned(), |(percent, what, target)| {
            let reached = verdict(target.reached(percent));
            format!("{percent:.0} % of the {what} | {}: {reached}", target.text(" %"))
        });
        let (name, unit) = (&row.name, row.unit);
        text +=
            &format!("| {name}, {unit} | {} | {} | {ratio} | {limit} |\n", number(0), number(1));
    }
    text
}

/// The same, with every sample, as one line.
pub(super) fn json(model: &Path, results: &[Results], machine: &Machine) -> Result<String> {
    let row = |row: Row| {
        json!({
            "name": row.name,
            "unit": row.unit,
            "russet": row.medians.first(),
            "peer": row.medians.get(1),
            "ratio": row.ratio,
            "ratio_reached": row.ratio.map(|ratio| row.ratio_target.reached(ratio)),
            "limit": row.limit.map(|(_, what, _)| what),
            "limit_percent": row.limit.map(|(percent, ..)| percent),
            "limit_reached": row.limit.map(|(percent, _, target)| target.reached(percent)),
        })
    };
    let samples = |results: &Results| {
        let sides = |pair: &Vec<Sample>| pair.iter().map(|s| s.seconds).collect::<Vec<_>>();
        json!({
            "test": results.test.name(),
            "seconds": results.pairs.iter().map(sides).collect::<Vec<_>>(),
        })
    };
    let line = json!({
        "model": name(model),
        "bytes": std::fs::metadata(model)?.len(),
        "results": rows(model, results).into_iter().map(row).collect::<Vec<Value>>(),
        "samples": results.iter().map(samples).collect::<Vec<Value>>(),
        "machine": machine.json(),
    });
    Ok(line.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: f64) -> Sample {
        Sample {
            seconds,
            memory_bytes_peak: Some(2e6),
            read_percent: Some(80.0),
            int8_percent: None,
        }
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // Rates 128/1 by 128/2, 128/2 by 128/8, 128/4 by 128/4: ratios 2, 4, 1.
        let pairs = [[1.0, 2.0], [2.0, 8.0], [4.0, 4.0]].map(|pair| pair.map(sample).to_vec());
        let test = Test::Decode { tokens: 128, depth: 512 };
        let results = Results { test, pairs: pairs.to_vec() };
        let text = table(Path::new("SmolLM2.Q4_1.gguf"), &[results]);
        let expected = "| decode 128 after 512, tokens/s | 64.0 | 32.0 | 2.00x | at least 2x: reached | \
             80 % of the read bandwidth | at least 75 %: reached |\n\
             | peak memory of decode 128 after 512, MB | 2.0 | 2.0 | 1.00x | at most 1.1x: reached | - | - |\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn russet_alone_has_no_ratios() {
        let results = Results { test: Test::First, pairs: vec![vec![sample(0.25)]] };
        let text = table(Path::new("a.gguf"), &[results]);
        assert!(text.ends_with("cold start, ms | 250.0 | - | - | - | - | - |\n"), "{text}");
    }
}
