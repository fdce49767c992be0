//! The body of a request as a JSON object.
use super::Refused;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde_json::{Map, Value as Json};

/// What handlers take as their last argument, to tell in their API's words when it cannot be read.
pub(crate) type Body = Result<Bytes, BytesRejection>;

/// The object that a body holds.
///
/// # Errors
/// 413 when it is too long, 400 when it is no JSON object.
pub(crate) fn object(body: Body) -> Result<Map<String, Json>, Refused> {
    let bytes = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let message = "the body is longer than this server takes";
            Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
        }
        status => Refused::new(status, "invalid_request", rejection.body_text()),
    })?;
    let invalid = |message| Refused::new(StatusCode::BAD_REQUEST, "invalid_json", message);
    match serde_json::from_slice(&bytes) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(_) => Err(invalid("the body must be a JSON object".to_owned())),
        Err(error) => Err(invalid(format!("the body is not valid JSON: {error}"))),
    }
}
