//! How the server is.
use super::App;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::json;
use std::sync::Arc;

pub(super) async fn health(State(app): State<Arc<App>>) -> impl IntoResponse {
    let loaded = app.models.loaded();
    let healthy = !loaded.is_empty() && loaded.iter().all(|served| served.service.is_healthy());
    let models: Vec<&str> = loaded.iter().map(|served| served.facts.name.as_str()).collect();
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if healthy { "healthy" } else { "unhealthy" };
    (
        status,
        Json(
            json!({ "status": word, "models": models, "uptime_seconds": app.started.elapsed().as_secs() }),
        ),
    )
}

pub(super) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        app.metrics.text(),
    )
}
