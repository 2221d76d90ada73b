//! Access tokens of the control plane's sign-in, as `/oauth2/exchange` takes them: verified with what this node knows itself, so that
//! nobody has to be asked.

use credentials::{TokenError, check_times, kid_of};
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::login::{self, CredentialId, Origin};
use crate::{
    config::{Index, RegistryEntry},
    names::shown,
};

/// Whom a token was given to.
#[derive(Debug)]
pub(super) struct SignedIn {
    /// The user name: a person's, or the application's id.
    pub(super) name: String,
    /// Where it is from.
    pub(super) tenant_id: Uuid,
    /// What it signed in with, and the key that says so.
    pub(super) origin: Origin,
}

/// Why a token of sign-in is refused. Never repeats the token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SignInTokenError {
    #[error("the access token cannot be used: {0}; sign in again")]
    Token(#[from] TokenError),
    #[error(
        "the access token is not signed with a key of this installation's sign-in; sign in again with az login"
    )]
    UnknownKey,
    #[error("the access token is from the issuer {0}, which is not this installation's sign-in")]
    Issuer(String),
    #[error("the access token is for the audience {found}; a registry takes tokens for {expected}")]
    Audience { found: String, expected: String },
    #[error("the principal of the access token is not there any more, or is disabled")]
    Disabled,
    #[error(
        "what the access token was given for (a secret, certificate, federated credential or password) was removed or renewed, or has expired; sign in again"
    )]
    Withdrawn,
}

impl SignInTokenError {
    /// For metrics and logs.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Token(TokenError::Expired) => "expired",
            Self::Token(TokenError::NotYetValid) => "not-yet-valid",
            Self::Token(_) => "malformed-token",
            Self::UnknownKey => "unknown-key",
            Self::Issuer(_) => "wrong-issuer",
            Self::Audience { .. } => "wrong-audience",
            Self::Disabled => "disabled",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// What counts of such a token.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    oid: Uuid,
    tid: Uuid,
    #[serde(default)]
    nbf: Option<i64>,
    exp: i64,
    cred: Uuid,
    #[serde(default)]
    upn: Option<String>,
    #[serde(default)]
    preferred_username: Option<String>,
}

/// Checks a token against keys, principals and credentials as they are now.
///
/// # Errors
/// See [`SignInTokenError`].
pub(super) fn verify(
    index: &Index,
    entry: &RegistryEntry,
    token: &str,
    now: OffsetDateTime,
) -> Result<SignedIn, SignInTokenError> {
    let kid = kid_of(token).ok_or(TokenError::Malformed)?;
    let known = index
        .sign_in_key(&kid)
        .ok_or(SignInTokenError::UnknownKey)?;
    if known.key.ends_at.is_some_and(|ends_at| ends_at <= now) {
        return Err(SignInTokenError::UnknownKey);
    }
    let claims: Claims = known.verifier.verify(token)?;
    if claims.tid != known.key.tenant_id || !known.key.issuers.contains(&claims.iss) {
        return Err(SignInTokenError::Issuer(shown(&claims.iss)));
    }
    if !known.key.audiences.contains(&claims.aud) {
        return Err(SignInTokenError::Audience {
            found: shown(&claims.aud),
            expected: known.key.audiences.join(" or "),
        });
    }
    check_times(claims.nbf, claims.exp, now)?;
    let principal = index
        .principal(claims.oid)
        .filter(|principal| principal.enabled)
        .ok_or(SignInTokenError::Disabled)?;
    let origin = Origin {
        credential: CredentialId::Principal {
            object_id: claims.oid,
            key_id: claims.cred,
        },
        sign_in_key: Some(kid.into()),
    };
    if !login::is_current(index, entry, &origin, now) {
        return Err(SignInTokenError::Withdrawn);
    }
    // A person's token also names an application: the one that the person used.
    let name = match principal.app_id {
        Some(app_id) => app_id.to_string(),
        None => claims
            .upn
            .or(claims.preferred_username)
            .unwrap_or_else(|| claims.oid.to_string()),
    };
    Ok(SignedIn {
        name,
        tenant_id: claims.tid,
        origin,
    })
}
