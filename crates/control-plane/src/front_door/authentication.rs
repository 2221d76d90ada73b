//! Who makes a request: the bearer token's signature, issuer, audience and times. Whether its credential is still good comes with the
//! facts of the access decision.

use actix_web::http::header::HeaderMap;
use arm::{ApiError, Kind};
use std::sync::Arc;
use time::OffsetDateTime;

use crate::App;
use crate::sign_in::Claims;

/// The claims of the request's bearer token.
pub(crate) fn authenticate(
    app: &App,
    headers: &HeaderMap,
    now: OffsetDateTime,
) -> Result<Arc<Claims>, ApiError> {
    let Some(header) = headers.get("authorization") else {
        return Err(unauthenticated(
            "AuthenticationFailed",
            "Authentication failed. The 'Authorization' header is missing.",
        ));
    };
    let token = header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(token) = token else {
        return Err(unauthenticated(
            "AuthenticationFailed",
            "Authentication failed. The 'Authorization' header must read 'Bearer' followed by an access token.",
        ));
    };
    app.sign_in
        .verify(token, now)
        .map_err(|error| unauthenticated(error.code(), error.to_string()))
}

/// The answer to a token whose credential is gone: deleted, expired, disabled.
pub(crate) fn revoked() -> ApiError {
    unauthenticated(
        "InvalidAuthenticationToken",
        "The access token is invalid: the credential that it was issued for has been removed, has expired, or its principal is disabled. Sign in again.",
    )
}

fn unauthenticated(code: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::Unauthenticated, code, message)
}

/// The challenge that goes with a 401.
pub(crate) fn challenge(app: &App, error: &ApiError) -> String {
    let description: String = error
        .message
        .chars()
        .map(|character| match character {
            '"' | '\\' => '\'',
            // A header has no other characters.
            ' '..='~' => character,
            _ => '?',
        })
        .collect();
    format!(
        r#"Bearer authorization_uri="{}/{}", error="invalid_token", error_description="{description}""#,
        app.installation.public_url, app.installation.tenant_id
    )
}
