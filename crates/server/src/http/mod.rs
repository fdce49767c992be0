//! The HTTP surface: what every request passes, and the loop that accepts connections.
mod accept;
mod anthropic;
mod body;
mod describe;
mod error;
mod gate;
mod health;
mod openai;
mod page;
mod running;

pub use accept::{Stop, Tls, serve, stop};
pub(crate) use body::{Body, object};
pub(crate) use error::{Refused, Style};
pub(crate) use gate::CorrelationId;
pub(crate) use running::Running;

use crate::{Metrics, Models};
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
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
    /// Responses that clients may come back to.
    stored: openai::Stored,
    /// One for each request that may wait or run.
    places: Arc<Semaphore>,
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
        })
    }
}

/// All routes behind the gate.
pub(crate) fn router(app: &Arc<App>) -> Router {
    routes()
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(axum::extract::DefaultBodyLimit::max(app.options.body_bytes_max))
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
}
