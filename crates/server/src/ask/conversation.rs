//! A conversation from pieces, as Anthropic's blocks and the items of OpenAI's responses are: what the assistant thought, said and
//! called is one message to a template.
use super::Fields;
use model::chat::{Message, ToolCall};
use serde_json::Value as Json;

/// Messages that grow at their end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation(pub(crate) Vec<Message>);

impl Conversation {
    /// Adds text of `role`. Turns of one role are one message: many templates refuse two.
    pub(crate) fn say(&mut self, role: &str, text: &str) {
        match self.0.last_mut() {
            Some(last) if last.role == role && last.tool_calls.is_empty() => {
                if !last.content.is_empty() {
                    last.content.push('\n');
                }
                last.content.push_str(text);
            }
            _ => self.0.push(Message::new(role, text)),
        }
    }

    /// What the assistant thinks before it says something.
    pub(crate) fn think(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(last)
                if last.role == "assistant"
                    && last.content.is_empty()
                    && last.tool_calls.is_empty() =>
            {
                last.reasoning.get_or_insert_default().push_str(text);
            }
            _ => {
                let reasoning = Some(text.to_owned());
                self.0.push(Message { reasoning, ..Message::new("assistant", "") });
            }
        }
    }

    /// A function that the assistant calls, after what it said.
    pub(crate) fn call(&mut self, id: &str, name: &str, arguments: Json) {
        let call = ToolCall { id: id.to_owned(), name: name.to_owned(), arguments };
        match self.0.last_mut() {
            Some(last) if last.role == "assistant" => last.tool_calls.push(call),
            _ => self.0.push(Message { tool_calls: vec![call], ..Message::new("assistant", "") }),
        }
    }

    /// What a called function returned. False when there is no such call.
    pub(crate) fn answer(&mut self, id: &str, result: &str) -> bool {
        let calls = self.0.iter().flat_map(|message| &message.tool_calls);
        let Some(name) =
            calls.filter(|call| call.id == id).map(|call| call.name.clone()).next_back()
        else {
            return false;
        };
        self.0.push(Message {
            tool_call_id: Some(id.to_owned()),
            name: Some(name),
            ..Message::new("tool", result)
        });
        true
    }
}

/// The text of a field that is a string or a list of blocks of text, each on lines of its own. `kinds` are the types such blocks may have.
pub(crate) fn text_of(fields: &Fields<'_>, name: &str, kinds: &[&'static str]) -> Option<String> {
    match fields.get(name)? {
        Json::String(text) => Some(text.clone()),
        Json::Array(_) => {
            let blocks = fields.objects(name)?;
            let texts = blocks.iter().filter_map(|block| {
                block.required("type")?;
                block.one_of("type", kinds)?;
                block.required("text")?;
                block.text("text")
            });
            Some(texts.collect::<Vec<_>>().join("\n"))
        }
        _ => {
            fields.wrong(name, "must be a string or a list of blocks of text");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_assistant_thought_said_and_called_is_one_message() {
        let mut conversation = Conversation::default();
        conversation.say("user", "Weather?");
        conversation.say("user", "And the time?");
        conversation.think("Look it up.");
        conversation.say("assistant", "One moment.");
        conversation.call("a", "weather", json!({ "city": "Rome" }));
        conversation.call("b", "time", json!({}));
        assert!(conversation.answer("b", "noon"));
        assert!(!conversation.answer("c", "nothing"));
        conversation.say("assistant", "Noon.");
        let Conversation(messages) = conversation;
        let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant"]);
        assert_eq!(messages[0].content, "Weather?\nAnd the time?");
        assert_eq!(messages[1].reasoning.as_deref(), Some("Look it up."));
        assert_eq!(messages[1].content, "One moment.");
        assert_eq!(messages[1].tool_calls[0].arguments, json!({ "city": "Rome" }));
        assert_eq!(messages[1].tool_calls[1].name, "time");
        assert_eq!(messages[2].name.as_deref(), Some("time"));
    }
}
