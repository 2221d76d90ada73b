//! What every handler gets: the request, parsed once, with its caller and what was loaded to decide about access.

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use arm::{ApiError, ApiVersion, CreatedByType, Precondition};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::net::IpAddr;
use store::access::{AccessFacts, PrincipalKind};
use store::config::Published;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Access, Protocol};

/// A request on its way to a handler.
pub(crate) struct Request {
    pub(crate) request_id: Uuid,
    pub(crate) correlation_id: String,
    /// When it arrived; handlers take the time from here.
    pub(crate) now: OffsetDateTime,
    pub(crate) peer: Option<IpAddr>,
    /// The decoded path segments, as typed.
    pub(crate) segments: Vec<String>,
    /// The path's parameters by name, decoded, as typed.
    pub(crate) parameters: Vec<(String, String)>,
    /// The decoded query pairs, in their order.
    pub(crate) query: Vec<(String, String)>,
    pub(crate) api_version: Option<ApiVersion>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Present for every operation but public ones and those of nodes.
    pub(crate) caller: Option<Caller>,
    /// What the operation asks for, to ask again after slow work.
    pub(crate) access: Access,
    pub(crate) protocol: Protocol,
    /// Present where the operation's access is an action at a scope.
    pub(crate) facts: Option<AccessFacts>,
}

/// Who makes a request: a principal whose token was verified and whose credential is still good.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) object_id: Uuid,
    pub(crate) kind: PrincipalKind,
    /// As people know it: a person's user principal name, a service principal's application id.
    pub(crate) name: String,
    /// The credential that the token came from.
    pub(crate) key_id: Uuid,
    pub(crate) is_directory_administrator: bool,
    pub(crate) is_application_administrator: bool,
}

impl Caller {
    /// As `systemData` names the kind of who made a change.
    pub(crate) fn created_by_type(&self) -> CreatedByType {
        match self.kind {
            PrincipalKind::User => CreatedByType::User,
            PrincipalKind::ServicePrincipal | PrincipalKind::Group => CreatedByType::Application,
        }
    }
}

impl Request {
    /// A parameter of the path, as typed.
    ///
    /// # Panics
    /// When the operation's path has no such parameter: a fault of the operation's table.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
            .expect("the operation's path declares each parameter that its handler reads")
    }

    /// The query parameter of that name, the first of several; names compare case-insensitively, and those that begin with `$` are there once.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The caller of an operation that is not public.
    ///
    /// # Panics
    /// In a handler of a public operation: a fault of the operation's table.
    pub(crate) fn caller(&self) -> &Caller {
        self.caller
            .as_ref()
            .expect("the operation is not public, so the front door authenticated its caller")
    }

    /// The JSON body.
    ///
    /// # Errors
    /// `InvalidRequestContent` naming what could not be read, and where. Text with U+0000 is refused here for all: Postgres cannot keep it.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        if self.body.is_empty() {
            return Err(ApiError::invalid(
                "InvalidRequestContent",
                "The request needs a JSON body and has none.",
            ));
        }
        // A list would be taken for a model's members in their order.
        let first = self.body.iter().find(|byte| !byte.is_ascii_whitespace());
        if first != Some(&b'{') {
            return Err(ApiError::invalid(
                "InvalidRequestContent",
                "The request content was invalid: it must be a JSON object.",
            ));
        }
        let unreadable = |error: serde_json::Error| {
            ApiError::invalid(
                "InvalidRequestContent",
                format!(
                    "The request content was invalid and could not be deserialized: '{}'.",
                    fault_of(&error)
                ),
            )
        };
        // Only an escape can bring the character in; most bodies are read once.
        if self.body.windows(6).any(|window| window == br"\u0000") {
            let value = serde_json::from_slice(&self.body).map_err(unreadable)?;
            if let Some(place) = place_of_nul(&value) {
                return Err(ApiError::invalid(
                    "InvalidRequestContent",
                    format!("The text at '{place}' contains the character U+0000, which no text may contain."),
                )
                .with_target(place));
            }
        }
        serde_json::from_slice(&self.body).map_err(unreadable)
    }

    /// The conditions of `If-Match` and `If-None-Match`.
    pub(crate) fn precondition(&self) -> Precondition {
        let header = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        Precondition::new(header("if-match"), header("if-none-match"))
    }
}

/// What is wrong with a body, without any value that was in it: one may be a password, and the message goes to logs. A member that is not
/// known is named.
fn fault_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Faults of JSON itself, and these two, quote nothing but names of ours.
    let is_plain = error.classify() != serde_json::error::Category::Data
        || text.starts_with("missing field `")
        || text.starts_with("duplicate field `");
    if is_plain {
        return text;
    }
    let names_expected = ["invalid ", "unknown "]
        .iter()
        .any(|start| text.starts_with(start));
    // What was expected is said last, and by us; the place comes after it.
    match text.rsplit_once(", expected ") {
        Some((found, expected)) if found.starts_with(UNKNOWN_MEMBER) => {
            let name = found[UNKNOWN_MEMBER.len()..].trim_end_matches('`');
            format!("there is no member `{name}` here, expected {expected}")
        }
        Some((_, expected)) if names_expected => format!("expected {expected}"),
        _ => format!(
            "a value is not of the form that it must have at line {} column {}",
            error.line(),
            error.column()
        ),
    }
}

/// How serde begins what it says of a member that a model does not have.
const UNKNOWN_MEMBER: &str = "unknown field `";

/// Where in a document a text, or a member's name, contains U+0000; recursion ends where the parser's does.
fn place_of_nul(value: &Value) -> Option<String> {
    let below = |name: String, value: &Value| {
        place_of_nul(value).map(|place| match place.as_str() {
            "" => name,
            place => format!("{name}.{place}"),
        })
    };
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(at, item)| below(at.to_string(), item)),
        Value::Object(members) => members.iter().find_map(|(name, value)| {
            if name.contains('\0') {
                Some(name.replace('\0', "\u{fffd}"))
            } else {
                below(name.clone(), value)
            }
        }),
        _ => None,
    }
}

/// What a handler answers.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// JSON text.
    pub(crate) body: Option<String>,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// What the change published to nodes: the front door waits for its propagation before it answers.
    pub(crate) published: Option<Published>,
}

impl Answer {
    pub(crate) fn json(status: StatusCode, body: &impl serde::Serialize) -> Result<Self, ApiError> {
        let body = serde_json::to_string(body).map_err(ApiError::internal)?;
        Ok(Self {
            status,
            body: Some(body),
            headers: Vec::new(),
            published: None,
        })
    }

    pub(crate) fn ok(body: &impl serde::Serialize) -> Result<Self, ApiError> {
        Self::json(StatusCode::OK, body)
    }

    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            body: None,
            headers: Vec::new(),
            published: None,
        }
    }

    pub(crate) fn published(mut self, published: Option<Published>) -> Self {
        self.published = published;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}
