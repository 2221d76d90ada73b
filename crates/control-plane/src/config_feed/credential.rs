//! A node's credential as it stands in a request's head.

use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use arm::{ApiError, Kind};
use credentials::SecretKind;

/// The text of a node's credential. A user's token, or anything else that is none, is told so.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, ApiError> {
    let bearer = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(|| {
            refused("This takes a node's credential as bearer in the Authorization header.")
        })?;
    if credentials::recognise(bearer) == Ok(SecretKind::NodeCredential) {
        return Ok(bearer);
    }
    Err(refused(
        "The bearer is not a node's credential: tokens of users and applications are not taken here.",
    ))
}

/// No node has it.
pub(super) fn unknown() -> ApiError {
    refused("No enrolled node has this credential: the node was removed, or never joined.")
}

fn refused(message: &str) -> ApiError {
    ApiError::new(Kind::Unauthenticated, "InvalidNodeCredential", message)
}
