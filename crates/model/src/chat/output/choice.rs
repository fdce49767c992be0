//! Answers that must be calls: a grammar of the family's own syntax, for `tool_choice`.

use serde_json::{Map, Value as Json, json};

use super::Format;
use crate::tokenizer::Tokenizer;

/// Why no grammar can be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// Use another model, or leave the choice to it.
    #[error(
        "the model's chat template shows no known way to call functions, so `tool_choice` cannot force a call"
    )]
    NoCalls,
    /// Correct `tools` in the request.
    #[error("tools[{index}]: {what}")]
    Tool { index: usize, what: &'static str },
    /// `tool_choice` names a function that is not in `tools`.
    #[error("tool_choice: no function `{name}` in `tools`")]
    Unknown { name: String },
}

/// What an answer must be.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// As in OpenAI's `tools`.
    pub tools: &'a [Json],
    /// Only this function may be called.
    pub function: Option<&'a str>,
    /// More than one call is allowed.
    pub parallel: bool,
}

impl Format {
    /// A Lark grammar, in llguidance's form, for an answer that is one call or more, as [`super::OutputParser`] reads
    /// them. Where `prompt` opens the reasoning, it comes first.
    pub fn call_grammar(
        &self,
        choice: Choice<'_>,
        tokenizer: &Tokenizer,
        prompt: &str,
    ) -> Result<String, ChoiceError> {
        let open = self.open.first().ok_or(ChoiceError::NoCalls)?;
        let functions = functions(choice)?;
        let (open, close) = if self.bare {
            (String::new(), String::new())
        } else {
            (mark(open, tokenizer), mark(self.close, tokenizer))
        };
        let (thought, thought_rule) = self.thought(tokenizer, prompt).unwrap_or_default();
        let repeat = |separator: &str, what: &str| {
            if choice.parallel {
                format!("{what} ({separator:?} {what})*")
            } else {
                what.to_owned()
            }
        };
        let answer = if self.list {
            format!("{open} \"[\" {} \"]\" {close}\ncall: function", repeat(", ", "call"))
        } else if self.bare {
            format!("{}\ncall: function", repeat("; ", "call"))
        } else {
            format!("{}\ncall: {open} \"\\n\" function \"\\n\" {close}", repeat("\n", "call"))
        };
        let names: Vec<String> = (0..functions.len()).map(|i| format!("f{i}")).collect();
        let mut lark =
            format!("start: {thought} {answer}\nfunction: {}\n{thought_rule}", names.join(" | "));
        for (rule, (name, arguments)) in names.iter().zip(functions) {
            let before = format!("{{\"name\": {name}, {:?}: ", self.arguments);
            let before = Json::from(before);
            lark.push_str(&format!(
                "{rule}: {before} {rule}_args \"}}\"\n{rule}_args: %json {arguments}\n"
            ));
        }
        Ok(lark)
    }

    /// The rest of a thought that the prompt has opened, and the rule for it.
    fn thought(&self, tokenizer: &Tokenizer, prompt: &str) -> Option<(&'static str, String)> {
        let [open, close] = self.reasoning?;
        if !prompt.trim_end().ends_with(open) {
            return None;
        }
        let mark = mark(close, tokenizer);
        let rule = if mark.starts_with('<') {
            format!("thought: /(.|\\n)*/ {mark}\n")
        } else {
            format!("thought[suffix={mark}]: /(.|\\n)*/\n")
        };
        Some(("thought \"\\n\\n\"", rule))
    }
}

/// The name of each function that may be called, as JSON, and the schema of its arguments.
fn functions(choice: Choice<'_>) -> Result<Vec<(Json, Json)>, ChoiceError> {
    let mut functions = Vec::new();
    for (index, tool) in choice.tools.iter().enumerate() {
        let wrong = |what| ChoiceError::Tool { index, what };
        let function = &tool["function"];
        let name = function["name"].as_str().ok_or(wrong("function.name is missing"))?;
        if choice.function.is_some_and(|only| only != name) {
            continue;
        }
        let mut schema = match function.get("parameters") {
            None | Some(Json::Null) => Map::from_iter([("type".to_owned(), json!("object"))]),
            Some(Json::Object(schema)) => schema.clone(),
            Some(_) => return Err(wrong("function.parameters must be a JSON schema")),
        };
        // Only a strict tool promises that its whole schema is kept.
        let lenient = function["strict"] != json!(true);
        let options = json!({ "whitespace_pattern": "[ \\t\\n\\r]{1,64}", "lenient": lenient });
        schema.insert("x-guidance".to_owned(), options);
        functions.push((json!(name), Json::Object(schema)));
    }
    match choice.function {
        Some(name) if functions.is_empty() => Err(ChoiceError::Unknown { name: name.to_owned() }),
        _ if functions.is_empty() => {
            Err(ChoiceError::Tool { index: 0, what: "a function is needed" })
        }
        _ => Ok(functions),
    }
}

/// A mark in Lark: the token where it is a control token, else its text; nothing for none.
fn mark(text: &str, tokenizer: &Tokenizer) -> String {
    match tokenizer.token_id(text) {
        Some(id) if tokenizer.is_control(id) => format!("<[{id}]>"),
        _ if text.is_empty() => String::new(),
        _ => Json::from(text).to_string(),
    }
}
