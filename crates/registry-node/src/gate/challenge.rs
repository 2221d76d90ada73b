//! Refusals of the gate, each with the challenge that clients expect, and with no more than they
//! need to know.

use std::time::Duration;

use actix_web::http::{
    StatusCode,
    header::{RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};

use crate::{
    config::Refusal,
    limits::RETRY_AFTER_SECONDS,
    oci::{ErrorCode, OciError, RepositoryAction, RequiredAccess},
};

/// The value of the one `WWW-Authenticate` header. Clients split it at blanks and commas, so there
/// is none but the blank behind `Bearer` and the commas between the parts.
pub(super) fn challenge(login_server: &str, scope: &str, is_insufficient: bool) -> String {
    let mut text =
        format!("Bearer realm=\"https://{login_server}/oauth2/token\",service=\"{login_server}\"");
    if !scope.is_empty() {
        text.push_str(",scope=\"");
        text.push_str(scope);
        text.push('"');
    }
    if is_insufficient {
        text.push_str(",error=\"insufficient_scope\"");
    }
    text
}

/// What an operation takes, as a client asks for it in a token's scope.
pub(super) fn scope_of(required: &[RequiredAccess]) -> String {
    let mut scope = String::new();
    for access in required {
        match access {
            RequiredAccess::Base => {}
            RequiredAccess::Catalog => scope.push_str("registry:catalog:*"),
            RequiredAccess::Repository { name, action } => {
                if scope.is_empty() {
                    scope = format!("repository:{name}:{}", action_name(*action));
                } else {
                    // All that one operation takes is in one repository.
                    scope.push(',');
                    scope.push_str(action_name(*action));
                }
            }
        }
    }
    scope
}

fn detail_of(required: &[RequiredAccess]) -> Value {
    let entry = |kind: &str, name: &str, action: &str| json!({"Type": kind, "Name": name, "Action": action});
    let entries: Vec<Value> = required
        .iter()
        .filter_map(|access| match access {
            RequiredAccess::Base => None,
            RequiredAccess::Catalog => Some(entry("registry", "catalog", "*")),
            RequiredAccess::Repository { name, action } => {
                Some(entry("repository", name.as_str(), action_name(*action)))
            }
        })
        .collect();
    if entries.is_empty() {
        Value::Null
    } else {
        Value::Array(entries)
    }
}

fn action_name(action: RepositoryAction) -> &'static str {
    match action {
        RepositoryAction::Pull => "pull",
        RepositoryAction::Push => "push",
        RepositoryAction::Delete => "delete",
        RepositoryAction::MetadataRead => "metadata_read",
        RepositoryAction::MetadataWrite => "metadata_write",
    }
}

/// Nobody, or nobody known: log in.
pub(super) fn unauthorized(
    login_server: &str,
    required: &[RequiredAccess],
    message: &str,
) -> OciError {
    OciError::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
        .with_detail(detail_of(required))
        .with_header(
            WWW_AUTHENTICATE,
            &challenge(login_server, &scope_of(required), false),
        )
}

/// Somebody known, without the right. A 401 all the same: clients then say "denied" at once, where
/// they would try a 403 again for a while.
pub(super) fn denied(login_server: &str, required: &[RequiredAccess], message: &str) -> OciError {
    OciError::new(StatusCode::UNAUTHORIZED, ErrorCode::Denied, message)
        .with_detail(detail_of(required))
        .with_header(
            WWW_AUTHENTICATE,
            &challenge(login_server, &scope_of(required), true),
        )
}

/// Too many failed logins.
pub(super) fn too_many_failures(wait: Duration) -> OciError {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    OciError::new(
        StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::TooManyRequests,
        format!(
            "too many failed logins; wait {seconds} seconds, then use the right user name and password"
        ),
    )
    .with_header(RETRY_AFTER, &seconds.to_string())
}

/// A registry or a caller has too much under way, or comes too often.
pub(super) fn too_many_requests(limit: &str, wait: Duration) -> OciError {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    OciError::new(
        StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::TooManyRequests,
        format!("{limit}: try again after {seconds} seconds"),
    )
    .with_header(RETRY_AFTER, &seconds.to_string())
}

/// This node is about to end.
pub(super) fn stopping() -> OciError {
    OciError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Unavailable,
        "this node is stopping: try again, at another one",
    )
    .with_header(RETRY_AFTER, "1")
}

/// Chosen secrets take time to check, and too many are waiting.
pub(super) fn too_many_slow_logins() -> OciError {
    OciError::new(
        StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::TooManyRequests,
        "too many logins with chosen secrets at once, each of which takes time to check: try again, or use a generated secret",
    )
    .with_header(RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string())
}

/// This node must not serve anybody.
pub(super) fn not_serving(refusal: &Refusal) -> OciError {
    OciError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Unavailable,
        refusal.to_string(),
    )
    .with_header(RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string())
}

/// No registry has this login server here.
pub(super) fn registry_unknown(host: &str) -> OciError {
    OciError::new(
        StatusCode::NOT_FOUND,
        ErrorCode::NameUnknown,
        format!("there is no registry {}", crate::names::shown(host)),
    )
}

/// The registry lives in this region, and this node does not hold what it must know of it: its document is not there, or not understood.
pub(super) fn registry_not_configured(host: &str) -> OciError {
    OciError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Unavailable,
        format!(
            "this node has no usable configuration of the registry {}; its operator finds the reason in the node's log",
            crate::names::shown(host)
        ),
    )
    .with_header(RETRY_AFTER, &RETRY_AFTER_SECONDS.to_string())
}
