//! What `/metrics` says is what was asked for.
use crate::execute::job;
use crate::server::Server;
use serde_json::json;

#[test]
fn metrics_count_what_was_asked_and_answered() {
    let server = Server::new();
    let (mut prompt_tokens, mut cached_tokens, mut answer_tokens) = (0.0, 0.0, 0.0);
    let long =
        json!({ "job_id": "x", "prompt": "abc ".repeat(100), "max_tokens": 9, "temperature": 0 });
    for job in [job("a", 20), job("b", 70), long.clone(), long] {
        let end = server.execute(&job).pop().unwrap().data;
        answer_tokens += end["tokens_out"].as_f64().unwrap();
        prompt_tokens += end["receipt"]["prompt_tokens"].as_f64().unwrap();
        cached_tokens += end["receipt"]["cached_tokens"].as_f64().unwrap();
    }
    assert_eq!(answer_tokens, 108.0);
    assert!(cached_tokens > 0.0, "the same prompt again");
    assert_eq!(server.post("/execute", "{}").status, 400);
    let mut gone = server.post("/execute", &job("gone", 2048).to_string());
    assert_eq!(gone.event().unwrap().name, "started");
    assert_eq!(gone.event().unwrap().name, "token");
    assert_eq!(server.metric("russet_running") + server.metric("russet_waiting"), 1.0);
    assert!(server.metric("russet_kv_blocks_used") > 0.0);
    assert_eq!(server.post("/cancel", r#"{"job_id":"gone"}"#).status, 202);
    assert_eq!(gone.events().last().unwrap().name, "error");
    server.wait_until_idle();
    let same = [
        (r#"russet_http_requests_total{route="/execute",status="200"}"#, 5.0),
        (r#"russet_http_requests_total{route="/execute",status="400"}"#, 1.0),
        (r#"russet_http_requests_total{route="/cancel",status="202"}"#, 1.0),
        (r#"russet_answers_total{reason="tokens_max"}"#, 4.0),
        (r#"russet_answers_total{reason="cancelled"}"#, 1.0),
        ("russet_answer_time_seconds_count", 4.0),
        ("russet_prefix_hit_tokens_total", cached_tokens),
        ("russet_running", 0.0),
        ("russet_waiting", 0.0),
        ("russet_kv_blocks_used", 0.0),
        ("russet_preemptions_total", 0.0),
    ];
    for (name, expected) in same {
        assert_eq!(server.metric(name), expected, "{name}");
    }
    // The cancelled job read its prompt too, and came an unknown number of tokens far.
    let cancelled = server.metric("russet_answer_tokens_total") - answer_tokens;
    assert!((0.0..2048.0).contains(&cancelled), "{cancelled}");
    let firsts = server.metric("russet_time_to_first_token_seconds_count");
    assert_eq!(firsts, 4.0 + cancelled.min(1.0));
    let between = server.metric("russet_time_between_tokens_seconds_count");
    assert_eq!(between, answer_tokens + cancelled - firsts);
    let read = server.metric("russet_prompt_tokens_total");
    let gone_tokens = read - (prompt_tokens - cached_tokens);
    assert!((0.0..=9.0).contains(&gone_tokens), "{gone_tokens} of the cancelled job's prompt");
    let batched = server.metric("russet_batch_tokens_sum");
    assert!(batched >= read + answer_tokens - 4.0, "{batched}");
    assert!(server.metric("russet_kv_blocks") > 0.0);
    assert!(server.metric("russet_step_time_seconds_count") > 0.0);
}
