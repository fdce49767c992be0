//! What the server offers, in OpenAPI 3.1, and a page that shows it.
use super::{App, error};
use axum::Router;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

/// The first one is the document; the others add to it.
const PARTS: [&str; 4] = [
    include_str!("../../openapi/base.json"),
    include_str!("../../openapi/openai.json"),
    include_str!("../../openapi/responses.json"),
    include_str!("../../openapi/anthropic.json"),
];

static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// Path, type and text of each file of the page.
const FILES: [(&str, &str, &str); 3] = [
    ("/docs", "text/html; charset=utf-8", include_str!("../../docs/index.html")),
    ("/docs/docs.css", "text/css; charset=utf-8", include_str!("../../docs/docs.css")),
    ("/docs/docs.js", "text/javascript; charset=utf-8", include_str!("../../docs/docs.js")),
];

/// The page loads nothing but its own files and the document.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<Arc<App>> {
    let openapi = async || ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str());
    Router::new()
        .route("/openapi.json", get(openapi))
        .route("/docs", get(docs))
        .route("/docs/{file}", get(docs))
}

async fn docs(uri: Uri) -> Response {
    let Some((_, kind, text)) = FILES.iter().find(|(path, ..)| *path == uri.path()) else {
        return error::not_found(uri).await.into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, *kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, *text).into_response()
}

/// All parts in one.
fn document() -> Value {
    let mut parts = PARTS.iter().map(|part| {
        serde_json::from_str::<Value>(part).expect("a test reads every part of the description")
    });
    let mut document = parts.next().unwrap_or_default();
    parts.for_each(|part| merge(&mut document, part));
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    document
}

fn merge(to: &mut Value, from: Value) {
    match (to, from) {
        (Value::Object(to), Value::Object(from)) => {
            for (name, value) in from {
                merge(to.entry(name).or_insert(Value::Null), value);
            }
        }
        (to, from) => *to = from,
    }
}
