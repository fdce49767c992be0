//! Which web pages may ask, and what browsers are told about answers.
use super::{App, Refused};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::sync::Arc;

/// For pages of our own: nothing from elsewhere, no frames around them.
const PAGE_POLICY: &str = "default-src 'self'; img-src 'self' data:; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

pub(super) async fn cors(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let known = |origin: &HeaderValue| {
        app.options.cors_origins.iter().any(|known| known.as_bytes() == origin.as_bytes())
    };
    let allowed = origin.clone().filter(known);
    let foreign =
        allowed.is_none() && origin.is_some_and(|origin| !is_own(&origin, request.headers()));
    let asks = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = if request.method() == Method::OPTIONS && asks && allowed.is_some() {
        preflight()
    } else if foreign && !reads {
        // A browser sends simple requests without asking; this one would act before its page is refused the answer.
        let message = "pages of this origin may not ask; see --cors-origin";
        Refused::new(StatusCode::FORBIDDEN, "origin_not_allowed", message).into_response()
    } else {
        next.run(request).await
    };
    harden(response.headers_mut(), allowed);
    response
}

/// Whether a page came from this server: its origin is the host that it asks.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let scheme_and_host = origin.as_bytes();
    let after = |scheme: &[u8]| scheme_and_host.strip_prefix(scheme);
    let of_origin = after(b"http://").or_else(|| after(b"https://"));
    host.is_some() && of_origin == host
}

fn preflight() -> Response {
    let headers: [(HeaderName, &str); 3] = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, x-api-key, x-correlation-id, anthropic-version, anthropic-beta",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

fn harden(headers: &mut HeaderMap, allowed: Option<HeaderValue>) {
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = allowed {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed = HeaderValue::from_static("x-correlation-id, retry-after");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let is_page = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_page {
        let policy = headers.entry(header::CONTENT_SECURITY_POLICY);
        policy.or_insert(HeaderValue::from_static(PAGE_POLICY));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
}
