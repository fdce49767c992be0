//! Anthropic's messages: requests and answers in its words.
mod answer;
mod request;

use crate::ask::{Item, blocking, render, speak};
use crate::http::{App, Body, Refused, object};
use answer::{Usage, Voiced, block, message};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::json;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
}

async fn messages(State(app): State<Arc<App>>, body: Body) -> Result<Response, Refused> {
    let (ask, streams) = request::read(&object(body)?)?;
    let answering = app.ask(ask).await?;
    let model = answering.served.facts.name.clone();
    if streams {
        let prompt_tokens = answering.prompt_tokens;
        return Ok(speak(answering, Voiced::new(model, prompt_tokens)));
    }
    let mut whole = answering.whole().await?;
    let choice = whole.choices.swap_remove(0);
    let finish = choice.finish.clone();
    let content: Vec<_> = Vec::<Item>::from(choice).iter().map(block).collect();
    let answer = message(&answer::id("msg"), &model, &content, Some(&finish), Usage(whole.usage));
    Ok(Json(answer).into_response())
}

async fn count_tokens(State(app): State<Arc<App>>, body: Body) -> Result<Response, Refused> {
    let (model, chat) = request::read_countable(&object(body)?)?;
    let served = app.models.get(model.as_deref()).await?;
    let count = blocking(move || {
        let prompt = render(&served, &chat)?;
        let tokens = served.tokenizer.encode_prompt(&prompt);
        let tokens = tokens.map_err(|error| Refused::field("messages", error.to_string()))?;
        Ok::<_, Refused>(tokens.len())
    });
    Ok(Json(json!({ "input_tokens": count.await?? })).into_response())
}
