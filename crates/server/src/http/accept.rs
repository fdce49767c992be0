//! Accepting connections, with TLS or without, until told to stop; then what was begun is finished.
use super::stall::Unstalled;
use super::{App, Tls, router};
use crate::models::{LoadError, Served};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// How long a client may take to send a request's head, or to agree on TLS.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// A client that takes nothing of its answer for so long is gone.
const STALL_TIME_MAX: Duration = Duration::from_secs(30);
/// How long running answers may take after the server was told to stop; then they are ended.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(25);
/// How long connections may take to carry the last bytes after that.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(3);
/// How often devices are asked where the weights are.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why a server ended, other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another port or address may be free.
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// The model that answers when none is named.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What had to be done when it was ready could not be done.
    #[error("{0}")]
    Ready(String),
    #[error("the server cannot run: {0}")]
    Runtime(#[from] io::Error),
}

/// Serves until `stop` completes or a client says so, then lets running requests finish. `listening` is told the address at once;
/// the model is loaded meanwhile, and `ready` is called, away from the server's thread, when it answers.
///
/// # Errors
/// [`ServeError`]: when the address cannot be bound, the model not loaded, or `ready` fails.
pub fn serve(
    app: &Arc<App>,
    listening: impl FnOnce(SocketAddr),
    ready: impl FnOnce(SocketAddr, &Served) -> Result<(), String> + Send + 'static,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let address = app.options.address;
        let failed = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        listening(address);
        let start = start(Arc::clone(app), move |served| ready(address, served));
        accept(app, &listener, start, stop).await
    });
    // A load that still runs has nobody left to tell.
    runtime.shutdown_background();
    result
}

/// Loads the first model and says so; then looks after all of them, and never ends.
async fn start(
    app: Arc<App>,
    ready: impl FnOnce(&Served) -> Result<(), String> + Send + 'static,
) -> ServeError {
    let served = match app.models.start().await {
        Ok(served) => served,
        Err(error) => return error.into(),
    };
    match tokio::task::spawn_blocking(move || ready(&served)).await {
        Ok(Ok(())) => {}
        Ok(Err(message)) => return ServeError::Ready(message),
        Err(panic) => return ServeError::Ready(panic.to_string()),
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        for served in app.models.loaded() {
            served.look().await;
        }
    }
}

async fn accept(
    app: &Arc<App>,
    listener: &TcpListener,
    start: impl Future<Output = ServeError>,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let routes = router(app);
    let graceful = GracefulShutdown::new();
    let connections = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => connection(app, stream, routes.clone(), &graceful),
                // Out of file descriptors, mostly: others will be closed.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    // New requests are told so while the running ones finish.
    let stopped = async {
        app.draining_or(stop).await;
        app.draining.send_replace(true);
        tracing::info!("stopping");
        if tokio::time::timeout(DRAIN_TIME_MAX, app.idle()).await.is_err() {
            tracing::warn!("some answers are cut off");
            app.cut_off.send_replace(true);
        }
    };
    tokio::select! {
        () = connections => {}
        error = start => return Err(error),
        () = stopped => {}
    }
    drop(tokio::time::timeout(CLOSE_TIME_MAX, graceful.shutdown()).await);
    Ok(())
}

fn connection(app: &App, stream: TcpStream, routes: Router, graceful: &GracefulShutdown) {
    // Tokens leave one by one.
    drop(stream.set_nodelay(true));
    let stream = Unstalled::new(stream, STALL_TIME_MAX.min(app.options.time_max));
    let tls = app.options.tls.clone();
    let watcher = graceful.watcher();
    tokio::spawn(async move {
        let Some(Tls(config)) = tls else { return answer(stream, routes, watcher).await };
        let agreed = TlsAcceptor::from(config).accept(stream);
        match tokio::time::timeout(HEAD_TIME_MAX, agreed).await {
            Ok(Ok(stream)) => answer(stream, routes, watcher).await,
            Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
            Err(_) => tracing::debug!("no TLS in time"),
        }
    });
}

/// Answers the requests of one connection, one after another.
async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    routes: Router,
    watcher: Watcher,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // A client that breaks off is no error of ours.
    drop(watcher.watch(connection).await);
}

/// Tells a server to stop; see [`stop`].
#[derive(Debug)]
pub struct Stop(tokio::sync::watch::Sender<bool>);

impl Stop {
    /// Once is enough.
    pub fn now(&self) {
        self.0.send_replace(true);
    }
}

/// What to call from anywhere to stop a server, and what to give to [`serve`].
pub fn stop() -> (Stop, impl Future<Output = ()>) {
    let (sender, mut receiver) = tokio::sync::watch::channel(false);
    let stopped = async move {
        // A sender that is gone can stop nothing any more.
        if receiver.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    (Stop(sender), stopped)
}
