//! What a request's head asks for: the operation that its path leads to, the options of its query and its API version.

use std::collections::HashSet;
use std::sync::Arc;

use actix_web::HttpRequest;
use arm::{ApiError, ApiVersion, Kind};

use super::router::{Found, decode_segments};
use super::{Operation, Protocol};
use crate::App;
use crate::limits::MAXIMUM_PATH_CHARACTERS;

/// A path that leads to no operation.
pub(super) struct Lost {
    pub(super) error: ApiError,
    /// The methods that the path is known with, for the `Allow` header.
    pub(super) allow: Option<String>,
}

impl From<ApiError> for Lost {
    fn from(error: ApiError) -> Self {
        Self { error, allow: None }
    }
}

pub(super) struct FoundOperation {
    pub(super) operation: Arc<Operation>,
    pub(super) segments: Vec<String>,
    pub(super) parameters: Vec<(String, String)>,
}

pub(super) fn find(app: &App, http: &HttpRequest) -> Result<FoundOperation, Lost> {
    let path = http.uri().path();
    if path.len() > MAXIMUM_PATH_CHARACTERS {
        return Err(ApiError::invalid(
            "InvalidRequestUri",
            format!("The path of the request is longer than {MAXIMUM_PATH_CHARACTERS} characters."),
        )
        .into());
    }
    let segments = decode_segments(path)
        .filter(|segments| !segments.iter().any(|segment| segment.contains('/') || segment.chars().any(char::is_control)))
        .ok_or_else(|| {
            ApiError::invalid(
                "InvalidRequestUri",
                "The path of the request is not UTF-8, or has an encoded '/' or control character in a segment.",
            )
        })?;
    match app.router.find(http.method(), &segments) {
        Found::Operation {
            operation,
            parameters,
        } => Ok(FoundOperation {
            operation,
            segments,
            parameters,
        }),
        Found::OtherMethods(methods) => {
            let allowed: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
            let allowed = allowed.join(", ");
            let error = ApiError::new(
                Kind::MethodNotAllowed,
                "MethodNotAllowed",
                format!(
                    "The method {} is not supported here; supported are: {allowed}.",
                    http.method()
                ),
            );
            Err(Lost {
                error,
                allow: Some(allowed),
            })
        }
        Found::Nothing => Err(match protocol_of(path) {
            Protocol::Graph => {
                let known = app.router.known_segments(Protocol::Graph, &segments);
                crate::directory::unknown_path(&segments, known)
            }
            _ => unknown_path(&segments),
        }
        .into()),
    }
}

/// Why a path leads nowhere, as ARM says it.
fn unknown_path(segments: &[String]) -> ApiError {
    let at = segments
        .iter()
        .rposition(|segment| segment.eq_ignore_ascii_case("providers"));
    let Some((namespace, rest)) = at.and_then(|at| segments[at + 1..].split_first()) else {
        return ApiError::not_found("NotFound", "There is nothing at this path.");
    };
    let known = [
        "Microsoft.ContainerRegistry",
        "Microsoft.Authorization",
        "Microsoft.Insights",
        "Microsoft.Resources",
    ]
    .into_iter()
    .find(|known| known.eq_ignore_ascii_case(namespace));
    let Some(namespace) = known else {
        return ApiError::not_found(
            "InvalidResourceNamespace",
            format!("The resource namespace '{namespace}' is invalid."),
        );
    };
    let types: Vec<&str> = rest.iter().step_by(2).map(String::as_str).collect();
    let message = match types.as_slice() {
        [kind] if namespace == "Microsoft.Authorization" && is_of_roles(kind) => {
            let scope = &segments[..at.unwrap_or_default()];
            format!(
                "Roles are assigned at a subscription, a resource group or a registry; '/{}' is none of these.",
                scope.join("/")
            )
        }
        types => format!(
            "The resource type '{}' could not be found in the namespace '{namespace}'.",
            types.join("/")
        ),
    };
    ApiError::not_found("InvalidResourceType", message)
}

/// Whether a type of resource is there at every scope at which roles are assigned.
fn is_of_roles(kind: &str) -> bool {
    ["roleAssignments", "roleDefinitions"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(kind))
}

pub(super) fn protocol_of(path: &str) -> Protocol {
    match arm::split_path(path).next() {
        Some(first) if first.eq_ignore_ascii_case("v1.0") => Protocol::Graph,
        _ => Protocol::Arm,
    }
}

/// Postgres cannot keep or compare text with U+0000, so no parameter may bring it in. An option of OData says once what is wanted: of one
/// that is repeated, all but one would be ignored.
pub(super) fn check_query(query: &[(String, String)], protocol: Protocol) -> Result<(), ApiError> {
    let mut options = HashSet::new();
    for (name, value) in query {
        let rule = if name.contains('\0') || value.contains('\0') {
            "contains the character U+0000, which no text may contain"
        } else if name.starts_with('$') && !options.insert(name.to_ascii_lowercase()) {
            "was specified more than once, but it must be specified at most once"
        } else {
            continue;
        };
        let code = match protocol {
            Protocol::Graph => "Request_BadRequest",
            Protocol::OAuth => "invalid_request",
            Protocol::Arm | Protocol::Own => "InvalidQueryParameterValue",
        };
        let name = name.replace('\0', "\u{fffd}");
        let message = format!("The query parameter '{name}' {rule}.");
        return Err(ApiError::invalid(code, message).with_target(name));
    }
    Ok(())
}

/// The request's API version, checked against those of the operation.
pub(super) fn api_version(
    operation: &Operation,
    query: &[(String, String)],
) -> Result<Option<ApiVersion>, ApiError> {
    if operation.protocol != Protocol::Arm || operation.versions.is_empty() {
        return Ok(None);
    }
    let text = query
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("api-version"))
        .map(|(_, value)| value.as_str())
        .filter(|value| !value.is_empty())
        .ok_or_else(|| {
            ApiError::invalid(
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            )
            .with_target("api-version")
        })?;
    let version = ApiVersion::parse(text)
        .ok()
        .filter(|version| operation.versions.contains(&version.as_str()));
    version
        .map(Some)
        .ok_or_else(|| unsupported_version(operation, text))
}

fn unsupported_version(operation: &Operation, text: &str) -> ApiError {
    let supported = operation.versions.join(", ");
    let text: String = text.chars().take(64).collect();
    let error = if operation.path.to_ascii_lowercase().contains("/providers/") {
        ApiError::invalid(
            "NoRegisteredProviderFound",
            format!(
                "No registered resource provider found for API version '{text}' for type '{}'. The supported api-versions are '{supported}'.",
                operation.resource_type
            ),
        )
    } else {
        ApiError::invalid(
            "InvalidApiVersionParameter",
            format!(
                "The api-version '{text}' is invalid. The supported versions are '{supported}'."
            ),
        )
    };
    error.with_target("api-version")
}
