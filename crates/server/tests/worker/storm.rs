//! Many clients, half of which go away in the middle. `cargo xtask soak` does the same with a thousand, for minutes.
use crate::execute::job;
use crate::server::Server;
use std::time::Instant;

#[test]
fn clients_that_go_away_leave_nothing_behind() {
    const CLIENTS: usize = 50;
    let server = Server::new();
    let since = Instant::now();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let server = &server;
            scope.spawn(move || {
                let stays = client % 2 == 0;
                // Those that go would otherwise run on for long.
                let tokens = if stays { 40 } else { 2048 };
                let body = job(&client.to_string(), tokens).to_string();
                let mut stream = server.post("/execute", &body);
                assert_eq!(stream.event().unwrap().name, "started");
                match stays {
                    true => assert_eq!(stream.events().pop().unwrap().data["tokens_out"], 40),
                    // Some in the middle of their text, some while they wait for a place.
                    false => drop((client % 4 == 1).then(|| stream.event())),
                }
            });
        }
    });
    server.wait_until_idle();
    let idle = since.elapsed();
    assert_eq!(server.metric("russet_kv_blocks_used"), 0.0);
    let half = CLIENTS as f64 / 2.0;
    assert_eq!(server.metric(r#"russet_answers_total{reason="tokens_max"}"#), half);
    assert_eq!(server.metric(r#"russet_answers_total{reason="cancelled"}"#), half);
    // Not one of them was read to its end: 25 answers of 2048 tokens.
    assert!(server.metric("russet_answer_tokens_total") < 25.0 * 1024.0, "{idle:?}");
}
