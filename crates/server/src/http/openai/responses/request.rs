//! Reading what `/v1/responses` is sent.
use super::super::request::{TOOLS_MAX, arguments, check_function, model, tool_choice};
use super::{Stored, unknown};
use crate::ask::{
    Ask, Chat, Conversation, Fields, Grammar, Prompts, Sampling, Violations, text_of,
};
use crate::http::Refused;
use model::chat::Message;
use serde_json::{Map, Value as Json, json};

/// Fields that the response repeats, with what stands for those that are missing.
fn echo(object: &Map<String, Json>) -> Map<String, Json> {
    let defaults = json!({
        "instructions": null, "max_output_tokens": null, "metadata": {}, "parallel_tool_calls": true,
        "previous_response_id": null, "reasoning": { "effort": null, "summary": null }, "store": true,
        "temperature": 1.0, "text": { "format": { "type": "text" } }, "tool_choice": "auto", "tools": [],
        "top_p": 1.0, "truncation": "disabled", "user": null,
    });
    let Json::Object(mut echo) = defaults else { return Map::new() };
    for (name, value) in &mut echo {
        if let Some(given) = object.get(name).filter(|given| !given.is_null()) {
            *value = given.clone();
        }
    }
    echo
}

pub(super) struct Request {
    pub(super) ask: Ask,
    pub(super) streams: bool,
    /// Whether the response is kept for later requests.
    pub(super) stores: bool,
    /// The conversation without `instructions`: they are not carried over.
    pub(super) conversation: Vec<Message>,
    pub(super) echo: Map<String, Json>,
}

pub(super) fn read(object: &Map<String, Json>, stored: &Stored) -> Result<Request, Refused> {
    let violations = Violations::default();
    let fields = violations.fields(object);
    let field = "previous_response_id";
    let conversation = match fields.text(field) {
        None => Vec::new(),
        Some(id) => stored.get(id).ok_or_else(|| unknown(field, id))?.messages.clone(),
    };
    let mut conversation = Conversation(conversation);
    read_input(&fields, &mut conversation);
    refuse_others(&fields);
    let ask = Ask {
        model: model(&fields),
        prompts: Prompts::Chat(chat(&fields, &conversation)),
        sampling: Sampling::read(&fields, "stop"),
        tokens_max: fields.count("max_output_tokens", 1),
        n: 1,
        logprobs: None,
        grammar: fields.inner("text").and_then(|text| grammar(&text)),
    };
    let streams = fields.flag("stream").unwrap_or(false);
    let stores = fields.flag("store").unwrap_or(true);
    violations.check()?;
    Ok(Request { ask, streams, stores, conversation: conversation.0, echo: echo(object) })
}

/// What OpenAI's own server offers and this one does not.
fn refuse_others(fields: &Fields<'_>) {
    if fields.flag("background") == Some(true) {
        fields.wrong("background", "must be false: answers end with their connection");
    }
    if fields.text("truncation").is_some_and(|truncation| truncation != "disabled") {
        fields.wrong("truncation", "must be \"disabled\": what is too long is refused");
    }
    for name in ["conversation", "prompt"] {
        if fields.get(name).is_some() {
            fields.wrong(name, "is not offered: send `input`, with `previous_response_id`");
        }
    }
    fields.inner("metadata");
}

fn chat(fields: &Fields<'_>, conversation: &Conversation) -> Chat {
    let instructions = fields.text("instructions").map(|text| Message::new("system", text));
    let tools = tools(fields);
    let mut variables = Map::new();
    let effort = fields.inner("reasoning").and_then(|reasoning| reasoning.text("effort"));
    if let Some(effort) = effort {
        variables.insert("reasoning_effort".to_owned(), json!(effort));
        variables.insert("enable_thinking".to_owned(), json!(effort != "none"));
    }
    Chat {
        messages: instructions.into_iter().chain(conversation.0.iter().cloned()).collect(),
        tool_choice: tool_choice(fields, &tools),
        tools,
        parallel_calls: fields.flag("parallel_tool_calls").unwrap_or(true),
        variables,
    }
}

fn read_input(fields: &Fields<'_>, to: &mut Conversation) {
    match fields.required("input") {
        Some(Json::String(text)) => to.say("user", text),
        Some(Json::Array(_)) => {
            let items = fields.objects("input").unwrap_or_default();
            if items.is_empty() {
                fields.wrong("input", "must have at least one item");
            }
            items.iter().for_each(|item| read_item(item, to));
        }
        Some(_) => fields.wrong("input", "must be a string or a list of items"),
        None => {}
    }
}

fn read_item(item: &Fields<'_>, to: &mut Conversation) {
    // Reads a string that the item must have.
    let text = |name: &str| {
        item.required(name);
        item.text(name)
    };
    match item.text("type").unwrap_or("message") {
        "message" => {
            item.required("role");
            item.required("content");
            let role = item.one_of("role", &["user", "assistant", "system", "developer"]);
            let role = role.map(|role| if role == "developer" { "system" } else { role });
            let content = text_of(item, "content", &["input_text", "output_text"]);
            if let (Some(role), Some(content)) = (role, content) {
                to.say(role, &content);
            }
        }
        "reasoning" => {
            if let Some(thought) = text_of(item, "content", &["reasoning_text"]) {
                to.think(&thought);
            }
        }
        "function_call" => {
            let named = (text("call_id"), text("name"), arguments(item));
            if let (Some(id), Some(name), Some(arguments)) = named {
                to.call(id, name, arguments);
            }
        }
        "function_call_output" => {
            item.required("output");
            let output = text_of(item, "output", &["input_text"]).unwrap_or_default();
            if let Some(id) = text("call_id")
                && !to.answer(id, &output)
            {
                item.wrong("call_id", "names no function_call before it");
            }
        }
        _ => {
            item.wrong("type", "must be message, reasoning, function_call or function_call_output");
        }
    }
}

/// Tools as chats have them, with the function in an object of its own.
fn tools(fields: &Fields<'_>) -> Vec<Json> {
    let tools = fields.objects("tools").unwrap_or_default();
    if tools.len() > TOOLS_MAX {
        fields.wrong("tools", format!("must have up to {TOOLS_MAX} functions"));
    }
    let nested = |tool: &Fields<'_>| {
        tool.required("type");
        tool.one_of("type", &["function"]);
        check_function(tool);
        let mut function = tool.object().clone();
        function.remove("type");
        json!({ "type": "function", "function": function })
    };
    tools.iter().map(nested).collect()
}

fn grammar(text: &Fields<'_>) -> Option<Grammar> {
    let format = text.inner("format")?;
    format.required("type");
    match format.one_of("type", &["text", "json_object", "json_schema"])? {
        "json_object" => Some(Grammar::JsonObject),
        "json_schema" => {
            format.required("name");
            format.text("name");
            format.required("schema").cloned().map(Grammar::JsonSchema)
        }
        _ => None,
    }
}
