//! How the server is: asked of the models, their services and their device, never assumed.
use super::App;
use crate::models::{Load, Served};
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;

/// The default model's facts, or those of the one used last when it is not loaded.
pub(super) async fn health(State(app): State<Arc<App>>) -> impl IntoResponse {
    let loaded = app.models.loaded();
    let fine = |served: &Arc<Served>| served.service.is_healthy() && served.is_resident();
    let healthy = !loaded.is_empty() && loaded.iter().all(fine);
    let models: Vec<&str> = loaded.iter().map(|served| served.facts.name.as_str()).collect();
    let mut body = json!({
        "status": if healthy { "healthy" } else { "unhealthy" },
        "model": app.models.default_name(),
        "resident": false,
        "models": models,
        "uptime_seconds": app.started.elapsed().as_secs(),
        "protocol": "sse",
    });
    if let Some(served) = app.models.default_loaded().or_else(|| loaded.last().cloned()) {
        tell_model(&mut body, &served);
    }
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body))
}

/// Adds what is to be said of one model.
fn tell_model(body: &mut Value, served: &Served) {
    let Served { facts, tokenizer, .. } = served;
    body["model"] = json!(facts.name);
    body["model_sha256"] = json!(facts.sha256);
    body["resident"] = json!(served.is_resident());
    body["quantization"] = json!(facts.quantization);
    body["memory_bytes_used"] = json!(served.memory_bytes_used());
    body["memory_architecture"] = json!(served.memory_architecture());
    body["device"] = json!(facts.device.kind.name());
    body["device_name"] = json!(facts.device.name);
    body["tokenizer_kind"] = json!(match tokenizer.kind() {
        model::tokenizer::Kind::Bpe(_) => "bpe",
        model::tokenizer::Kind::SentencePiece => "sentencepiece",
    });
    body["vocab_size"] = json!(tokenizer.vocab_size());
    body["context_length"] = json!(facts.context_length);
    body["capabilities"] = json!(served.capabilities());
}

pub(super) async fn ready(State(app): State<Arc<App>>) -> impl IntoResponse {
    let (load, status) = (app.models.load_state().borrow().clone(), app.models.status());
    let loaded = app.models.loaded();
    let broken = loaded.iter().any(|served| !served.service.is_healthy());
    let state = match &load {
        _ if broken => "error",
        Load::Running { .. } if loaded.is_empty() => "loading",
        Load::Failed { .. } if loaded.is_empty() => "error",
        _ if status.running + status.waiting > 0 => "busy",
        _ => "idle",
    };
    let ready = !broken && !loaded.is_empty() && !*app.draining.borrow();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": ready, "state": state, "progress": progress(&load) })))
}

fn progress(load: &Load) -> f32 {
    match load {
        Load::Running { progress, .. } => *progress,
        Load::Done => 1.0,
        Load::Failed { .. } => 0.0,
    }
}

/// How the newest load goes on, up to its end: `progress` events, then `ready` or `error`.
pub(super) async fn loading(State(app): State<Arc<App>>) -> Response {
    Sse::new(progress_events(app.models.load_state()))
        .keep_alive(KeepAlive::default())
        .into_response()
}

fn progress_events(
    load: watch::Receiver<Load>,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    // The first event tells the present; every other waits for a change.
    futures_util::stream::unfold(Some((load, true)), |state| async move {
        let (mut load, first) = state?;
        if !first {
            load.changed().await.ok()?;
        }
        let now = load.borrow_and_update().clone();
        let (name, told) = match &now {
            Load::Running { name, progress } => {
                ("progress", json!({ "model": name, "progress": progress }))
            }
            Load::Done => ("ready", json!({ "progress": 1.0 })),
            Load::Failed { message } => (
                "error",
                json!({ "code": "MODEL_LOAD_FAILED", "message": message, "retriable": false }),
            ),
        };
        let event = Event::default().event(name).data(told.to_string());
        let goes_on = matches!(now, Load::Running { .. });
        Some((Ok(event), goes_on.then_some((load, false))))
    })
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        app.metrics.text(&app.models.status()),
    )
}
