//! Sign-in: an OAuth 2 / OpenID Connect issuer for the service principals and the people of the directory, and the verification of its own
//! tokens.
//!
//! Grants are what clients of ARM send: client credentials, user name and password, refresh tokens. What a token may do does not belong here, nor whether the credential
//! behind it is still good: that is asked at each request, with the facts of the access decision.

mod assertion;
mod audience;
mod claims;
mod client_credentials;
mod discovery;
mod failure_limiter;
mod form;
mod issue;
mod issuer_addresses;
mod issuer_places;
mod issuers;
mod keys;
mod metadata;
mod password;
mod refresh;
mod refusal;
mod secret;
mod slow_checks;
mod tenant;
mod token;
mod used;
mod verification;

pub use keys::{Rotation, SignInError, ensure_key, rotate_key};
pub use store::sign_in_keys::FormerKeys;

pub(crate) use assertion::is_own_issuer;
pub(crate) use claims::Claims;
pub(crate) use password::NotShown;
pub(crate) use tenant::default_domain;

use std::sync::Arc;

use failure_limiter::FailureLimiter;
use issuers::Issuers;
use keys::KeySet;
use refusal::SignInMetrics;
use slow_checks::SlowChecks;
use store::directory::SecretLimits;
use store::installation::Installation;
use used::UsedCredentials;
use uuid::Uuid;
use verification::Verified;

use crate::app::Parts;
use crate::front_door::Operation;
use crate::limits;
use crate::slow_work::SlowWork;

/// How often control planes read the signing keys: after twice as long every one knows a change.
pub const KEYS_INTERVAL: std::time::Duration = limits::SIGN_IN_KEYS_INTERVAL;

/// The most secrets that an application and its service principal may have together.
pub const SECRET_LIMITS: SecretLimits = SecretLimits {
    all: limits::MAXIMUM_SECRETS,
    chosen: limits::MAXIMUM_CHOSEN_SECRETS,
};

/// Issues and verifies access tokens.
pub(crate) struct SignIn {
    public_url: String,
    tenant_id: Uuid,
    keys: KeySet,
    verified: Verified,
    failures: FailureLimiter,
    slow_checks: SlowChecks,
    used: UsedCredentials,
    issuers: Issuers,
    metrics: SignInMetrics,
}

impl SignIn {
    /// Reads the signing keys, making one when there is none, and keeps them fresh until the process ends.
    ///
    /// # Errors
    /// The database is away, or none of the keys can be opened with the key-encryption keys.
    pub(crate) async fn load(
        parts: &Parts,
        installation: &Installation,
        slow_work: SlowWork,
    ) -> Result<Arc<Self>, SignInError> {
        let keys = KeySet::load(
            parts.store.clone(),
            Arc::clone(&parts.key_ring),
            installation,
            (parts.clock)(),
        )
        .await?;
        let issuers = service::tls::client_config(parts.settings.issuer_ca_file.as_deref())
            .map(|tls| Issuers::new(tls, parts.settings.issuer_allow_private))
            .map_err(SignInError::IssuerAuthorities)?;
        let sign_in = Arc::new(Self {
            issuers,
            public_url: installation.public_url.clone(),
            tenant_id: installation.tenant_id,
            keys,
            verified: Verified::new(),
            failures: FailureLimiter::new(),
            slow_checks: SlowChecks::new(slow_work, &*parts.randomness),
            used: UsedCredentials::new(),
            metrics: SignInMetrics::new(&parts.metrics),
        });
        tokio::spawn(keep_fresh(
            Arc::clone(&sign_in),
            parts.store.clone(),
            Arc::clone(&parts.clock),
            parts.shutdown.clone(),
        ));
        Ok(sign_in)
    }
}

/// Reads the keys again, so that all replicas know all keys, and forgets failures that no longer count, and sessions that are over.
async fn keep_fresh(
    sign_in: Arc<SignIn>,
    store: store::Store,
    clock: service::clock::Clock,
    shutdown: service::shutdown::Shutdown,
) {
    for round in 1_u32.. {
        tokio::select! {
            () = tokio::time::sleep(limits::SIGN_IN_KEYS_INTERVAL) => {}
            () = shutdown.wait() => return,
        }
        if let Err(error) = sign_in.keys.refresh(clock()).await {
            tracing::warn!(
                error.cause = %service::errors::chain(&error),
                "the sign-in keys could not be read again; those known stay in use"
            );
        }
        if round % limits::FORGET_ROUNDS != 0 {
            continue;
        }
        sign_in.failures.forget_old();
        if let Err(error) = store.refresh_tokens_forget(clock()).await {
            tracing::debug!(
                error.cause = %service::errors::chain(&error),
                "refresh tokens that are over are not forgotten yet; it is tried again"
            );
        }
    }
}

pub(crate) fn operations() -> Vec<Operation> {
    let mut operations = metadata::operations();
    operations.extend(discovery::operations());
    operations.extend(token::operations());
    operations
}
