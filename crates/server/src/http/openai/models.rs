//! `GET /v1/models`: what can answer, loaded or not.
use crate::http::{App, Refused};
use crate::models::{LoadError, Served};
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.models.names().iter().map(|name| entry(&app, name)).collect();
    Json(json!({ "object": "list", "data": data }))
}

pub(super) async fn one(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refused> {
    let known = app.models.names();
    if known.contains(&id) {
        return Ok(Json(entry(&app, &id)));
    }
    Err(LoadError::Unknown { name: id, known }.into())
}

/// A model; how it is set up is known only while it is loaded.
fn entry(app: &App, name: &str) -> Value {
    let loaded = app.models.loaded();
    let served = loaded.iter().find(|served| served.facts.name == name).map(Arc::as_ref);
    let mut entry = json!({ "id": name, "object": "model", "owned_by": "russet" });
    entry["created"] = json!(served.map_or(0, |served| served.facts.created));
    entry["loaded"] = json!(served.is_some());
    if let Some(Served { facts, .. }) = served {
        entry["device"] = json!(facts.device.kind.name());
        entry["device_name"] = json!(facts.device.name);
        entry["context_length"] = json!(facts.context_length);
        entry["quantization"] = json!(facts.quantization);
        entry["sha256"] = json!(facts.sha256);
    }
    entry
}
