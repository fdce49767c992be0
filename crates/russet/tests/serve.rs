//! `russet serve` from outside: how it starts, tells that it is ready, and ends.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny/llama.gguf")
}

/// A directory of a test's own.
fn home(test: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("serve-{test}"));
    drop(fs::remove_dir_all(&path));
    fs::create_dir_all(&path).unwrap();
    path
}

fn serve(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_russet"));
    command.args(["serve", "--device", "cpu", "--threads", "1", "--port", "0", "--model"]);
    command.arg(tiny()).args(arguments);
    command.env("RUSSET_HOME", home.join("store")).env("HF_ENDPOINT", "http://127.0.0.1:9");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// What a server that cannot start says.
fn failure(home: &Path, arguments: &[&str]) -> String {
    let output = serve(home, arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_worker_tells_that_it_is_ready_and_ends_when_it_is_told() {
    let home = home("ready");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ready", listener.local_addr().unwrap());
    let keys = home.join("keys");
    // `printf k1 | sha256sum`
    fs::write(&keys, format!("sha256:{K1}\n\nk2\n")).unwrap();
    let arguments = ["--callback-url", &url, "--worker-id", "w7", "--model-ref", "m", "--api-keys"];
    let arguments = [&arguments[..], &[keys.to_str().unwrap()]].concat();
    let mut child = serve(&home, &arguments).spawn().unwrap();
    // The first try fails: the worker comes again.
    drop(listener.accept().unwrap());
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["worker_id"], &body["model_ref"]), (&"w7".into(), &"m".into()));
    assert_eq!(
        (&body["worker_type"], &body["memory_architecture"]),
        (&"cpu".into(), &"unified".into())
    );
    assert_eq!(body["capabilities"][0], "text-gen");
    assert!(body["memory_bytes"].as_u64().unwrap() > 0);
    let address = body["uri"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let health = ask(&address, "GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let health: Value = serde_json::from_str(health.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!((&health["status"], &health["quantization"]), (&"healthy".into(), &"F32".into()));
    let metadata = fs::read_to_string(tiny().with_extension("json")).unwrap();
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    assert_eq!(health["model_sha256"], metadata["sha256"]);
    for (key, status) in [("k1", "200"), ("k2", "200"), ("k3", "401")] {
        let head = format!("host: x\r\nconnection: close\r\nx-api-key: {key}");
        let answer = ask(&address, &format!("GET /metrics HTTP/1.1\r\n{head}\r\n\r\n"));
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{key}: {answer}");
    }
    let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Of `k1`.
const K1: &str = "6ab9f1eb8f7d3388f4f9d586f66e99fd54080df2c446f0e58668b09c08a16dd0";

#[test]
fn a_worker_that_cannot_start_says_why() {
    let home = home("failures");
    let memory = failure(&home, &["--memory", "0"]);
    for part in ["bytes required, 0 bytes available", "llama.gguf"] {
        assert!(memory.contains(part), "{memory}");
    }
    // Nobody listens at a port that was free just now.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let deaf = failure(&home, &["--callback-url", &format!("http://127.0.0.1:{port}/")]);
    assert!(deaf.contains("the ready callback to http://127.0.0.1:"), "{deaf}");
    let open = failure(&home, &["--host", "0.0.0.0"]);
    assert!(open.contains("--api-keys"), "{open}");
    let keys = home.join("keys");
    fs::write(&keys, "good\nsha256:12\n").unwrap();
    let keys = failure(&home, &["--api-keys", keys.to_str().unwrap()]);
    assert!(keys.contains("line 2"), "{keys}");
    let tiny = tiny().display().to_string();
    let tls = failure(&home, &["--tls-cert", &tiny, "--tls-key", &tiny]);
    assert!(tls.contains("certificate"), "{tls}");
}
