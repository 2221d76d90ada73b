//! Who makes a request: the bearer token's signature, issuer, audience and times. Whether its credential is still good comes with the
//! facts of the access decision.

use actix_web::http::header::HeaderMap;
use arm::{ApiError, Kind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
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
    app.sign_in.verify(token, now).map_err(|error| {
        let kind = if error.is_stale() {
            Kind::StaleToken
        } else {
            Kind::Unauthenticated
        };
        ApiError::new(kind, error.code(), error.to_string())
    })
}

/// The answer to a token whose credential is gone: deleted, expired, disabled.
pub(crate) fn revoked() -> ApiError {
    ApiError::new(
        Kind::StaleToken,
        "InvalidAuthenticationToken",
        "The access token is invalid: the credential that it was issued for has been removed, has expired, or its principal is disabled. Sign in again.",
    )
}

fn unauthenticated(code: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::Unauthenticated, code, message)
}

/// The challenge that goes with a 401.
pub(crate) fn challenge(app: &App, error: &ApiError, now: OffsetDateTime) -> String {
    let authorization_uri = format!(
        "{}/{}",
        app.installation.public_url, app.installation.tenant_id
    );
    if error.kind == Kind::StaleToken {
        return challenge_for_new_token(&authorization_uri, now);
    }
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
        r#"Bearer authorization_uri="{authorization_uri}", error="invalid_token", error_description="{description}""#
    )
}

/// Asks for a token that is issued from now on (OpenID Connect Core 1.0, 5.5). Clients keep a token until its end, and use it also when they
/// have signed in again since; told this, they ask for another, once. Some split the header at commas: text for people is in the body alone.
fn challenge_for_new_token(authorization_uri: &str, now: OffsetDateTime) -> String {
    let not_before = now.unix_timestamp().to_string();
    let claims = json!({ "access_token": { "nbf": { "essential": true, "value": not_before } } });
    let claims = STANDARD.encode(claims.to_string());
    format!(
        r#"Bearer authorization_uri="{authorization_uri}", error="insufficient_claims", claims="{claims}""#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_new_token_is_asked_for_in_parts_without_commas() {
        let now = datetime!(2026-11-23 12:00 UTC);
        let challenge = challenge_for_new_token("https://w/t", now);
        let parts: Vec<&str> = challenge.split(", ").collect();
        let [uri, error, claims] = parts[..] else {
            panic!("{challenge}");
        };
        assert_eq!(uri, r#"Bearer authorization_uri="https://w/t""#);
        assert_eq!(error, r#"error="insufficient_claims""#);
        let claims = claims
            .strip_prefix("claims=\"")
            .and_then(|rest| rest.strip_suffix('"'))
            .expect("claims");
        let claims = STANDARD.decode(claims).expect("base64");
        assert_eq!(
            String::from_utf8(claims).expect("text"),
            r#"{"access_token":{"nbf":{"essential":true,"value":"1795435200"}}}"#
        );
    }
}
