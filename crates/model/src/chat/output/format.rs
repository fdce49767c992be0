//! How families of models mark reasoning and calls.

/// The marks of one family, as its chat template shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Format {
    /// Around the reasoning.
    pub(super) reasoning: Option<[&'static str; 2]>,
    /// Before calls: any of these.
    pub(super) open: &'static [&'static str],
    /// After them; empty where the answer's end is theirs.
    pub(super) close: &'static str,
    /// What stands behind `open` is a call, whatever its name. Otherwise only a call of a function that was offered.
    pub(super) certain: bool,
    /// A call may be the whole answer, without a marker.
    pub(super) bare: bool,
    /// `name[ARGS]{...}` beside `{"name": ..., "arguments": ...}`.
    pub(super) named: bool,
    /// The key of the arguments.
    pub(super) arguments: &'static str,
    /// Several calls stand in one list, not each in marks of its own.
    pub(super) list: bool,
}

const NONE: Format = Format {
    reasoning: None,
    open: &[],
    close: "",
    certain: true,
    bare: false,
    named: false,
    arguments: "arguments",
    list: false,
};
/// Hermes 2, Qwen 2.5 and 3, SmolLM3; SmolLM2 puts a list between the marks.
const HERMES: Format = Format { open: &["<tool_call>"], close: "</tool_call>", ..NONE };
/// `[TOOL_CALLS][{...}]` until 2024, then `[TOOL_CALLS]name[ARGS]{...}`.
const MISTRAL: Format = Format { open: &["[TOOL_CALLS]"], named: true, list: true, ..NONE };
const PHI4: Format =
    Format { open: &["<|tool_call|>"], close: "<|/tool_call|>", list: true, ..NONE };
/// Behind `<|python_tag|>` may also stand Python code.
const LLAMA3: Format = Format {
    open: &["<|python_tag|>"],
    certain: false,
    bare: true,
    arguments: "parameters",
    ..NONE
};
/// Gemma has no marks of its own; prompts ask for JSON, which it likes to fence.
const GEMMA: Format = Format {
    open: &["```tool_call", "```tool_code", "```json"],
    close: "```",
    certain: false,
    bare: true,
    arguments: "parameters",
    ..NONE
};

impl Format {
    /// The format that a chat template teaches. Text of models without one is content.
    #[must_use]
    pub fn of_template(source: &str) -> Self {
        let has = |text: &str| source.contains(text);
        let calls = if has("[TOOL_CALLS]") {
            MISTRAL
        } else if has("<|tool_call|>") || has("<|tool|>") {
            PHI4
        } else if has("<tool_call>") && !has("<function=") {
            HERMES
        } else if has("<|python_tag|>") || has(r#"{"name": function name, "parameters""#) {
            LLAMA3
        } else if has("<start_of_turn>") {
            GEMMA
        } else {
            NONE
        };
        let reasoning = if has("</think>") || has("<think>") {
            Some(["<think>", "</think>"])
        } else if has("[THINK]") {
            Some(["[THINK]", "[/THINK]"])
        } else {
            None
        };
        Self { reasoning, ..calls }
    }

    /// Whether the model was taught a way to call functions that is known here.
    #[must_use]
    pub fn has_calls(&self) -> bool {
        !self.open.is_empty()
    }

    /// Texts of tokens that must be shown for an answer to be told apart, though they may be control tokens: see
    /// [`crate::tokenizer::Stream::showing`].
    pub fn markers(&self) -> impl Iterator<Item = &'static str> + use<> {
        let inner: &[&str] = if self.named { &["[ARGS]", "[CALL_ID]"] } else { &[] };
        let all = self.reasoning.into_iter().flatten().chain(self.open.iter().copied());
        all.chain([self.close]).chain(inner.iter().copied()).filter(|text| !text.is_empty())
    }
}
