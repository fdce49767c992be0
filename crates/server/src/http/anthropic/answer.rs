//! Answers in Anthropic's words, whole and as events.
use crate::ask::{Finish, Item, Items, Move, Part, Voice};
use crate::http::{Refused, Style};
use crate::service;
use axum::response::sse::Event;
use serde_json::{Value as Json, json};

/// A name that nothing else has.
pub(super) fn id(kind: &str) -> String {
    format!("{kind}_{:016x}", crate::drawn())
}

/// Counts as Anthropic has them: tokens found in the cache are not among `input_tokens`.
#[derive(Clone, Copy)]
pub(super) struct Usage(pub(super) service::Usage);

impl Usage {
    fn json(&self) -> Json {
        let Self(usage) = self;
        json!({
            "input_tokens": usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.answer_tokens,
        })
    }
}

/// `finish` is None while it is written.
pub(super) fn message(
    id: &str,
    model: &str,
    content: &[Json],
    finish: Option<&Finish>,
    usage: Usage,
) -> Json {
    let (reason, stop) = stop(finish);
    json!({
        "id": id, "type": "message", "role": "assistant", "model": model, "content": content,
        "stop_reason": reason, "stop_sequence": stop, "usage": usage.json(),
    })
}

/// `stop_reason` and `stop_sequence`.
fn stop(finish: Option<&Finish>) -> (Option<&str>, Option<&str>) {
    match finish {
        None => (None, None),
        Some(Finish::Model) => (Some("end_turn"), None),
        Some(Finish::Length) => (Some("max_tokens"), None),
        Some(Finish::ToolCalls) => (Some("tool_use"), None),
        Some(Finish::Stop(stop)) => (Some("stop_sequence"), Some(stop)),
    }
}

/// A block of content.
pub(super) fn block(item: &Item) -> Json {
    match item {
        // Nothing is signed here; a client sends the block back as it is.
        Item::Reasoning(text) => json!({ "type": "thinking", "thinking": text, "signature": "" }),
        Item::Content(text) => json!({ "type": "text", "text": text }),
        Item::Call(call) => {
            let input = serde_json::from_str(&call.arguments).ok().filter(Json::is_object);
            // An answer that was cut off leaves half an object.
            let input = input.unwrap_or_else(|| json!({}));
            json!({ "type": "tool_use", "id": id("toolu"), "name": call.name, "input": input })
        }
    }
}

/// An answer as events.
pub(super) struct Voiced {
    model: String,
    prompt_tokens: u32,
    items: Items,
    /// Blocks that were begun.
    blocks: usize,
    /// What deltas of the open block are called, and their text in them.
    delta: (&'static str, &'static str),
    finish: Option<Finish>,
}

impl Voiced {
    pub(super) fn new(model: String, prompt_tokens: u32) -> Self {
        let (items, delta) = (Items::default(), ("", ""));
        Self { model, prompt_tokens, items, blocks: 0, delta, finish: None }
    }

    fn tell(&mut self, step: Move) -> Event {
        match step {
            Move::Open(item) => {
                self.blocks += 1;
                self.delta = match item {
                    Item::Reasoning(_) => ("thinking_delta", "thinking"),
                    Item::Content(_) => ("text_delta", "text"),
                    Item::Call(_) => ("input_json_delta", "partial_json"),
                };
                let block = block(&item);
                event(
                    "content_block_start",
                    json!({ "index": self.blocks - 1, "content_block": block }),
                )
            }
            Move::Add(text) => {
                let (kind, name) = self.delta;
                let delta = json!({ "type": kind, name: text });
                event("content_block_delta", json!({ "index": self.blocks - 1, "delta": delta }))
            }
            Move::Close(_) => event("content_block_stop", json!({ "index": self.blocks - 1 })),
        }
    }
}

impl Voice for Voiced {
    fn begin(&mut self, _choices: u32) -> Vec<Event> {
        // How much of the prompt the cache holds is known at the end.
        let usage = Usage(service::Usage {
            prompt_tokens: self.prompt_tokens,
            ..service::Usage::default()
        });
        let message = message(&id("msg"), &self.model, &[], None, usage);
        vec![event("message_start", json!({ "message": message })), event("ping", json!({}))]
    }

    fn part(&mut self, part: Part) -> Vec<Event> {
        match part {
            Part::Text { deltas, .. } => {
                let moves: Vec<Move> =
                    deltas.into_iter().flat_map(|delta| self.items.take(delta)).collect();
                moves.into_iter().map(|step| self.tell(step)).collect()
            }
            Part::End { finish, .. } => {
                self.finish = Some(finish);
                self.items.close().map(|step| self.tell(step)).into_iter().collect()
            }
            Part::Failed(refused) => vec![failed(&refused)],
        }
    }

    fn end(&mut self, usage: service::Usage) -> Vec<Event> {
        let (reason, stop) = stop(self.finish.as_ref());
        let delta = json!({ "stop_reason": reason, "stop_sequence": stop });
        let usage = Usage(usage).json();
        vec![
            event("message_delta", json!({ "delta": delta, "usage": usage })),
            event("message_stop", json!({})),
        ]
    }
}

fn failed(refused: &Refused) -> Event {
    Event::default().event("error").data(refused.body(Style::Anthropic).to_string())
}

/// An event, its name also in its data.
fn event(kind: &'static str, mut data: Json) -> Event {
    data["type"] = json!(kind);
    Event::default().event(kind).data(data.to_string())
}
