//! A server of a tiny model on loopback, and a client that shows everything as it came over the wire.
use engine::{Engine, Pooling};
use hal::cpu::{Cpu, CpuOptions};
use model::Model;
use model::chat::ChatTemplate;
use model::tokenizer::Tokenizer;
use serde_json::{Map, Value};
use server::{App, Facts, LoadError, Loaded, Loader, Metrics, Models, Options, Planned, Stop};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) const CONTEXT: u32 = 16384;

/// The tiny model has letters, the space and the digits to 6. It marks what it was given, so that prompts can be read.
const TEMPLATE: &str = "\
{% for tool in tools or [] %}T {{ tool.function.name }} {% endfor %}\
{% for message in messages %}{{ message.role }} {{ message.content }} \
{% for call in message.tool_calls or [] %}C {{ call.function.name }} {{ call.function.arguments.a }} {% endfor %}\
{% endfor %}{% if enable_thinking %}think {% endif %}assistant ";

/// Two models over the same file: `tiny`, and `plain` that has no chat template.
struct Tiny;

impl Loader for Tiny {
    fn names(&self) -> Vec<String> {
        vec!["tiny".to_owned(), "plain".to_owned()]
    }

    fn plan(&self, name: &str) -> Result<Planned, LoadError> {
        let device = "cpu".to_owned();
        Ok(Planned { memory_bytes: 1 << 20, device, path: name.to_owned() })
    }

    fn load(&self, name: &str, _progress: &dyn Fn(f32)) -> Result<Loaded, LoadError> {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny/llama.gguf");
        let model = Arc::new(Model::open(&path, CONTEXT).unwrap());
        let tokenizer = Arc::new(Tokenizer::from_gguf(model.gguf.metadata()).unwrap());
        let template = ChatTemplate::new(TEMPLATE, "", "").unwrap();
        let device = Arc::new(Cpu::open(CpuOptions { threads: Some(1) }).unwrap());
        let options =
            engine::Options { sequences: 4, prompt_chunk: 32, ..engine::Options::single(CONTEXT) };
        let engine = Engine::new(device, model, options).unwrap();
        let facts = Facts {
            name: name.to_owned(),
            sha256: "0123456789abcdef".to_owned(),
            quantization: "F32".to_owned(),
            context_length: CONTEXT,
            pooling: Pooling::Mean,
            device: engine.device().info().clone(),
            memory_bytes: 1 << 20,
            created: 1_700_000_000,
        };
        let template = (name == "tiny").then(|| Arc::new(template));
        Ok(Loaded { facts, tokenizer, template, engine })
    }
}

/// A running server; stops when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(|_| ())
    }

    /// One whose options `change` has changed.
    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> Self {
        let mut options = Options {
            address: "127.0.0.1:0".parse().unwrap(),
            key_hashes: Vec::new(),
            cors_origins: Vec::new(),
            body_bytes_max: 4 << 20,
            requests_max: 64,
            time_max: Duration::from_secs(60),
            tokens_max: u32::MAX,
            tls: None,
        };
        change(&mut options);
        let metrics = Arc::new(Metrics::default());
        let models = Models::new(Arc::new(Tiny), "tiny", 1 << 30, Arc::clone(&metrics));
        let app = App::new(models, metrics, options);
        let (stop, stopped) = server::stop();
        let (listening, listens) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let ready = move |address, _: &server::Served| {
                listening.send(address).unwrap();
                Ok(())
            };
            server::serve(&app, |_| (), ready, stopped).unwrap();
        });
        Self { address: listens.recv().unwrap(), stop, thread: Some(thread) }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body.to_string().as_bytes())
    }

    pub(crate) fn send(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let mut stream = self.open(method, path, body);
        Answer::read(&mut stream)
    }

    /// Sends a request and leaves the answer to be read.
    pub(crate) fn open(&self, method: &str, path: &str, body: &[u8]) -> BufReader<TcpStream> {
        self.open_on(TcpStream::connect(self.address).unwrap(), method, path, body)
    }

    pub(crate) fn open_on(
        &self,
        mut stream: TcpStream,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> BufReader<TcpStream> {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n",
            self.address
        );
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // A server that refuses a body does not read all of it.
        drop(stream.write_all(&[head.as_bytes(), body].concat()));
        BufReader::new(stream)
    }

    /// Asks for the metrics until they have `line`.
    pub(crate) fn wait_for_metric(&self, line: &str) {
        let until = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let metrics = self.get("/metrics").body;
            if metrics.lines().any(|found| found == line) {
                return;
            }
            assert!(std::time::Instant::now() < until, "no {line} in:\n{metrics}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.now();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(stream: &mut BufReader<TcpStream>) -> Self {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).unwrap(), 0, "the connection ended: {head:?}");
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = Vec::new();
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            while let Some(mut chunk) = read_chunk(stream) {
                body.append(&mut chunk);
            }
        } else {
            stream.read_to_end(&mut body).unwrap();
        }
        Self { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// The body of an answer that must have this status.
    pub(crate) fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }

    /// The data of a stream's events: JSON, or `[DONE]` as a string.
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.body);
        assert!(self.head.contains("text/event-stream"), "{}", self.head);
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap_or(Value::from(data))).collect()
    }
}

/// The next chunk of a body; none at its end.
pub(crate) fn read_chunk(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
    let mut chunk = vec![0; length + 2];
    stream.read_exact(&mut chunk).unwrap();
    chunk.truncate(length);
    (length > 0).then_some(chunk)
}

/// An answer for a snapshot: what differs from run to run, and what the model wrote, is only named.
pub(crate) fn redacted(value: &Value) -> String {
    fn walk(value: &mut Value) {
        let object = match value {
            Value::Array(items) => return items.iter_mut().for_each(walk),
            Value::Object(object) => object,
            _ => return,
        };
        for (name, value) in object {
            match (name.as_str(), &value) {
                ("id", Value::String(id)) if id.contains('-') || id.starts_with("call_") => {
                    let end = id.rfind(['-', '_']).unwrap() + 1;
                    *value = Value::from(format!("{}[id]", &id[..end]));
                }
                ("created", Value::Number(_)) => *value = Value::from("[time]"),
                ("cached_tokens", _) => *value = Value::from("[cached]"),
                ("device_name", _) => *value = Value::from("[device]"),
                ("content" | "text", Value::String(text)) if !text.is_empty() => {
                    *value = Value::from("[text]");
                }
                _ => walk(value),
            }
        }
    }
    let mut value = value.clone();
    walk(&mut value);
    serde_json::to_string_pretty(&value).unwrap()
}

/// `base` with the fields of `more`.
#[expect(clippy::needless_pass_by_value, reason = "called with json!")]
pub(crate) fn with(base: &Value, more: Value) -> Value {
    let mut all: Map<String, Value> = base.as_object().unwrap().clone();
    all.extend(more.as_object().unwrap().clone());
    Value::Object(all)
}
