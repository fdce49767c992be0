//! `/v1/responses`: answers as items, which a later request can go on from by name.
mod answer;
mod request;
mod stored;

pub(in crate::http) use stored::Stored;

use crate::ask::{Item, speak};
use crate::http::{App, Body, Refused, object};
use answer::{Frame, Named, Voiced};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn create(State(app): State<Arc<App>>, body: Body) -> Result<Response, Refused> {
    let request = request::read(&object(body)?, &app.stored)?;
    let answering = app.ask(request.ask).await?;
    let served = Arc::clone(&answering.served);
    let frame = Frame::new(request.echo, &served.facts.name);
    let stores = request.stores.then(|| (Arc::clone(&app), request.conversation));
    if request.streams {
        return Ok(speak(answering, Voiced::new(frame, served, stores)));
    }
    let mut whole = answering.whole().await?;
    let choice = whole.choices.swap_remove(0);
    let finish = choice.finish.clone();
    let output: Vec<Named> = Vec::<Item>::from(choice).into_iter().map(Named::new).collect();
    let response = frame.ended(&output, &finish, whole.usage, &served.tokenizer);
    answer::store(stores, frame.id(), &response, &output);
    Ok(Json(response).into_response())
}

pub(super) async fn retrieve(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    let found = app.stored.get(&id).ok_or_else(|| unknown("response_id", &id))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], found.response.clone()).into_response())
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refused> {
    if app.stored.delete(&id) {
        Ok(Json(json!({ "id": id, "object": "response", "deleted": true })))
    } else {
        Err(unknown("response_id", &id))
    }
}

fn unknown(field: &str, id: &str) -> Refused {
    let message =
        format!("there is no response {id:?}: it was not stored, or newer ones took its place");
    let refused = Refused::new(StatusCode::NOT_FOUND, "response_not_found", message);
    Refused { field: Some(field.to_owned()), ..refused }
}
