//! What a chat asks for, in OpenAI's words.
use crate::ask::{Chat, Fields, Grammar, Plain, ToolChoice, token_id, tool_name};
use model::chat::{Message, ToolCall};
use serde_json::{Map, Value as Json};

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];
pub(super) const TOOLS_MAX: usize = 128;

/// Whether the answer is streamed, and whether the stream ends with usage.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Streaming {
    pub(super) on: bool,
    pub(super) usage: bool,
}

pub(super) fn streaming(fields: &Fields<'_>) -> Streaming {
    let on = fields.flag("stream").unwrap_or(false);
    let usage = fields.inner("stream_options").and_then(|options| options.flag("include_usage"));
    if usage.is_some() && !on {
        fields.wrong("stream_options", "is only for requests with `stream: true`");
    }
    Streaming { on, usage: usage.unwrap_or(false) }
}

pub(super) fn model(fields: &Fields<'_>) -> Option<String> {
    fields.text("model").filter(|name| !name.is_empty()).map(str::to_owned)
}

/// A string, a list of strings, a list of token ids, or a list of such lists.
pub(super) fn plain(fields: &Fields<'_>, name: &str, max: usize) -> Vec<Plain> {
    let texts = match fields.required(name) {
        None => return Vec::new(),
        Some(Json::String(text)) => Some(vec![Plain::Text(text.clone())]),
        Some(Json::Array(list)) if list.first().is_some_and(Json::is_number) => {
            tokens(list).map(|tokens| vec![tokens])
        }
        Some(Json::Array(list)) if (1..=max).contains(&list.len()) => {
            let one = |item: &Json| match item {
                Json::String(text) => Some(Plain::Text(text.clone())),
                Json::Array(list) => tokens(list),
                _ => None,
            };
            list.iter().map(one).collect()
        }
        Some(_) => None,
    };
    texts.unwrap_or_else(|| {
        let message =
            format!("must be a string, a list of token ids, or a list of up to {max} of these");
        fields.wrong(name, message);
        Vec::new()
    })
}

fn tokens(list: &[Json]) -> Option<Plain> {
    list.iter().map(token_id).collect::<Option<_>>().map(Plain::Tokens)
}

/// The conversation of a request.
pub(super) fn chat(fields: &Fields<'_>) -> Chat {
    let tools = tools(fields);
    Chat {
        messages: messages(fields),
        tool_choice: tool_choice(fields, &tools),
        tools,
        parallel_calls: fields.flag("parallel_tool_calls").unwrap_or(true),
        variables: variables(fields),
    }
}

/// Variables of the template: those that clients name at the top, and all others.
fn variables(fields: &Fields<'_>) -> Map<String, Json> {
    let mut variables = Map::new();
    if let Some(effort) = fields.text("reasoning_effort") {
        variables.insert("reasoning_effort".to_owned(), effort.into());
    }
    if let Some(thinks) = fields.flag("enable_thinking") {
        variables.insert("enable_thinking".to_owned(), thinks.into());
    }
    if let Some(others) = fields.inner("chat_template_kwargs") {
        variables.extend(others.object().clone());
    }
    variables
}

fn messages(fields: &Fields<'_>) -> Vec<Message> {
    if fields.required("messages").is_none() {
        return Vec::new();
    }
    let Some(all) = fields.objects("messages") else { return Vec::new() };
    if all.is_empty() {
        fields.wrong("messages", "must have at least one message");
    }
    all.iter().map(message).collect()
}

fn message(fields: &Fields<'_>) -> Message {
    fields.required("role");
    let role = match fields.one_of("role", &ROLES) {
        Some("developer") => "system",
        role => role.unwrap_or_default(),
    };
    let tool_calls = tool_calls(fields);
    // An assistant that only calls functions says nothing.
    let calls =
        fields.get("tool_calls").and_then(Json::as_array).is_some_and(|all| !all.is_empty());
    if role != "assistant" || !calls {
        fields.required("content");
    }
    if role == "tool" {
        fields.required("tool_call_id");
    } else if role != "assistant" && fields.get("tool_calls").is_some() {
        fields.wrong("tool_calls", "is only for messages of the role assistant");
    }
    let text = |name| fields.text(name).map(str::to_owned);
    Message {
        content: content(fields),
        reasoning: text("reasoning_content").or_else(|| text("reasoning")),
        tool_calls,
        tool_call_id: text("tool_call_id"),
        name: text("name"),
        ..Message::new(role, "")
    }
}

/// A string, or parts of which only text is understood.
fn content(fields: &Fields<'_>) -> String {
    match fields.get("content") {
        None => String::new(),
        Some(Json::String(text)) => text.clone(),
        Some(Json::Array(_)) => {
            let parts = fields.objects("content").unwrap_or_default();
            parts.iter().filter_map(part).collect::<Vec<_>>().join("\n")
        }
        Some(_) => {
            fields.wrong("content", "must be a string or a list of parts");
            String::new()
        }
    }
}

fn part<'j>(part: &Fields<'j>) -> Option<&'j str> {
    part.required("type")?;
    let kind = part.text("type")?;
    match kind {
        "text" | "refusal" => {
            part.required(kind)?;
            part.text(kind)
        }
        _ => {
            let message = "must be text: images, sound and files are not understood here";
            part.wrong("type", message);
            None
        }
    }
}

fn tool_calls(fields: &Fields<'_>) -> Vec<ToolCall> {
    let calls = fields.objects("tool_calls").unwrap_or_default();
    calls.iter().filter_map(tool_call).collect()
}

fn tool_call(call: &Fields<'_>) -> Option<ToolCall> {
    call.required("id");
    call.required("function");
    let function = call.inner("function")?;
    function.required("name");
    let arguments = arguments(&function)?;
    let [id, name] = [call.text("id")?, function.text("name")?].map(str::to_owned);
    Some(ToolCall { id, name, arguments })
}

/// The arguments of a call: an object, written as a string.
pub(super) fn arguments(function: &Fields<'_>) -> Option<Json> {
    function.required("arguments");
    match function.text("arguments").map(str::trim)? {
        "" => Some(Json::Object(Map::new())),
        text => {
            let object = serde_json::from_str(text).ok().filter(Json::is_object);
            if object.is_none() {
                function.wrong("arguments", "must be a JSON object, written as a string");
            }
            object
        }
    }
}

fn tools(fields: &Fields<'_>) -> Vec<Json> {
    for (name, instead) in [("functions", "tools"), ("function_call", "tool_choice")] {
        if fields.get(name).is_some() {
            fields.wrong(name, format!("is no longer used: use `{instead}`"));
        }
    }
    let Some(tools) = fields.objects("tools") else { return Vec::new() };
    if tools.len() > TOOLS_MAX {
        fields.wrong("tools", format!("must have up to {TOOLS_MAX} functions"));
    }
    tools.iter().for_each(check_tool);
    tools.iter().map(|tool| Json::Object(tool.object().clone())).collect()
}

fn check_tool(tool: &Fields<'_>) {
    tool.required("type");
    tool.one_of("type", &["function"]);
    tool.required("function");
    if let Some(function) = tool.inner("function") {
        check_function(&function);
    }
}

pub(super) fn check_function(function: &Fields<'_>) {
    function.required("name");
    if let Some(name) = function.text("name") {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(known) {
            function.wrong("name", "must be 1 to 64 letters, digits, `_`, `-` or `.`");
        }
    }
    function.text("description");
    function.inner("parameters");
}

/// A function may also be named beside `type`, as `/v1/responses` has it.
pub(super) fn tool_choice(fields: &Fields<'_>, tools: &[Json]) -> ToolChoice {
    let choice = match fields.get("tool_choice") {
        None => return ToolChoice::Auto,
        Some(Json::Object(_)) => {
            let choice = fields.inner("tool_choice");
            let function = choice.and_then(|choice| {
                if choice.get("name").is_some() {
                    return Some(choice);
                }
                choice.required("function");
                choice.inner("function")
            });
            let Some(function) = function else { return ToolChoice::Auto };
            function.required("name");
            let name = function.text("name").unwrap_or_default();
            if !tools.iter().any(|tool| tool_name(tool) == Some(name)) {
                function.wrong("name", "must be the name of one of `tools`");
            }
            return ToolChoice::Function(name.to_owned());
        }
        Some(_) => fields.one_of("tool_choice", &["none", "auto", "required"]),
    };
    match choice {
        Some("none") => ToolChoice::None,
        Some("required") => {
            if tools.is_empty() {
                fields.wrong("tool_choice", "needs `tools` to choose from");
            }
            ToolChoice::Required
        }
        _ => ToolChoice::Auto,
    }
}

/// What the answer must look like: `response_format`, or one of vLLM's fields.
pub(super) fn grammar(fields: &Fields<'_>) -> Option<Grammar> {
    if fields.get("grammar").is_some() {
        fields.wrong("grammar", "(GBNF) is not understood: use `guided_grammar`, in Lark");
    }
    let text = |name| fields.text(name).map(str::to_owned);
    let all = [
        ("response_format", response_format(fields)),
        ("guided_json", fields.get("guided_json").cloned().map(Grammar::JsonSchema)),
        ("guided_regex", text("guided_regex").map(Grammar::Regex)),
        ("guided_grammar", text("guided_grammar").map(Grammar::Lark)),
    ];
    let mut found = all.into_iter().filter_map(|(name, grammar)| Some((name, grammar?)));
    let (first, grammar) = found.next()?;
    if let Some((second, _)) = found.next() {
        fields.wrong(second, format!("cannot be used together with `{first}`"));
    }
    Some(grammar)
}

fn response_format(fields: &Fields<'_>) -> Option<Grammar> {
    let format = fields.inner("response_format")?;
    format.required("type");
    match format.one_of("type", &["text", "json_object", "json_schema"])? {
        "json_object" => Some(Grammar::JsonObject),
        "json_schema" => {
            format.required("json_schema");
            let described = format.inner("json_schema")?;
            described.required("name");
            described.text("name");
            described.required("schema").cloned().map(Grammar::JsonSchema)
        }
        _ => None,
    }
}
