//! The stream of one job: `started`, then `token`s with `metrics` between, then exactly one `end` or `error`.
use super::error::{Code, Error};
use super::jobs::Job;
use crate::http::Running;
use crate::models::Served;
use crate::service::{Ended, Piece, Reason, Update};
use axum::response::sse::Event;
use futures_util::Stream;
use model::chat::LocalTime;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A `metrics` event follows so many tokens.
const METRICS_EVERY: usize = 32;

/// See the module. Dropping it cancels the job.
#[derive(Debug)]
pub(super) struct Events {
    served: Arc<Served>,
    /// None after the last update.
    running: Option<(Running, Job)>,
    /// Made and not yet sent.
    ready: VecDeque<Event>,
    seed: u64,
    /// Of the answer, in order.
    tokens: Vec<u32>,
    first_token: Option<Instant>,
    /// `token` events so far.
    texts: usize,
}

impl Events {
    pub(super) fn new(served: Arc<Served>, running: Running, job: Job, seed: u64) -> Self {
        let started = json!({
            "job_id": job.id,
            "model": served.facts.name,
            "started_at": now(),
            "seed": seed,
            "device": served.facts.device.kind.name(),
        });
        Self {
            served,
            running: Some((running, job)),
            ready: VecDeque::from([event("started", &started)]),
            seed,
            tokens: Vec::new(),
            first_token: None,
            texts: 0,
        }
    }

    pub(super) fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> + Send {
        futures_util::stream::unfold(self, |mut events| async move {
            let event = events.next().await?;
            Some((Ok(event), events))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let (running, job) = self.running.as_mut()?;
            let update = tokio::select! {
                biased;
                () = job.cancelled() => None,
                update = running.next() => update,
            };
            match update {
                Some(Update::Piece(piece)) => self.take(&piece),
                Some(Update::End(ended)) => self.end("end", &self.ended(&ended)),
                Some(Update::Failed(failure)) => {
                    self.end("error", &Error::of_failure(&failure).event());
                }
                None => {
                    let error = Error::new(Code::Cancelled, "the job was cancelled");
                    self.end("error", &error.event());
                }
            }
        }
    }

    fn take(&mut self, piece: &Piece) {
        let before = self.tokens.len() / METRICS_EVERY;
        self.tokens.extend(piece.tokens.iter().map(|token| token.id));
        let since = *self.first_token.get_or_insert_with(Instant::now);
        if !piece.text.is_empty() {
            let token = json!({ "t": piece.text, "i": self.texts });
            self.ready.push_back(event("token", &token));
            self.texts += 1;
        }
        if self.tokens.len() / METRICS_EVERY > before {
            // The time from the first token on is that of all tokens but it.
            let count = u32::try_from(self.tokens.len() - 1).unwrap_or(u32::MAX);
            let seconds = since.elapsed().as_secs_f64().max(1e-9);
            let memory_bytes = self.served.memory_bytes_used();
            let metrics = json!({
                "tokens_per_second": f64::from(count) / seconds,
                "memory_bytes": memory_bytes,
            });
            self.ready.push_back(event("metrics", &metrics));
        }
    }

    fn end(&mut self, name: &'static str, data: &Value) {
        // Lets go of the sequence before the client hears of it.
        self.running = None;
        self.ready.push_back(event(name, data));
    }

    fn ended(&self, ended: &Ended) -> Value {
        let stop_reason = match ended.reason {
            Reason::Model => "EOS",
            Reason::Stop(_) => "STOP_SEQUENCE",
            Reason::TokensMax | Reason::ContextFull => "MAX_TOKENS",
        };
        json!({
            "tokens_out": self.tokens.len(),
            "decode_time_ms": ended.decode_time.as_secs_f64() * 1e3,
            "stop_reason": stop_reason,
            "receipt": self.receipt(ended),
        })
    }

    /// What ran.
    fn receipt(&self, ended: &Ended) -> Value {
        let facts = &self.served.facts;
        json!({
            "model": {
                "name": facts.name,
                "sha256": facts.sha256,
                "quantization": facts.quantization,
            },
            "device": {
                "kind": facts.device.kind.name(),
                "name": facts.device.name,
                "threads": facts.device.threads,
                "features": facts.device.features,
            },
            "prompt_tokens": ended.usage.prompt_tokens,
            "cached_tokens": ended.usage.cached_tokens,
            "tokens": self.tokens,
            "seed": self.seed,
            "build": {
                "version": env!("CARGO_PKG_VERSION"),
                "os": std::env::consts::OS,
                "arch": std::env::consts::ARCH,
                "optimized": !cfg!(debug_assertions),
            },
        })
    }
}

fn event(name: &'static str, data: &Value) -> Event {
    Event::default().event(name).data(data.to_string())
}

/// The time in UTC, as ISO 8601 has it.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = LocalTime(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    format!("{seconds}.{:03}Z", since.subsec_millis())
}
