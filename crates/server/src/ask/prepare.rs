//! From a request to the engine's jobs: the template writes the prompt, the tokenizer reads it.
use super::answering::Reader;
use super::{Ask, Chat, Grammar, Plain, Prompts, ToolChoice, Violations};
use crate::http::Refused;
use crate::models::Served;
use crate::service::Job;
use axum::http::StatusCode;
use engine::grammar::{self, Constraint};
use model::chat::{ChatTemplate, Choice, Error, Extras, Format, LocalTime};
use model::tokenizer::{Control, Special};

/// A job, and how its answer is read.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) job: Job,
    pub(super) reader: Reader,
}

/// The jobs of a request, all answers to one prompt beside each other. Blocks for as long as a long prompt takes.
pub(super) fn prepare(served: &Served, ask: &Ask) -> Result<Vec<Prepared>, Refused> {
    let violations = Violations::default();
    ask.sampling.check(&served.tokenizer, &violations);
    violations.check()?;
    match &ask.prompts {
        Prompts::Chat(chat) => {
            let template = template(served)?;
            let prompt = render(served, chat)?;
            let tokens = served.tokenizer.encode_prompt(&prompt).map_err(too_long)?;
            let format = Format::of_template(template.source());
            let forced = forced_calls(served, chat, format, &prompt)?;
            let constraint = match (&forced, &ask.grammar) {
                (Some(grammar), _) => Some(constrain(served, grammar, "tools")?),
                (None, grammar) => constraint(served, grammar.as_ref())?,
            };
            let reader = || Reader::chat(chat, format, &prompt);
            let markers: Vec<&str> = format.markers().collect();
            jobs(served, ask, &[tokens], constraint.as_ref(), &markers, reader)
        }
        Prompts::Plain(prompts) => {
            let encode = |prompt: &Plain| encode(served, "prompt", prompt);
            let prompts = prompts.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
            let constraint = constraint(served, ask.grammar.as_ref())?;
            jobs(served, ask, &prompts, constraint.as_ref(), &[], Reader::default)
        }
    }
}

fn jobs(
    served: &Served,
    ask: &Ask,
    prompts: &[Vec<u32>],
    constraint: Option<&Constraint>,
    markers: &[&'static str],
    reader: impl Fn() -> Reader,
) -> Result<Vec<Prepared>, Refused> {
    let mut prepared = Vec::with_capacity(prompts.len() * ask.n as usize);
    for prompt in prompts {
        for _ in 0..ask.n {
            let choice = u32::try_from(prepared.len()).unwrap_or(u32::MAX);
            let mut params = ask.sampling.params(&served.tokenizer, choice, ask.tokens_max);
            params.logprobs = ask.logprobs;
            params.constraint = constraint.cloned();
            let job = Job {
                prompt: prompt.clone(),
                params,
                stops: ask.sampling.stops.clone(),
                control: Control::Skip,
                markers: markers.to_vec(),
            };
            prepared.push(Prepared { job, reader: reader() });
        }
    }
    Ok(prepared)
}

/// What an answer must look like where the client wants a call.
fn forced_calls(
    served: &Served,
    chat: &Chat,
    format: Format,
    prompt: &str,
) -> Result<Option<Grammar>, Refused> {
    let function = match &chat.tool_choice {
        ToolChoice::None | ToolChoice::Auto => return Ok(None),
        ToolChoice::Required => None,
        ToolChoice::Function(name) => Some(name.as_str()),
    };
    let choice = Choice { tools: &chat.tools, function, parallel: chat.parallel_calls };
    let lark = format.call_grammar(choice, &served.tokenizer, prompt);
    let lark = lark.map_err(|error| Refused::field("tool_choice", error.to_string()))?;
    Ok(Some(Grammar::Lark(lark)))
}

fn constraint(served: &Served, grammar: Option<&Grammar>) -> Result<Option<Constraint>, Refused> {
    let Some(grammar) = grammar else { return Ok(None) };
    let field = match grammar {
        Grammar::JsonSchema(_) | Grammar::JsonObject => "response_format",
        Grammar::Regex(_) => "guided_regex",
        Grammar::Lark(_) => "guided_grammar",
    };
    constrain(served, grammar, field).map(Some)
}

/// Compiles a grammar; `field` is what is wrong when that cannot be done.
fn constrain(served: &Served, grammar: &Grammar, field: &str) -> Result<Constraint, Refused> {
    served.vocabulary().and_then(|vocabulary| vocabulary.constrain(grammar)).map_err(|error| {
        match error {
            grammar::Error::Internal { .. } => {
                Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
            }
            _ => Refused::field(field, error.to_string()),
        }
    })
}

fn template(served: &Served) -> Result<&ChatTemplate, Refused> {
    served.template.as_deref().ok_or_else(|| {
        let message = format!(
            "{} has no chat template: it only continues text, use /v1/completions",
            served.facts.name
        );
        Refused::field("model", message)
    })
}

/// The prompt that the model's template makes of a conversation.
pub(crate) fn render(served: &Served, chat: &Chat) -> Result<String, Refused> {
    let extras = Extras { tools: chat.tools(), variables: Some(&chat.variables) };
    template(served)?.render_with(&chat.messages, extras, true, now()).map_err(|error| {
        let field = if matches!(error, Error::NoTools) { "tools" } else { "messages" };
        Refused::field(field, error.to_string())
    })
}

/// The tokens of text that is taken as it is; `field` is where it stood.
pub(crate) fn encode(served: &Served, field: &str, prompt: &Plain) -> Result<Vec<u32>, Refused> {
    let tokenizer = &served.tokenizer;
    match prompt {
        Plain::Text(text) => {
            let special = Special { add_special: true, parse_special: true };
            tokenizer
                .encode(text, special)
                .map_err(|error| Refused::field(field, error.to_string()))
        }
        Plain::Tokens(tokens) => {
            let size = tokenizer.vocab_size();
            match tokens.iter().find(|id| **id as usize >= size) {
                None => Ok(tokens.clone()),
                Some(id) => {
                    let message =
                        format!("`{field}` has the token id {id}, the model has {size} tokens");
                    Err(Refused::field(field, message))
                }
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "a function for map_err")]
fn too_long(error: model::tokenizer::Error) -> Refused {
    Refused::field("prompt", error.to_string())
}

fn now() -> LocalTime {
    LocalTime(i64::try_from(crate::seconds_since_1970()).unwrap_or(0))
}
