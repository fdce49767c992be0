//! The chat page's files on their routes.
use super::error::not_found;
use crate::page::{FILES, HEADERS};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

/// For `/` and all below `/page/`. A client that has the same bytes already is told so.
pub(super) async fn page(uri: Uri, headers: HeaderMap) -> Response {
    let Some(file) = FILES.iter().find(|file| file.path == uri.path()) else {
        return not_found(uri).await.into_response();
    };
    let etag = file.etag();
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let is_known = known.is_some_and(|tags| tags.split(',').any(|tag| tag.trim().ends_with(&etag)));
    let tagged = (HEADERS, [(header::ETAG, etag)]);
    if is_known {
        return (StatusCode::NOT_MODIFIED, tagged).into_response();
    }
    (tagged, [(header::CONTENT_TYPE, file.content_type)], file.bytes).into_response()
}
