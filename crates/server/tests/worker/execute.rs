//! `/execute` and `/cancel`: what the contract promises of a job.
use crate::client::{Event, connect, send};
use crate::server::{Server, options};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// A job of `tokens` greedy tokens. Greedy, the tiny model never ends by itself.
pub(crate) fn job(id: &str, tokens: u32) -> Value {
    json!({ "job_id": id, "prompt": "one two", "max_tokens": tokens, "temperature": 0, "seed": 7 })
}

fn names(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

fn text(events: &[Event]) -> String {
    let tokens = events.iter().filter(|event| event.name == "token");
    tokens.map(|event| event.data["t"].as_str().unwrap()).collect()
}

#[test]
fn events_come_in_the_promised_order_and_say_what_ran() {
    let server = Server::new();
    let events = server.execute(&job("j1", 100));
    let names = names(&events);
    assert_eq!(names[0], "started");
    assert_eq!(*names.last().unwrap(), "end");
    let between: HashSet<&str> = names[1..names.len() - 1].iter().copied().collect();
    assert_eq!(between, HashSet::from(["token", "metrics"]));
    let started = &events[0].data;
    assert_eq!(started["job_id"], "j1");
    assert_eq!((&started["model"], &started["device"]), (&json!("one"), &json!("cpu")));
    assert_eq!(started["seed"], 7);
    let at = started["started_at"].as_str().unwrap();
    assert_eq!((at.len(), &at[..2], &at[10..11], &at[23..]), (24, "20", "T", "Z"), "{at}");
    let indices = events.iter().filter(|event| event.name == "token");
    let indices: Vec<u64> = indices.map(|event| event.data["i"].as_u64().unwrap()).collect();
    assert_eq!(indices, (0..indices.len() as u64).collect::<Vec<_>>());
    let metrics: Vec<&Event> = events.iter().filter(|event| event.name == "metrics").collect();
    assert_eq!(metrics.len(), 3, "one for each 32 tokens");
    assert!(metrics[0].data["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(metrics[0].data["memory_bytes"].as_u64().unwrap() > 0);
    let end = &events.last().unwrap().data;
    assert_eq!((&end["tokens_out"], &end["stop_reason"]), (&json!(100), &json!("MAX_TOKENS")));
    assert!(end["decode_time_ms"].as_f64().unwrap() > 0.0);
    let receipt = &end["receipt"];
    assert_eq!(receipt["tokens"].as_array().unwrap().len(), 100);
    assert_eq!(receipt["device"]["kind"], "cpu");
    assert_eq!(receipt["model"]["sha256"], "e0bc94560367da04");
}

#[test]
fn a_stop_string_ends_the_answer_before_itself() {
    let server = Server::new();
    let whole = text(&server.execute(&job("a", 60)));
    let stop: String = whole.chars().skip(10).take(5).collect();
    let mut stopped = job("b", 60);
    stopped["stop"] = json!([stop]);
    let events = server.execute(&stopped);
    assert_eq!(text(&events), whole[..whole.find(&stop).unwrap()]);
    assert_eq!(events.last().unwrap().data["stop_reason"], "STOP_SEQUENCE");
}

#[test]
fn a_drawn_seed_is_told_and_gives_the_same_tokens_again_alone_and_in_a_batch() {
    let server = Server::new();
    let mut job = json!({ "job_id": "first", "prompt": "some words", "max_tokens": 40 });
    let first = server.execute(&job);
    job["seed"] = first[0].data["seed"].clone();
    assert!(job["seed"].is_u64());
    let tokens = |events: &[Event]| events.last().unwrap().data["receipt"]["tokens"].clone();
    let again: Vec<Value> = std::thread::scope(|scope| {
        let run = |number: usize| {
            let mut job = job.clone();
            job["job_id"] = json!(format!("again {number}"));
            let server = &server;
            scope.spawn(move || server.execute(&job))
        };
        // Others run beside them.
        let other = scope.spawn(|| server.execute(&super::execute::job("other", 200)));
        let runs: Vec<_> = (0..10).map(run).collect();
        drop(other.join().unwrap());
        runs.into_iter().map(|run| tokens(&run.join().unwrap())).collect()
    });
    assert!(!tokens(&first).as_array().unwrap().is_empty());
    assert_eq!(again, vec![tokens(&first); 10]);
}

#[test]
fn a_bad_request_hears_of_everything_at_once_and_never_its_prompt() {
    let server = Server::new();
    let body =
        r#"{"prompt":"xyzzy secret","max_tokens":4096,"top_k":65,"stop":["a"],"temperatur":1}"#;
    let answer = send(connect(server.address), "POST /execute", "x-correlation-id: c-17\r\n", body);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("x-correlation-id"), Some("c-17"));
    let text = answer.text();
    assert!(!text.contains("xyzzy"), "{text}");
    let error = serde_json::from_str::<Value>(&text).unwrap()["error"].take();
    assert_eq!(
        (&error["code"], &error["correlation_id"]),
        (&json!("INVALID_REQUEST"), &json!("c-17"))
    );
    let found: Vec<(&str, &str)> = error["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["field"].as_str().unwrap(), d["constraint"].as_str().unwrap()))
        .collect();
    let expected = [
        ("job_id", "required"),
        ("max_tokens", "range"),
        ("temperatur", "unknown"),
        // The vocabulary has 64 tokens.
        ("top_k", "range"),
    ];
    assert_eq!(found, expected);
    // 33 tokens of one letter each; the fixture's vocabulary is of letters.
    let long = json!({ "job_id": "j", "prompt": "a", "stop": ["abcde".repeat(40)] });
    let answer = server.post("/execute", &long.to_string());
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["error"]["details"][0]["field"], "stop[0]");
    let drawn = server.post("/execute", "{").header("x-correlation-id").unwrap().to_owned();
    assert_eq!(drawn.len(), 16);
}

#[test]
fn cancelling_ends_the_stream_at_once_and_frees_the_sequence() {
    let server = Server::new();
    let mut stream = server.post("/execute", &job("long", 2048).to_string());
    assert_eq!(stream.event().unwrap().name, "started");
    assert_eq!(stream.event().unwrap().name, "token");
    let same = server.post("/execute", &job("long", 1).to_string());
    assert_eq!(same.json()["error"]["details"][0]["constraint"], "unique");
    let since = Instant::now();
    assert_eq!(server.post("/cancel", r#"{"job_id":"long"}"#).status, 202);
    let events: Vec<Event> = std::iter::from_fn(|| stream.event()).collect();
    // As long as the contract gives the engine, and as much again for a busy machine.
    assert!(since.elapsed() < Duration::from_millis(200), "{:?}", since.elapsed());
    let last = events.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["code"]), ("error", &json!("CANCELLED")));
    assert_eq!(events.iter().filter(|event| event.name == "error").count(), 1);
    assert!(events.len() < 2000, "it was still running");
    server.wait_until_idle();
    assert_eq!(server.metric("russet_kv_blocks_used"), 0.0);
    // As often as one likes, for jobs that are gone or never were.
    for id in ["long", "long", "other"] {
        assert_eq!(server.post("/cancel", &json!({ "job_id": id }).to_string()).status, 202);
    }
    assert_eq!(server.post("/cancel", "{}").status, 400);
    assert_eq!(names(&server.execute(&job("long", 1))), ["started", "token", "end"]);
}

#[test]
fn an_answer_that_takes_too_long_ends_with_a_reason() {
    let server = Server::with(server::Options { time_max: Duration::from_millis(30), ..options() });
    let events = server.execute(&job("slow", 2048));
    let last = events.last().unwrap();
    assert_eq!((last.name.as_str(), &last.data["code"]), ("error", &json!("INFERENCE_TIMEOUT")));
    assert_eq!(last.data["retriable"], true);
    server.wait_until_idle();
}
