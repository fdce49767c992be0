//! Bodies are whole, small enough and in time before anything looks at them.
use super::{App, Refused};
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;

/// How long a client may take to send a request's body.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Of a body that is too large so many times the limit is read and thrown away: a client that still sends would not read the answer.
const TOO_LARGE_READ: usize = 4;

/// Why a body was not taken.
enum Fault {
    TooLarge,
    /// The client broke off, or what it sent is no HTTP.
    Broken,
}

pub(super) async fn body(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let bytes_max = app.options.body_bytes_max;
    let (parts, body) = request.into_parts();
    let refused = match tokio::time::timeout(BODY_TIME_MAX, whole(body, bytes_max)).await {
        Ok(Ok(bytes)) => return next.run(Request::from_parts(parts, Body::from(bytes))).await,
        Ok(Err(Fault::TooLarge)) => Refused::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request_too_large",
            format!("the body is larger than {bytes_max} bytes"),
        ),
        Ok(Err(Fault::Broken)) => {
            Refused::new(StatusCode::BAD_REQUEST, "invalid_request", "the body cannot be read")
        }
        Err(_) => {
            let message = format!("the body took longer than {} seconds", BODY_TIME_MAX.as_secs());
            Refused::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
        }
    };
    // What is left of the body must not be taken for a request.
    ([(header::CONNECTION, "close")], refused.into_response()).into_response()
}

async fn whole(body: Body, bytes_max: usize) -> Result<Bytes, Fault> {
    // Of a body that says that it is too large nothing is kept.
    let fits = body.size_hint().lower() <= bytes_max as u64;
    let mut parts = body.into_data_stream();
    let (mut bytes, mut count) = (Vec::new(), 0);
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| Fault::Broken)?;
        count += part.len();
        if count > bytes_max.saturating_mul(TOO_LARGE_READ) {
            return Err(Fault::TooLarge);
        }
        if count > bytes_max || !fits {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&part);
        }
    }
    if count > bytes_max || !fits { Err(Fault::TooLarge) } else { Ok(bytes.into()) }
}
