//! The HTTP surface: what every request passes, and the loop that accepts connections.
mod accept;
mod anthropic;
mod body;
mod control;
mod cors;
mod describe;
mod error;
mod gate;
mod health;
mod limits;
mod log;
mod openai;
mod page;
mod running;
mod stall;
mod tls;

pub use accept::{ServeError, Stop, serve, stop};
pub(crate) use body::{Body, object};
pub(crate) use error::{Refused, Style};
pub(crate) use gate::CorrelationId;
pub(crate) use running::Running;
pub use tls::{Tls, TlsError};

use crate::{Metrics, Models, worker};
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    pub address: SocketAddr,
    /// SHA-256 of each key that may be used; none: everybody may ask.
    pub key_hashes: Vec<[u8; 32]>,
    /// Origins whose pages may ask; none by default.
    pub cors_origins: Vec<String>,
    pub body_bytes_max: usize,
    /// Requests that may wait or run at the same time; more are refused with 429.
    pub requests_max: usize,
    /// Of one request from its arrival to the end of its answer.
    pub time_max: Duration,
    /// Tokens of one answer.
    pub tokens_max: u32,
    pub tls: Option<Tls>,
}

/// What every request can reach.
#[derive(Debug)]
pub struct App {
    pub models: Models,
    pub metrics: Arc<Metrics>,
    pub options: Options,
    pub started: Instant,
    /// True from the moment when the server takes no new work.
    pub draining: watch::Sender<bool>,
    /// The worker API's jobs that run.
    pub(crate) jobs: worker::Jobs,
    /// Responses that clients may come back to.
    stored: openai::Stored,
    /// One for each request that may wait or run.
    places: Arc<Semaphore>,
    /// True from the moment when answers that still run are ended.
    cut_off: watch::Sender<bool>,
}

impl App {
    #[must_use]
    pub fn new(models: Models, metrics: Arc<Metrics>, options: Options) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(options.requests_max));
        Arc::new(Self {
            places,
            stored: openai::Stored::default(),
            models,
            metrics,
            options,
            started: Instant::now(),
            draining: watch::Sender::new(false),
            jobs: worker::Jobs::default(),
            cut_off: watch::Sender::new(false),
        })
    }

    /// Waits for `stop`, or for a client that asks the server to.
    async fn draining_or(&self, stop: impl Future<Output = ()>) {
        let mut draining = self.draining.subscribe();
        tokio::select! {
            () = stop => {}
            _ = draining.wait_for(|draining| *draining) => {}
        }
    }

    /// Waits until no answer is written any more. New ones must be refused meanwhile.
    async fn idle(&self) {
        let all = u32::try_from(self.options.requests_max).unwrap_or(u32::MAX);
        // Nobody closes the semaphore.
        drop(self.places.acquire_many(all).await);
    }

    /// Waits for the moment when answers that still run are ended.
    async fn cut_off(&self) {
        let mut cut_off = self.cut_off.subscribe();
        drop(cut_off.wait_for(|cut_off| *cut_off).await);
    }
}

/// All routes behind the gate.
pub(crate) fn router(app: &Arc<App>) -> Router {
    routes()
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(from_fn_with_state(Arc::clone(app), limits::body))
        .layer(from_fn_with_state(Arc::clone(app), gate::key))
        .layer(from_fn_with_state(Arc::clone(app), cors::cors))
        .layer(from_fn_with_state(Arc::clone(app), gate::gate))
        .layer(from_fn(error::in_its_words))
        .with_state(Arc::clone(app))
}

/// All routes, without what stands before them.
fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(page::page))
        .route("/page/{file}", get(page::page))
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics))
        .merge(openai::routes())
        .merge(anthropic::routes())
        .merge(describe::routes())
        .route("/ready", get(health::ready))
        .route("/loading", get(health::loading))
        .route("/models/load", post(control::load))
        .route("/models/unload", post(control::unload))
        .route("/shutdown", post(control::shutdown))
        .route("/execute", post(worker::execute))
        .route("/cancel", post(worker::cancel))
}
