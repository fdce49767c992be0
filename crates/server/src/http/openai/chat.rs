//! `POST /v1/chat/completions`.
use super::request::{self, Streaming, streaming};
use super::words::{self, Head, done, event};
use crate::ask::{
    Ask, Call, Choice, Delta, Fields, Part, Prompts, Sampling, Violations, Voice, speak,
};
use crate::http::{App, Body, Refused, Style, object};
use crate::models::Served;
use crate::service::{TokenFacts, Usage};
use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use std::sync::Arc;

const N_MAX: i64 = 128;
const TOP_LOGPROBS_MAX: i64 = 20;

pub(super) async fn chat(State(app): State<Arc<App>>, body: Body) -> Result<Response, Refused> {
    let (ask, streaming) = read(&object(body)?)?;
    let answering = app.ask(ask).await?;
    let served = Arc::clone(&answering.served);
    if streaming.on {
        let head = Head::new("chatcmpl", "chat.completion.chunk", &served.facts);
        return Ok(speak(answering, Chunks { head, served, usage: streaming.usage }));
    }
    let whole = answering.whole().await?;
    let choices = whole.choices.iter().enumerate().map(|(i, choice)| full(&served, i, choice));
    let head = Head::new("chatcmpl", "chat.completion", &served.facts);
    Ok(Json(head.with(choices.collect(), Some(words::usage(whole.usage)))).into_response())
}

fn read(body: &Map<String, Value>) -> Result<(Ask, Streaming), Refused> {
    let violations = Violations::default();
    let fields = violations.fields(body);
    let newer = fields.count("max_completion_tokens", 1);
    let ask = Ask {
        model: request::model(&fields),
        prompts: Prompts::Chat(request::chat(&fields)),
        sampling: Sampling::read(&fields, "stop"),
        tokens_max: newer.or(fields.count("max_tokens", 1)),
        n: fields.integer("n", 1..=N_MAX).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
        logprobs: logprobs(&fields),
        grammar: request::grammar(&fields),
    };
    let streaming = streaming(&fields);
    if let Some(kinds) = fields.list("modalities")
        && kinds.iter().any(|kind| kind != "text")
    {
        fields.wrong("modalities", "must be [\"text\"]: models here write nothing else");
    }
    violations.check()?;
    Ok((ask, streaming))
}

fn logprobs(fields: &Fields<'_>) -> Option<u32> {
    let on = fields.flag("logprobs").unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=TOP_LOGPROBS_MAX);
    if top.is_some() && !on {
        fields.wrong("top_logprobs", "needs `logprobs: true`");
    }
    on.then(|| top.and_then(|top| u32::try_from(top).ok()).unwrap_or(0))
}

/// One of a whole answer's choices.
fn full(served: &Served, index: usize, choice: &Choice) -> Value {
    let content = match choice.content.as_str() {
        "" if !choice.calls.is_empty() => Value::Null,
        text => json!(text),
    };
    let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
    if !choice.reasoning.is_empty() {
        message["reasoning_content"] = json!(choice.reasoning);
    }
    if !choice.calls.is_empty() {
        let call = |Call { name, arguments }: &Call| {
            let function = json!({ "name": name, "arguments": arguments });
            json!({ "id": call_id(), "type": "function", "function": function })
        };
        message["tool_calls"] = choice.calls.iter().map(call).collect();
    }
    json!({
        "index": index,
        "message": message,
        "logprobs": logprobs_of(served, &choice.tokens),
        "finish_reason": words::finish_reason(&choice.finish),
    })
}

fn logprobs_of(served: &Served, tokens: &[TokenFacts]) -> Value {
    match tokens {
        [] => Value::Null,
        _ => words::chat_logprobs(&served.tokenizer, tokens),
    }
}

fn call_id() -> String {
    format!("call_{:016x}", crate::drawn())
}

/// The stream of an answer.
struct Chunks {
    head: Head,
    served: Arc<Served>,
    /// The last chunk tells usage.
    usage: bool,
}

impl Chunks {
    fn chunk(&self, choices: Vec<Value>, usage: Option<Value>) -> Event {
        // Who asked for usage gets the field in every chunk.
        let usage = self.usage.then(|| usage.unwrap_or(Value::Null));
        event(&self.head.with(choices, usage))
    }

    fn choice(&self, index: u32, delta: &Value, logprobs: Value, finish: Option<&str>) -> Event {
        let mut choice = json!({ "index": index, "delta": delta });
        choice["logprobs"] = logprobs;
        choice["finish_reason"] = json!(finish);
        self.chunk(vec![choice], None)
    }
}

impl Voice for Chunks {
    fn begin(&mut self, choices: u32) -> Vec<Event> {
        let delta = json!({ "role": "assistant", "content": "" });
        (0..choices).map(|i| self.choice(i, &delta, Value::Null, None)).collect()
    }

    fn part(&mut self, part: Part) -> Vec<Event> {
        match part {
            Part::Text { choice, deltas, tokens } => {
                let mut logprobs = logprobs_of(&self.served, &tokens);
                let mut deltas: Vec<Value> = deltas.into_iter().map(delta).collect();
                if deltas.is_empty() {
                    deltas.push(json!({}));
                }
                let chunk = |delta| self.choice(choice, delta, logprobs.take(), None);
                deltas.iter().map(chunk).collect()
            }
            Part::End { choice, finish, .. } => {
                let reason = words::finish_reason(&finish);
                vec![self.choice(choice, &json!({}), Value::Null, Some(reason))]
            }
            Part::Failed(refused) => vec![event(&refused.body(Style::OpenAi))],
        }
    }

    fn end(&mut self, usage: Usage) -> Vec<Event> {
        let usage = self.usage.then(|| self.chunk(Vec::new(), Some(words::usage(usage))));
        usage.into_iter().chain([done()]).collect()
    }
}

fn delta(delta: Delta) -> Value {
    let call = |call: Value| json!({ "tool_calls": [call] });
    match delta {
        Delta::Content(text) => json!({ "content": text }),
        Delta::Reasoning(text) => json!({ "reasoning_content": text }),
        Delta::ToolCall { index, name } => {
            let function = json!({ "name": name, "arguments": "" });
            call(
                json!({ "index": index, "id": call_id(), "type": "function", "function": function }),
            )
        }
        Delta::ToolArguments { index, piece } => {
            call(json!({ "index": index, "function": { "arguments": piece } }))
        }
    }
}
