//! What the server offers, in OpenAPI 3.1, and a page that shows it.
use super::{App, error};
use crate::page::HEADERS;
use axum::Router;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

/// The first one is the document; the others add to it.
const PARTS: [&str; 5] = [
    include_str!("../../openapi/base.json"),
    include_str!("../../openapi/openai.json"),
    include_str!("../../openapi/responses.json"),
    include_str!("../../openapi/anthropic.json"),
    include_str!("../../openapi/worker.json"),
];

static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// Path, type and text of each file of the page.
const FILES: [(&str, &str, &str); 3] = [
    ("/docs", "text/html; charset=utf-8", include_str!("../../docs/index.html")),
    ("/docs/docs.css", "text/css; charset=utf-8", include_str!("../../docs/docs.css")),
    ("/docs/docs.js", "text/javascript; charset=utf-8", include_str!("../../docs/docs.js")),
];

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
    (HEADERS, [(header::CONTENT_TYPE, *kind)], *text).into_response()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What is for people is not described.
    fn is_page(path: &str) -> bool {
        path == "/" || path.starts_with("/page/") || path == "/docs" || path.starts_with("/docs/")
    }

    #[test]
    fn every_route_is_described_and_nothing_else() {
        // A router shows its paths only so.
        let shown = format!("{:?}", crate::http::routes());
        let quoted = shown.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/'));
        let routed: BTreeSet<String> = quoted
            .filter(|path| !path.contains("__private") && !is_page(path))
            .map(|path| path.replace("{*", "{"))
            .collect();
        let document = document();
        let described: BTreeSet<String> =
            document["paths"].as_object().unwrap().keys().cloned().collect();
        assert!(routed.contains("/v1/messages"), "{shown}");
        assert_eq!(routed, described);
    }

    /// Every value below `value` called `name`.
    fn all<'v>(value: &'v Value, name: &str) -> Vec<&'v Value> {
        match value {
            Value::Object(object) => {
                let own = object.get(name).into_iter();
                own.chain(object.values().flat_map(|inner| all(inner, name))).collect()
            }
            Value::Array(items) => items.iter().flat_map(|inner| all(inner, name)).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn names_are_unique_references_lead_somewhere_and_no_schema_is_unused() {
        let document = document();
        let referred: BTreeSet<&str> = all(&document, "$ref")
            .into_iter()
            .map(|reference| reference.as_str().unwrap())
            .collect();
        for reference in &referred {
            let place = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(place).is_some(), "{reference}");
        }
        for schema in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(referred.contains(&*format!("#/components/schemas/{schema}")), "{schema}");
        }
        let names: Vec<&str> =
            all(&document, "operationId").iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(names.len(), names.iter().collect::<BTreeSet<_>>().len(), "{names:?}");
        // Parts that describe the same thing would hide each other.
        let schemas: usize = PARTS
            .iter()
            .map(|part| serde_json::from_str::<Value>(part).unwrap())
            .map(|part| part["components"]["schemas"].as_object().unwrap().len())
            .sum();
        assert_eq!(schemas, document["components"]["schemas"].as_object().unwrap().len());
    }
}
