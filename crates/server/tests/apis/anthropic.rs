//! Anthropic's messages. The tiny model has a token for each letter, and one for "ab": prompts are counted by hand.
use crate::loopback::{Answer, Server, with};
use serde_json::{Value, json};

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn hello() -> Value {
    json!({ "messages": [{ "role": "user", "content": "abc" }], "max_tokens": 8, "temperature": 0 })
}

/// The names of a stream's events, which are also in their data.
fn kinds(answer: &Answer) -> Vec<String> {
    let names = answer.body.lines().filter_map(|line| line.strip_prefix("event: "));
    let names: Vec<String> = names.map(str::to_owned).collect();
    assert!(answer.events().iter().zip(&names).all(|(event, name)| event["type"] == **name));
    names
}

#[test]
fn a_message_is_answered_whole_and_streamed_alike() {
    let server = Server::start();
    let whole = server.post(MESSAGES, &hello()).json(200);
    assert_eq!(whole["type"], "message");
    assert_eq!(whole["role"], "assistant");
    assert_eq!(whole["stop_reason"], "max_tokens");
    // All letters and spaces of "user abc assistant ", of which "ab" is one token.
    assert_eq!(whole["usage"]["input_tokens"], 4 + 1 + 2 + 1 + 9 + 1);
    assert_eq!(whole["usage"]["output_tokens"], 8);
    let streamed = server.post(MESSAGES, &with(&hello(), json!({ "stream": true })));
    let (kinds, events) = (kinds(&streamed), streamed.events());
    assert_eq!(kinds[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(events[0]["message"]["usage"]["input_tokens"], 18);
    let texts = events.iter().filter(|event| event["delta"]["type"] == "text_delta");
    let text: String = texts.map(|event| event["delta"]["text"].as_str().unwrap()).collect();
    assert_eq!(whole["content"], json!([{ "type": "text", "text": text }]));
    let end = &events[events.len() - 2];
    assert_eq!(end["delta"]["stop_reason"], "max_tokens");
    let usage = &end["usage"];
    let read = usage["input_tokens"].as_u64().unwrap()
        + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!((read, usage["output_tokens"].as_u64()), (18, Some(8)));
}

#[test]
fn everything_a_conversation_has_is_in_the_prompt() {
    let server = Server::start();
    let count = |more: Value| {
        server.post(COUNT, &with(&hello(), more)).json(200)["input_tokens"].as_u64().unwrap()
    };
    let abc = json!({ "type": "text", "text": "abc" });
    assert_eq!(count(json!({})), 18);
    assert_eq!(count(json!({ "messages": [{ "role": "user", "content": [abc] }] })), 18);
    // "system abc "
    assert_eq!(count(json!({ "system": [abc] })), 18 + 6 + 1 + 2 + 1);
    // "T look "
    let tool = json!({ "name": "look", "input_schema": { "type": "object" } });
    assert_eq!(count(json!({ "tools": [tool] })), 18 + 7);
    let unseen = json!({ "tools": [tool], "tool_choice": { "type": "none" } });
    assert_eq!(count(unseen), 18);
    // "think "
    assert_eq!(count(json!({ "thinking": { "type": "enabled", "budget_tokens": 1024 } })), 18 + 6);
    assert_eq!(count(json!({ "thinking": { "type": "disabled" } })), 18);
    let call = json!({ "type": "tool_use", "id": "t1", "name": "look", "input": { "a": 1 } });
    let result = json!({ "type": "tool_result", "tool_use_id": "t1", "content": "abc" });
    let turns = json!([
        { "role": "user", "content": "abc" },
        { "role": "assistant", "content": [abc, call] },
        { "role": "user", "content": [result] },
    ]);
    // "user abc assistant abc C look 1 tool abc assistant "
    let turns_count = 8 + (9 + 1 + 2 + 1) + (1 + 1 + 4 + 1 + 1 + 1) + (4 + 1 + 2 + 1) + 10;
    assert_eq!(count(json!({ "messages": turns })), turns_count);
}

#[test]
fn a_stop_sequence_ends_the_answer_and_is_named() {
    let server = Server::start();
    let whole = server.post(MESSAGES, &with(&hello(), json!({ "max_tokens": 24 }))).json(200);
    let text = whole["content"][0]["text"].as_str().unwrap();
    let stop = &text[3..5];
    let more = json!({ "max_tokens": 24, "stop_sequences": ["0000", stop] });
    let stopped = server.post(MESSAGES, &with(&hello(), more)).json(200);
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"], stop);
    let before = text.split(stop).next().unwrap();
    let found: String = stopped["content"]
        .as_array()
        .unwrap()
        .iter()
        .map(|block| block["text"].as_str().unwrap())
        .collect();
    assert_eq!(found, before);
}

#[test]
fn errors_are_in_anthropics_words_wherever_they_come_from() {
    let server = Server::with(|options| options.body_bytes_max = 1000);
    let kind = |answer: &Answer, status: u16| {
        let error = answer.json(status);
        assert_eq!(error["type"], "error", "{error}");
        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
        error["error"]["type"].as_str().unwrap().to_owned()
    };
    let wrong = json!({
        "messages": [{ "role": "user", "content": [{ "type": "image" }] }, { "role": "system", "content": 1 }],
        "system": 7, "thinking": {}, "tools": [{}], "tool_choice": { "type": "tool" },
    });
    let answer = server.post(MESSAGES, &wrong);
    assert_eq!(kind(&answer, 400), "invalid_request_error");
    let fields = [
        "max_tokens",
        "messages[0].content[0].type",
        "messages[1].role",
        "messages",
        "system",
        "thinking.type",
        "tools[0].name",
        "tools[0].input_schema",
        "tool_choice.name",
    ];
    for field in fields {
        assert!(answer.body.contains(&format!("`{field}`")), "{field}: {}", answer.body);
    }
    assert_eq!(
        kind(&server.post(MESSAGES, &with(&hello(), json!({ "model": "none" }))), 404),
        "not_found_error"
    );
    assert_eq!(kind(&server.get("/v1/messages/none"), 404), "not_found_error");
    assert_eq!(kind(&server.get(MESSAGES), 405), "invalid_request_error");
    assert_eq!(kind(&server.send("POST", MESSAGES, &[b' '; 1001]), 413), "request_too_large");
    let locked = Server::with(|options| options.key_hashes = vec![[0; 32]]);
    assert_eq!(kind(&locked.post(MESSAGES, &hello()), 401), "authentication_error");
}
