//! Messages of a chat, as templates see them.

use serde_json::{Map, Value as Json, json};

/// One message of a chat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    pub content: String,
    /// What the assistant thought before it answered; templates name it `reasoning_content`.
    pub reasoning: Option<String>,
    /// The functions that the assistant called.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a message of role `tool` answers.
    pub tool_call_id: Option<String>,
    /// The function that a message of role `tool` comes from.
    pub name: Option<String>,
}

/// A call of a function by the assistant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Mistral's templates take nine letters and digits only.
    pub id: String,
    pub name: String,
    /// A JSON object, as templates want it: not the string that OpenAI's API has.
    pub arguments: Json,
}

impl Message {
    /// A message that is only text.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }

    /// The message as Hugging Face passes it: what it doesn't have is not defined.
    pub(super) fn fields(&self) -> Map<String, Json> {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), json!(self.role));
        fields.insert("content".to_owned(), json!(self.content));
        let texts = [
            ("reasoning_content", &self.reasoning),
            ("tool_call_id", &self.tool_call_id),
            ("name", &self.name),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                fields.insert(name.to_owned(), json!(text));
            }
        }
        if !self.tool_calls.is_empty() {
            let calls = self.tool_calls.iter().map(|call| {
                let function = json!({ "name": call.name, "arguments": call.arguments });
                json!({ "id": call.id, "type": "function", "function": function })
            });
            fields.insert("tool_calls".to_owned(), calls.collect());
        }
        fields
    }
}

/// Puts the functions of `tools` as JSON text into the system message, where Phi-4's template looks for them.
pub(super) fn add_tools(messages: &mut Vec<Map<String, Json>>, tools: &[Json]) {
    if messages.iter().all(|message| message["role"] != "system") {
        messages.insert(0, Message::new("system", "").fields());
    }
    let functions: Json = tools.iter().map(|tool| tool["function"].clone()).collect();
    for message in messages.iter_mut().filter(|message| message["role"] == "system").take(1) {
        message.insert("tools".to_owned(), json!(functions.to_string()));
    }
}
