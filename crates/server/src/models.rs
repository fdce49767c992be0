//! The models that a server answers with: loaded when asked for, let go of when the memory is needed for another.
use crate::metrics::Metrics;
use crate::service::Service;
use engine::Engine;
use engine::grammar::Vocabulary;
use model::chat::ChatTemplate;
use model::tokenizer::Tokenizer;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::Mutex as AsyncMutex;

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
    /// What clients call it.
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

/// Brings models to their device. The binary knows how.
pub trait Loader: Send + Sync {
    /// Every model that could be loaded by name.
    fn names(&self) -> Vec<String>;
    /// Loads one; blocks. `progress` is called with a share from 0 to 1.
    ///
    /// # Errors
    /// [`LoadError`].
    fn load(&self, name: &str, progress: &dyn Fn(f32)) -> Result<Loaded, LoadError>;
}

/// Why a model cannot be loaded.
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
}

impl Served {
    fn new(loaded: Loaded, metrics: Arc<Metrics>) -> Self {
        let Loaded { facts, tokenizer, template, engine } = loaded;
        let service = Service::start(engine, Arc::clone(&tokenizer), metrics);
        Self { facts, tokenizer, template, service, vocabulary: OnceLock::new() }
    }

    /// What grammars are compiled against. Blocks for some 100 ms the first time.
    pub(crate) fn vocabulary(&self) -> Result<&Vocabulary, engine::grammar::Error> {
        if let Some(vocabulary) = self.vocabulary.get() {
            return Ok(vocabulary);
        }
        let built = Vocabulary::new(Arc::clone(&self.tokenizer))?;
        Ok(self.vocabulary.get_or_init(|| built))
    }
}

/// The loaded models, the one used last at the end.
pub struct Models {
    loader: Arc<dyn Loader>,
    metrics: Arc<Metrics>,
    /// Of all loaded models together, in bytes.
    memory_max: u64,
    /// The first one that was loaded: what answers when a request names none.
    default: String,
    loaded: Mutex<Vec<Arc<Served>>>,
    /// One load at a time.
    loading: AsyncMutex<()>,
}

impl Models {
    /// Loads the default model; blocks.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn new(
        loader: Arc<dyn Loader>,
        default: &str,
        memory_max: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Self, LoadError> {
        let first = Served::new(loader.load(default, &|_| ())?, Arc::clone(&metrics));
        let default = first.facts.name.clone();
        Ok(Self {
            loader,
            metrics,
            memory_max,
            default,
            loaded: Mutex::new(vec![Arc::new(first)]),
            loading: AsyncMutex::new(()),
        })
    }

    /// Every loaded model.
    #[must_use]
    pub fn loaded(&self) -> Vec<Arc<Served>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names of all models that could answer, loaded or not.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = self.loader.names();
        for served in self.loaded() {
            if !names.contains(&served.facts.name) {
                names.insert(0, served.facts.name.clone());
            }
        }
        names
    }

    /// The model called `name`, or the default; loads it when it must. Others make room, the one unused longest first; what they
    /// still answer they finish.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn get(&self, name: Option<&str>) -> Result<Arc<Served>, LoadError> {
        let name = name.unwrap_or(&self.default);
        if let Some(served) = self.touch(name) {
            return Ok(served);
        }
        let _one = self.loading.lock().await;
        if let Some(served) = self.touch(name) {
            return Ok(served);
        }
        let known = self.names();
        if !known.iter().any(|other| other == name) {
            return Err(LoadError::Unknown { name: name.to_owned(), known });
        }
        let (loader, owned) = (Arc::clone(&self.loader), name.to_owned());
        let loaded = tokio::task::spawn_blocking(move || loader.load(&owned, &|_| ())).await;
        let loaded = loaded.map_err(|error| LoadError::Failed { message: error.to_string() })??;
        let served = Arc::new(Served::new(loaded, Arc::clone(&self.metrics)));
        let mut all = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used: u64 = served.facts.memory_bytes
            + all.iter().map(|other| other.facts.memory_bytes).sum::<u64>();
        while used > self.memory_max && !all.is_empty() {
            used -= all.remove(0).facts.memory_bytes;
        }
        all.push(Arc::clone(&served));
        Ok(served)
    }

    /// Lets go of a model. False when it is not loaded.
    pub fn unload(&self, name: &str) -> bool {
        let mut all = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.len();
        all.retain(|served| served.facts.name != name);
        all.len() < before
    }

    fn touch(&self, name: &str) -> Option<Arc<Served>> {
        let mut all = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|served| served.facts.name == name)?;
        let served = all.remove(at);
        all.push(Arc::clone(&served));
        Some(served)
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").field("default", &self.default).finish_non_exhaustive()
    }
}
