//! The one conversion of errors to responses, in the shape of the protocol that was spoken.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use arm::{ApiError, Kind};
use credentials::without_secrets;
use serde_json::json;
use store::StoreError;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Protocol;
use crate::limits::{MAXIMUM_FAULTS, MAXIMUM_MESSAGE_CHARACTERS, RETRY_AFTER_SECONDS};

/// A failure of the store as callers may see it.
pub(crate) fn store_error(error: StoreError) -> ApiError {
    match error {
        // A running control plane has seen its tables: when they are not there, the database is being restored.
        StoreError::Unavailable(_)
        | StoreError::NotMigrated(_)
        | StoreError::NotInitialised
        | StoreError::BeingRestored => ApiError::unavailable(
            "The service's database is not available at the moment. Repeat the request.",
            RETRY_AFTER_SECONDS,
            error,
        ),
        other => ApiError::internal(other),
    }
}

/// An error as its caller and the log may see it: messages repeat what was sent, so they lose secrets that were sent in the wrong place,
/// and are bounded.
pub(crate) fn presentable(mut error: ApiError) -> ApiError {
    error.message = presentable_text(&error.message);
    error.target = error.target.as_deref().map(presentable_text);
    error.details.truncate(MAXIMUM_FAULTS);
    for detail in &mut error.details {
        detail.message = presentable_text(&detail.message);
        detail.target = detail.target.as_deref().map(presentable_text);
    }
    error
}

/// A text without secrets; of a long one the middle is left out, because values stand before the rule that they break.
fn presentable_text(text: &str) -> String {
    let text = without_secrets(text);
    let length = text.chars().count();
    if length <= MAXIMUM_MESSAGE_CHARACTERS {
        return text.into_owned();
    }
    let kept = MAXIMUM_MESSAGE_CHARACTERS / 2;
    let start: String = text.chars().take(kept).collect();
    let end: String = text.chars().skip(length - kept).collect();
    format!("{start} … {end}")
}

/// The HTTP status of a kind of error.
pub(crate) fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Unauthenticated | Kind::StaleToken => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Kind::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Timeout => StatusCode::REQUEST_TIMEOUT,
    }
}

/// The response for an error.
pub(crate) fn response(
    error: &ApiError,
    protocol: Protocol,
    request_id: Uuid,
    correlation_id: &str,
    now: OffsetDateTime,
) -> HttpResponse {
    let mut builder = HttpResponse::build(status(error.kind));
    if let Some(seconds) = error.retry_after_seconds {
        builder.insert_header(("Retry-After", seconds.to_string()));
    }
    let body = match protocol {
        Protocol::Arm | Protocol::Own => error.body(),
        Protocol::Graph => json!({ "error": {
            "code": error.code,
            "message": error.message,
            "innerError": {
                "date": arm::format_time(now),
                "request-id": request_id,
                "client-request-id": correlation_id,
            },
        }}),
        Protocol::OAuth => json!({
            "error": error.code,
            "error_description": error.message,
            "trace_id": request_id,
            "correlation_id": correlation_id,
            "timestamp": arm::format_time(now),
        }),
    };
    builder
        .content_type("application/json; charset=utf-8")
        .body(body.to_string())
}
