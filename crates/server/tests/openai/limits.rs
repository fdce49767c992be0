//! Clients that go away, that do not read, and more of them than there are places.
use crate::loopback::{Answer, Server, read_chunk};
use serde_json::{Value, json};
use std::io::BufReader;
use std::net::TcpStream;
use std::time::{Duration, Instant};

const CHAT: &str = "/v1/chat/completions";
const CANCELLED: &str = "russet_answers_total{reason=\"cancelled\"} 1";

/// An answer that takes longer than any test.
fn endless(stream: bool) -> Value {
    let messages = [json!({ "role": "user", "content": "hello" })];
    json!({ "messages": messages, "ignore_eos": true, "stream": stream })
}

#[test]
fn a_client_that_goes_away_takes_its_answer_with_it() {
    for stream in [true, false] {
        let server = Server::start();
        let mut client = server.open("POST", CHAT, endless(stream).to_string().as_bytes());
        if stream {
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                std::io::BufRead::read_line(&mut client, &mut line).unwrap();
            }
            assert!(read_chunk(&mut client).unwrap().starts_with(b"data: "));
        } else {
            server.wait_for_metric("russet_time_to_first_token_seconds_count 1");
        }
        drop(client);
        let since = Instant::now();
        server.wait_for_metric(CANCELLED);
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    }
}

#[test]
fn all_choices_of_a_client_that_goes_away_end() {
    let server = Server::start();
    let mut body = endless(true);
    body["n"] = json!(3);
    let client = server.open("POST", CHAT, body.to_string().as_bytes());
    server.wait_for_metric("russet_time_to_first_token_seconds_count 3");
    drop(client);
    server.wait_for_metric("russet_answers_total{reason=\"cancelled\"} 3");
}

#[test]
fn a_client_that_does_not_read_loses_its_place() {
    let server = Server::with(|options| {
        options.requests_max = 4;
        options.time_max = Duration::from_secs(4);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    // A small window, so that little is on its way unread.
    let stream: TcpStream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(server.address).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    let mut body = endless(true);
    body["n"] = json!(4);
    let mut stalled: BufReader<TcpStream> =
        server.open_on(stream, "POST", CHAT, body.to_string().as_bytes());
    server.wait_for_metric("russet_time_to_first_token_seconds_count 4");
    let short = json!({ "prompt": "hello", "max_tokens": 1 });
    let busy = server.post("/v1/completions", &short);
    assert_eq!(busy.json(429)["error"]["code"], "queue_full");
    assert!(busy.head.contains("retry-after: 1"), "{}", busy.head);
    let until = Instant::now() + Duration::from_secs(30);
    while server.post("/v1/completions", &short).status != 200 {
        assert!(Instant::now() < until, "the place was not given back");
    }
    let events = Answer::read(&mut stalled).events();
    assert_eq!(events.last().unwrap()["error"]["code"], "timeout");
}

#[test]
fn an_answer_that_takes_too_long_breaks_off() {
    let server = Server::with(|options| options.time_max = Duration::from_millis(300));
    let events = server.post(CHAT, &endless(true)).events();
    let error = &events.last().unwrap()["error"];
    assert_eq!(error["code"], "timeout");
    assert_eq!(error["type"], "server_error");
    let whole = server.post(CHAT, &endless(false));
    assert_eq!(whole.json(504)["error"]["code"], "timeout");
}

#[test]
fn the_server_s_own_limit_of_tokens_holds() {
    let server = Server::with(|options| options.tokens_max = 5);
    let answer = server.post(CHAT, &endless(false)).json(200);
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}
