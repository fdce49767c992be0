//! `russet serve`: models over HTTP.
use crate::args::{ModelArguments, ServeArguments};
use crate::callback::Callback;
use crate::environment::Environment;
use crate::inspect::quantization;
use crate::session::{find, open_device, open_model, say, words};
use crate::store::{missing_for_tls, sha256_of};
use anyhow::{Context as _, bail};
use engine::{Engine, MemoryPlan, Options, Pooling, cache_that_fits};
use hal::Device;
use model::Model;
use model::chat::ChatTemplate;
use model::gguf::Gguf;
use model::tokenizer::Tokenizer;
use server::{App, Facts, LoadError, Loaded, Loader, Metrics, Models, Planned, Tls};
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Requests that may wait for a place in an engine; the server's own limit is reached before.
const WAITING: u32 = 1 << 16;
/// Tokens of a prompt that one step takes: short enough that a cancelled answer ends soon.
const PROMPT_CHUNK: u32 = 128;

pub(crate) fn serve(
    arguments: &ServeArguments,
    environment: &Environment,
) -> anyhow::Result<ExitCode> {
    log(arguments.log_json);
    let options = options(arguments)?;
    let metrics = Arc::new(Metrics::default());
    let loader = Arc::new(StoreLoader::new(arguments, environment)?);
    let free = hal::cpu::memory_bytes_free().unwrap_or(u64::MAX);
    let memory_max = arguments.memory.map_or(free, |mebibytes| mebibytes << 20);
    let models = Models::new(loader, &arguments.model.model, memory_max, Arc::clone(&metrics));
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let callback = Callback::new(arguments)?;
    let app = App::new(models, metrics, options);
    let (stop, stopped) = server::stop();
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])?;
    std::thread::spawn(move || signals.forever().for_each(|_| stop.now()));
    let listening = |address| say(&format!("listening on {scheme}://{address}"));
    let ready = move |address, served: &server::Served| {
        say(&format!("{} answers", served.facts.name));
        let deliver =
            |callback: Callback| callback.deliver(&format!("{scheme}://{address}"), served);
        callback.map_or(Ok(()), deliver)
    };
    server::serve(&app, listening, ready, stopped)?;
    Ok(ExitCode::SUCCESS)
}

fn options(arguments: &ServeArguments) -> anyhow::Result<server::Options> {
    let key_hashes = match &arguments.api_keys {
        None => Vec::new(),
        Some(path) => key_hashes(path)?,
    };
    if key_hashes.is_empty() && !arguments.host.is_loopback() {
        bail!(
            "--host {} can be reached from other machines: give --api-keys FILE, or keep to 127.0.0.1",
            arguments.host
        );
    }
    Ok(server::Options {
        address: SocketAddr::new(arguments.host, arguments.port),
        key_hashes,
        cors_origins: arguments.cors_origin.clone(),
        body_bytes_max: 16 << 20,
        requests_max: arguments.requests_max,
        time_max: Duration::from_secs(arguments.time_max),
        tokens_max: arguments.tokens_max.unwrap_or(u32::MAX),
        tls: tls(arguments)?,
    })
}

/// Of each key in a file: one a line, or the hash of one after `sha256:`.
fn key_hashes(path: &Path) -> anyhow::Result<Vec<[u8; 32]>> {
    let text = String::from_utf8(read(path, "the API keys")?).context("API keys are UTF-8 text")?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, key)| !key.is_empty());
    let hash = |(number, key): (usize, &str)| match key.strip_prefix("sha256:") {
        None => Ok(Sha256::digest(key).into()),
        Some(hex) => from_hex(hex).with_context(|| {
            format!(
                "{}, line {}: expected 64 hexadecimal digits after sha256:",
                path.display(),
                number + 1
            )
        }),
    };
    let hashes = lines.map(hash).collect::<anyhow::Result<Vec<_>>>()?;
    if hashes.is_empty() {
        bail!("{} holds no API key: nobody could ask", path.display());
    }
    Ok(hashes)
}

fn from_hex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

fn tls(arguments: &ServeArguments) -> anyhow::Result<Option<Tls>> {
    let (Some(certificate), Some(key)) = (&arguments.tls_cert, &arguments.tls_key) else {
        return Ok(None);
    };
    if let Some(missing) = missing_for_tls() {
        bail!("TLS cannot be had on this processor: it lacks {missing}");
    }
    let tls = Tls::new(&read(certificate, "the certificate")?, &read(key, "the key")?);
    Ok(Some(tls.with_context(|| format!("{} and {}", certificate.display(), key.display()))?))
}

fn read(path: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {what} in {}", path.display()))
}

fn log(json: bool) {
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::stderr);
    if json {
        subscriber.json().init();
    } else {
        subscriber.init();
    }
}

/// Loads models from the store onto one device.
struct StoreLoader {
    arguments: ModelArguments,
    environment: Environment,
    device: Arc<dyn Device>,
    parallel: u32,
    /// In place of the models' own.
    chat_template: Option<PathBuf>,
    /// A smaller model that guesses.
    draft: Option<String>,
    /// What was free at the start: a model's plan does not depend on what else is loaded.
    memory_bytes_free: u64,
}

impl StoreLoader {
    fn new(arguments: &ServeArguments, environment: &Environment) -> anyhow::Result<Self> {
        Ok(Self {
            arguments: arguments.model.clone(),
            environment: environment.clone(),
            device: open_device(&arguments.model, environment)?.device,
            parallel: arguments.parallel,
            chat_template: arguments.chat_template.clone(),
            draft: arguments.draft.clone(),
            memory_bytes_free: hal::cpu::memory_bytes_free().unwrap_or(u64::MAX),
        })
    }

    fn open(&self, name: &str, progress: &dyn Fn(f32)) -> anyhow::Result<Loaded> {
        let (path, model, options) = self.planned(name)?;
        progress(0.1);
        let model = Arc::new(model);
        // Each of the three keeps one thread busy at least; the engine says least about how far it is.
        let loaded = std::thread::scope(|scope| {
            let sha256 = scope.spawn(|| sha256_of(&path));
            let words = scope.spawn(|| words(&model, &path));
            let engine = Engine::new(Arc::clone(&self.device), Arc::clone(&model), options);
            progress(0.6);
            (engine, words.join(), sha256.join())
        });
        let (engine, words, sha256) = loaded;
        let (tokenizer, mut template) = words.unwrap_or_else(|panic| resume_unwind(panic))?;
        if let Some(path) = &self.chat_template {
            template = Some(template_of(path, &tokenizer)?);
        }
        let (sha256, _) = sha256.unwrap_or_else(|panic| resume_unwind(panic))?;
        let created = std::fs::metadata(&path)?.modified()?;
        let facts = Facts {
            name: name.to_owned(),
            sha256,
            quantization: quantization(model.gguf.tensors()).to_owned(),
            context_length: options.context,
            pooling: pooling(&model)?,
            device: self.device.info().clone(),
            memory_bytes: self.memory_bytes(&model, &options)?,
            created: created.duration_since(std::time::UNIX_EPOCH)?.as_secs(),
        };
        let mut engine = engine?;
        if let Some(draft) = &self.draft {
            let (model, options) = self.planned_draft(draft, &options)?;
            let draft = Engine::new(Arc::clone(&self.device), Arc::new(model), options)?;
            engine.set_draft(draft)?;
        }
        let (tokenizer, template) = (Arc::new(tokenizer), template.map(Arc::new));
        Ok(Loaded { facts, tokenizer, template, engine })
    }

    /// A model's memory, with its draft's.
    fn memory_bytes(&self, model: &Model, options: &Options) -> anyhow::Result<u64> {
        let own = MemoryPlan::new(model, self.device.info(), options)?.total();
        let Some(draft) = &self.draft else { return Ok(own) };
        let (model, options) = self.planned_draft(draft, options)?;
        Ok(own + MemoryPlan::new(&model, self.device.info(), &options)?.total())
    }

    /// The draft for a model, and how its engine would be set up: as many sequences, as much cache.
    fn planned_draft(&self, name: &str, leader: &Options) -> anyhow::Result<(Model, Options)> {
        let gguf = Gguf::open(&find(name, &self.environment)?)?;
        let (model, _) = open_model(gguf, Some(leader.context), leader.kv)?;
        Ok((model, Options { speculate: false, waiting: 0, ..*leader }))
    }

    /// The file of a model, what is in it, and how its engine would be set up.
    fn planned(&self, name: &str) -> anyhow::Result<(PathBuf, Model, Options)> {
        let path = find(name, &self.environment)?;
        let kv = self.arguments.kv.into();
        let (model, context) = open_model(Gguf::open(&path)?, self.arguments.ctx, kv)?;
        let free = self.memory_bytes_free;
        let all = self.parallel.saturating_mul(context);
        let options = Options {
            kv,
            cache_tokens: cache_that_fits(&model, kv, free).max(context).min(all),
            sequences: self.parallel,
            waiting: WAITING,
            speculate: true,
            prompt_chunk: PROMPT_CHUNK,
            ..Options::single(context)
        };
        Ok((path, model, options))
    }
}

fn load_error(error: &anyhow::Error) -> LoadError {
    let message = crate::message(error);
    match error.downcast_ref() {
        Some(engine::Error::Memory { .. }) => LoadError::Memory { message },
        _ => LoadError::Failed { message },
    }
}

/// How a model's file says that its embeddings are made. Most models that answer don't say: the mean is what is made of them elsewhere.
fn pooling(model: &Model) -> anyhow::Result<Pooling> {
    let metadata = model.gguf.metadata();
    let key = format!("{}.pooling_type", metadata.str("general.architecture")?);
    // The numbers are llama.cpp's.
    match metadata.opt_u32(&key)? {
        None | Some(0 | 1) => Ok(Pooling::Mean),
        Some(2) => Ok(Pooling::Cls),
        Some(3) => Ok(Pooling::Last),
        Some(other) => bail!("metadata key `{key}`: pooling {other} is not known"),
    }
}

fn template_of(path: &Path, tokenizer: &Tokenizer) -> anyhow::Result<ChatTemplate> {
    let source = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the chat template in {}", path.display()))?;
    let text = |id: Option<u32>| id.map_or("", |id| tokenizer.token_text(id));
    ChatTemplate::new(&source, text(tokenizer.bos()), text(tokenizer.eos()))
        .with_context(|| path.display().to_string())
}

impl Loader for StoreLoader {
    fn names(&self) -> Vec<String> {
        let entries = self.environment.store().and_then(|store| Ok(store.list()?));
        entries.unwrap_or_default().into_iter().map(|entry| entry.name).collect()
    }

    fn plan(&self, name: &str) -> Result<Planned, LoadError> {
        let info = self.device.info();
        let plan = || {
            let (path, model, options) = self.planned(name)?;
            let memory_bytes = self.memory_bytes(&model, &options)?;
            Ok(Planned {
                memory_bytes,
                device: info.name.clone(),
                path: path.display().to_string(),
            })
        };
        plan().map_err(|error| load_error(&error))
    }

    fn load(&self, name: &str, progress: &dyn Fn(f32)) -> Result<Loaded, LoadError> {
        self.open(name, progress).map_err(|error| load_error(&error))
    }
}
