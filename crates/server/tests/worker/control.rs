//! Starting, readiness, health, stopping.
use crate::execute::job;
use crate::server::{MODEL_BYTES, Server, options};
use serde_json::json;
use server::ServeError;

#[test]
fn the_server_listens_while_its_model_is_loaded() {
    let server = Server::listening(options(), "one", MODEL_BYTES, true, || Ok(()));
    let mut loading = server.get("/loading");
    // The load may have got to its gate already.
    let mut first = loading.event().unwrap();
    while first.data["progress"] == 0.0 {
        first = loading.event().unwrap();
    }
    assert_eq!((first.name.as_str(), &first.data["progress"]), ("progress", &json!(0.25)));
    let ready = server.get("/ready");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json(), json!({ "ready": false, "state": "loading", "progress": 0.25 }));
    let health = server.get("/health");
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["resident"], false);
    let early = server.post("/execute", &job("j", 1).to_string());
    assert_eq!((early.status, early.header("retry-after")), (503, Some("1")));
    assert_eq!(early.json()["error"]["code"], "UNAVAILABLE");
    server.loader.gate.close(false);
    let rest = loading.events();
    assert_eq!(rest.last().unwrap().name, "ready");
    server.wait_until_ready();
    let ready = server.get("/ready");
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json(), json!({ "ready": true, "state": "idle", "progress": 1.0 }));
    let health = server.get("/health").json();
    assert_eq!((&health["status"], &health["resident"]), (&json!("healthy"), &json!(true)));
    assert_eq!(
        (&health["model"], &health["model_sha256"]),
        (&json!("one"), &json!("e0bc94560367da04"))
    );
    assert_eq!((&health["vocab_size"], &health["context_length"]), (&json!(64), &json!(4096)));
    assert_eq!(
        (&health["memory_architecture"], &health["protocol"]),
        (&json!("unified"), &json!("sse"))
    );
    assert_eq!(health["capabilities"], json!(["text-gen"]));
    assert!(health["memory_bytes_used"].as_u64().unwrap() > 1 << 20, "{health}");
}

#[test]
fn what_cannot_start_ends_the_server_with_its_reason() {
    let broken = Server::listening(options(), "broken", MODEL_BYTES, false, || Ok(())).end();
    assert!(matches!(&broken, Err(ServeError::Load(_))), "{broken:?}");
    let small = Server::listening(options(), "one", 999, false, || Ok(())).end().unwrap_err();
    for part in ["1000 bytes required", "999 bytes available", "test device", "/models/one.gguf"] {
        assert!(small.to_string().contains(part), "{small}");
    }
    let deaf = || Err("nobody was told".to_owned());
    let untold = Server::listening(options(), "one", MODEL_BYTES, false, deaf).end().unwrap_err();
    assert_eq!(untold.to_string(), "nobody was told");
}

#[test]
fn a_server_that_stops_finishes_what_runs_and_takes_no_more() {
    for by_request in [false, true] {
        let server = Server::new();
        let mut stream = server.post("/execute", &job("last", 1500).to_string());
        assert_eq!(stream.event().unwrap().name, "started");
        if by_request {
            assert_eq!(server.post("/shutdown", "").status, 202);
        } else {
            server.stop();
        }
        while server.get("/ready").status == 200 {}
        let late = server.post("/execute", &job("late", 1).to_string());
        assert_eq!(late.status, 503, "a running answer still keeps the server up");
        let end = stream.events().pop().unwrap();
        assert_eq!((end.name.as_str(), &end.data["tokens_out"]), ("end", &json!(1500)));
        server.end().unwrap();
    }
}
