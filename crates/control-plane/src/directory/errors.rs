//! Microsoft Graph's errors, in our words.
//!
//! The Azure CLI repeats some calls for minutes when a message contains ` does not exist ` or ` does not reference `, because its own
//! directory is only eventually consistent. This one is not, so these words are kept out of messages.

use arm::{ApiError, Kind};
use store::directory::Indispensable;
use uuid::Uuid;

use crate::front_door::{Request, hyphenated};
use crate::limits::MAXIMUM_SELF_SERVICE_APPLICATIONS;

/// How many characters of what a client sent are shown to it again.
const SHOWN_CHARACTERS: usize = 120;

pub(super) fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError::invalid("Request_BadRequest", message)
}

pub(super) fn unsupported_query(message: impl Into<String>) -> ApiError {
    ApiError::invalid("Request_UnsupportedQuery", message)
}

pub(super) fn not_found(what: &str, id: Uuid) -> ApiError {
    ApiError::not_found(
        "Request_ResourceNotFound",
        format!("The directory has no {what} with the object id '{id}'."),
    )
}

/// The same for an object that may also be named otherwise than by its object id.
pub(super) fn not_found_named(what: &str, name: &str) -> ApiError {
    ApiError::not_found(
        "Request_ResourceNotFound",
        format!("The directory has no {what} '{}'.", shorten(name)),
    )
}

pub(super) fn denied(message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::Forbidden, "Authorization_RequestDenied", message)
}

/// Too many of what a caller made for itself are there.
pub(super) fn quota_exceeded() -> ApiError {
    ApiError::new(
        Kind::Forbidden,
        "Directory_QuotaExceeded",
        format!(
            "The directory object quota limit for the Principal has been exceeded: {MAXIMUM_SELF_SERVICE_APPLICATIONS} applications may count in the quota of one principal, those that its own applications made among them. Delete some that are not needed, or ask an application administrator to create this one."
        ),
    )
}

pub(super) fn last_administrator(what: &str) -> ApiError {
    bad_request(format!(
        "This {what} is the last enabled administrator of the directory; without it nobody could administer the directory."
    ))
}

/// Why a principal can be neither deleted nor disabled.
pub(super) fn indispensable(what: &str, reason: Indispensable) -> ApiError {
    match reason {
        Indispensable::LastAdministrator => last_administrator(what),
        Indispensable::LastOwner => last_owner(what),
    }
}

pub(super) fn last_owner(what: &str) -> ApiError {
    bad_request(format!(
        "By this {what} a subscription has its last enabled Owner; without it nobody could assign roles there. Assign the role Owner to somebody else first."
    ))
}

/// A GUID that a body or an option names, or which one is not.
pub(super) fn guid(text: &str, what: &str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(text).map_err(|_| no_guid(text, what))
}

/// The id of an object that a parameter of the path names. It has one spelling: the activity log names objects as paths do, and whoever
/// searches it for one must find all that was done to it.
pub(super) fn id_in_path(request: &Request, parameter: &str) -> Result<Uuid, ApiError> {
    let text = request.parameter(parameter);
    hyphenated(text).ok_or_else(|| no_guid(text, "object identifier"))
}

fn no_guid(text: &str, what: &str) -> ApiError {
    bad_request(format!(
        "Invalid {what} '{}': it must be a GUID such as 00000000-0000-0000-0000-000000000000.",
        shorten(text)
    ))
}

/// Why a path under `/v1.0` leads nowhere; so many of its segments are known to lead somewhere.
pub(crate) fn unknown_path(segments: &[String], known: usize) -> ApiError {
    let segment = segments.get(known).or(segments.last());
    let segment = segment.map_or("", String::as_str);
    if segment.eq_ignore_ascii_case("$count") {
        return ApiError::invalid(
            "BadRequest",
            "Counting ('$count') is not supported by this directory; list the objects instead.",
        );
    }
    ApiError::invalid(
        "BadRequest",
        format!(
            "Resource not found for the segment '{}'. This directory has applications, servicePrincipals, users, groups, directoryObjects, directoryRoles, organization and me, with what the OpenAPI document at /openapi.json lists below them.",
            shorten(segment)
        ),
    )
}

pub(super) fn shorten(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS).collect()
}
