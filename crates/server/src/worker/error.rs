//! The worker API's errors.
use crate::http::Refused;
use crate::models::LoadError;
use crate::service::Failure;
use axum::Json;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Value, json};

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidRequest,
    ModelLoadFailed,
    InsufficientMemory,
    OutOfMemory,
    DeviceError,
    InferenceTimeout,
    Cancelled,
    Internal,
    /// Loading, shutting down, or as many jobs as may wait: come again.
    Unavailable,
}

impl Code {
    /// Its name, its status before the stream opens, and whether the same job may succeed later.
    fn facts(self) -> (&'static str, u16, bool) {
        match self {
            Self::InvalidRequest => ("INVALID_REQUEST", 400, false),
            Self::ModelLoadFailed => ("MODEL_LOAD_FAILED", 500, false),
            Self::InsufficientMemory => ("INSUFFICIENT_MEMORY", 503, true),
            Self::OutOfMemory => ("OUT_OF_MEMORY", 500, true),
            Self::DeviceError => ("DEVICE_ERROR", 500, true),
            Self::InferenceTimeout => ("INFERENCE_TIMEOUT", 504, true),
            Self::Cancelled => ("CANCELLED", 499, false),
            Self::Internal => ("INTERNAL", 500, false),
            Self::Unavailable => ("UNAVAILABLE", 503, true),
        }
    }
}

/// One thing that is wrong with a request. Its message never shows what was sent as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Violation {
    pub(super) field: String,
    /// For programs: `required`, `type`, `range`, `length`, `count`, `unknown`, `unique`, `syntax`.
    pub(super) constraint: &'static str,
    pub(super) message: String,
}

impl Violation {
    pub(super) fn new(field: &str, constraint: &'static str, message: String) -> Self {
        Self { field: field.to_owned(), constraint, message }
    }
}

/// Why a job does not run, or no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Error {
    code: Code,
    message: String,
    details: Vec<Violation>,
    /// Where it is another than the code's.
    status: Option<StatusCode>,
}

impl Error {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new(), status: None }
    }

    pub(super) fn invalid(details: Vec<Violation>) -> Self {
        let fields: Vec<&str> = details.iter().map(|found| found.field.as_str()).collect();
        let message = format!("the request is not valid: {}", fields.join(", "));
        Self { details, ..Self::new(Code::InvalidRequest, message) }
    }

    /// An answer that broke off.
    pub(super) fn of_failure(failure: &Failure) -> Self {
        let code = match failure {
            Failure { timeout: true, .. } => Code::InferenceTimeout,
            Failure { out_of_memory: true, .. } => Code::OutOfMemory,
            _ => Code::DeviceError,
        };
        Self::new(code, failure.message.clone())
    }

    /// The data of an `error` event.
    pub(super) fn event(&self) -> Value {
        let (code, _, retriable) = self.code.facts();
        json!({ "code": code, "message": self.message, "retriable": retriable })
    }

    pub(super) fn response(self, correlation_id: &HeaderValue) -> Response {
        let (code, status, _) = self.code.facts();
        // 499 is nobody's but a number all the same.
        let own = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let status = self.status.unwrap_or(own);
        let body = json!({ "error": {
            "code": code,
            "message": self.message,
            "details": self.details,
            "correlation_id": correlation_id.to_str().unwrap_or_default(),
        } });
        let mut response = (status, Json(body)).into_response();
        Refused::tell_when(&mut response);
        response
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        let code = match (refused.code, refused.status.as_u16()) {
            ("insufficient_memory", _) => Code::InsufficientMemory,
            ("model_load_failed", _) => Code::ModelLoadFailed,
            ("out_of_memory", _) => Code::OutOfMemory,
            ("device_error", _) => Code::DeviceError,
            (_, 504) => Code::InferenceTimeout,
            (_, 429 | 503) => Code::Unavailable,
            (_, 400..500) => Code::InvalidRequest,
            _ => Code::Internal,
        };
        let details = match (code, &refused.field, refused.code) {
            (Code::InvalidRequest, Some(field), _) => {
                vec![Violation::new(field, "range", refused.message.clone())]
            }
            (_, _, "context_length_exceeded") => {
                vec![Violation::new("prompt", "length", refused.message.clone())]
            }
            _ => Vec::new(),
        };
        Self { status: Some(refused.status), details, ..Self::new(code, refused.message) }
    }
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        Refused::from(error).into()
    }
}
