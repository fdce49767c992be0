//! `/tokenize`, `/detokenize` and `/apply-template`, as llama.cpp's server has them.
use super::{request, words};
use crate::ask::{Violations, blocking, render};
use crate::http::{App, Body, Refused, object};
use axum::Json;
use axum::extract::State;
use model::tokenizer::{Control, Special};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) async fn tokenize(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<Value>, Refused> {
    let body = object(body)?;
    let (model, content, special, pieces) = {
        let violations = Violations::default();
        let fields = violations.fields(&body);
        fields.required("content");
        let special = Special {
            add_special: fields.flag("add_special").unwrap_or(false),
            parse_special: fields.flag("parse_special").unwrap_or(true),
        };
        let content = fields.text("content").unwrap_or_default().to_owned();
        let pieces = fields.flag("with_pieces").unwrap_or(false);
        let model = request::model(&fields);
        violations.check()?;
        (model, content, special, pieces)
    };
    let served = app.models.get(model.as_deref()).await?;
    let tokenizer = Arc::clone(&served.tokenizer);
    let tokens = blocking(move || tokenizer.encode(&content, special)).await?;
    let tokens = tokens.map_err(|error| Refused::field("content", error.to_string()))?;
    let with_piece =
        |id: &u32| json!({ "id": id, "piece": words::token_text(&served.tokenizer, *id) });
    let tokens = match pieces {
        true => tokens.iter().map(with_piece).collect(),
        false => json!(tokens),
    };
    Ok(Json(json!({ "tokens": tokens })))
}

pub(super) async fn detokenize(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<Value>, Refused> {
    let body = object(body)?;
    let (model, tokens) = {
        let violations = Violations::default();
        let fields = violations.fields(&body);
        fields.required("tokens");
        let read = (request::model(&fields), fields.token_ids("tokens").unwrap_or_default());
        violations.check()?;
        read
    };
    let served = app.models.get(model.as_deref()).await?;
    let size = served.tokenizer.vocab_size();
    if let Some(id) = tokens.iter().find(|id| **id as usize >= size) {
        let message = format!("`tokens` has the token id {id}, the model has {size} tokens");
        return Err(Refused::field("tokens", message));
    }
    Ok(Json(json!({ "content": served.tokenizer.decode(&tokens, Control::Keep) })))
}

pub(super) async fn apply_template(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Json<Value>, Refused> {
    let body = object(body)?;
    let (model, chat) = {
        let violations = Violations::default();
        let fields = violations.fields(&body);
        let read = (request::model(&fields), request::chat(&fields));
        violations.check()?;
        read
    };
    let served = app.models.get(model.as_deref()).await?;
    let prompt = blocking(move || render(&served, &chat)).await??;
    Ok(Json(json!({ "prompt": prompt })))
}
