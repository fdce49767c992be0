//! `/v1/responses`. The tiny model has a token for each letter, and one for "ab".
use crate::loopback::{Server, with};
use serde_json::{Value, json};

const RESPONSES: &str = "/v1/responses";

fn hello() -> Value {
    json!({ "input": "abc", "max_output_tokens": 8, "temperature": 0 })
}

fn text(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"].as_str().unwrap()
}

#[test]
fn a_response_is_whole_and_streamed_alike() {
    let server = Server::start();
    let whole = server.post(RESPONSES, &hello()).json(200);
    assert_eq!(whole["object"], "response");
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(whole["output"][0]["status"], "incomplete");
    // All letters and spaces of "user abc assistant ", of which "ab" is one token.
    assert_eq!(whole["usage"]["input_tokens"], 18);
    assert_eq!(whole["usage"]["output_tokens"], 8);
    assert_eq!(whole["usage"]["total_tokens"], 26);
    let events = server.post(RESPONSES, &with(&hello(), json!({ "stream": true }))).events();
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    let first =
        ["created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"];
    assert_eq!(kinds[..5], first.map(|kind| format!("response.{kind}")));
    let last = ["output_text.done", "content_part.done", "output_item.done", "incomplete"];
    assert_eq!(kinds[kinds.len() - 4..], last.map(|kind| format!("response.{kind}")));
    assert!(events.iter().enumerate().all(|(i, event)| event["sequence_number"] == i));
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    let joined: String = deltas.map(|event| event["delta"].as_str().unwrap()).collect();
    assert_eq!(joined, text(&whole));
    let response = &events.last().unwrap()["response"];
    assert_eq!(text(response), text(&whole));
    // What was streamed is what is kept.
    let id = response["id"].as_str().unwrap();
    assert_eq!(&server.get(&format!("{RESPONSES}/{id}")).json(200), response);
    let item = &response["output"][0]["id"];
    assert!(events.iter().filter_map(|event| event.get("item_id")).all(|id| id == item));
}

#[test]
fn a_response_goes_on_from_another_without_its_instructions() {
    let server = Server::start();
    let first = with(&hello(), json!({ "instructions": "be brief" }));
    let first = server.post(RESPONSES, &first).json(200);
    // "system be brief "
    assert_eq!(first["usage"]["input_tokens"], 18 + 16);
    let more = json!({ "input": "cab", "previous_response_id": first["id"] });
    let second = server.post(RESPONSES, &with(&hello(), more)).json(200);
    assert_eq!(second["previous_response_id"], first["id"]);
    let said = json!([{ "type": "output_text", "text": text(&first) }]);
    let turns = json!({ "input": [
        { "role": "user", "content": "abc" },
        { "type": "message", "role": "assistant", "content": said },
        { "role": "user", "content": [{ "type": "input_text", "text": "cab" }] },
    ] });
    let again = server.post(RESPONSES, &with(&hello(), turns)).json(200);
    assert_eq!(text(&second), text(&again));
    assert_eq!(second["usage"]["input_tokens"], again["usage"]["input_tokens"]);
}

#[test]
fn a_response_is_there_until_it_is_deleted_or_was_not_to_be_kept() {
    let server = Server::start();
    let path = |response: &Value| format!("{RESPONSES}/{}", response["id"].as_str().unwrap());
    let kept = server.post(RESPONSES, &hello()).json(200);
    assert_eq!(server.get(&path(&kept)).json(200), kept);
    let deleted = server.send("DELETE", &path(&kept), b"").json(200);
    assert_eq!(deleted, json!({ "id": kept["id"], "object": "response", "deleted": true }));
    for method in ["GET", "DELETE"] {
        let gone = server.send(method, &path(&kept), b"").json(404);
        assert_eq!(gone["error"]["code"], "response_not_found");
    }
    let on = json!({ "previous_response_id": kept["id"] });
    let error = server.post(RESPONSES, &with(&hello(), on)).json(404);
    assert_eq!(error["error"]["param"], "previous_response_id");
    let unkept = server.post(RESPONSES, &with(&hello(), json!({ "store": false }))).json(200);
    assert_eq!(server.get(&path(&unkept)).status, 404);
}

#[test]
fn calls_and_their_results_are_in_the_prompt() {
    let server = Server::start();
    let items = json!([
        { "role": "user", "content": "abc" },
        { "type": "reasoning", "summary": [], "content": [{ "type": "reasoning_text", "text": "hm" }] },
        { "type": "function_call", "call_id": "c1", "name": "look", "arguments": "{\"a\": 1}" },
        { "type": "function_call_output", "call_id": "c1", "output": "abc" },
    ]);
    let tool = json!({ "type": "function", "name": "look", "parameters": { "type": "object" } });
    let more = json!({ "input": items, "tools": [tool] });
    let response = server.post(RESPONSES, &with(&hello(), more)).json(200);
    // "T look user abc assistant  C look 1 tool abc assistant "
    let count = 7 + 8 + (9 + 1 + 1) + (1 + 1 + 4 + 1 + 1 + 1) + (4 + 1 + 2 + 1) + 10;
    assert_eq!(response["usage"]["input_tokens"], count);
    assert_eq!(response["tools"], json!([tool]));
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let server = Server::start();
    let cases = [
        (json!({ "input": null }), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": [{ "type": "item_reference", "id": "msg_1" }] }), "input[0].type"),
        (json!({ "input": [{ "role": "tool", "content": "a" }] }), "input[0].role"),
        (
            json!({ "input": [{ "role": "user", "content": [{ "type": "input_image" }] }] }),
            "input[0].content[0].type",
        ),
        (
            json!({ "input": [{ "type": "function_call_output", "call_id": "c", "output": "" }] }),
            "input[0].call_id",
        ),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "tool_choice": { "type": "function", "name": "look" } }), "tool_choice.name"),
        (
            json!({ "text": { "format": { "type": "json_schema", "name": "a" } } }),
            "text.format.schema",
        ),
        (json!({ "background": true }), "background"),
        (json!({ "truncation": "auto" }), "truncation"),
        (json!({ "max_output_tokens": 0 }), "max_output_tokens"),
        (json!({ "conversation": "conv_1" }), "conversation"),
    ];
    for (more, field) in cases {
        let error = server.post(RESPONSES, &with(&hello(), more)).json(400);
        assert_eq!(error["error"]["param"], field, "{error}");
    }
}
