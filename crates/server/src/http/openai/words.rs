//! What all of OpenAI's answers have: ids, times, usage, log probabilities.
use crate::ask::Finish;
use crate::models::Facts;
use crate::service::{TokenFacts, Usage};
use axum::response::sse::Event;
use model::tokenizer::Tokenizer;
use serde_json::{Map, Value as Json, json};

/// The fields that an answer and all chunks of it share.
#[derive(Clone, Debug)]
pub(super) struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: String,
}

impl Head {
    pub(super) fn new(prefix: &str, object: &'static str, facts: &Facts) -> Self {
        // The same weights in the same version give the same tokens for the same seed.
        let weights = facts.sha256.get(..12).unwrap_or(&facts.sha256);
        Self {
            id: format!("{prefix}-{:016x}", crate::drawn()),
            object,
            created: crate::seconds_since_1970(),
            model: facts.name.clone(),
            system_fingerprint: format!("russet-{}-{weights}", env!("CARGO_PKG_VERSION")),
        }
    }

    /// An answer, or a chunk of one.
    pub(super) fn with(&self, choices: Vec<Json>, usage: Option<Json>) -> Json {
        let mut body = Map::new();
        body.insert("id".to_owned(), json!(self.id));
        body.insert("object".to_owned(), json!(self.object));
        body.insert("created".to_owned(), json!(self.created));
        body.insert("model".to_owned(), json!(self.model));
        body.insert("system_fingerprint".to_owned(), json!(self.system_fingerprint));
        body.insert("choices".to_owned(), Json::Array(choices));
        if let Some(usage) = usage {
            body.insert("usage".to_owned(), usage);
        }
        Json::Object(body)
    }
}

pub(super) fn usage(usage: Usage) -> Json {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.answer_tokens,
        "total_tokens": usage.prompt_tokens + usage.answer_tokens,
        "prompt_tokens_details": { "cached_tokens": usage.cached_tokens },
    })
}

pub(super) fn finish_reason(finish: &Finish) -> &'static str {
    match finish {
        Finish::Model | Finish::Stop(_) => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}

pub(super) fn event(body: &Json) -> Event {
    Event::default().data(body.to_string())
}

/// The chunk behind the last one.
pub(super) fn done() -> Event {
    Event::default().data("[DONE]")
}

/// A token's text; a character that is spread over several is U+FFFD in each.
pub(super) fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned()
}

/// `choices[].logprobs` of a chat.
pub(super) fn chat_logprobs(tokenizer: &Tokenizer, tokens: &[TokenFacts]) -> Json {
    let one = |id, logprob| {
        let text = token_text(tokenizer, id);
        json!({ "token": text, "logprob": logprob, "bytes": tokenizer.token_bytes(id) })
    };
    let content = tokens.iter().filter_map(|token| {
        let (logprob, top) = token.logprobs.as_ref()?;
        let mut entry = one(token.id, *logprob);
        entry["top_logprobs"] = top.iter().map(|(id, logprob)| one(*id, *logprob)).collect();
        Some(entry)
    });
    json!({ "content": content.collect::<Vec<_>>(), "refusal": null })
}

/// `choices[].logprobs` of a completion, whose text begins after `offset` characters; moves it on.
pub(super) fn completion_logprobs(
    tokenizer: &Tokenizer,
    tokens: &[TokenFacts],
    offset: &mut usize,
) -> Json {
    let (mut texts, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for token in tokens {
        let Some((logprob, top)) = &token.logprobs else { continue };
        let text = token_text(tokenizer, token.id);
        offsets.push(*offset);
        *offset += text.chars().count();
        texts.push(text);
        logprobs.push(*logprob);
        let named = top.iter().map(|(id, logprob)| (token_text(tokenizer, *id), json!(logprob)));
        tops.push(named.collect::<Map<_, _>>());
    }
    json!({ "tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets })
}
