//! Keys, origins, bodies, the queue, and what every answer's head says.
use crate::client::{connect, receive, send};
use crate::execute::job;
use crate::server::{Server, options};
use std::io::Write as _;
use std::net::Shutdown;

#[test]
fn only_who_has_a_key_may_ask() {
    let key_hashes = vec![KEY_HASH];
    let server = Server::with(server::Options { key_hashes, ..options() });
    let status = |line: &str, head: &str| send(connect(server.address), line, head, "{}").status;
    for head in ["", "authorization: Bearer k2\r\n", "x-api-key: k\r\n", "authorization: k1\r\n"] {
        for line in ["POST /execute", "POST /shutdown", "POST /health", "GET /metrics", "GET /x"] {
            assert_eq!(status(line, head), 401, "{line} {head}");
        }
        assert_eq!(status("GET /health", head), 200);
    }
    for head in ["authorization: Bearer k1\r\n", "x-api-key: k1\r\n"] {
        assert_eq!(status("POST /execute", head), 400, "{head}");
        assert_eq!(status("GET /metrics", head), 200, "{head}");
    }
}

/// `printf k1 | sha256sum`.
const KEY_HASH: [u8; 32] = [
    0x6a, 0xb9, 0xf1, 0xeb, 0x8f, 0x7d, 0x33, 0x88, 0xf4, 0xf9, 0xd5, 0x86, 0xf6, 0x6e, 0x99, 0xfd,
    0x54, 0x08, 0x0d, 0xf2, 0xc4, 0x46, 0xf0, 0xe5, 0x86, 0x68, 0xb0, 0x9c, 0x08, 0xa1, 0x6d, 0xd0,
];

#[test]
fn pages_of_other_origins_may_not_ask_unless_told() {
    let cors_origins = vec!["https://good.example".to_owned()];
    let server = Server::with(server::Options { cors_origins, ..options() });
    let ask = |line: &str, head: &str| send(connect(server.address), line, head, "{}");
    for origin in
        ["https://evil.example", "null", "https://good.example.evil", "http://good.example"]
    {
        let head = format!("origin: {origin}\r\n");
        let answer = ask("POST /shutdown", &head);
        assert_eq!(answer.status, 403, "{origin}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
        let answer = ask("GET /ready", &head);
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
        let preflight = format!("{head}access-control-request-method: POST\r\n");
        assert_eq!(ask("OPTIONS /execute", &preflight).status, 403);
    }
    let good = "origin: https://good.example\r\n";
    let preflight =
        ask("OPTIONS /execute", &format!("{good}access-control-request-method: POST\r\n"));
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://good.example"));
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    let answer = ask("POST /execute", good);
    assert_eq!(answer.status, 400, "it got to the API");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://good.example"));
    // A page of the server's own.
    assert_eq!(ask("POST /execute", "origin: http://localhost\r\n").status, 400);
    for answer in [ask("GET /ready", ""), ask("POST /none", "")] {
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert!(answer.header("x-correlation-id").is_some());
    }
}

#[test]
fn bodies_that_are_too_large_or_broken_are_refused() {
    let server = Server::with(server::Options { body_bytes_max: 1000, ..options() });
    let large = format!(r#"{{"job_id":"j","prompt":"{}"}}"#, "a".repeat(2000));
    assert_eq!(server.post("/execute", &large).status, 413);
    let mut stream = connect(server.address);
    let chunked = "POST /execute HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(chunked.as_bytes()).unwrap();
    for _ in 0..3 {
        stream.write_all(format!("200\r\n{}\r\n", "a".repeat(512)).as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(receive(stream).status, 413);
    let mut stream = connect(server.address);
    stream.write_all(chunked.as_bytes()).unwrap();
    stream.write_all(b"no number\r\n").unwrap();
    assert_eq!(receive(stream).status, 400);
    for broken in ["", "{", "[]", "null", "\u{fffd}", r#"{"job_id":7}"#, &"[".repeat(900)] {
        assert_eq!(server.post("/execute", broken).status, 400, "{broken}");
        assert_eq!(server.post("/models/load", broken).status, 400, "{broken}");
    }
    for head in ["GET / HTTP/9.9", "\0\0\0", "POST /execute HTTP/1.1\r\ncontent-length: -1"] {
        let mut stream = connect(server.address);
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).unwrap();
        let status = receive(stream).status;
        assert!((400..500).contains(&status), "{head}: {status}");
    }
    // A client that closes its half before its body is whole.
    let mut stream = connect(server.address);
    stream.write_all(b"POST /execute HTTP/1.1\r\ncontent-length: 10\r\n\r\n{").unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    assert_eq!(server.get("/ready").status, 200);
}

#[test]
fn more_requests_than_may_wait_are_refused() {
    let server = Server::with(server::Options { requests_max: 2, ..options() });
    let mut running: Vec<_> =
        (0..2).map(|i| server.post("/execute", &job(&i.to_string(), 2048).to_string())).collect();
    running.iter_mut().for_each(|stream| assert_eq!(stream.event().unwrap().name, "started"));
    let third = server.post("/execute", &job("third", 1).to_string());
    assert_eq!((third.status, third.header("retry-after")), (429, Some("1")));
    assert_eq!(third.json()["error"]["code"], "UNAVAILABLE");
    // Clients that go away make room.
    drop(running);
    server.wait_until_idle();
    assert_eq!(server.execute(&job("fourth", 1)).last().unwrap().name, "end");
}
