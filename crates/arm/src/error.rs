use serde::Serialize;

/// What kind of failure an error is; the front door turns it into an HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Invalid,
    Unauthenticated,
    /// Unauthenticated by a token that was good once; a new one may be good.
    StaleToken,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    PreconditionFailed,
    TooLarge,
    UnsupportedMediaType,
    TooManyRequests,
    Internal,
    Unavailable,
    Timeout,
}

/// An error as ARM clients see it (RPC "error response", R41), apart from what only the log may know.
///
/// `Display` gives the external message. The internal cause is the error's source and never reaches a response.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    pub kind: Kind,
    pub code: String,
    pub message: String,
    pub target: Option<String>,
    pub details: Vec<ErrorDetail>,
    /// Seconds after which a repetition may succeed; sent as `Retry-After`.
    pub retry_after_seconds: Option<u32>,
    /// The internal cause, for the log.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// One of several faults, with the member of the request that it is about.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct ErrorDetail {
    pub code: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl ApiError {
    pub fn new(kind: Kind, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: code.into(),
            message: message.into(),
            target: None,
            details: Vec::new(),
            retry_after_seconds: None,
            cause: None,
        }
    }

    pub fn invalid(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, code, message)
    }

    pub fn not_found(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, code, message)
    }

    pub fn conflict(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, code, message)
    }

    /// A failure of ours: the caller learns only that it happened, the log learns the cause.
    pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let mut error = Self::new(
            Kind::Internal,
            "InternalServerError",
            "The service failed to process the request. The request id in the x-ms-request-id header finds the cause in the service's log.",
        );
        error.cause = Some(cause.into());
        error
    }

    /// Something the service needs is away; a repetition after `retry_after_seconds` may succeed.
    pub fn unavailable(
        message: impl Into<String>,
        retry_after_seconds: u32,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let mut error = Self::new(Kind::Unavailable, "ServiceUnavailable", message);
        error.retry_after_seconds = Some(retry_after_seconds);
        error.cause = Some(cause.into());
        error
    }

    /// Every fault of a request in one error; the first one gives the code, and the message when it is alone.
    ///
    /// # Panics
    /// Never: an empty list yields a generic error.
    pub fn from_faults(faults: Vec<ErrorDetail>) -> Self {
        let mut error = match faults.first() {
            Some(first) if faults.len() == 1 => {
                Self::invalid(first.code.clone(), first.message.clone())
            }
            Some(first) => Self::invalid(
                first.code.clone(),
                format!("The request has {} faults; see details.", faults.len()),
            ),
            None => Self::invalid("BadRequest", "The request is invalid."),
        };
        error.target = faults.first().and_then(|first| first.target.clone());
        if faults.len() > 1 {
            error.details = faults;
        }
        error
    }

    pub fn with_target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// The body that ARM clients parse: `{"error":{"code","message","target"?,"details"?}}`.
    pub fn body(&self) -> serde_json::Value {
        let mut error = serde_json::json!({ "code": self.code, "message": self.message });
        if let Some(target) = &self.target {
            error["target"] = target.clone().into();
        }
        if !self.details.is_empty() {
            error["details"] = serde_json::json!(self.details);
        }
        serde_json::json!({ "error": error })
    }
}

impl ErrorDetail {
    pub fn new(
        code: impl Into<String>,
        message: impl Into<String>,
        target: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            target: Some(target.into()),
        }
    }
}
