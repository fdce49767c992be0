//! Accepting connections, with TLS or without, until told to stop; then what was begun is finished.
use super::{App, router};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// How long a client may take to send a request's head.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
/// How long running answers may take after the server was told to stop.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(30);

/// A certificate and its key, ready for use.
#[derive(Clone)]
pub struct Tls(pub Arc<ServerConfig>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// Serves until `stop` completes, then lets running requests finish. `listening` is told the address.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve(
    app: &Arc<App>,
    listening: impl FnOnce(std::net::SocketAddr),
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(app.options.address).await?;
        listening(listener.local_addr()?);
        accept(app, &listener, stop).await;
        Ok(())
    })
}

async fn accept(app: &Arc<App>, listener: &TcpListener, stop: impl Future<Output = ()>) {
    let routes = router(app);
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match stream {
            Ok((stream, _)) => connection(app, stream, routes.clone(), &graceful),
            // Out of file descriptors, mostly: others will be closed.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    app.draining.send_replace(true);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(DRAIN_TIME_MAX) => tracing::warn!("some answers were cut off"),
    }
}

fn connection(app: &App, stream: TcpStream, routes: Router, graceful: &GracefulShutdown) {
    // Tokens leave one by one.
    drop(stream.set_nodelay(true));
    let tls = app.options.tls.clone();
    let watcher = graceful.watcher();
    tokio::spawn(async move {
        match tls {
            None => answer(stream, routes, watcher).await,
            Some(tls) => match TlsAcceptor::from(tls.0).accept(stream).await {
                Ok(stream) => answer(stream, routes, watcher).await,
                Err(error) => tracing::debug!(%error, "no TLS"),
            },
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
