//! Several models under one memory budget.
use crate::execute::job;
use crate::server::{MODEL_BYTES, MODELS, Server, options};
use serde_json::{Value, json};

fn named(model: &str) -> String {
    json!({ "model": model }).to_string()
}

fn loaded(server: &Server) -> Value {
    server.get("/health").json()["models"].take()
}

#[test]
fn the_model_unused_longest_makes_room() {
    let server = Server::new();
    assert_eq!(server.post("/models/load", &named("two")).status, 200);
    assert_eq!(loaded(&server), json!(["one", "two"]));
    assert_eq!(server.execute(&job("j", 3)).last().unwrap().name, "end");
    let answer = server.post("/models/load", &named("three")).json();
    assert_eq!(answer, json!({ "model": "three", "loaded": true, "memory_bytes": MODEL_BYTES }));
    assert_eq!(loaded(&server), json!(["one", "three"]));
    assert_eq!(server.post("/models/unload", &named("three")).status, 200);
    assert_eq!(server.post("/models/unload", &named("three")).status, 404);
    assert_eq!(loaded(&server), json!(["one"]));
}

#[test]
fn what_can_never_fit_is_refused_with_numbers_and_moves_nothing() {
    let server = Server::new();
    let huge = server.post("/models/load", &named("huge"));
    assert_eq!(huge.status, 503);
    let message = huge.json()["error"]["message"].take();
    for part in ["1099511627776 bytes required", "2000 bytes available"] {
        assert!(message.as_str().unwrap().contains(part), "{message}");
    }
    assert_eq!(server.post("/models/load", &named("none")).status, 404);
    assert_eq!(server.post("/models/load", &named("broken")).status, 500);
    assert_eq!(loaded(&server), json!(["one"]));
    let asked = server.loader.asked.lock().unwrap().clone();
    assert!(!asked.contains(&"load huge".to_owned()), "{asked:?}");
    assert_eq!(server.execute(&job("j", 3)).last().unwrap().name, "end");
}

#[test]
fn an_answer_finishes_on_the_old_model_before_the_new_one_is_loaded() {
    let server = Server::listening(options(), "one", MODEL_BYTES, false, || Ok(()));
    server.wait_until_ready();
    let mut stream = server.post("/execute", &job("long", 1500).to_string());
    assert_eq!(stream.event().unwrap().name, "started");
    std::thread::scope(|scope| {
        let swap = scope.spawn(|| server.post("/models/load", &named("two")).status);
        while loaded(&server) != json!([]) {}
        let loads = |name: &str| server.loader.asked.lock().unwrap().iter().any(|it| it == name);
        assert!(loads("plan two"));
        // The answer still runs, so the memory is not free.
        assert!(!loads("load two"));
        let end = stream.events().pop().unwrap();
        assert_eq!((end.name.as_str(), &end.data["tokens_out"]), ("end", &json!(1500)));
        assert_eq!(swap.join().unwrap(), 200);
    });
    assert_eq!(loaded(&server), json!(["two"]));
    // The default model comes back when it is asked for.
    assert_eq!(server.execute(&job("again", 3))[0].data["model"], "one");
    assert_eq!(loaded(&server), json!(["one"]));
}

#[test]
fn swaps_and_answers_at_the_same_time_lose_nothing() {
    let server = Server::new();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let server = &server;
            scope.spawn(move || {
                for round in 0..4 {
                    let model = MODELS[(thread + round) % MODELS.len()];
                    assert_eq!(server.post("/models/load", &named(model)).status, 200);
                    let held = loaded(server);
                    assert!(held.as_array().unwrap().len() <= 2, "{held}");
                }
            });
            scope.spawn(move || {
                for round in 0..4 {
                    let events = server.execute(&job(&format!("{thread}.{round}"), 30));
                    let end = events.last().unwrap();
                    assert_eq!(end.data["tokens_out"], 30, "{end:?}");
                }
            });
        }
    });
    server.wait_until_idle();
    assert_eq!(server.metric("russet_kv_blocks_used"), 0.0);
}
