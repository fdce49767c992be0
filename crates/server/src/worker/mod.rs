//! The worker API: a process that executes jobs, one event stream each. Its contract is kept to the letter: names, limits, the
//! order of events, the status of each error.
mod error;
mod events;
mod jobs;
mod request;

pub(crate) use jobs::Jobs;

use crate::http::{App, CorrelationId};
use crate::models::Served;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use error::{Code, Error, Violation};
use request::{Cancel, Request};
use serde_json::json;
use std::sync::Arc;

/// Runs a job; its tokens leave as they are sampled.
pub(crate) async fn execute(
    State(app): State<Arc<App>>,
    Extension(CorrelationId(id)): Extension<CorrelationId>,
    body: Bytes,
) -> Response {
    match start(&app, &body).await {
        Ok(events) => Sse::new(events.stream()).keep_alive(KeepAlive::default()).into_response(),
        Err(error) => error.response(&id),
    }
}

async fn start(app: &Arc<App>, body: &[u8]) -> Result<events::Events, Error> {
    app.admits()?;
    let (request, mut violations) = Request::read(body);
    // A body that is wrong anyway loads no model.
    let served = match violations.is_empty() {
        true => Some(app.models.get(None).await?),
        false => app.models.default_loaded(),
    };
    let Some((served, prompt)) = check_with_model(served, &request, &mut violations) else {
        return Err(Error::invalid(violations));
    };
    let Some(job) = app.jobs.enter(&request.job_id) else {
        let message = "a job of this id is running".to_owned();
        return Err(Error::invalid(vec![Violation::new("job_id", "unique", message)]));
    };
    let seed = request.seed.unwrap_or_else(drawn_seed);
    let submitted = app.submit(Arc::clone(&served), request.job(&served, prompt, seed));
    let running = tokio::select! {
        biased;
        () = job.cancelled() => return Err(Error::new(Code::Cancelled, "the job was cancelled")),
        running = submitted => running?,
    };
    Ok(events::Events::new(served, running, job, seed))
}

/// Adds what only a model can find wrong. None when anything is.
fn check_with_model(
    served: Option<Arc<Served>>,
    request: &Request,
    violations: &mut Vec<Violation>,
) -> Option<(Arc<Served>, Vec<u32>)> {
    let served = served?;
    let prompt = request.check_with(&served, violations);
    violations.is_empty().then_some((served, prompt))
}

/// 53 bits, so that every JSON reader keeps them all.
fn drawn_seed() -> u64 {
    crate::drawn() >> 11
}

/// Stops a job; one that is not running, or no more, is no error.
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Extension(CorrelationId(id)): Extension<CorrelationId>,
    body: Bytes,
) -> Response {
    match Cancel::read(&body) {
        Ok(Cancel { job_id }) => {
            app.jobs.cancel(&job_id);
            (StatusCode::ACCEPTED, Json(json!({ "job_id": job_id }))).into_response()
        }
        Err(violations) => Error::invalid(violations).response(&id),
    }
}
