//! Reading what Anthropic's clients send.
use crate::ask::{
    Ask, Chat, Conversation, Fields, Grammar, Prompts, Sampling, ToolChoice, Violations, text_of,
};
use crate::http::Refused;
use serde_json::{Map, Value as Json, json};

/// The request, and whether its answer is streamed.
pub(super) fn read(object: &Map<String, Json>) -> Result<(Ask, bool), Refused> {
    let violations = Violations::default();
    let fields = violations.fields(object);
    fields.required("max_tokens");
    let ask = Ask {
        model: fields.text("model").map(str::to_owned),
        prompts: Prompts::Chat(chat(&fields)),
        sampling: Sampling::read(&fields, "stop_sequences"),
        tokens_max: fields.count("max_tokens", 1),
        n: 1,
        logprobs: None,
        grammar: fields.inner("output_config").and_then(|output| grammar(&output)),
    };
    let streams = fields.flag("stream").unwrap_or(false);
    violations.check()?;
    Ok((ask, streams))
}

/// A request to count the tokens of: the model and the conversation.
pub(super) fn read_countable(
    object: &Map<String, Json>,
) -> Result<(Option<String>, Chat), Refused> {
    let violations = Violations::default();
    let fields = violations.fields(object);
    let (model, chat) = (fields.text("model").map(str::to_owned), chat(&fields));
    violations.check()?;
    Ok((model, chat))
}

fn chat(fields: &Fields<'_>) -> Chat {
    let mut conversation = Conversation::default();
    if let Some(system) = text_of(fields, "system", &["text"]) {
        conversation.say("system", &system);
    }
    fields.required("messages");
    let messages = fields.objects("messages").unwrap_or_default();
    messages.iter().for_each(|message| read_message(message, &mut conversation));
    if conversation.0.last().is_none_or(|last| !matches!(last.role.as_str(), "user" | "tool")) {
        fields.wrong("messages", "must end with a message of the user");
    }
    let tools = tools(fields);
    let (tool_choice, parallel_calls) = tool_choice(fields, &tools);
    let mut variables = Map::new();
    let thinking = fields.inner("thinking").and_then(|thinking| {
        thinking.required("type");
        thinking.one_of("type", &["enabled", "adaptive", "between_tools", "disabled"])
    });
    if let Some(thinking) = thinking {
        variables.insert("enable_thinking".to_owned(), json!(thinking != "disabled"));
    }
    if let Some(effort) = fields.inner("output_config").and_then(|output| output.text("effort")) {
        variables.insert("reasoning_effort".to_owned(), json!(effort));
    }
    Chat { messages: conversation.0, tools, tool_choice, parallel_calls, variables }
}

/// What the answer must look like.
fn grammar(output: &Fields<'_>) -> Option<Grammar> {
    let format = output.inner("format")?;
    format.required("type");
    format.one_of("type", &["json_schema"])?;
    format.required("schema").cloned().map(Grammar::JsonSchema)
}

fn read_message(message: &Fields<'_>, to: &mut Conversation) {
    message.required("role");
    let Some(role) = message.one_of("role", &["user", "assistant"]) else { return };
    match message.required("content") {
        Some(Json::String(text)) => to.say(role, text),
        Some(Json::Array(_)) => {
            let blocks = message.objects("content").unwrap_or_default();
            blocks.iter().for_each(|block| read_block(role, block, to));
        }
        Some(_) => message.wrong("content", "must be a string or a list of blocks"),
        None => {}
    }
}

fn read_block(role: &str, block: &Fields<'_>, to: &mut Conversation) {
    block.required("type");
    let Some(kind) = block.text("type") else { return };
    // Reads a string that the block must have.
    let text = |name: &str| {
        block.required(name);
        block.text(name)
    };
    match (role, kind) {
        (_, "text") => text("text").map_or((), |text| to.say(role, text)),
        ("assistant", "thinking") => text("thinking").map_or((), |text| to.think(text)),
        // Only who encrypted it can read it.
        ("assistant", "redacted_thinking") => {}
        ("assistant", "tool_use") => {
            block.required("input");
            let input = block.inner("input").map(|input| Json::Object(input.object().clone()));
            if let (Some(id), Some(name), Some(input)) = (text("id"), text("name"), input) {
                to.call(id, name, input);
            }
        }
        ("user", "tool_result") => {
            let result = text_of(block, "content", &["text"]).unwrap_or_default();
            if let Some(id) = text("tool_use_id")
                && !to.answer(id, &result)
            {
                block.wrong("tool_use_id", "names no tool_use block before it");
            }
        }
        ("assistant", _) => {
            block.wrong("type", "must be text, thinking, redacted_thinking or tool_use");
        }
        _ => block.wrong("type", "must be text or tool_result: models here only read text"),
    }
}

/// Tools as OpenAI writes them.
fn tools(fields: &Fields<'_>) -> Vec<Json> {
    let read = |tool: &Fields<'_>| {
        tool.one_of("type", &["custom"]);
        tool.required("name");
        tool.required("input_schema");
        let mut function = json!({ "name": tool.text("name")? });
        if let Some(description) = tool.text("description") {
            function["description"] = json!(description);
        }
        function["parameters"] = json!(tool.inner("input_schema")?.object());
        Some(json!({ "type": "function", "function": function }))
    };
    fields.objects("tools").unwrap_or_default().iter().filter_map(read).collect()
}

/// Whether functions are called, and whether several at once.
fn tool_choice(fields: &Fields<'_>, tools: &[Json]) -> (ToolChoice, bool) {
    let Some(choice) = fields.inner("tool_choice") else { return (ToolChoice::Auto, true) };
    choice.required("type");
    let parallel = !choice.flag("disable_parallel_tool_use").unwrap_or(false);
    let called = match choice.one_of("type", &["auto", "any", "tool", "none"]) {
        Some("none") => ToolChoice::None,
        Some("any") => ToolChoice::Required,
        Some("tool") => {
            choice.required("name");
            let name = choice.text("name").unwrap_or_default();
            if !tools.iter().any(|tool| tool["function"]["name"] == name) {
                choice.wrong("name", "must be the name of one of `tools`");
            }
            ToolChoice::Function(name.to_owned())
        }
        _ => ToolChoice::Auto,
    };
    (called, parallel)
}
