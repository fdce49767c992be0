//! What a client is told when it does not get what it asked for: one set of reasons, in the words of each API.
use crate::models::LoadError;
use crate::service::{Failure, Refusal};
use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    /// For programs: `invalid_request`, `context_length_exceeded`, `model_not_found`, ...
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The field that is wrong, as a path into the body.
    pub(crate) field: Option<String>,
}

/// Whose words an error is told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    OpenAi,
    Anthropic,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), field: None }
    }

    /// 400 about one field.
    pub(crate) fn field(field: &str, message: impl Into<String>) -> Self {
        let refused = Self::new(StatusCode::BAD_REQUEST, "invalid_request", message);
        Self { field: Some(field.to_owned()), ..refused }
    }

    /// The error's object in the words of `style`.
    pub(crate) fn body(&self, style: Style) -> Value {
        match style {
            Style::OpenAi => {
                let kind = match self.status.as_u16() {
                    401 => "authentication_error",
                    429 => "rate_limit_error",
                    400..500 => "invalid_request_error",
                    _ => "server_error",
                };
                json!({ "error": { "message": self.message, "type": kind, "param": self.field, "code": self.code } })
            }
            Style::Anthropic => {
                let kind = match self.status.as_u16() {
                    401 => "authentication_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    413 => "request_too_large",
                    429 => "rate_limit_error",
                    400..500 => "invalid_request_error",
                    503 | 529 => "overloaded_error",
                    _ => "api_error",
                };
                json!({ "type": "error", "error": { "type": kind, "message": self.message } })
            }
        }
    }

    pub(crate) fn response(&self, style: Style) -> Response {
        let mut response = (self.status, Json(self.body(style))).into_response();
        response.extensions_mut().insert(self.clone());
        Self::tell_when(&mut response);
        response
    }

    /// Says when to ask again, where it makes sense to.
    pub(crate) fn tell_when(response: &mut Response) {
        let later = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        if later.contains(&response.status()) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        self.response(Style::OpenAi)
    }
}

impl From<LoadError> for Refused {
    fn from(error: LoadError) -> Self {
        let (status, code) = match &error {
            LoadError::Unknown { .. } => (StatusCode::NOT_FOUND, "model_not_found"),
            LoadError::Memory { .. } => (StatusCode::SERVICE_UNAVAILABLE, "insufficient_memory"),
            LoadError::Loading { .. } => (StatusCode::SERVICE_UNAVAILABLE, "model_loading"),
            LoadError::Failed { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "model_load_failed"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = match &refusal {
            Refusal::Engine(engine::Error::PromptTooLong { .. }) => {
                (StatusCode::BAD_REQUEST, "context_length_exceeded")
            }
            Refusal::Engine(engine::Error::BadRequest { .. }) => {
                (StatusCode::BAD_REQUEST, "invalid_request")
            }
            Refusal::Engine(engine::Error::Busy { .. }) => {
                (StatusCode::TOO_MANY_REQUESTS, "queue_full")
            }
            Refusal::Engine(engine::Error::Memory { .. }) => {
                (StatusCode::SERVICE_UNAVAILABLE, "insufficient_memory")
            }
            Refusal::Engine(engine::Error::Device(hal::Error::OutOfMemory { .. })) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "out_of_memory")
            }
            Refusal::Engine(_) => (StatusCode::INTERNAL_SERVER_ERROR, "device_error"),
            Refusal::Gone => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        Self::new(status, code, refusal.to_string())
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        let (status, code) = match failure {
            Failure { timeout: true, .. } => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            Failure { out_of_memory: true, .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "insufficient_memory")
            }
            Failure { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "device_error"),
        };
        Self::new(status, code, failure.message)
    }
}

/// Tells every refusal below Anthropic's paths in its words, whoever it came from.
pub(super) async fn in_its_words(uri: Uri, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if uri.path().starts_with("/v1/messages")
        && let Some(refused) = response.extensions_mut().remove::<Refused>()
    {
        *response.body_mut() = Body::from(refused.body(Style::Anthropic).to_string());
    }
    response
}

pub(super) async fn not_found(uri: Uri) -> Refused {
    Refused::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("there is no {}; see /docs", uri.path()),
    )
}

pub(super) async fn wrong_method(uri: Uri) -> Refused {
    Refused::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{} takes another method; see /docs", uri.path()),
    )
}
