//! `russet serve`: models over HTTP.
use crate::args::{ModelArguments, ServeArguments};
use crate::environment::Environment;
use crate::inspect::quantization;
use crate::session::{find, open_device, open_model, say, words};
use crate::store::sha256_of;
use anyhow::{Context as _, bail};
use engine::{Engine, MemoryPlan, Options, Pooling, cache_that_fits};
use hal::Device;
use model::chat::ChatTemplate;
use model::gguf::Gguf;
use model::tokenizer::Tokenizer;
use server::{App, Facts, LoadError, Loaded, Loader, Metrics, Models};
use sha2::{Digest as _, Sha256};
use std::net::SocketAddr;
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
    let models = Models::new(loader, &arguments.model.model, memory_max, Arc::clone(&metrics))?;
    let app = App::new(models, metrics, options);
    let (stop, stopped) = server::stop();
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])?;
    std::thread::spawn(move || signals.forever().for_each(|_| stop.now()));
    server::serve(&app, |address| say(&format!("listening on http://{address}")), stopped)?;
    Ok(ExitCode::SUCCESS)
}

fn options(arguments: &ServeArguments) -> anyhow::Result<server::Options> {
    let key_hashes = match &arguments.api_keys {
        None => Vec::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the API keys in {}", path.display()))?;
            let keys = text.lines().map(str::trim).filter(|key| !key.is_empty());
            keys.map(|key| Sha256::digest(key).into()).collect()
        }
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
        tls: None,
    })
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
}

impl StoreLoader {
    fn new(arguments: &ServeArguments, environment: &Environment) -> anyhow::Result<Self> {
        Ok(Self {
            arguments: arguments.model.clone(),
            environment: environment.clone(),
            device: open_device(&arguments.model, environment)?.device,
            parallel: arguments.parallel,
            chat_template: arguments.chat_template.clone(),
        })
    }

    fn open(&self, name: &str) -> anyhow::Result<Loaded> {
        let path = find(name, &self.environment)?;
        let (sha256, _) = sha256_of(&path)?;
        let kv = self.arguments.kv.into();
        let (model, context) = open_model(Gguf::open(&path)?, self.arguments.ctx, kv)?;
        let model = Arc::new(model);
        let (tokenizer, mut template) = words(&model, &path)?;
        if let Some(path) = &self.chat_template {
            template = Some(template_of(path, &tokenizer)?);
        }
        let free = hal::cpu::memory_bytes_free().unwrap_or(u64::MAX);
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
        let memory_bytes = MemoryPlan::new(&model, self.device.info(), &options)?.total();
        let created = std::fs::metadata(&path)?.modified()?;
        let created = created.duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let facts = Facts {
            name: name.to_owned(),
            sha256,
            quantization: quantization(model.gguf.tensors()).to_owned(),
            context_length: context,
            pooling: pooling(&model)?,
            device: self.device.info().clone(),
            memory_bytes,
            created,
        };
        let engine = Engine::new(Arc::clone(&self.device), model, options)?;
        let (tokenizer, template) = (Arc::new(tokenizer), template.map(Arc::new));
        Ok(Loaded { facts, tokenizer, template, engine })
    }
}

/// How a model's file says that its embeddings are made. Most models that answer don't say: the mean is what is made of them elsewhere.
fn pooling(model: &model::Model) -> anyhow::Result<Pooling> {
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

    fn load(&self, name: &str, progress: &dyn Fn(f32)) -> Result<Loaded, LoadError> {
        progress(0.0);
        let loaded = self.open(name).map_err(|error| {
            let message = format!("{error:#}");
            match error.downcast_ref() {
                Some(engine::Error::Memory { .. }) => LoadError::Memory { message },
                _ => LoadError::Failed { message },
            }
        })?;
        progress(1.0);
        Ok(loaded)
    }
}
