//! The server under test, on a thread of its own.
use crate::client::{Answer, Event, connect, send};
use crate::slow::Slow;
use engine::Engine;
use hal::Device;
use model::Model;
use model::tokenizer::Tokenizer;
use serde_json::Value;
use server::{App, Facts, LoadError, Loaded, Loader, Metrics, Models, Options, Planned};
use server::{ServeError, Stop};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Tokens of context: long answers fit.
pub(crate) const CONTEXT: u32 = 4096;
/// What each model is said to take.
pub(crate) const MODEL_BYTES: u64 = 1000;
pub(crate) const MODELS: [&str; 3] = ["one", "two", "three"];

/// A gate that loads wait at while it is closed.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<bool>, Condvar);

impl Gate {
    pub(crate) fn close(&self, closed: bool) {
        *self.0.lock().unwrap() = closed;
        self.1.notify_all();
    }

    fn pass(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |closed| *closed).unwrap());
    }
}

/// Loads one tiny model under several names, and notes in which order things were asked of it.
#[derive(Debug)]
pub(crate) struct TinyLoader {
    device: Arc<dyn Device>,
    pub(crate) gate: Gate,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl TinyLoader {
    fn note(&self, what: &str) {
        self.asked.lock().unwrap().push(what.to_owned());
    }
}

impl Loader for TinyLoader {
    fn names(&self) -> Vec<String> {
        MODELS.into_iter().chain(["huge", "broken"]).map(str::to_owned).collect()
    }

    fn plan(&self, name: &str) -> Result<Planned, LoadError> {
        self.note(&format!("plan {name}"));
        let memory_bytes = if name == "huge" { 1 << 40 } else { MODEL_BYTES };
        let path = format!("/models/{name}.gguf");
        Ok(Planned { memory_bytes, device: "test device".to_owned(), path })
    }

    fn load(&self, name: &str, progress: &dyn Fn(f32)) -> Result<Loaded, LoadError> {
        self.note(&format!("load {name}"));
        progress(0.25);
        self.gate.pass();
        if name == "broken" {
            return Err(LoadError::Failed { message: "the file is broken".to_owned() });
        }
        let path = "../../fixtures/models/tiny/qwen3.gguf";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let model = Arc::new(Model::open(&path, CONTEXT).unwrap());
        let tokenizer = Arc::new(Tokenizer::from_gguf(model.gguf.metadata()).unwrap());
        let options = engine::Options {
            sequences: 8,
            waiting: 4096,
            prompt_chunk: 64,
            ..engine::Options::single(CONTEXT)
        };
        let engine = Engine::new(Arc::clone(&self.device), model, options).unwrap();
        let facts = Facts {
            name: name.to_owned(),
            sha256: "e0bc94560367da04".to_owned(),
            quantization: "F32".to_owned(),
            context_length: CONTEXT,
            pooling: engine::Pooling::Mean,
            device: self.device.info().clone(),
            memory_bytes: MODEL_BYTES,
            created: 0,
        };
        Ok(Loaded { facts, tokenizer, template: None, engine })
    }
}

pub(crate) fn options() -> Options {
    Options {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        key_hashes: Vec::new(),
        cors_origins: Vec::new(),
        body_bytes_max: 1 << 20,
        requests_max: 256,
        time_max: Duration::from_secs(60),
        tokens_max: u32::MAX,
        tls: None,
    }
}

/// See the module. Stops when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) loader: Arc<TinyLoader>,
    stop: Stop,
    ready: Mutex<mpsc::Receiver<()>>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Server {
    /// One that listens and whose model may still be loading.
    pub(crate) fn listening(
        options: Options,
        model: &str,
        memory_max: u64,
        closed: bool,
        when_ready: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Self {
        let device = Arc::new(Slow::open());
        let (gate, asked) = (Gate::default(), Mutex::default());
        let loader = Arc::new(TinyLoader { device, gate, asked });
        loader.gate.close(closed);
        let metrics = Arc::new(Metrics::default());
        let models = Models::new(Arc::clone(&loader) as _, model, memory_max, Arc::clone(&metrics));
        let app = App::new(models, metrics, options);
        let (stop, stopped) = server::stop();
        let (listening, address) = mpsc::channel();
        let (tell_ready, ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let ready = move |_: SocketAddr, _: &server::Served| {
                tell_ready.send(()).unwrap();
                when_ready()
            };
            server::serve(&app, |address| listening.send(address).unwrap(), ready, stopped)
        });
        let address = address.recv().unwrap();
        Self { address, loader, stop, ready: Mutex::new(ready), thread: Some(thread) }
    }

    pub(crate) fn wait_until_ready(&self) {
        self.ready.lock().unwrap().recv().unwrap();
    }

    pub(crate) fn with(options: Options) -> Self {
        let server = Self::listening(options, "one", 2 * MODEL_BYTES, false, || Ok(()));
        server.wait_until_ready();
        server
    }

    pub(crate) fn new() -> Self {
        Self::with(options())
    }

    pub(crate) fn get(&self, path: &str) -> Answer<TcpStream> {
        send(connect(self.address), &format!("GET {path}"), "", "")
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer<TcpStream> {
        send(connect(self.address), &format!("POST {path}"), "", body)
    }

    /// The whole stream of a job.
    pub(crate) fn execute(&self, body: &Value) -> Vec<Event> {
        let answer = self.post("/execute", &body.to_string());
        assert_eq!(answer.status, 200);
        answer.events()
    }

    /// The value of a metric; 0 for a label that was not counted yet.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        assert!(value.is_some() || name.contains('{'), "no {name} in {text}");
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until nothing runs and nothing waits.
    pub(crate) fn wait_until_idle(&self) {
        let since = Instant::now();
        while self.get("/ready").json()["state"] != "idle" {
            assert!(since.elapsed() < Duration::from_secs(30), "something still runs");
        }
    }

    pub(crate) fn stop(&self) {
        self.stop.now();
    }

    /// How the server ended.
    pub(crate) fn end(mut self) -> Result<(), ServeError> {
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.loader.gate.close(false);
        self.stop.now();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}
