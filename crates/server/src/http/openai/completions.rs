//! `POST /v1/completions`: text that is continued as it is.
use super::request::{self, Streaming, streaming};
use super::words::{self, Head, done, event};
use crate::ask::{Ask, Delta, Part, Plain, Prompts, Sampling, Violations, Voice, speak};
use crate::http::{App, Body, Refused, Style, object};
use crate::models::Served;
use crate::service::{TokenFacts, Usage};
use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse as _, Response};
use model::tokenizer::Control;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// OpenAI's own default.
const TOKENS_DEFAULT: u32 = 16;
const PROMPTS_MAX: usize = 128;
const N_MAX: i64 = 128;
const LOGPROBS_MAX: i64 = 20;

struct Request {
    ask: Ask,
    streaming: Streaming,
    /// Prompts that stand before their answers.
    echo: Option<Vec<Plain>>,
}

pub(super) async fn completions(
    State(app): State<Arc<App>>,
    body: Body,
) -> Result<Response, Refused> {
    let Request { ask, streaming, echo } = read(&object(body)?)?;
    let n = ask.n as usize;
    let answering = app.ask(ask).await?;
    let served = Arc::clone(&answering.served);
    let head = Head::new("cmpl", "text_completion", &served.facts);
    let echo = echo.unwrap_or_default().iter().map(|prompt| text(&served, prompt)).collect();
    let texts = Texts::new(served, echo, n, answering.choices);
    if streaming.on {
        return Ok(speak(answering, Chunks { head, texts, usage: streaming.usage }));
    }
    let whole = answering.whole().await?;
    let mut texts = texts;
    let choices = (0u32..).zip(&whole.choices).map(|(i, choice)| {
        let text = texts.echo(i) + &choice.content;
        let finish = words::finish_reason(&choice.finish);
        texts.choice(i, &text, &choice.tokens, Some(finish))
    });
    let choices = choices.collect();
    Ok(Json(head.with(choices, Some(words::usage(whole.usage)))).into_response())
}

fn read(body: &Map<String, Value>) -> Result<Request, Refused> {
    let violations = Violations::default();
    let fields = violations.fields(body);
    let prompts = request::plain(&fields, "prompt", PROMPTS_MAX);
    let n = fields.integer("n", 1..=N_MAX).unwrap_or(1);
    if fields.integer("best_of", 1..=N_MAX).is_some_and(|best| best != n) {
        fields.wrong("best_of", "must be the same as `n`: nothing is ranked here");
    }
    if fields.text("suffix").is_some_and(|suffix| !suffix.is_empty()) {
        fields.wrong(
            "suffix",
            "is not offered: put the model's own marks for infilling into `prompt`",
        );
    }
    let logprobs = fields.integer("logprobs", 0..=LOGPROBS_MAX);
    let echo = fields.flag("echo").unwrap_or(false).then(|| prompts.clone());
    if echo.is_some() && logprobs.is_some() {
        fields.wrong(
            "echo",
            "cannot be used together with `logprobs`: those of prompts are not kept",
        );
    }
    let ask = Ask {
        model: request::model(&fields),
        prompts: Prompts::Plain(prompts),
        sampling: Sampling::read(&fields, "stop"),
        tokens_max: Some(fields.count("max_tokens", 1).unwrap_or(TOKENS_DEFAULT)),
        n: u32::try_from(n).unwrap_or(1),
        logprobs: logprobs.and_then(|top| u32::try_from(top).ok()),
        grammar: request::grammar(&fields),
    };
    let streaming = streaming(&fields);
    violations.check()?;
    Ok(Request { ask, streaming, echo })
}

fn content(delta: &Delta) -> Option<&str> {
    match delta {
        Delta::Content(text) => Some(text),
        _ => None,
    }
}

fn text(served: &Served, prompt: &Plain) -> String {
    match prompt {
        Plain::Text(text) => text.clone(),
        Plain::Tokens(tokens) => served.tokenizer.decode(tokens, Control::Keep),
    }
}

/// Where each choice's text stands.
struct Texts {
    served: Arc<Served>,
    /// Of each prompt, to stand before its answers; empty when nobody asked for it.
    echo: Vec<String>,
    n: usize,
    /// Characters of each choice so far, as its tokens count them.
    offsets: Vec<usize>,
}

impl Texts {
    fn new(served: Arc<Served>, echo: Vec<String>, n: usize, choices: u32) -> Self {
        Self { served, echo, n, offsets: vec![0; choices as usize] }
    }

    fn echo(&self, choice: u32) -> String {
        self.echo.get(choice as usize / self.n).cloned().unwrap_or_default()
    }

    fn choice(
        &mut self,
        index: u32,
        text: &str,
        tokens: &[TokenFacts],
        finish: Option<&str>,
    ) -> Value {
        let logprobs = match tokens {
            [] => Value::Null,
            _ => {
                let offset = &mut self.offsets[index as usize];
                words::completion_logprobs(&self.served.tokenizer, tokens, offset)
            }
        };
        json!({ "text": text, "index": index, "logprobs": logprobs, "finish_reason": finish })
    }
}

/// The stream of the answers.
struct Chunks {
    head: Head,
    texts: Texts,
    /// The last chunk tells usage.
    usage: bool,
}

impl Chunks {
    fn chunk(
        &mut self,
        index: u32,
        text: &str,
        tokens: &[TokenFacts],
        finish: Option<&str>,
    ) -> Event {
        let choice = self.texts.choice(index, text, tokens, finish);
        event(&self.head.with(vec![choice], self.usage.then_some(Value::Null)))
    }
}

impl Voice for Chunks {
    fn begin(&mut self, choices: u32) -> Vec<Event> {
        let echoes: Vec<_> = (0..choices).map(|i| (i, self.texts.echo(i))).collect();
        let shown = echoes.into_iter().filter(|(_, echo)| !echo.is_empty());
        shown.map(|(i, echo)| self.chunk(i, &echo, &[], None)).collect()
    }

    fn part(&mut self, part: Part) -> Vec<Event> {
        match part {
            Part::Text { choice, deltas, tokens } => {
                let text: String = deltas.iter().filter_map(content).collect();
                vec![self.chunk(choice, &text, &tokens, None)]
            }
            Part::End { choice, finish, .. } => {
                vec![self.chunk(choice, "", &[], Some(words::finish_reason(&finish)))]
            }
            Part::Failed(refused) => vec![event(&refused.body(Style::OpenAi))],
        }
    }

    fn end(&mut self, usage: Usage) -> Vec<Event> {
        let usage =
            self.usage.then(|| event(&self.head.with(Vec::new(), Some(words::usage(usage)))));
        usage.into_iter().chain([done()]).collect()
    }
}
