//! One answer within the server's limits: it takes a place in the queue, and ends when its time is up.
use super::{App, Refused};
use crate::models::Served;
use crate::service::{Answer, Failure, Job, Update};
use axum::http::StatusCode;
use engine::Pooling;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// An answer that is being written. Dropping it cancels the job.
#[derive(Debug)]
pub(crate) struct Running {
    app: Arc<App>,
    /// None after the last update.
    answer: Option<Answer>,
    until: Instant,
    /// The model stays loaded while it answers.
    _served: Arc<Served>,
    _place: OwnedSemaphorePermit,
}

impl App {
    /// Gives a job to a model. What the server's options limit is limited here.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        served: Arc<Served>,
        mut job: Job,
    ) -> Result<Running, Refused> {
        let place = self.place()?;
        job.params.tokens_max = job.params.tokens_max.min(self.options.tokens_max);
        let until = Instant::now() + self.options.time_max;
        let answer = Some(served.service.submit(job).await?);
        Ok(Running { app: Arc::clone(self), answer, until, _served: served, _place: place })
    }

    /// The embeddings of texts, one after another in one place of the queue.
    pub(crate) async fn embed(
        &self,
        served: &Served,
        texts: Vec<Vec<u32>>,
        pooling: Pooling,
    ) -> Result<Vec<Vec<f32>>, Refused> {
        let _place = self.place()?;
        let all = async {
            let mut embeddings = Vec::with_capacity(texts.len());
            for tokens in texts {
                embeddings.push(served.service.embed(tokens, pooling).await?);
            }
            Ok(embeddings)
        };
        match tokio::time::timeout(self.options.time_max, all).await {
            Ok(embeddings) => embeddings,
            Err(_) => {
                let seconds = self.options.time_max.as_secs();
                let message = format!("the embeddings took longer than {seconds} seconds");
                Err(Failure { timeout: true, ..Failure::of(&message) }.into())
            }
        }
    }

    /// A place in the queue, until it is dropped.
    fn place(&self) -> Result<OwnedSemaphorePermit, Refused> {
        if *self.draining.borrow() {
            let message = "the server is shutting down";
            return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message));
        }
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            let message =
                format!("{} requests are waiting or running already", self.options.requests_max);
            Refused::new(StatusCode::TOO_MANY_REQUESTS, "queue_full", message)
        })
    }
}

impl Running {
    /// When its time is up.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// The next update; None after the last, which is [`Update::End`] or [`Update::Failed`].
    pub(crate) async fn next(&mut self) -> Option<Update> {
        let answer = self.answer.as_mut()?;
        let update = match tokio::time::timeout_at(self.until, answer.next()).await {
            Ok(Some(update)) => update,
            Ok(None) => Update::Failed(Failure::of("the model was unloaded")),
            Err(_) => {
                self.app.metrics.count_end("timeout");
                let seconds = self.app.options.time_max.as_secs();
                let message = format!("the answer took longer than {seconds} seconds");
                Update::Failed(Failure { timeout: true, ..Failure::of(&message) })
            }
        };
        if !matches!(update, Update::Piece(_)) {
            self.answer = None;
        }
        Some(update)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.answer.is_some() {
            self.app.metrics.count_end("cancelled");
        }
    }
}
