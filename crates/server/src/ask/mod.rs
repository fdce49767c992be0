//! What a client asks for and what it gets, in no API's words: every API is translated to an [`Ask`] and from [`Part`]s.
mod answering;
mod conversation;
mod fields;
mod items;
mod prepare;
mod sampling;
mod speech;

pub(crate) use answering::{Answering, Call, Choice, Finish, Part, blocking};
pub(crate) use conversation::{Conversation, text_of};
pub(crate) use fields::{Fields, Violations, token_id, whole};
pub(crate) use items::{Item, Items, Move};
pub(crate) use prepare::{encode, render};
pub(crate) use sampling::Sampling;
pub(crate) use speech::{Voice, speak};

pub(crate) use engine::grammar::Grammar;
pub(crate) use model::chat::Delta;
use model::chat::Message;
use serde_json::{Map, Value as Json};

/// A request that is well-formed; whether the model can answer it is not known yet.
#[derive(Debug)]
pub(crate) struct Ask {
    /// None: the default model.
    pub(crate) model: Option<String>,
    pub(crate) prompts: Prompts,
    pub(crate) sampling: Sampling,
    /// Tokens of one answer; None: until the model ends it or the context is full.
    pub(crate) tokens_max: Option<u32>,
    /// Answers to each prompt.
    pub(crate) n: u32,
    /// Log probabilities of the answer's tokens, and of so many of the most probable ones.
    pub(crate) logprobs: Option<u32>,
    /// What answers must look like.
    pub(crate) grammar: Option<Grammar>,
}

/// What is to be answered or continued.
#[derive(Debug)]
pub(crate) enum Prompts {
    Chat(Chat),
    Plain(Vec<Plain>),
}

/// Text that is continued as it is.
#[derive(Clone, Debug)]
pub(crate) enum Plain {
    Text(String),
    Tokens(Vec<u32>),
}

/// A conversation for the model's chat template.
#[derive(Debug, Default)]
pub(crate) struct Chat {
    pub(crate) messages: Vec<Message>,
    /// Functions that the model may call, as in OpenAI's `tools`.
    pub(crate) tools: Vec<Json>,
    pub(crate) tool_choice: ToolChoice,
    /// More than one call in an answer.
    pub(crate) parallel_calls: bool,
    /// Variables of the template, such as `enable_thinking`.
    pub(crate) variables: Map<String, Json>,
}

impl Chat {
    /// The functions that the model is shown.
    pub(crate) fn tools(&self) -> &[Json] {
        match self.tool_choice {
            ToolChoice::None => &[],
            _ => &self.tools,
        }
    }
}

/// The name of a function in `tools`.
pub(crate) fn tool_name(tool: &Json) -> Option<&str> {
    tool.get("function")?.get("name")?.as_str()
}

/// Whether the model calls functions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// The tools are not even shown to it.
    None,
    #[default]
    Auto,
    /// It calls one at least.
    Required,
    /// It calls this one.
    Function(String),
}
