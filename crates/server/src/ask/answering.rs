//! Answers as they are written: each choice is pumped by a task of its own into one channel, which streamed and whole answers
//! are both made from.
use super::prepare::{Prepared, prepare};
use super::{Ask, Chat, tool_name};
use crate::http::{App, Refused, Running};
use crate::models::Served;
use crate::service::{Reason, TokenFacts, Update, Usage};
use axum::http::StatusCode;
use model::chat::{Delta, Format, OutputParser};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Parts that wait for a client that reads slowly. What the engine writes meanwhile waits in the job's own channel, which an
/// answer's length bounds.
const PARTS_WAITING_MAX: usize = 16;

/// A step forward in one of the answers.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Text {
        choice: u32,
        deltas: Vec<Delta>,
        /// The tokens behind the deltas, when log probabilities were asked for.
        tokens: Vec<TokenFacts>,
    },
    /// Nothing more of this choice follows.
    End { choice: u32, finish: Finish, usage: Usage },
    /// Nothing more follows at all.
    Failed(Refused),
}

/// Why an answer is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model ended it.
    Model,
    /// This stop string came.
    Stop(String),
    /// As many tokens as were allowed, or as the context holds.
    Length,
    /// The model ended it to have functions called.
    ToolCalls,
}

/// All answers to one request. Dropping it cancels what is still written.
#[derive(Debug)]
pub(crate) struct Answering {
    pub(crate) served: Arc<Served>,
    /// How many answers there are.
    pub(crate) choices: u32,
    /// Answers to each prompt.
    n: u32,
    /// Of all prompts.
    pub(crate) prompt_tokens: u32,
    ended: u32,
    /// Of the choices that have ended; a prompt counts once.
    usage: Usage,
    parts: mpsc::Receiver<Part>,
}

impl App {
    /// Brings a request to its model.
    ///
    /// # Errors
    /// What is wrong with the request, or why it cannot be answered now.
    pub(crate) async fn ask(self: &Arc<Self>, ask: Ask) -> Result<Answering, Refused> {
        let served = self.models.get(ask.model.as_deref()).await?;
        let (for_thread, n) = (Arc::clone(&served), ask.n);
        let prepared = blocking(move || prepare(&for_thread, &ask)).await??;
        let mut started = Vec::with_capacity(prepared.len());
        let prompts = prepared.iter().step_by(n as usize);
        let prompt_tokens: usize = prompts.map(|one| one.job.prompt.len()).sum();
        let prompt_tokens = u32::try_from(prompt_tokens).unwrap_or(u32::MAX);
        for Prepared { job, reader } in prepared {
            started.push((self.submit(Arc::clone(&served), job).await?, reader));
        }
        let (sender, parts) = mpsc::channel(PARTS_WAITING_MAX);
        let mut choices = 0;
        for (running, reader) in started {
            tokio::spawn(pump(choices, running, reader, sender.clone()));
            choices += 1;
        }
        let usage = Usage::default();
        Ok(Answering { served, choices, n, prompt_tokens, ended: 0, usage, parts })
    }
}

/// Runs what would keep other requests waiting on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
    })
}

/// Brings the parts of one choice into the channel until it ends or nobody reads.
async fn pump(choice: u32, mut running: Running, mut reader: Reader, parts: mpsc::Sender<Part>) {
    loop {
        let update = tokio::select! {
            () = parts.closed() => return,
            update = running.next() => update,
        };
        let Some(update) = update else { return };
        for part in reader.read(choice, update) {
            // A client that stops reading must not hold its place for ever.
            let sent = tokio::time::timeout_at(running.until(), parts.send(part)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// Makes parts of updates.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// None: all is content.
    parser: Option<OutputParser>,
    /// Tokens whose text is held back.
    tokens: Vec<TokenFacts>,
    calls: usize,
    single_call: bool,
}

impl Reader {
    /// For the answer to a conversation, whose prompt the template of `format` wrote.
    pub(super) fn chat(chat: &Chat, format: Format, prompt: &str) -> Self {
        let tools = chat.tools().iter().filter_map(tool_name).map(str::to_owned);
        let parser = Some(OutputParser::new(format, tools, prompt));
        Self { parser, single_call: !chat.parallel_calls, ..Self::default() }
    }

    fn read(&mut self, choice: u32, update: Update) -> Vec<Part> {
        match update {
            Update::Piece(piece) => {
                let asked_for = |token: &TokenFacts| token.logprobs.is_some();
                self.tokens.extend(piece.tokens.into_iter().filter(asked_for));
                let deltas = self.deltas(&piece.text);
                // Where text is held back so are its tokens: they may turn out to be a stop string.
                if deltas.is_empty() { Vec::new() } else { vec![self.part(choice, deltas)] }
            }
            Update::End(ended) => {
                let finish = match ended.reason {
                    Reason::Model if self.calls > 0 => Finish::ToolCalls,
                    Reason::Model => Finish::Model,
                    Reason::Stop(stop) => Finish::Stop(stop),
                    Reason::TokensMax | Reason::ContextFull => Finish::Length,
                };
                if matches!(finish, Finish::Stop(_)) {
                    self.tokens.clear();
                }
                let rest = self.rest();
                let any = !rest.is_empty() || !self.tokens.is_empty();
                let mut parts = if any { vec![self.part(choice, rest)] } else { Vec::new() };
                parts.push(Part::End { choice, finish, usage: ended.usage });
                parts
            }
            Update::Failed(failure) => vec![Part::Failed(failure.into())],
        }
    }

    fn part(&mut self, choice: u32, deltas: Vec<Delta>) -> Part {
        Part::Text { choice, deltas, tokens: std::mem::take(&mut self.tokens) }
    }

    fn deltas(&mut self, text: &str) -> Vec<Delta> {
        let deltas = match (&mut self.parser, text) {
            (_, "") => Vec::new(),
            (Some(parser), _) => parser.push(text),
            (None, _) => vec![Delta::Content(text.to_owned())],
        };
        self.allowed(deltas)
    }

    /// What was held back until the end.
    fn rest(&mut self) -> Vec<Delta> {
        let rest = self.parser.as_mut().map(OutputParser::finish).unwrap_or_default();
        self.allowed(rest)
    }

    /// Counts calls, and drops those after the first where only one is wanted.
    fn allowed(&mut self, mut deltas: Vec<Delta>) -> Vec<Delta> {
        if self.single_call {
            deltas.retain(|delta| match delta {
                Delta::ToolCall { index, .. } | Delta::ToolArguments { index, .. } => *index == 0,
                _ => true,
            });
        }
        self.calls += deltas.iter().filter(|d| matches!(d, Delta::ToolCall { .. })).count();
        deltas
    }
}

impl Answering {
    /// The next part of any answer; None when all have ended or one has failed.
    pub(crate) async fn next(&mut self) -> Option<Part> {
        if self.ended == self.choices {
            return None;
        }
        // Its sender is gone without an end only when its time was up.
        let part = self.parts.recv().await.unwrap_or_else(|| Part::Failed(too_slow()));
        match &part {
            Part::Text { .. } => {}
            Part::End { choice, usage, .. } => {
                self.ended += 1;
                self.usage.answer_tokens += usage.answer_tokens;
                if choice % self.n == 0 {
                    self.usage.prompt_tokens += usage.prompt_tokens;
                    self.usage.cached_tokens += usage.cached_tokens;
                }
            }
            Part::Failed(_) => {
                self.ended = self.choices;
                self.parts.close();
            }
        }
        Some(part)
    }

    /// Tokens of the choices that have ended.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Waits for the whole answers.
    ///
    /// # Errors
    /// When one of them breaks off.
    pub(crate) async fn whole(mut self) -> Result<Whole, Refused> {
        let mut choices = vec![Choice::default(); self.choices as usize];
        while let Some(part) = self.next().await {
            match part {
                Part::Text { choice, deltas, tokens } => {
                    let to = &mut choices[choice as usize];
                    deltas.into_iter().for_each(|delta| to.add(delta));
                    to.tokens.extend(tokens);
                }
                Part::End { choice, finish, .. } => choices[choice as usize].finish = finish,
                Part::Failed(refused) => return Err(refused),
            }
        }
        Ok(Whole { choices, usage: self.usage })
    }
}

fn too_slow() -> Refused {
    let message = "the answer was not read in time";
    Refused::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
}

/// Whole answers.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) choices: Vec<Choice>,
    pub(crate) usage: Usage,
}

/// One whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<Call>,
    /// When log probabilities were asked for.
    pub(crate) tokens: Vec<TokenFacts>,
    pub(crate) finish: Finish,
}

/// A function that the model wants called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// A JSON object as text, if the model wrote one.
    pub(crate) arguments: String,
}

impl Default for Choice {
    fn default() -> Self {
        let (content, reasoning) = (String::new(), String::new());
        let (calls, tokens) = (Vec::new(), Vec::new());
        Self { content, reasoning, calls, tokens, finish: Finish::Length }
    }
}

impl Choice {
    fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Content(text) => self.content.push_str(&text),
            Delta::Reasoning(text) => self.reasoning.push_str(&text),
            Delta::ToolCall { name, .. } => {
                self.calls.push(Call { name, arguments: String::new() });
            }
            Delta::ToolArguments { piece, .. } => {
                if let Some(call) = self.calls.last_mut() {
                    call.arguments.push_str(&piece);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::ToolChoice;
    use crate::service::{Ended, Piece};
    use serde_json::json;
    use std::time::Duration;

    fn piece(text: &str, tokens: &[u32]) -> Update {
        let facts = |id: &u32| TokenFacts { id: *id, logprobs: Some((-0.5, Vec::new())) };
        Update::Piece(Piece { text: text.to_owned(), tokens: tokens.iter().map(facts).collect() })
    }

    fn end(reason: Reason) -> Update {
        Update::End(Ended { reason, usage: Usage::default(), decode_time: Duration::ZERO })
    }

    /// The answer, and the ids of its tokens, that updates add up to.
    fn read(mut reader: Reader, updates: Vec<Update>) -> (Choice, Vec<u32>) {
        let mut choice = Choice::default();
        for part in updates.into_iter().flat_map(|update| reader.read(0, update)) {
            match part {
                Part::Text { deltas, tokens, .. } => {
                    deltas.into_iter().for_each(|delta| choice.add(delta));
                    choice.tokens.extend(tokens);
                }
                Part::End { finish, .. } => choice.finish = finish,
                Part::Failed(refused) => panic!("{}", refused.message),
            }
        }
        let tokens = choice.tokens.iter().map(|token| token.id).collect();
        (choice, tokens)
    }

    #[test]
    fn tokens_wait_for_their_text_and_those_of_a_stop_string_never_come() {
        let updates =
            |reason| vec![piece("a", &[1]), piece("", &[2]), piece("", &[3]), end(reason)];
        let (choice, tokens) = read(Reader::default(), updates(Reason::Stop("x".to_owned())));
        assert_eq!((choice.content.as_str(), tokens), ("a", vec![1]));
        assert_eq!(choice.finish, Finish::Stop("x".to_owned()));
        let (choice, tokens) = read(Reader::default(), updates(Reason::Model));
        assert_eq!((choice.content.as_str(), tokens), ("a", vec![1, 2, 3]));
        assert_eq!(choice.finish, Finish::Model);
    }

    #[test]
    fn calls_are_told_from_content_and_only_one_comes_where_one_is_wanted() {
        let call = |city| {
            format!(
                "<tool_call>\n{{\"name\": \"weather\", \"arguments\": {{\"city\": \"{city}\"}}}}\n</tool_call>\n"
            )
        };
        let text = format!("<think>Two.</think>Let me see.\n{}{}", call("Oslo"), call("Rome"));
        let tools = vec![json!({ "type": "function", "function": { "name": "weather" } })];
        let format = Format::of_template("<tool_call></tool_call><think></think>");
        let city = |name| Call {
            name: "weather".to_owned(),
            arguments: format!("{{\"city\": \"{name}\"}}"),
        };
        for parallel_calls in [true, false] {
            let chat = Chat { tools: tools.clone(), parallel_calls, ..Chat::default() };
            let mut updates: Vec<Update> =
                text.chars().map(|c| piece(&c.to_string(), &[0])).collect();
            updates.push(end(Reason::Model));
            let (choice, tokens) = read(Reader::chat(&chat, format, ""), updates);
            assert_eq!(choice.reasoning, "Two.");
            assert_eq!(choice.content, "Let me see.");
            assert_eq!(choice.finish, Finish::ToolCalls);
            let expected = [city("Oslo"), city("Rome")];
            assert_eq!(choice.calls, expected[..if parallel_calls { 2 } else { 1 }]);
            assert_eq!(tokens.len(), text.chars().count());
        }
        let chat = Chat { tools, tool_choice: ToolChoice::None, ..Chat::default() };
        let updates = vec![piece(&call("Oslo"), &[0]), end(Reason::Model)];
        let (choice, _) = read(Reader::chat(&chat, format, ""), updates);
        assert!(choice.calls.is_empty() && choice.finish == Finish::Model);
    }
}
