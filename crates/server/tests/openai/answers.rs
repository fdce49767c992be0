//! Answers, whole and streamed.
use crate::loopback::{Server, redacted, with};
use serde_json::{Value, json};
use std::path::Path;

fn hello() -> Value {
    json!({ "messages": [{ "role": "user", "content": "abc" }], "max_tokens": 8, "temperature": 0 })
}

/// The text of a stream's choice.
fn joined(events: &[Value], index: u64, text: impl Fn(&Value) -> Option<&str>) -> String {
    let choices = events.iter().filter_map(|event| event["choices"].as_array()).flatten();
    choices.filter(|choice| choice["index"] == index).filter_map(text).collect()
}

fn delta(choice: &Value) -> Option<&str> {
    choice["delta"]["content"].as_str()
}

#[test]
fn a_chat_is_answered_whole_and_streamed_alike() {
    let server = Server::start();
    let whole = server.post("/v1/chat/completions", &hello()).json(200);
    insta::assert_snapshot!("chat", redacted(&whole));
    let stream =
        with(&hello(), json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let events = server.post("/v1/chat/completions", &stream).events();
    let content = joined(&events, 0, delta);
    assert_eq!(content, whole["choices"][0]["message"]["content"]);
    // Each of the tiny model's tokens is a letter or two.
    assert!(content.len() >= 8, "{content}");
    assert_eq!(events.last().unwrap(), "[DONE]");
    let ends = [&events[0], &events[1], &events[events.len() - 3], &events[events.len() - 2]];
    insta::assert_snapshot!("chat_stream", redacted(&json!(ends)));
    // Counted by hand: all letters and spaces of "user abc assistant ", of which "ab" is one token.
    assert_eq!(whole["usage"]["prompt_tokens"], 4 + 1 + 2 + 1 + 9 + 1);
}

#[test]
fn usage_is_streamed_only_when_asked_for() {
    let server = Server::start();
    let events =
        server.post("/v1/chat/completions", &with(&hello(), json!({ "stream": true }))).events();
    assert!(events.iter().all(|event| event.get("usage").is_none()));
    assert!(
        events.iter().all(|event| event.get("choices").is_none_or(|choices| choices != &json!([])))
    );
}

#[test]
fn the_same_seed_gives_the_same_answer_and_choices_differ() {
    let server = Server::start();
    let body = with(&hello(), json!({ "temperature": 1, "seed": 7, "n": 3, "max_tokens": 24 }));
    let texts = |answer: &Value| -> Vec<String> {
        let choices = answer["choices"].as_array().unwrap();
        choices.iter().map(|c| c["message"]["content"].as_str().unwrap().to_owned()).collect()
    };
    let first = server.post("/v1/chat/completions", &body).json(200);
    let again = server.post("/v1/chat/completions", &body).json(200);
    assert_eq!(texts(&first), texts(&again));
    assert_eq!(texts(&first).len(), 3);
    assert_ne!(texts(&first)[0], texts(&first)[1]);
    // The prompt counts once, the answers together.
    let usage = &first["usage"];
    assert_eq!(usage["prompt_tokens"], 18);
    assert!(usage["completion_tokens"].as_u64().unwrap() > 24);
    // The second choice has the next seed.
    let next = with(&body, json!({ "seed": 8, "n": 1 }));
    let next = server.post("/v1/chat/completions", &next).json(200);
    assert_eq!(texts(&next)[0], texts(&first)[1]);
    let events =
        server.post("/v1/chat/completions", &with(&body, json!({ "stream": true }))).events();
    for (i, text) in (0..).zip(texts(&first)) {
        assert_eq!(joined(&events, i, delta), text);
    }
}

#[test]
fn answers_end_before_stop_strings() {
    let server = Server::start();
    let whole = server.post("/v1/chat/completions", &hello()).json(200);
    let content = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let stop = &content[3..5];
    let expected = content.split(stop).next().unwrap();
    for stops in [json!(stop), json!(["never", stop])] {
        let body = with(&hello(), json!({ "stop": stops }));
        let stopped = server.post("/v1/chat/completions", &body).json(200);
        assert_eq!(stopped["choices"][0]["message"]["content"], expected);
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
        let events =
            server.post("/v1/chat/completions", &with(&body, json!({ "stream": true }))).events();
        assert_eq!(joined(&events, 0, delta), expected);
    }
}

#[test]
fn completions_take_texts_and_tokens() {
    let server = Server::start();
    let body = json!({ "prompt": "hello", "temperature": 0, "max_tokens": 6 });
    let one = server.post("/v1/completions", &body).json(200);
    insta::assert_snapshot!("completion", redacted(&one));
    let text = one["choices"][0]["text"].as_str().unwrap().to_owned();
    // The vocabulary: two control tokens, A to Z, a to z: "hello" by hand.
    let tokens = json!([35, 32, 39, 39, 42]);
    for (prompt, copies) in
        [(tokens.clone(), 1), (json!([tokens, tokens]), 2), (json!(["hello", "hello"]), 2)]
    {
        let answer =
            server.post("/v1/completions", &with(&body, json!({ "prompt": prompt }))).json(200);
        let choices = answer["choices"].as_array().unwrap();
        assert_eq!(choices.len(), copies);
        assert!(choices.iter().all(|choice| choice["text"] == text), "{answer}");
        assert_eq!(answer["usage"]["prompt_tokens"], 5 * copies);
    }
    let echo = with(&body, json!({ "echo": true, "prompt": [tokens] }));
    let echoed = server.post("/v1/completions", &echo).json(200);
    assert_eq!(echoed["choices"][0]["text"], format!("hello{text}"));
    let events = server.post("/v1/completions", &with(&echo, json!({ "stream": true }))).events();
    assert_eq!(joined(&events, 0, |choice| choice["text"].as_str()), format!("hello{text}"));
    // OpenAI's default length.
    let body = json!({ "prompt": "hello", "temperature": 0, "ignore_eos": true });
    let answer = server.post("/v1/completions", &body).json(200);
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn models_are_listed_with_what_is_known_of_them() {
    let server = Server::start();
    insta::assert_snapshot!("models", redacted(&server.get("/v1/models").json(200)));
    assert_eq!(server.get("/v1/models/plain").json(200)["loaded"], false);
    let unknown = server.get("/v1/models/hf:some/other").json(404);
    assert_eq!(unknown["error"]["code"], "model_not_found");
    assert_eq!(
        unknown["error"]["message"],
        "there is no model \"hf:some/other\"; there are tiny, plain"
    );
    // A model is loaded when it is asked for.
    let body = json!({ "model": "plain", "prompt": "hello" });
    assert_eq!(server.post("/v1/completions", &body).json(200)["model"], "plain");
    assert_eq!(server.get("/v1/models/plain").json(200)["loaded"], true);
}

/// llama.cpp's log probabilities of the token after the fixture's prompt.
fn expected_logprobs(tokens: &Value) -> Vec<f64> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny/llama.llama.f32");
    let logits: Vec<f64> = std::fs::read(path)
        .unwrap()
        .chunks_exact(4)
        .map(|bytes| f64::from(f32::from_le_bytes(bytes.try_into().unwrap())))
        .collect();
    let last = &logits[64 * (tokens.as_array().unwrap().len() - 1)..];
    assert_eq!(last.len(), 64);
    let sum: f64 = last.iter().map(|logit| logit.exp()).sum();
    last.iter().map(|logit| logit - sum.ln()).collect()
}

#[test]
fn log_probabilities_are_llama_cpp_s() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny/llama.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let expected = expected_logprobs(&fixture["tokens"]);
    let mut order: Vec<usize> = (0..64).collect();
    order.sort_by(|a, b| expected[*b].total_cmp(&expected[*a]));
    let server = Server::start();
    let text = |id: &usize| {
        let answer = server.post("/detokenize", &json!({ "tokens": [id] })).json(200);
        answer["content"].as_str().unwrap().to_owned()
    };
    let body = json!({
        "prompt": fixture["tokens"], "temperature": 0, "max_tokens": 1, "ignore_eos": true, "logprobs": 5,
    });
    let answer = server.post("/v1/completions", &body).json(200);
    let logprobs = &answer["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!([text(&order[0])]));
    assert_eq!(logprobs["text_offset"], json!([0]));
    let close = |found: &Value, id: &usize| {
        let found = found.as_f64().unwrap();
        assert!((found - expected[*id]).abs() < 2e-3, "token {id}: {found}, {}", expected[*id]);
    };
    close(&logprobs["token_logprobs"][0], &order[0]);
    let top = logprobs["top_logprobs"][0].as_object().unwrap();
    assert_eq!(top.len(), 5);
    for ((token, logprob), id) in top.iter().zip(&order) {
        assert_eq!(*token, text(id));
        close(logprob, id);
    }
}

#[test]
fn chats_tell_log_probabilities_whole_and_streamed_alike() {
    let server = Server::start();
    let body = with(&hello(), json!({ "logprobs": true, "top_logprobs": 3 }));
    let whole = server.post("/v1/chat/completions", &body).json(200);
    let tokens = &whole["choices"][0]["logprobs"]["content"];
    assert_eq!(tokens.as_array().unwrap().len(), 8);
    for token in tokens.as_array().unwrap() {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]));
        assert_eq!(token["bytes"], json!(token["token"].as_str().unwrap().as_bytes()));
    }
    let events =
        server.post("/v1/chat/completions", &with(&body, json!({ "stream": true }))).events();
    let choices = events.iter().filter_map(|event| event["choices"].as_array()).flatten();
    let streamed: Vec<&Value> =
        choices.filter_map(|choice| choice["logprobs"]["content"].as_array()).flatten().collect();
    assert_eq!(json!(streamed), *tokens);
}
