//! The error answer of OCI Distribution ("Error Codes"), and how faults of content become one. Causes inside the node go to
//! the log, never to the caller.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::content::{BodyError, ContentError};
use crate::limits::{RETRY_AFTER_SECONDS, UPLOAD_CHUNKS_MAXIMUM};
use crate::names::NameError;

/// A code of the specification, of Docker's older one where that has none, or of this registry where neither has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    /// No such blob in the repository.
    BlobUnknown,
    /// The upload cannot go on like this.
    BlobUploadInvalid,
    /// No such upload.
    BlobUploadUnknown,
    /// The digest does not match the content, or is none.
    DigestInvalid,
    /// A manifest refers to what is not there.
    ManifestBlobUnknown,
    /// The manifest is not valid.
    ManifestInvalid,
    /// No such manifest.
    ManifestUnknown,
    /// The repository name is not valid.
    NameInvalid,
    /// No such repository.
    NameUnknown,
    /// A length does not match what came, or is too large.
    SizeInvalid,
    /// No such tag, where one is asked for as such.
    TagUnknown,
    /// An attribute of the repository, tag or manifest forbids this: Azure's code.
    RegistryDisallowedOperation,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// The caller may not do this.
    Denied,
    /// This cannot be done here.
    Unsupported,
    /// Too many requests.
    TooManyRequests,
    /// There is no such operation.
    OperationUnknown,
    /// A page was asked for with a wrong number.
    PaginationNumberInvalid,
    /// What `If-Match` or `If-None-Match` says does not hold.
    PreconditionFailed,
    /// The service cannot answer now.
    Unavailable,
    /// The fault is the service's.
    Unknown,
}

impl ErrorCode {
    /// The code as clients see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagUnknown => "TAG_UNKNOWN",
            Self::RegistryDisallowedOperation => "REGISTRY_DISALLOWED_OPERATION",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::OperationUnknown => "OPERATION_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// A refusal as a client of the registry sees it.
#[derive(Debug, Clone)]
pub struct OciError {
    /// HTTP status.
    pub status: StatusCode,
    /// The code for programs.
    pub code: ErrorCode,
    /// What a person can act on: names the value and the rule.
    pub message: String,
    /// More for programs; `null` in the answer if there is nothing. Boxed, because it is rarely there.
    pub detail: Option<Box<Value>>,
    /// Headers of the answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl OciError {
    /// A refusal without detail and headers.
    pub fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            detail: None,
            headers: Vec::new(),
        }
    }

    /// The same with a detail.
    #[must_use]
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = Some(Box::new(detail));
        self
    }

    /// The same with one more header. A value that no header can hold is left out.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// There is no such operation: a path that leads nowhere.
    #[must_use]
    pub fn operation_unknown() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            ErrorCode::OperationUnknown,
            "The specified operation does not exist",
        )
    }

    pub(crate) fn of_name(code: ErrorCode, error: &NameError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, error.to_string())
    }

    /// The answer.
    #[must_use]
    pub fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.insert_header(super::api_version());
        for header in self.headers {
            response.append_header(header);
        }
        let body = json!({
            "errors": [{
                "code": self.code.as_str(),
                "message": self.message,
                "detail": self.detail,
            }]
        });
        response
            .insert_header((header::CONTENT_TYPE, "application/json; charset=utf-8"))
            .body(body.to_string())
    }
}

impl From<ContentError> for OciError {
    fn from(error: ContentError) -> Self {
        let message = error.to_string();
        let bad_request = |code| Self::new(StatusCode::BAD_REQUEST, code, message.clone());
        let not_found = |code| Self::new(StatusCode::NOT_FOUND, code, message.clone());
        match error {
            ContentError::Read(_)
            | ContentError::Write(_)
            | ContentError::Data(_)
            | ContentError::Contended { .. }
            | ContentError::ReaderIdle
            | ContentError::TooManyDownloads
            | ContentError::Interrupted => unavailable(&error),
            ContentError::CollectedExclusively { .. } => being_collected(message),
            ContentError::TooManyManifests => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                ErrorCode::TooManyRequests,
                message,
            )
            .with_header(header::RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string()),
            ContentError::DamagedRecord { .. } | ContentError::DamagedData(_) => damaged(&error),
            ContentError::Body(error) => of_body(error),
            ContentError::UploadUnknown(_) => not_found(ErrorCode::BlobUploadUnknown),
            ContentError::NotAtOffset { .. } => Self::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                ErrorCode::BlobUploadInvalid,
                message,
            ),
            ContentError::UploadFinishing(_) => {
                Self::new(StatusCode::CONFLICT, ErrorCode::BlobUploadInvalid, message)
            }
            ContentError::TooManyChunks(_) => Self::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::BlobUploadInvalid,
                format!(
                    "{message}: {UPLOAD_CHUNKS_MAXIMUM}; finish it with this chunk in the PUT, or begin again with larger chunks"
                ),
            ),
            ContentError::ChunkTooLarge => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                ErrorCode::SizeInvalid,
                message,
            ),
            ContentError::DigestMismatch { expected, actual } => bad_request(
                ErrorCode::DigestInvalid,
            )
            .with_detail(json!({ "expected": expected.as_str(), "actual": actual.as_str() })),
            ContentError::PreconditionFailed { .. } => Self::new(
                StatusCode::PRECONDITION_FAILED,
                ErrorCode::PreconditionFailed,
                message,
            ),
            ContentError::Manifest(_) => bad_request(ErrorCode::ManifestInvalid),
            ContentError::ReferencesMissing { missing } => references_missing(&missing),
            ContentError::ManifestUnknown | ContentError::TagUnknown(_) => {
                not_found(ErrorCode::ManifestUnknown)
            }
            ContentError::BlobUnknown(_) => not_found(ErrorCode::BlobUnknown),
            // Without `Allow`: which methods are allowed is not what this is about.
            ContentError::Locked { .. } => Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                ErrorCode::RegistryDisallowedOperation,
                message,
            ),
            ContentError::TooManyToOrder => bad_request(ErrorCode::Unsupported),
            ContentError::NoSuchPosition(_) => bad_request(ErrorCode::PaginationNumberInvalid),
            ContentError::RepositoryUnknown => not_found(ErrorCode::NameUnknown),
        }
    }
}

fn references_missing(missing: &[crate::names::Digest]) -> OciError {
    const SHOWN: usize = 10;
    let shown: Vec<&str> = missing
        .iter()
        .take(SHOWN)
        .map(|digest| digest.as_str())
        .collect();
    let rest = match missing.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    OciError::new(
        StatusCode::NOT_FOUND,
        ErrorCode::ManifestBlobUnknown,
        format!(
            "the manifest refers to what this repository does not have: {}{rest}",
            shown.join(", ")
        ),
    )
    .with_detail(json!({ "digests": shown }))
}

/// The store cannot answer. The cause is for the operator.
fn unavailable(error: &ContentError) -> OciError {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "content is not available"
    );
    OciError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Unavailable,
        "the registry's content cannot be reached at this moment; try again",
    )
    .with_header(header::RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string())
}

/// The operator refuses changes for a while, and knows of it.
fn being_collected(message: String) -> OciError {
    OciError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Unavailable,
        message,
    )
    .with_header(header::RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string())
}

fn damaged(error: &ContentError) -> OciError {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "content is damaged"
    );
    OciError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        ErrorCode::Unknown,
        "the registry's copy of this content is damaged; pushing it again repairs it",
    )
}

fn of_body(error: BodyError) -> OciError {
    let (status, code) = match error {
        BodyError::Idle => (StatusCode::REQUEST_TIMEOUT, ErrorCode::BlobUploadInvalid),
        BodyError::ManifestTooSlow => (StatusCode::REQUEST_TIMEOUT, ErrorCode::ManifestInvalid),
        BodyError::Aborted => (StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid),
        BodyError::OtherLength { .. } => (StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid),
        BodyError::NoLongerAllowed => (StatusCode::UNAUTHORIZED, ErrorCode::Denied),
    };
    OciError::new(status, code, error.to_string())
}
