//! What the owner of a server tells it: which models to hold, and to stop.
use super::{App, Refused};
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    model: String,
}

fn named(body: &[u8]) -> Result<String, Refused> {
    let named: Named = serde_json::from_slice(body).map_err(|error| {
        Refused::field("model", format!("the body must be {{\"model\": NAME}}: {error}"))
    })?;
    Ok(named.model)
}

/// Loads a model, or finds it loaded.
pub(super) async fn load(State(app): State<Arc<App>>, body: Bytes) -> Result<Json<Value>, Refused> {
    app.admits()?;
    let served = app.models.get(Some(&named(&body)?)).await?;
    let facts = &served.facts;
    Ok(Json(json!({ "model": facts.name, "loaded": true, "memory_bytes": facts.memory_bytes })))
}

/// Lets go of a model; what it still answers it finishes.
pub(super) async fn unload(
    State(app): State<Arc<App>>,
    body: Bytes,
) -> Result<Json<Value>, Refused> {
    let name = named(&body)?;
    if !app.models.unload(&name) {
        let message = format!("{name:?} is not loaded");
        return Err(Refused::new(StatusCode::NOT_FOUND, "model_not_found", message));
    }
    Ok(Json(json!({ "model": name, "loaded": false })))
}

/// Takes no more work and ends when what runs has ended.
pub(super) async fn shutdown(State(app): State<Arc<App>>) -> (StatusCode, Json<Value>) {
    app.draining.send_replace(true);
    (StatusCode::ACCEPTED, Json(json!({ "status": "shutting down" })))
}
