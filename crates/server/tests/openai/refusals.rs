//! Requests that are refused: always with a reason, never with a server's error.
use crate::loopback::{Server, with};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn bodies_that_are_no_json_object_are_refused() {
    let server = Server::start();
    let nested = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let deep = [b"{\"messages\":".as_slice(), &nested, b"}"].concat();
    let bodies: [(&str, &[u8]); 10] = [
        ("empty", b""),
        ("truncated", b"{\"messages\": [{\"role\": \"user\", \"cont"),
        ("a list", b"[]"),
        ("a string", b"\"hello\""),
        ("NaN", b"{\"temperature\": NaN}"),
        ("too large a number", b"{\"temperature\": 1e999}"),
        ("not UTF-8", b"{\"model\": \"\xff\xfe\"}"),
        ("half a surrogate", b"{\"model\": \"\\ud800\"}"),
        ("something behind", b"{} {}"),
        ("deep", &deep),
    ];
    for path in [CHAT, "/v1/completions", "/tokenize", "/detokenize", "/apply-template"] {
        for (what, body) in &bodies {
            let answer = server.send("POST", path, body).json(400);
            assert_eq!(answer["error"]["code"], "invalid_json", "{path}: {what}: {answer}");
            assert_eq!(answer["error"]["type"], "invalid_request_error");
        }
    }
}

#[test]
fn oversized_bodies_and_unknown_places_are_refused() {
    let server = Server::start();
    let body = vec![b' '; (4 << 20) + 1];
    let answer = server.send("POST", CHAT, &body).json(413);
    assert_eq!(answer["error"]["code"], "request_too_large");
    assert_eq!(server.get("/v1/nothing").json(404)["error"]["code"], "not_found");
    assert_eq!(server.get(CHAT).json(405)["error"]["code"], "method_not_allowed");
}

/// A field, what is wrong with it, and a word of the reason.
fn wrong_fields() -> Vec<(&'static str, Value, &'static str)> {
    let schema = json!({ "type": "json_schema", "json_schema": { "name": "x" } });
    let image = json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }]);
    let called = json!({ "id": "1", "function": { "name": "f", "arguments": "{" } });
    let arguments = json!([{ "role": "assistant", "tool_calls": [called] }]);
    let tools = json!([{ "type": "function", "function": { "name": "a b" } }]);
    vec![
        ("messages", json!("hello"), "a list"),
        ("messages", json!([]), "at least one"),
        ("messages", json!(vec![0; 300_000]), "must be an object"),
        ("messages", json!([{ "content": "x" }]), "`messages[0].role` is required"),
        ("messages", json!([{ "role": "wizard", "content": "x" }]), "one of system"),
        ("messages", json!([{ "role": "user" }]), "`messages[0].content` is required"),
        ("messages", json!([{ "role": "user", "content": 5 }]), "a string or a list"),
        ("messages", image, "images"),
        ("messages", arguments, "must be a JSON object, written as a string"),
        ("messages", json!([{ "role": "tool", "content": "x" }]), "tool_call_id"),
        ("model", json!(5), "a string"),
        ("temperature", json!("hot"), "a number from 0 to 2"),
        ("temperature", json!(2.5), "a number from 0 to 2, not 2.5"),
        ("top_p", json!(-0.1), "a number from 0 to 1"),
        ("top_k", json!(-2), "an integer from -1"),
        ("min_p", json!(true), "a number"),
        ("max_tokens", json!(0), "an integer from 1"),
        ("max_completion_tokens", json!(1.5), "an integer from 1"),
        ("n", json!(129), "an integer from 1 to 128"),
        ("seed", json!(1.5), "an integer of 64 bits"),
        ("stop", json!(vec!["x"; 17]), "up to 16 strings"),
        ("stop", json!([1]), "up to 16 strings"),
        ("frequency_penalty", json!(3), "from -2 to 2"),
        ("logit_bias", json!({ "word": 1 }), "token ids"),
        ("logit_bias", json!({ "64": 1 }), "the model has 64 tokens"),
        ("logit_bias", json!({ "5": 101 }), "from -100 to 100"),
        ("top_logprobs", json!(2), "needs `logprobs: true`"),
        ("stream", json!("yes"), "true or false"),
        ("stream_options", json!({ "include_usage": true }), "stream: true"),
        ("tools", json!([{ "type": "retrieval" }]), "one of function"),
        ("tools", tools, "letters, digits"),
        ("tool_choice", json!("required"), "needs `tools`"),
        ("tool_choice", json!("perhaps"), "one of none, auto, required"),
        (
            "tool_choice",
            json!({ "type": "function", "function": { "name": "g" } }),
            "one of `tools`",
        ),
        ("functions", json!([]), "use `tools`"),
        ("response_format", json!({ "type": "xml" }), "one of text"),
        ("response_format", schema, "json_schema.schema` is required"),
        ("grammar", json!("root ::= x"), "guided_grammar"),
        ("modalities", json!(["text", "audio"]), "nothing else"),
    ]
}

#[test]
fn fields_that_are_wrong_are_named() {
    let server = Server::start();
    let hello = json!({ "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 1 });
    for (field, value, reason) in wrong_fields() {
        let answer = server.post(CHAT, &with(&hello, json!({ field: value }))).json(400);
        let error = &answer["error"];
        assert!(error["param"].as_str().unwrap().starts_with(field), "{field}: {answer}");
        assert!(error["message"].as_str().unwrap().contains(reason), "{field}: {answer}");
        assert_eq!(error["type"], "invalid_request_error");
    }
    // What nobody knows, and what is for others, is ignored.
    let more = json!({ "user": "me", "metadata": { "a": "b" }, "store": true, "something": [1], "seed": null });
    server.post(CHAT, &with(&hello, more)).json(200);
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let server = Server::start();
    let body = json!({ "messages": [{ "role": "user" }], "temperature": 3, "n": 0, "stop": 5 });
    insta::assert_snapshot!("violations", server.post(CHAT, &body).json(400)["error"].to_string());
}

#[test]
fn completions_refuse_what_they_do_not_offer() {
    let server = Server::start();
    let body = json!({ "prompt": "hello", "max_tokens": 1 });
    let wrong = [
        ("prompt", json!(null)),
        ("prompt", json!([])),
        ("prompt", json!([1, "x"])),
        ("prompt", json!([1, -1])),
        ("prompt", json!([64])),
        ("prompt", json!(vec!["x"; 129])),
        ("prompt", json!({ "text": "x" })),
        ("suffix", json!("end")),
        ("best_of", json!(3)),
        ("logprobs", json!(true)),
        ("logprobs", json!(21)),
    ];
    for (field, value) in wrong {
        let answer =
            server.post("/v1/completions", &with(&body, json!({ field: value }))).json(400);
        assert_eq!(answer["error"]["param"], field, "{answer}");
    }
    let echo = with(&body, json!({ "echo": true, "logprobs": 1 }));
    assert_eq!(server.post("/v1/completions", &echo).json(400)["error"]["param"], "echo");
    for (path, body, field) in [
        ("/detokenize", json!({ "tokens": [64] }), "tokens"),
        ("/detokenize", json!({ "tokens": "ab" }), "tokens"),
        ("/tokenize", json!({ "content": 5 }), "content"),
    ] {
        assert_eq!(server.post(path, &body).json(400)["error"]["param"], field);
    }
}

#[test]
fn models_refuse_what_they_cannot_do() {
    let server = Server::start();
    let hello = json!({ "messages": [{ "role": "user", "content": "hello" }] });
    let unknown = server.post(CHAT, &with(&hello, json!({ "model": "gpt" }))).json(404);
    assert_eq!(unknown["error"]["code"], "model_not_found");
    let plain = server.post(CHAT, &with(&hello, json!({ "model": "plain" }))).json(400);
    assert!(plain["error"]["message"].as_str().unwrap().contains("/v1/completions"), "{plain}");
    let long = json!({ "prompt": "x".repeat(crate::loopback::CONTEXT as usize) });
    let long = server.post("/v1/completions", &long).json(400);
    assert_eq!(long["error"]["code"], "context_length_exceeded");
    let empty = server.post("/v1/completions", &json!({ "prompt": "" })).json(400);
    assert_eq!(empty["error"]["message"], "the prompt is empty");
}
