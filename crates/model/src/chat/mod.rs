//! Chat templates: the Jinja text in a model's file that turns messages into one prompt.
//!
//! Rendered by minijinja, set up as Hugging Face sets up Jinja2: blocks trimmed, Python's methods on
//! strings, lists and dicts, `raise_exception`, `strftime_now`, and `tojson` as `json.dumps`.

mod clock;
mod json;
mod message;
mod output;
#[cfg(test)]
mod tests;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, merge_maps};
use minijinja::{Environment, ErrorKind, UndefinedBehavior, context};
use minijinja_contrib::pycompat;
use serde_json::{Map, Value as Json};

use crate::gguf::{self, Metadata};
use crate::tokenizer::Tokenizer;

pub use clock::LocalTime;
pub use message::{Message, ToolCall};
pub use output::{Choice, ChoiceError, Delta, Format, OutputParser};

const KEY: &str = "tokenizer.chat_template";
const NAME: &str = "chat template";
/// How SmolLM3's template names its tools.
const XML_TOOLS: &str = "xml_tools";
/// Where Phi-4's template looks for them.
const MESSAGE_TOOLS: &str = "message['tools']";

/// Steps a template may take: a long chat takes thousands, a template that never ends all of them.
const STEPS_MAX: u64 = 20_000_000;
const SOURCE_BYTES_MAX: usize = 1 << 20;

/// What a prompt may hold beside the messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    /// The functions that the model may call, as in OpenAI's `tools`:
    /// `{"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}}`.
    pub tools: &'a [Json],
    /// Variables of this template, such as `enable_thinking`. Those that every template has win.
    pub variables: Option<&'a Map<String, Json>>,
}

/// Why a chat cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file has no template, as those of models that are not for chat: complete plain text.
    #[error("metadata key `{KEY}` is missing: this model is not made for chat")]
    NoTemplate,
    /// The template's key has the wrong type: the file is corrupt, get it again.
    #[error(transparent)]
    Metadata(#[from] gguf::Error),
    #[error("metadata key `{KEY}`: {bytes} bytes, more than the {limit} allowed")]
    TooLong { bytes: usize, limit: usize },
    /// The template is not valid Jinja: report it, or give another template.
    #[error("metadata key `{KEY}`: {source}")]
    Syntax {
        #[source]
        source: minijinja::Error,
    },
    /// The template refuses these messages: change them as it says.
    #[error("the model's chat template refuses these messages: {message}")]
    Refused { message: String },
    /// The template failed on these messages.
    #[error("the model's chat template failed: {source}")]
    Failed {
        #[source]
        source: minijinja::Error,
    },
    /// The template would leave the tools out, so the model would never see them.
    #[error(
        "the model's chat template has no place for tools; leave `tools` out or use a model made for tool calls"
    )]
    NoTools,
}

/// What a template raised by `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// A chat template, compiled.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// The template of a model's file.
    pub fn from_gguf(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let source = metadata.opt_str(KEY)?.ok_or(Error::NoTemplate)?;
        let text = |id: Option<u32>| id.map_or("", |id| tokenizer.token_text(id));
        Self::new(source, text(tokenizer.bos()), text(tokenizer.eos()))
    }

    /// A template from its Jinja source, with the texts of `bos_token` and `eos_token`.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, Error> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Error::TooLong { bytes: source.len(), limit: SOURCE_BYTES_MAX });
        }
        let compile = || {
            let mut environment = environment()?;
            environment.add_template_owned(NAME, without_generation_tags(source))?;
            Ok(environment)
        };
        let environment = compile().map_err(|source| Error::Syntax { source })?;
        let [source, bos, eos] = [source, bos, eos].map(str::to_owned);
        Ok(Self { environment, source, bos, eos })
    }

    /// The Jinja source.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template looks at the variable `name`: `tools`, `enable_thinking`.
    #[must_use]
    pub fn reads(&self, name: &str) -> bool {
        reads(&self.source, name)
    }

    /// Whether the model would see tools: the template shows some variable for them.
    #[must_use]
    pub fn takes_tools(&self) -> bool {
        ["tools", XML_TOOLS].iter().any(|name| self.reads(name))
            || self.source.contains(MESSAGE_TOOLS)
    }

    /// The prompt for `messages`; with `add_generation_prompt` it ends where the answer begins. `now`
    /// is what the template may say the time is.
    ///
    /// Encode it with [`Tokenizer::encode_prompt`]: many templates begin with BOS themselves.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        now: LocalTime,
    ) -> Result<String, Error> {
        self.render_with(messages, Extras::default(), add_generation_prompt, now)
    }

    /// As [`Self::render`], with tools and the template's own variables.
    pub fn render_with(
        &self,
        messages: &[Message],
        extras: Extras<'_>,
        add_generation_prompt: bool,
        now: LocalTime,
    ) -> Result<String, Error> {
        if !extras.tools.is_empty() && !self.takes_tools() {
            return Err(Error::NoTools);
        }
        let mut messages: Vec<_> = messages.iter().map(Message::fields).collect();
        if !extras.tools.is_empty() && self.source.contains(MESSAGE_TOOLS) {
            message::add_tools(&mut messages, extras.tools);
        }
        let messages = Value::from(Serde(messages));
        let tools = (!extras.tools.is_empty()).then(|| Value::from(Serde(extras.tools)));
        let xml_tools = tools.as_ref().map(|tools| Value::from_pairs([(XML_TOOLS, tools.clone())]));
        let xml_tools = Value::from(xml_tools);
        let strftime_now = Value::from_function(move |format: &str| {
            now.format(format).map_err(|directive| {
                let detail = format!("strftime_now does not know %{directive}");
                minijinja::Error::new(ErrorKind::InvalidOperation, detail)
            })
        });
        let values = context! {
            messages, add_generation_prompt, strftime_now,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools,
            ..merge_maps([Value::from(Serde(extras.variables)), xml_tools])
        };
        self.environment
            .get_template(NAME)
            .and_then(|t| t.render(values))
            .map_err(refused_or_failed)
    }
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(pycompat::unknown_method_callback);
    environment.set_fuel(Some(STEPS_MAX));
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone())
                .with_source(Raised(message)))
        },
    );
    environment.add_filter("tojson", |value: Value, options: Kwargs| json::dumps(&value, &options));
    Ok(environment)
}

/// Tells what a template raised from what went wrong in it.
fn refused_or_failed(source: minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&source);
    while let Some(error) = cause {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Error::Refused { message: message.clone() };
        }
        cause = error.source();
    }
    Error::Failed { source }
}

/// `{% generation %}` marks what training looks at; to Jinja it is unknown. Such a block becomes one
/// that always shows.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        rest = tag;
        let Some((inner, _)) = tag.split_once("%}") else { break };
        let word = inner.trim_matches(['-', '+', ' ', '\t', '\r', '\n']);
        let known = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        out.push_str(&inner.replacen(word, known, 1));
        rest = &tag[inner.len()..];
    }
    out.push_str(rest);
    out
}

/// Whether `name` stands as a variable in some tag of a template.
fn reads(source: &str, name: &str) -> bool {
    let mut rest = source;
    while let Some((_, tag)) = rest.split_once('{') {
        rest = tag;
        let close = match tag.as_bytes().first() {
            Some(b'%') => "%}",
            Some(b'{') => "}}",
            Some(b'#') => "#}",
            _ => continue,
        };
        let Some((inner, after)) = tag.split_once(close) else { return false };
        if close != "#}" && variables(inner).any(|variable| variable == name) {
            return true;
        }
        rest = after;
    }
    false
}

/// Names outside string literals that are not attributes of others.
fn variables(tag: &str) -> impl Iterator<Item = &str> {
    let (mut quote, mut escaped) = (None, false);
    let between = move |c: char| match quote {
        Some(end) => {
            quote = quote.filter(|_| c != end || escaped);
            escaped = c == '\\' && !escaped;
            true
        }
        None => {
            quote = matches!(c, '"' | '\'').then_some(c);
            !(c.is_alphanumeric() || matches!(c, '_' | '.'))
        }
    };
    tag.split(between).filter_map(|word| word.split('.').next())
}
