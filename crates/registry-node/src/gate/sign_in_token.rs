//! Access tokens of the control plane's sign-in, as `/oauth2/exchange` takes them: verified with what this node knows itself, so that
//! nobody has to be asked.

use config_documents::SignInKey;
use credentials::{TokenError, check_times, kid_of};
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    login::{self, CredentialId, Origin},
    token::failure_of,
};
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
            Self::Token(error) => failure_of(*error),
            Self::UnknownKey => "unknown-key",
            Self::Issuer(_) => "wrong-issuer",
            Self::Audience { .. } => "wrong-audience",
            Self::Disabled => "disabled",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// A token that is refused.
#[derive(Debug)]
pub(super) struct RefusedToken {
    /// Why.
    pub(super) error: SignInTokenError,
    /// Whose it is, where sign-in says so: not of one whose signature is not right.
    pub(super) user: Option<String>,
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

impl Claims {
    /// The user name: a person's, or the application's id.
    fn user_name(&self, index: &Index) -> String {
        // A person's token also names an application: the one that the person used.
        let application = index.principal(self.oid).and_then(|it| it.app_id);
        let person = || self.upn.clone().or_else(|| self.preferred_username.clone());
        application
            .map(|app_id| app_id.to_string())
            .or_else(person)
            .unwrap_or_else(|| self.oid.to_string())
    }
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
) -> Result<SignedIn, RefusedToken> {
    let (key, claims) =
        signed_claims(index, token, now).map_err(|error| RefusedToken { error, user: None })?;
    let name = claims.user_name(index);
    match check(index, entry, key, &claims, now) {
        Ok(origin) => Ok(SignedIn {
            name,
            tenant_id: claims.tid,
            origin,
        }),
        Err(error) => Err(RefusedToken {
            error,
            user: Some(name),
        }),
    }
}

/// What the token says, if a key of sign-in vouches for it.
fn signed_claims<'a>(
    index: &'a Index,
    token: &str,
    now: OffsetDateTime,
) -> Result<(&'a SignInKey, Claims), SignInTokenError> {
    let kid = kid_of(token).ok_or(TokenError::Malformed)?;
    let known = index
        .sign_in_key(&kid)
        .ok_or(SignInTokenError::UnknownKey)?;
    if known.key.ends_at.is_some_and(|ends_at| ends_at <= now) {
        return Err(SignInTokenError::UnknownKey);
    }
    let claims = known.verifier.verify(token)?;
    Ok((&known.key, claims))
}

/// Whether what the token says is for here, and still so.
fn check(
    index: &Index,
    entry: &RegistryEntry,
    key: &SignInKey,
    claims: &Claims,
    now: OffsetDateTime,
) -> Result<Origin, SignInTokenError> {
    if claims.tid != key.tenant_id || !key.issuers.contains(&claims.iss) {
        return Err(SignInTokenError::Issuer(shown(&claims.iss)));
    }
    if !key.audiences.contains(&claims.aud) {
        return Err(SignInTokenError::Audience {
            found: shown(&claims.aud),
            expected: key.audiences.join(" or "),
        });
    }
    check_times(claims.nbf, claims.exp, now)?;
    index
        .principal(claims.oid)
        .filter(|principal| principal.enabled)
        .ok_or(SignInTokenError::Disabled)?;
    let origin = Origin {
        credential: CredentialId::Principal {
            object_id: claims.oid,
            key_id: claims.cred,
        },
        sign_in_key: Some(key.public_key.kid().into()),
    };
    if !login::is_current(index, entry, &origin, now) {
        return Err(SignInTokenError::Withdrawn);
    }
    Ok(origin)
}
