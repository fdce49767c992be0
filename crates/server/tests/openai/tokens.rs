//! llama.cpp's endpoints for tokens and templates, and what a template gets to see.
use crate::loopback::{Server, with};
use serde_json::json;

#[test]
fn texts_become_tokens_and_back() {
    let server = Server::start();
    let tokens = server.post("/tokenize", &json!({ "content": "abe<|end|>" })).json(200);
    // "ab" is the first token after the alphabets.
    assert_eq!(tokens["tokens"], json!([54, 32, 1]));
    let pieces =
        server.post("/tokenize", &json!({ "content": "ab 1", "with_pieces": true })).json(200);
    let expected = json!([{ "id": 54, "piece": "ab" }, { "id": 56, "piece": " " }, { "id": 58, "piece": "1" }]);
    assert_eq!(pieces["tokens"], expected);
    let content = server.post("/detokenize", &json!({ "tokens": [54, 32, 1] })).json(200);
    assert_eq!(content["content"], "abe<|end|>");
}

#[test]
fn the_template_sees_roles_parts_tools_calls_and_variables() {
    let server = Server::start();
    let prompt = |body| server.post("/apply-template", &body).json(200)["prompt"].clone();
    let user = json!({ "role": "user", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] });
    let developer = json!({ "role": "developer", "content": "d" });
    let body = json!({ "messages": [developer, user], "chat_template_kwargs": { "enable_thinking": true } });
    assert_eq!(prompt(body), "system d user a\nb think assistant ");
    let call = json!({ "id": "1", "type": "function", "function": { "name": "f", "arguments": "{\"a\": 5}" } });
    let assistant = json!({ "role": "assistant", "content": null, "tool_calls": [call] });
    let tool = json!({ "role": "tool", "tool_call_id": "1", "content": "six" });
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": { "type": "object" } } }]);
    let body = json!({ "messages": [assistant, tool], "tools": tools });
    assert_eq!(prompt(body.clone()), "T f assistant  C f 5 tool six assistant ");
    assert_eq!(
        prompt(with(&body, json!({ "tool_choice": "none" }))),
        "assistant  C f 5 tool six assistant "
    );
}
