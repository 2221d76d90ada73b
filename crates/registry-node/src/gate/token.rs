//! The registry's own tokens, for access and for getting those: what they say, how they are signed, and how a verified one is remembered.

use std::{sync::Arc, time::Duration};

use credentials::{SigningKey, TokenError, check_times, kid_of};
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    login::{CredentialId, Origin},
    token_scope::{AccessEntry, TokenScope},
};
use crate::{
    config::{Configuration, Identities, RegistryEntry},
    limits::{ACCESS_TOKEN_LIFETIME, REMEMBERED_TOKENS_BYTES_MAXIMUM},
};

/// What a token says.
#[derive(Serialize, Deserialize)]
struct Claims {
    jti: Uuid,
    sub: String,
    iss: String,
    aud: String,
    nbf: i64,
    iat: i64,
    exp: i64,
    version: String,
    grant_type: TokenKind,
    /// Of an access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access: Option<Vec<AccessEntry>>,
    /// Of a refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<Uuid>,
    roles: Vec<String>,
    /// The registry's uid: a name can be given to another registry, a uid cannot.
    registry: Uuid,
    /// What the token came from, and dies with; so the key of sign-in, if there is one.
    credential: CredentialId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sign_in_key: Option<String>,
}

/// What a token is good for. One kind never counts as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TokenKind {
    /// Shown with requests.
    #[serde(rename = "access_token")]
    Access,
    /// Shown to the token endpoint.
    #[serde(rename = "refresh_token")]
    Refresh,
}

/// A token whose signature was found right, with what it says.
#[derive(Debug)]
pub(super) struct VerifiedToken {
    /// What it is good for.
    pub(super) kind: TokenKind,
    /// Which key it is signed with.
    pub(super) kid: String,
    /// The registry it is for.
    pub(super) registry: Uuid,
    /// The login server it is for.
    pub(super) audience: String,
    /// The user name it was given to.
    pub(super) subject: String,
    /// What it came from.
    pub(super) origin: Origin,
    /// What it allows at most; nothing for a refresh token, which is never shown with a request.
    pub(super) scope: TokenScope,
    /// Of a refresh token.
    pub(super) tenant: Option<Uuid>,
    /// Seconds since 1970.
    pub(super) expires_at: i64,
    not_before: i64,
}

impl VerifiedToken {
    /// Roughly what it takes in memory.
    fn weight_bytes(&self) -> u32 {
        let sign_in_key = self.origin.sign_in_key.as_deref().map_or(0, str::len);
        let texts = self.kid.len() + self.audience.len() + self.subject.len() + sign_in_key;
        let scope: usize = self
            .scope
            .repositories
            .iter()
            .map(|(name, _)| 48 + name.as_str().len())
            .sum();
        u32::try_from(300 + texts + scope).unwrap_or(u32::MAX)
    }
}

/// The second, since 1970, at which something ends that lasts this long.
pub(super) fn ends_at(now: OffsetDateTime, lifetime: Duration) -> i64 {
    let lifetime = i64::try_from(lifetime.as_secs()).expect("lifetimes are hours");
    now.unix_timestamp() + lifetime
}

/// Why a token is not good, for metrics and logs.
pub(super) fn failure_of(error: TokenError) -> &'static str {
    match error {
        TokenError::Expired => "expired",
        TokenError::NotYetValid => "not-yet-valid",
        _ => "malformed-token",
    }
}

/// Signs with this node's key, and verifies with those of the region's nodes.
pub(super) struct Tokens {
    identities: Arc<Identities>,
    /// By the hash of the token.
    remembered: Cache<[u8; 32], Arc<VerifiedToken>>,
}

/// Whom and what a token is for.
pub(super) struct Grant<'a> {
    /// The registry.
    pub(super) entry: &'a RegistryEntry,
    /// The user name it is given to.
    pub(super) subject: &'a str,
    /// What it came from.
    pub(super) origin: Origin,
    /// What it is good for.
    pub(super) content: GrantContent<'a>,
    /// Seconds since 1970.
    pub(super) expires_at: i64,
}

/// What a token of each kind says beside.
pub(super) enum GrantContent<'a> {
    /// What it allows at most.
    Access(&'a TokenScope),
    /// Where its owner is from.
    Refresh { tenant: Option<Uuid> },
}

impl Tokens {
    /// Signs with the newest key of this node that the index knows.
    pub(super) fn new(identities: Arc<Identities>) -> Self {
        Self {
            identities,
            remembered: Cache::builder()
                .max_capacity(REMEMBERED_TOKENS_BYTES_MAXIMUM)
                .weigher(|_, token: &Arc<VerifiedToken>| token.weight_bytes())
                .time_to_live(ACCESS_TOKEN_LIFETIME)
                .build(),
        }
    }

    /// What to sign with now; `None` while no key of this node has come back through the configuration.
    pub(super) fn signing_key(&self, configuration: &Configuration) -> Option<Arc<SigningKey>> {
        self.identities.signing_key(&configuration.index())
    }

    /// Signs a token, with [`Tokens::signing_key`].
    pub(super) fn issue(
        key: &SigningKey,
        grant: &Grant<'_>,
        id: Uuid,
        now: OffsetDateTime,
    ) -> String {
        let issued_at = now.unix_timestamp();
        let (grant_type, access, tenant) = match grant.content {
            GrantContent::Access(scope) => (TokenKind::Access, Some(scope.to_access()), None),
            GrantContent::Refresh { tenant } => (TokenKind::Refresh, None, tenant),
        };
        let login_server = &grant.entry.registry.login_server;
        let claims = Claims {
            jti: id,
            sub: grant.subject.to_owned(),
            iss: format!("https://{login_server}"),
            aud: login_server.clone(),
            nbf: issued_at,
            iat: issued_at,
            exp: grant.expires_at,
            version: "1.0".to_owned(),
            grant_type,
            access,
            tenant,
            roles: Vec::new(),
            registry: grant.entry.registry.uid,
            credential: grant.origin.credential,
            sign_in_key: grant.origin.sign_in_key.as_deref().map(str::to_owned),
        };
        key.sign(&claims)
            .expect("the claims are plain text and numbers")
    }

    /// Checks signature and times; whether what it says is still so is for the caller to see.
    /// `index` gives the key, and is asked also for a token that was verified before.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub(super) fn verify(
        &self,
        token: &str,
        key: impl FnOnce(&str) -> Option<Arc<crate::config::SigningKeyEntry>>,
        now: OffsetDateTime,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let verified = match self.remembered.get(&hash) {
            Some(verified) => {
                // A withdrawn key takes its tokens with it.
                key(&verified.kid).ok_or(TokenError::Signature)?;
                verified
            }
            None => {
                let kid = kid_of(token).ok_or(TokenError::Malformed)?;
                let entry = key(&kid).ok_or(TokenError::Signature)?;
                let claims: Claims = entry.verifier.verify(token)?;
                let verified = Arc::new(VerifiedToken {
                    kind: claims.grant_type,
                    kid,
                    registry: claims.registry,
                    audience: claims.aud,
                    subject: claims.sub,
                    origin: Origin {
                        credential: claims.credential,
                        sign_in_key: claims.sign_in_key.map(Into::into),
                    },
                    scope: TokenScope::of_access(claims.access.as_deref().unwrap_or_default()),
                    tenant: claims.tenant,
                    not_before: claims.nbf,
                    expires_at: claims.exp,
                });
                self.remembered.insert(hash, Arc::clone(&verified));
                verified
            }
        };
        check_times(Some(verified.not_before), verified.expires_at, now)?;
        Ok(verified)
    }
}
