//! One answer within the server's limits: it takes a place in the queue, and ends when its time is up.
use super::log::{TALLY, Tally};
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
    /// Of the request that asked.
    tally: Option<Arc<Tally>>,
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
        // The service answers between two steps.
        let answer = tokio::time::timeout_at(until, served.service.submit(job));
        let answer = Some(answer.await.map_err(|_| {
            let message = self.too_long();
            Refused::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
        })??);
        let tally = TALLY.try_with(Arc::clone).ok();
        Ok(Running { app: Arc::clone(self), answer, until, tally, _served: served, _place: place })
    }

    /// Whether new work is taken at all.
    pub(crate) fn admits(&self) -> Result<(), Refused> {
        if *self.draining.borrow() {
            let message = "the server is shutting down";
            return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message));
        }
        Ok(())
    }

    fn too_long(&self) -> String {
        format!("the answer took longer than {} seconds", self.options.time_max.as_secs())
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
        self.admits()?;
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
        let update = tokio::select! {
            biased;
            update = answer.next() => {
                update.unwrap_or_else(|| Update::Failed(Failure::of("the model was unloaded")))
            }
            () = tokio::time::sleep_until(self.until) => {
                self.app.metrics.count_end("timeout");
                Update::Failed(Failure { timeout: true, ..Failure::of(&self.app.too_long()) })
            }
            () = self.app.cut_off() => {
                self.app.metrics.count_end("failed");
                Update::Failed(Failure::of("the server is shutting down"))
            }
        };
        if let Some(tally) = &self.tally {
            tally.take(&update);
        }
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
