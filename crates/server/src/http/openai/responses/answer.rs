//! Answers of `/v1/responses`, whole and as events.
use crate::ask::{Conversation, Delta, Finish, Item, Items, Move, Part, Voice};
use crate::http::{App, Refused};
use crate::models::Served;
use crate::service::Usage;
use axum::response::sse::Event;
use model::chat::Message;
use model::tokenizer::{Special, Tokenizer};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

/// Where a response goes when it is whole, and the conversation before it.
pub(super) type Stores = Option<(Arc<App>, Vec<Message>)>;

/// Keeps a response for later requests.
pub(super) fn store(stores: Stores, id: &str, response: &Json, output: &[Named]) {
    let Some((app, messages)) = stores else { return };
    let mut conversation = Conversation(messages);
    for named in output {
        match &named.item {
            Item::Reasoning(text) => conversation.think(text),
            Item::Content(text) => conversation.say("assistant", text),
            Item::Call(call) => {
                let arguments = serde_json::from_str(&call.arguments);
                let arguments = arguments.unwrap_or_else(|_| json!({}));
                conversation.call(&named.id("call"), &call.name, arguments);
            }
        }
    }
    app.stored.put(id, response.to_string(), conversation.0);
}

/// An item with what its ids end in.
#[derive(Clone, Debug)]
pub(super) struct Named {
    suffix: u64,
    item: Item,
}

impl Named {
    pub(super) fn new(item: Item) -> Self {
        Self { suffix: crate::drawn(), item }
    }

    fn id(&self, prefix: &str) -> String {
        format!("{prefix}_{:016x}", self.suffix)
    }

    fn item_id(&self) -> String {
        self.id(match self.item {
            Item::Reasoning(_) => "rs",
            Item::Content(_) => "msg",
            Item::Call(_) => "fc",
        })
    }

    /// What stands in the item's `content`; None for a call.
    fn part(&self) -> Option<Json> {
        match &self.item {
            Item::Reasoning(text) => Some(json!({ "type": "reasoning_text", "text": text })),
            Item::Content(text) => Some(output_text(text)),
            Item::Call(_) => None,
        }
    }

    /// `begins`: without its content, which follows.
    fn json(&self, status: &str, begins: bool) -> Json {
        let content: Vec<Json> = self.part().filter(|_| !begins).into_iter().collect();
        let id = self.item_id();
        match &self.item {
            Item::Reasoning(_) => {
                json!({ "id": id, "type": "reasoning", "status": status, "summary": [], "content": content })
            }
            Item::Content(_) => {
                json!({ "id": id, "type": "message", "status": status, "role": "assistant", "content": content })
            }
            Item::Call(call) => json!({
                "id": id, "type": "function_call", "status": status, "call_id": self.id("call"),
                "name": call.name, "arguments": call.arguments,
            }),
        }
    }
}

fn output_text(text: &str) -> Json {
    json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] })
}

/// What all tellings of one response share.
#[derive(Debug)]
pub(super) struct Frame {
    id: String,
    created: u64,
    model: String,
    echo: Map<String, Json>,
}

impl Frame {
    pub(super) fn new(echo: Map<String, Json>, model: &str) -> Self {
        let id = format!("resp_{:016x}", crate::drawn());
        Self { id, created: crate::seconds_since_1970(), model: model.to_owned(), echo }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn response(&self, status: &str, output: Vec<Json>) -> Map<String, Json> {
        let mut response = Map::new();
        let mut put = |name: &str, value: Json| response.insert(name.to_owned(), value);
        put("id", json!(self.id));
        put("object", json!("response"));
        put("created_at", json!(self.created));
        put("status", json!(status));
        put("background", json!(false));
        put("error", Json::Null);
        put("incomplete_details", Json::Null);
        put("model", json!(self.model));
        put("output", Json::Array(output));
        put("usage", Json::Null);
        response.extend(self.echo.clone());
        response
    }

    /// The whole response.
    pub(super) fn ended(
        &self,
        output: &[Named],
        finish: &Finish,
        usage: Usage,
        tokenizer: &Tokenizer,
    ) -> Json {
        let status = status(finish);
        let last = output.len().saturating_sub(1);
        // Only what was written last can be cut off.
        let item = |(i, named): (usize, &Named)| {
            named.json(if i == last { status } else { "completed" }, false)
        };
        let items = output.iter().enumerate().map(item).collect();
        let mut response = self.response(status, items);
        if status == "incomplete" {
            let reason = json!({ "reason": "max_output_tokens" });
            response.insert("incomplete_details".to_owned(), reason);
        }
        let reasoning = output.iter().map(|named| match &named.item {
            Item::Reasoning(text) => count(tokenizer, text),
            _ => 0,
        });
        let details = json!({ "reasoning_tokens": reasoning.sum::<usize>() });
        let usage = json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": { "cached_tokens": usage.cached_tokens },
            "output_tokens": usage.answer_tokens,
            "output_tokens_details": details,
            "total_tokens": usage.prompt_tokens + usage.answer_tokens,
        });
        response.insert("usage".to_owned(), usage);
        Json::Object(response)
    }
}

/// Of a response that has ended, and of its last item.
fn status(finish: &Finish) -> &'static str {
    if *finish == Finish::Length { "incomplete" } else { "completed" }
}

/// Tokens of a text that was generated.
fn count(tokenizer: &Tokenizer, text: &str) -> usize {
    let special = Special { add_special: false, parse_special: false };
    tokenizer.encode(text, special).map_or(0, |tokens| tokens.len())
}

/// An answer as events.
pub(super) struct Voiced {
    frame: Frame,
    served: Arc<Served>,
    stores: Stores,
    items: Items,
    /// The last one may be open; it is empty while it is.
    output: Vec<Named>,
    /// Events that were told.
    told: u64,
    finish: Finish,
}

impl Voiced {
    pub(super) fn new(frame: Frame, served: Arc<Served>, stores: Stores) -> Self {
        let (items, finish) = (Items::default(), Finish::Length);
        Self { frame, served, stores, items, output: Vec::new(), told: 0, finish }
    }

    /// An event, numbered, its name also in its data.
    fn event(&mut self, kind: &str, mut data: Json) -> Event {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.told);
        self.told += 1;
        Event::default().event(kind).data(data.to_string())
    }

    /// An event about the newest item.
    fn about(&mut self, kind: &str, mut data: Json) -> Event {
        if let Some(named) = self.output.last() {
            data["item_id"] = json!(named.item_id());
            data["output_index"] = json!(self.output.len() - 1);
            if named.part().is_some() {
                data["content_index"] = json!(0);
            }
        }
        self.event(kind, data)
    }

    fn add(&mut self, delta: Delta) -> Vec<Event> {
        let moves = self.items.take(delta);
        moves.into_iter().flat_map(|step| self.tell(step, "completed")).collect()
    }

    /// `status`: of an item that is closed.
    fn tell(&mut self, step: Move, status: &str) -> Vec<Event> {
        match step {
            Move::Open(item) => {
                self.output.push(Named::new(item));
                self.tell_open()
            }
            Move::Add(text) => {
                let Some(named) = self.output.last() else { return Vec::new() };
                let data = match named.item {
                    Item::Content(_) => json!({ "delta": text, "logprobs": [] }),
                    _ => json!({ "delta": text }),
                };
                vec![self.about(&format!("{}.delta", text_event(&named.item)), data)]
            }
            Move::Close(item) => {
                if let Some(open) = self.output.last_mut() {
                    open.item = item;
                }
                self.tell_closed(status)
            }
        }
    }

    fn tell_open(&mut self) -> Vec<Event> {
        let Some(named) = self.output.last().cloned() else { return Vec::new() };
        let data = json!({ "output_index": self.output.len() - 1, "item": named.json("in_progress", true) });
        let mut events = vec![self.event("response.output_item.added", data)];
        if let Some(part) = named.part() {
            events.push(self.about("response.content_part.added", json!({ "part": part })));
        }
        events
    }

    fn tell_closed(&mut self, status: &str) -> Vec<Event> {
        let Some(named) = self.output.last().cloned() else { return Vec::new() };
        let data = match &named.item {
            Item::Content(text) => json!({ "text": text, "logprobs": [] }),
            Item::Reasoning(text) => json!({ "text": text }),
            Item::Call(call) => json!({ "name": call.name, "arguments": call.arguments }),
        };
        let mut events = vec![self.about(&format!("{}.done", text_event(&named.item)), data)];
        if let Some(part) = named.part() {
            events.push(self.about("response.content_part.done", json!({ "part": part })));
        }
        let data =
            json!({ "output_index": self.output.len() - 1, "item": named.json(status, false) });
        events.push(self.event("response.output_item.done", data));
        events
    }

    fn failed(&mut self, refused: &Refused) -> Event {
        let mut response = self.frame.response("failed", Vec::new());
        let error = json!({ "code": "server_error", "message": refused.message });
        response.insert("error".to_owned(), error);
        self.event("response.failed", json!({ "response": response }))
    }
}

/// What the events of an item's text begin with.
fn text_event(item: &Item) -> &'static str {
    match item {
        Item::Reasoning(_) => "response.reasoning_text",
        Item::Content(_) => "response.output_text",
        Item::Call(_) => "response.function_call_arguments",
    }
}

impl Voice for Voiced {
    fn begin(&mut self, _choices: u32) -> Vec<Event> {
        let response = json!({ "response": self.frame.response("in_progress", Vec::new()) });
        let kinds = ["response.created", "response.in_progress"];
        kinds.map(|kind| self.event(kind, response.clone())).into()
    }

    fn part(&mut self, part: Part) -> Vec<Event> {
        match part {
            Part::Text { deltas, .. } => {
                deltas.into_iter().flat_map(|delta| self.add(delta)).collect()
            }
            Part::End { finish, .. } => {
                self.finish = finish;
                let status = status(&self.finish);
                self.items.close().map(|step| self.tell(step, status)).unwrap_or_default()
            }
            Part::Failed(refused) => vec![self.failed(&refused)],
        }
    }

    fn end(&mut self, usage: Usage) -> Vec<Event> {
        let tokenizer = &self.served.tokenizer;
        let response = self.frame.ended(&self.output, &self.finish, usage, tokenizer);
        store(self.stores.take(), &self.frame.id, &response, &self.output);
        let kind = format!("response.{}", status(&self.finish));
        vec![self.event(&kind, json!({ "response": response }))]
    }
}
