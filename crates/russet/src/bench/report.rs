//! Measurements as tables, as JSON and as bars of a plot.
use super::measure::{Measured, Phase};
use super::plot::Bar;
use crate::devices::json_of;
use crate::receipt::build;
use crate::session::Session;
use crate::speed::{Limits, percent};
use crate::store::sha256_of;
use crate::table::{Align, Table, bytes, count};
use hal::Row;
use serde_json::{Value, json};
use std::time::Duration;

/// All that a run of `russet bench` found out.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) session: &'a Session,
    pub(super) measured: Vec<Measured>,
    pub(super) limits: Limits,
    pub(super) memory_bytes_peak: Option<u64>,
    /// Tokens of the prompt, and the hash of the logits after it.
    pub(super) logits_hash: (u32, u64),
}

/// Numbers in the order of their size.
#[derive(Clone, Debug)]
pub(super) struct Sorted(Vec<f64>);

impl Sorted {
    pub(super) fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub(super) fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(0.0)
    }

    pub(super) fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(0.0)
    }

    pub(super) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.get(middle) {
            None => 0.0,
            Some(value) if self.0.len() % 2 == 1 => *value,
            Some(value) => f64::midpoint(self.0[middle - 1], *value),
        }
    }

    /// The median distance from the median: a spread that one slow run does not move.
    pub(super) fn mad(&self) -> f64 {
        let median = self.median();
        Self::new(self.0.iter().map(|value| (value - median).abs()).collect()).median()
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are shown with a few digits")]
const fn float(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive rates")]
const fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// Rates of one measurement; bytes and operations at the median time.
impl Measured {
    fn tokens_per_second(&self) -> Sorted {
        let tokens = f64::from(self.test.tokens);
        Sorted::new(self.times.iter().map(|time| tokens / time.as_secs_f64()).collect())
    }

    fn seconds(&self) -> Sorted {
        Sorted::new(self.times.iter().map(Duration::as_secs_f64).collect())
    }

    fn read_bytes_per_second(&self) -> f64 {
        float(self.work.weight_bytes + self.work.kv_bytes) / self.seconds().median()
    }

    fn int8_ops_per_second(&self) -> f64 {
        float(self.work.integer_ops) / self.seconds().median()
    }

    /// Tokens per second when nothing but reading, or nothing but int8 products, took time; and which of them is less.
    fn limit(&self, limits: &Limits) -> Option<(f64, &'static str)> {
        let tokens = f64::from(self.test.tokens);
        let read = limits.read_bytes_per_second.map(|limit| {
            (tokens * limit / float(self.work.weight_bytes + self.work.kv_bytes), "read bandwidth")
        });
        let int8 = limits
            .int8_ops_per_second
            .filter(|_| self.work.integer_ops > 0)
            .map(|limit| (tokens * limit / float(self.work.integer_ops), "int8 peak"));
        let each = read.into_iter().chain(int8);
        each.min_by(|a, b| a.0.total_cmp(&b.0))
    }
}

/// `12.3 (45 %)` of a rate in units of 1e9, or the rate alone where its limit is not known.
fn of_limit(rate: f64, limit: Option<f64>) -> String {
    let percent = limit.map(|limit| format!(" ({:.0} %)", percent(rate, limit)));
    format!("{:.1}{}", rate / 1e9, percent.unwrap_or_default())
}

/// For people.
impl Report<'_> {
    pub(super) fn title(&self) -> String {
        let info = self.session.engine.device().info();
        let file = self.session.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{file} on {} ({}, {} threads)", info.kind.name(), info.name, info.threads)
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.title(), self.rates());
        let mut each = |name: &str, value: String| text += &format!("{name}: {value}\n");
        for prompt in self.measured.iter().filter(|m| m.test.phase == Phase::Prompt) {
            let time = prompt.seconds();
            let (median, min, max) = (1e3 * time.median(), 1e3 * time.min(), 1e3 * time.max());
            each(
                "time to first token",
                format!("{median:.1} ms ({min:.1} to {max:.1}) for {}", prompt.test.name()),
            );
        }
        let rate = |limit: Option<f64>, unit: &str| {
            limit.map_or("not known".to_owned(), |limit| format!("{:.1} {unit}", limit / 1e9))
        };
        each("read bandwidth", rate(self.limits.read_bytes_per_second, "GB/s, measured now"));
        each("int8 peak", rate(self.limits.int8_ops_per_second, "Gop/s, measured now"));
        if let Some(peak) = self.memory_bytes_peak {
            each("memory at most", bytes(peak));
        }
        let (tokens, hash) = self.logits_hash;
        each("logits hash", format!("{hash:016x} after {tokens} tokens"));
        text
    }

    fn rates(&self) -> Table {
        let mut table = Table::new(&[
            ("test", Align::Left),
            ("tokens/s", Align::Right),
            ("min", Align::Right),
            ("max", Align::Right),
            ("MAD", Align::Right),
            ("GB/s read", Align::Right),
            ("int8 Gop/s", Align::Right),
            ("of limit", Align::Right),
            ("bytes/step", Align::Right),
            ("KV", Align::Right),
            ("launches/step", Align::Right),
            ("barriers/step", Align::Right),
        ]);
        for measured in &self.measured {
            let (rate, work) = (measured.tokens_per_second(), &measured.work);
            let steps = work.steps.max(1);
            let limit = measured.limit(&self.limits);
            table.row([
                measured.test.name(),
                format!("{:.1}", rate.median()),
                format!("{:.1}", rate.min()),
                format!("{:.1}", rate.max()),
                format!("{:.1}", rate.mad()),
                of_limit(measured.read_bytes_per_second(), self.limits.read_bytes_per_second),
                of_limit(measured.int8_ops_per_second(), self.limits.int8_ops_per_second),
                limit.map_or("-".to_owned(), |(limit, _)| {
                    format!("{:.0} %", percent(rate.median(), limit))
                }),
                bytes((work.weight_bytes + work.kv_bytes) / steps),
                bytes(work.kv_bytes / steps),
                count(work.launches / steps),
                count(work.barriers / steps),
            ]);
        }
        table
    }

    pub(super) fn bars(&self) -> Vec<Bar> {
        let bar = |measured: &Measured| {
            let rate = measured.tokens_per_second();
            Bar {
                phase: measured.test.phase,
                name: measured.test.name(),
                median: rate.median(),
                min: rate.min(),
                max: rate.max(),
                limit: measured.limit(&self.limits),
            }
        };
        self.measured.iter().map(bar).collect()
    }
}

/// For machines: one line per measurement, each complete in itself.
impl Report<'_> {
    pub(super) fn json(&self) -> anyhow::Result<Vec<Value>> {
        let session = self.session;
        let (sha256, size) = sha256_of(&session.path)?;
        let info = session.engine.device().info();
        let row = Row {
            kind: info.kind,
            selector: info.kind.name().to_owned(),
            device: Ok(info.clone()),
        };
        let (hash_tokens, hash) = self.logits_hash;
        let common = json!({
            "memory_bytes_peak": self.memory_bytes_peak,
            "logits_hash": format!("{hash:016x}"),
            "logits_hash_tokens": hash_tokens,
            "model": {
                "name": session.name,
                "path": session.path.display().to_string(),
                "sha256": sha256,
                "bytes": size,
                "architecture": session.engine.model().config.row.name,
            },
            "context": session.engine.options().context,
            "kv": session.engine.options().kv.name(),
            "device": json_of(&row),
            "build": build(),
            "command": std::env::args().collect::<Vec<_>>(),
        });
        let line = |measured: &Measured| {
            let mut line = self.line(measured);
            if let (Value::Object(line), Value::Object(common)) = (&mut line, common.clone()) {
                line.extend(common);
            }
            line
        };
        Ok(self.measured.iter().map(line).collect())
    }

    fn line(&self, measured: &Measured) -> Value {
        let (test, work) = (&measured.test, &measured.work);
        let (rate, seconds) = (measured.tokens_per_second(), measured.seconds());
        let (read, int8) = (measured.read_bytes_per_second(), measured.int8_ops_per_second());
        let limits = &self.limits;
        let steps = work.steps.max(1);
        let of = |rate, limit: Option<f64>| limit.map(|limit| percent(rate, limit));
        let first_token = (test.phase == Phase::Prompt).then(|| 1e3 * seconds.median());
        let limit = measured.limit(limits);
        json!({
            "phase": test.phase.name(),
            "tokens": test.tokens,
            "depth": test.depth,
            "repeats": measured.times.len(),
            "tokens_per_second_median": rate.median(),
            "tokens_per_second_min": rate.min(),
            "tokens_per_second_max": rate.max(),
            "tokens_per_second_mad": rate.mad(),
            "tokens_per_second_limit": limit.map(|(limit, _)| limit),
            "limited_by": limit.map(|(_, what)| what),
            "seconds": measured.times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
            "time_to_first_token_ms_median": first_token,
            "read_bytes_per_second": whole(read),
            "read_bytes_per_second_limit": limits.read_bytes_per_second.map(whole),
            "read_percent": of(read, limits.read_bytes_per_second),
            "int8_ops_per_second": whole(int8),
            "int8_ops_per_second_limit": limits.int8_ops_per_second.map(whole),
            "int8_percent": of(int8, limits.int8_ops_per_second),
            "steps": work.steps,
            "weight_bytes_per_step": work.weight_bytes / steps,
            "kv_bytes_per_step": work.kv_bytes / steps,
            "int8_ops_per_step": work.integer_ops / steps,
            "launches_per_step": work.launches / steps,
            "barriers_per_step": work.barriers / steps,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread_of_a_few_numbers() {
        let odd = Sorted::new(vec![9.0, 1.0, 2.0]);
        assert_eq!((odd.median(), odd.min(), odd.max(), odd.mad()), (2.0, 1.0, 9.0, 1.0));
        let even = Sorted::new(vec![4.0, 1.0, 2.0, 8.0]);
        assert_eq!((even.median(), even.mad()), (3.0, 1.5));
        assert_eq!(Sorted::new(vec![]).median(), 0.0);
    }
}
