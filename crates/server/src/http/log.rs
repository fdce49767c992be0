//! One line for each request, written when its answer has ended. Texts of prompts and answers never reach it.
use crate::service::Update;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Method};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

tokio::task_local! {
    /// Of the request that a task answers.
    pub(super) static TALLY: Arc<Tally>;
}

/// What a request cost.
#[derive(Debug)]
pub(super) struct Tally {
    since: Instant,
    counts: Mutex<Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    prompt_tokens: u32,
    cached_tokens: u32,
    answer_tokens: usize,
    first_token: Option<Duration>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { since: Instant::now(), counts: Mutex::default() }
    }
}

impl Tally {
    pub(super) fn take(&self, update: &Update) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match update {
            Update::Piece(piece) => {
                counts.first_token.get_or_insert_with(|| self.since.elapsed());
                counts.answer_tokens += piece.tokens.len();
            }
            Update::End(ended) => {
                counts.prompt_tokens += ended.usage.prompt_tokens;
                counts.cached_tokens += ended.usage.cached_tokens;
            }
            Update::Failed(failure) => tracing::warn!(failure.message, "an answer broke off"),
        }
    }
}

/// Written when it is dropped.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) method: Method,
    pub(super) route: String,
    pub(super) status: u16,
    pub(super) correlation_id: HeaderValue,
    pub(super) tally: Arc<Tally>,
}

impl Drop for Line {
    fn drop(&mut self) {
        let counts = *self.tally.counts.lock().unwrap_or_else(PoisonError::into_inner);
        tracing::info!(
            method = %self.method,
            route = self.route,
            status = self.status,
            correlation_id = self.correlation_id.to_str().unwrap_or("not text"),
            prompt_tokens = counts.prompt_tokens,
            cached_tokens = counts.cached_tokens,
            answer_tokens = counts.answer_tokens,
            first_token_ms = counts.first_token.map(|time| time.as_secs_f64() * 1e3),
            time_ms = self.tally.since.elapsed().as_secs_f64() * 1e3,
            "request"
        );
    }
}

/// A body whose end, or whose client's, writes the line.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) body: Body,
    pub(super) _line: Line,
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
