//! The models that a server answers with: loaded when asked for, let go of when the memory is needed for another.
use crate::metrics::Metrics;
use crate::service::{Service, Status};
use engine::Engine;
use engine::grammar::Vocabulary;
use model::chat::ChatTemplate;
use model::tokenizer::Tokenizer;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::sync::{Mutex as AsyncMutex, watch};

/// A model brought to its device, with all that answering needs.
#[derive(Debug)]
pub struct Loaded {
    pub facts: Facts,
    pub tokenizer: Arc<Tokenizer>,
    /// None for a model that is not made for chat.
    pub template: Option<Arc<ChatTemplate>>,
    pub engine: Engine,
}

/// What clients may know about a model.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What clients call it: the name by which it was asked for.
    pub name: String,
    /// Of its file, in hex.
    pub sha256: String,
    /// Such as `Q4_1`: the format of most of its weights.
    pub quantization: String,
    pub context_length: u32,
    /// How its embeddings are made when a request does not say.
    pub pooling: engine::Pooling,
    pub device: hal::Info,
    /// Weights, KV cache, activations.
    pub memory_bytes: u64,
    /// Seconds since 1970 when its file was made.
    pub created: u64,
}

/// What a model would take, known before it is loaded.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Weights, KV cache, activations.
    pub memory_bytes: u64,
    /// Where it would run, for messages.
    pub device: String,
    /// Its file, for messages.
    pub path: String,
}

/// Brings models to their device. The binary knows how.
pub trait Loader: Send + Sync {
    /// Every model that could be loaded by name.
    fn names(&self) -> Vec<String>;
    /// What loading one would take; blocks, and takes nothing yet.
    ///
    /// # Errors
    /// [`LoadError`].
    fn plan(&self, name: &str) -> Result<Planned, LoadError>;
    /// Loads one; blocks. `progress` is called with a share from 0 to 1.
    ///
    /// # Errors
    /// [`LoadError`].
    fn load(&self, name: &str, progress: &dyn Fn(f32)) -> Result<Loaded, LoadError>;
}

/// Why there is no model to answer.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such model: name another.
    #[error("there is no model {name:?}; there are {}", known.join(", "))]
    Unknown { name: String, known: Vec<String> },
    /// It does not fit: unload another, or use a smaller one.
    #[error("{message}")]
    Memory { message: String },
    #[error("{message}")]
    Failed { message: String },
    /// The server has just started: ask again soon.
    #[error("{name} is being loaded")]
    Loading { name: String },
}

/// How far the newest load is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Load {
    /// `progress` is the share that is done, from 0 to 1.
    Running {
        name: String,
        progress: f32,
    },
    Done,
    Failed {
        message: String,
    },
}

/// A model that answers.
#[derive(Debug)]
pub struct Served {
    pub facts: Facts,
    pub tokenizer: Arc<Tokenizer>,
    pub template: Option<Arc<ChatTemplate>>,
    pub service: Service,
    /// Built when the first grammar comes.
    vocabulary: OnceLock<Vocabulary>,
    /// What the device said last of where the weights are.
    resident: AtomicBool,
    /// Goes after the service, and with it the memory.
    alive: watch::Sender<()>,
}

impl Served {
    fn new(loaded: Loaded, metrics: Arc<Metrics>) -> Self {
        let Loaded { facts, tokenizer, template, engine } = loaded;
        let service = Service::start(engine, Arc::clone(&tokenizer), metrics);
        let (resident, alive) = (AtomicBool::new(false), watch::Sender::new(()));
        let vocabulary = OnceLock::new();
        Self { facts, tokenizer, template, service, vocabulary, resident, alive }
    }

    /// What grammars are compiled against. Blocks for some 100 ms the first time.
    pub(crate) fn vocabulary(&self) -> Result<&Vocabulary, engine::grammar::Error> {
        if let Some(vocabulary) = self.vocabulary.get() {
            return Ok(vocabulary);
        }
        let built = Vocabulary::new(Arc::clone(&self.tokenizer))?;
        Ok(self.vocabulary.get_or_init(|| built))
    }

    /// Whether the weights lay in the device's memory when it was last asked.
    #[must_use]
    pub fn is_resident(&self) -> bool {
        self.resident.load(Ordering::Relaxed)
    }

    /// What it can be asked for.
    #[must_use]
    pub fn capabilities(&self) -> Vec<&'static str> {
        let chat = self.template.as_ref().map(|_| "chat");
        ["text-gen"].into_iter().chain(chat).collect()
    }

    /// Whether the device shares the host's memory: `unified`, or has its own: `device`.
    #[must_use]
    pub fn memory_architecture(&self) -> &'static str {
        if self.facts.device.unified { "unified" } else { "device" }
    }

    /// What the system says that this process uses, where the device computes from the process's memory; what was planned for the
    /// model elsewhere.
    #[must_use]
    pub fn memory_bytes_used(&self) -> u64 {
        let planned = self.facts.memory_bytes;
        let own = !self.facts.device.kind.is_gpu();
        if own { hal::cpu::memory_bytes_used().unwrap_or(planned) } else { planned }
    }

    /// Asks the device where the weights are.
    pub(crate) async fn look(&self) {
        // Pages of rare tokens' embeddings may be the file's only, and come back when they are needed.
        let most = |(resident, all): (u64, u64)| resident >= all - all / 10;
        let resident = self.service.weights_resident().await.is_ok_and(most);
        self.resident.store(resident, Ordering::Relaxed);
    }
}

/// A model that was let go of and still answers.
struct Leaving {
    served: Weak<Served>,
    memory_bytes: u64,
    /// Closed when the memory is free.
    alive: watch::Receiver<()>,
}

impl Leaving {
    fn holds_memory(&self) -> bool {
        self.alive.has_changed().is_ok()
    }
}

/// What holds memory.
#[derive(Default)]
struct Held {
    /// The one used last at the end.
    loaded: Vec<Arc<Served>>,
    leaving: Vec<Leaving>,
}

impl Held {
    fn loaded_bytes(&self) -> u64 {
        self.loaded.iter().map(|served| served.facts.memory_bytes).sum()
    }

    fn let_go(&mut self, at: usize) -> Arc<Served> {
        let served = self.loaded.remove(at);
        self.leaving.retain(Leaving::holds_memory);
        self.leaving.push(Leaving {
            served: Arc::downgrade(&served),
            memory_bytes: served.facts.memory_bytes,
            alive: served.alive.subscribe(),
        });
        served
    }
}

/// The models of a server. A clone is another handle to the same ones.
#[derive(Clone)]
pub struct Models(Arc<Inner>);

struct Inner {
    loader: Arc<dyn Loader>,
    metrics: Arc<Metrics>,
    /// Of all loaded models together, in bytes.
    memory_max: u64,
    /// What answers when a request names none.
    default: String,
    held: Mutex<Held>,
    /// One load at a time.
    loading: AsyncMutex<()>,
    load: watch::Sender<Load>,
    /// Whether the default model was loaded once.
    started: AtomicBool,
}

impl Models {
    /// None is loaded yet: [`crate::serve`] loads the default one when it listens.
    #[must_use]
    pub fn new(
        loader: Arc<dyn Loader>,
        default: &str,
        memory_max: u64,
        metrics: Arc<Metrics>,
    ) -> Self {
        let load = watch::Sender::new(Load::Running { name: default.to_owned(), progress: 0.0 });
        Self(Arc::new(Inner {
            loader,
            metrics,
            memory_max,
            default: default.to_owned(),
            held: Mutex::default(),
            loading: AsyncMutex::new(()),
            load,
            started: AtomicBool::new(false),
        }))
    }

    /// Loads the default model. Before, nothing answers.
    pub(crate) async fn start(&self) -> Result<Arc<Served>, LoadError> {
        let result = self.0.load(&self.0.default).await;
        self.0.started.store(result.is_ok(), Ordering::Relaxed);
        result
    }

    /// The name of the model that answers when a request names none.
    #[must_use]
    pub fn default_name(&self) -> &str {
        &self.0.default
    }

    /// Every loaded model, the one used last at the end.
    #[must_use]
    pub fn loaded(&self) -> Vec<Arc<Served>> {
        self.0.held().loaded.clone()
    }

    /// The default model, if it is loaded.
    #[must_use]
    pub fn default_loaded(&self) -> Option<Arc<Served>> {
        self.0.held().loaded.iter().find(|served| served.facts.name == self.0.default).cloned()
    }

    /// Names of all models that could answer, loaded or not.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.names()
    }

    /// How far the newest load is.
    pub(crate) fn load_state(&self) -> watch::Receiver<Load> {
        self.0.load.subscribe()
    }

    /// How busy all models are together, those included that were let go of and still answer.
    #[must_use]
    pub fn status(&self) -> Status {
        let held = self.0.held();
        let leaving = held.leaving.iter().filter_map(|leaving| leaving.served.upgrade());
        let all: Vec<Arc<Served>> = held.loaded.iter().cloned().chain(leaving).collect();
        drop(held);
        all.iter().map(|served| served.service.status()).fold(Status::default(), |sum, one| {
            Status {
                running: sum.running + one.running,
                waiting: sum.waiting + one.waiting,
                blocks_used: sum.blocks_used + one.blocks_used,
                blocks_total: sum.blocks_total + one.blocks_total,
            }
        })
    }

    /// The model called `name`, or the default; loads it when it must. Others make room, the one unused longest first; what they
    /// still answer they finish, and only then is the new one loaded.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn get(&self, name: Option<&str>) -> Result<Arc<Served>, LoadError> {
        let name = name.unwrap_or(&self.0.default).to_owned();
        if let Some(served) = self.0.touch(&name) {
            return Ok(served);
        }
        if !self.0.started.load(Ordering::Relaxed) {
            return Err(LoadError::Loading { name: self.0.default.clone() });
        }
        let inner = Arc::clone(&self.0);
        // On its own: a client that goes away must not leave half a load behind.
        let load = tokio::spawn(async move { inner.load(&name).await });
        load.await.unwrap_or_else(|error| Err(LoadError::Failed { message: error.to_string() }))
    }

    /// Lets go of a model. False when it is not loaded.
    pub fn unload(&self, name: &str) -> bool {
        let mut held = self.0.held();
        let at = held.loaded.iter().position(|served| served.facts.name == name);
        let gone = at.map(|at| held.let_go(at));
        drop(held);
        gone.is_some()
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> Vec<String> {
        let mut names = self.loader.names();
        if !names.contains(&self.default) {
            names.insert(0, self.default.clone());
        }
        names
    }

    fn touch(&self, name: &str) -> Option<Arc<Served>> {
        let mut held = self.held();
        let at = held.loaded.iter().position(|served| served.facts.name == name)?;
        let served = held.loaded.remove(at);
        held.loaded.push(Arc::clone(&served));
        Some(served)
    }

    async fn load(self: &Arc<Self>, name: &str) -> Result<Arc<Served>, LoadError> {
        let _one = self.loading.lock().await;
        if let Some(served) = self.touch(name) {
            return Ok(served);
        }
        let known = self.names();
        if !known.iter().any(|other| other == name) {
            return Err(LoadError::Unknown { name: name.to_owned(), known });
        }
        self.load.send_replace(Load::Running { name: name.to_owned(), progress: 0.0 });
        let result = self.bring(name).await;
        self.load.send_replace(match &result {
            Ok(_) => Load::Done,
            Err(error) => Load::Failed { message: error.to_string() },
        });
        result
    }

    /// Plans, makes room, loads.
    async fn bring(self: &Arc<Self>, name: &str) -> Result<Arc<Served>, LoadError> {
        let (loader, owned) = (Arc::clone(&self.loader), name.to_owned());
        let planned = blocking(move || loader.plan(&owned)).await?;
        self.make_room(name, &planned).await?;
        let (inner, owned) = (Arc::clone(self), name.to_owned());
        let loaded = blocking(move || {
            let tell = |progress| {
                let name = owned.clone();
                drop(inner.load.send_replace(Load::Running { name, progress }));
            };
            inner.loader.load(&owned, &tell)
        });
        let served = Arc::new(Served::new(loaded.await?, Arc::clone(&self.metrics)));
        served.look().await;
        self.held().loaded.push(Arc::clone(&served));
        tracing::info!(model = name, memory_bytes = served.facts.memory_bytes, "loaded");
        Ok(served)
    }

    /// Lets go of models until `planned` fits beside the others, and waits until what they held is free.
    async fn make_room(&self, name: &str, planned: &Planned) -> Result<(), LoadError> {
        let (needed, available) = (planned.memory_bytes, self.memory_max);
        if needed > available {
            let (device, path) = (&planned.device, &planned.path);
            let message = format!(
                "{name} does not fit: {needed} bytes required, {available} bytes available for models on {device}, file {path}; \
                 use a smaller --ctx, --parallel or model, or a larger --memory"
            );
            return Err(LoadError::Memory { message });
        }
        let room = available - needed;
        loop {
            let mut held = self.held();
            if held.loaded_bytes() <= room {
                break;
            }
            let gone = held.let_go(0);
            drop(held);
            tracing::info!(model = gone.facts.name, "let go of, for {name}");
        }
        while let Some(mut alive) = self.still_too_much(room) {
            // An error says that it is gone.
            drop(alive.changed().await);
        }
        Ok(())
    }

    /// Something to wait for while more than `room` bytes are held.
    fn still_too_much(&self, room: u64) -> Option<watch::Receiver<()>> {
        let mut held = self.held();
        held.leaving.retain(Leaving::holds_memory);
        let leaving: u64 = held.leaving.iter().map(|leaving| leaving.memory_bytes).sum();
        let too_much = held.loaded_bytes() + leaving > room;
        held.leaving.first().filter(|_| too_much).map(|leaving| leaving.alive.clone())
    }
}

/// Runs something that blocks beside the server.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let panicked = |error: tokio::task::JoinError| LoadError::Failed { message: error.to_string() };
    tokio::task::spawn_blocking(work).await.map_err(panicked)?
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").field("default", &self.0.default).finish_non_exhaustive()
    }
}
