//! What every request passes: its correlation id, the books, and its key.
use super::log::{Line, Logged, TALLY, Tally};
use super::{App, Refused};
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use subtle::ConstantTimeEq as _;

pub(crate) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// The id by which a request is found in logs: the client's own, or one drawn here.
#[derive(Clone, Debug)]
pub(crate) struct CorrelationId(pub(crate) HeaderValue);

pub(super) async fn gate(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let tally = Arc::new(Tally::default());
    let id = correlation_id(request.headers());
    request.extensions_mut().insert(CorrelationId(id.clone()));
    let method = request.method().clone();
    // Unknown paths are counted together: their number has no bound.
    let route =
        request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let mut response = TALLY.scope(Arc::clone(&tally), next.run(request)).await;
    let status = response.status().as_u16();
    app.metrics.answered(&route, status);
    response.headers_mut().insert(CORRELATION_ID, id.clone());
    let line = Line { method, route, status, correlation_id: id, tally };
    response.map(|body| Body::new(Logged { body, _line: line }))
}

/// Lets through who carries a key, and everybody where none is needed.
pub(super) async fn key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let open = request.method() == Method::GET
        && matches!(
            route,
            "/health"
                | "/ready"
                | "/"
                | "/page/{file}"
                | "/docs"
                | "/docs/{file}"
                | "/openapi.json"
        );
    if open || is_allowed(&app, request.headers()) {
        next.run(request).await
    } else {
        no_key().into_response()
    }
}

fn correlation_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(CORRELATION_ID).filter(|id| !id.is_empty() && id.len() <= 128);
    given.cloned().unwrap_or_else(|| {
        let drawn = format!("{:016x}", crate::drawn());
        HeaderValue::from_str(&drawn).unwrap_or(HeaderValue::from_static("0"))
    })
}

/// Whether a request carries one of the keys, as `Authorization: Bearer` or `x-api-key`. All are compared, each in constant time.
fn is_allowed(app: &App, headers: &HeaderMap) -> bool {
    if app.options.key_hashes.is_empty() {
        return true;
    }
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let Some(key) = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes)) else {
        return false;
    };
    let hash: [u8; 32] = Sha256::digest(key).into();
    let found = app
        .options
        .key_hashes
        .iter()
        .fold(0, |found, known| found | known.ct_eq(&hash).unwrap_u8());
    found == 1
}

fn no_key() -> Refused {
    let message = "a key is needed: send Authorization: Bearer KEY or x-api-key: KEY";
    Refused::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
}
