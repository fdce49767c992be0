//! What a server counts, in the words of Prometheus.
use crate::service::{Reason, Status};
use engine::Report;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// A request by what it asked for and how it was answered.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    route: String,
    status: u16,
}

/// An answer by its end.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct End {
    reason: &'static str,
}

/// All counters of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    ends: Family<End, Counter>,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    answer_tokens: Counter,
    drafted_tokens: Counter,
    accepted_tokens: Counter,
    preemptions: Counter,
    first_token: Histogram,
    next_token: Histogram,
    answer: Histogram,
    step: Histogram,
    batch: Histogram,
    running: Gauge,
    waiting: Gauge,
    blocks_used: Gauge,
    blocks_total: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 18));
        let mut metrics = Self {
            registry: Registry::with_prefix("russet"),
            requests: Family::default(),
            ends: Family::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            answer_tokens: Counter::default(),
            drafted_tokens: Counter::default(),
            accepted_tokens: Counter::default(),
            preemptions: Counter::default(),
            first_token: seconds(),
            next_token: seconds(),
            answer: seconds(),
            step: seconds(),
            batch: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            running: Gauge::default(),
            waiting: Gauge::default(),
            blocks_used: Gauge::default(),
            blocks_total: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let to = &mut self.registry;
        to.register("http_requests", "Requests by route and status", self.requests.clone());
        to.register("answers", "Answers by how they ended", self.ends.clone());
        to.register(
            "prompt_tokens",
            "Tokens of prompts that were read",
            self.prompt_tokens.clone(),
        );
        to.register(
            "prefix_hit_tokens",
            "Tokens of prompts found in the prefix cache",
            self.cached_tokens.clone(),
        );
        to.register("answer_tokens", "Tokens that were sampled", self.answer_tokens.clone());
        to.register(
            "drafted_tokens",
            "Tokens that speculation drafted",
            self.drafted_tokens.clone(),
        );
        to.register(
            "accepted_tokens",
            "Drafted tokens that were accepted",
            self.accepted_tokens.clone(),
        );
        to.register(
            "preemptions",
            "Sequences paused for want of KV blocks",
            self.preemptions.clone(),
        );
        let seconds = [
            ("time_to_first_token", "From the request to its first token", &self.first_token),
            ("time_between_tokens", "Between two tokens of one answer", &self.next_token),
            ("answer_time", "From the request to the end of its answer", &self.answer),
            ("step_time", "One step of the engine", &self.step),
        ];
        for (name, help, histogram) in seconds {
            to.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        to.register("batch_tokens", "Tokens of one step", self.batch.clone());
        to.register("running", "Answers that are being written", self.running.clone());
        to.register("waiting", "Requests that wait for a place", self.waiting.clone());
        to.register("kv_blocks_used", "KV blocks in use", self.blocks_used.clone());
        to.register("kv_blocks", "KV blocks in all", self.blocks_total.clone());
    }

    /// Everything in the text format of `OpenMetrics`.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        drop(encode(&mut text, &self.registry));
        text
    }

    pub(crate) fn answered(&self, route: &str, status: u16) {
        self.requests.get_or_create(&Request { route: route.to_owned(), status }).inc();
    }

    pub(crate) fn stepped(&self, report: &Report, time: Duration) {
        self.step.observe(time.as_secs_f64());
        self.batch.observe(f64::from(report.prompt_tokens + report.decode_tokens));
        self.prompt_tokens.inc_by(u64::from(report.prompt_tokens));
        self.drafted_tokens.inc_by(u64::from(report.drafted_tokens));
        self.accepted_tokens.inc_by(u64::from(report.accepted_tokens));
        self.preemptions.inc_by(u64::from(report.paused));
    }

    pub(crate) fn first_token(&self, time: Duration, cached_tokens: u32) {
        self.first_token.observe(time.as_secs_f64());
        self.cached_tokens.inc_by(u64::from(cached_tokens));
        self.answer_tokens.inc();
    }

    pub(crate) fn next_token(&self, time: Duration) {
        self.next_token.observe(time.as_secs_f64());
        self.answer_tokens.inc();
    }

    pub(crate) fn ended(&self, reason: &Reason, time: Duration) {
        self.answer.observe(time.as_secs_f64());
        let reason = match reason {
            Reason::Model => "model",
            Reason::Stop(_) => "stop",
            Reason::TokensMax => "tokens_max",
            Reason::ContextFull => "context_full",
        };
        self.count_end(reason);
    }

    /// An answer that ended in another way: `failed`, `cancelled`, `timeout`.
    pub(crate) fn count_end(&self, reason: &'static str) {
        self.ends.get_or_create(&End { reason }).inc();
    }

    pub(crate) fn status(&self, status: &Status) {
        self.running.set(i64::from(status.running));
        self.waiting.set(i64::from(status.waiting));
        self.blocks_used.set(i64::from(status.blocks_used));
        self.blocks_total.set(i64::from(status.blocks_total));
    }
}
