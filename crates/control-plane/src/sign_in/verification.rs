//! Verification of access tokens: signature, issuer, audience and times.

use std::sync::Arc;

use credentials::{TokenError, check_times, kid_of};
use moka::sync::Cache;
use time::OffsetDateTime;

use super::audience::Audience;
use super::tenant::TenantForm;
use super::{Claims, SignIn};
use crate::limits::{MAXIMUM_TOKEN_BYTES, TOKEN_LIFETIME, VERIFIED_TOKENS_BYTES};

/// Why a token does not identify a caller. Never repeats the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthenticationError {
    #[error("The access token is invalid: {0}.")]
    Token(TokenError),
    #[error("The access token is invalid: it is longer than {MAXIMUM_TOKEN_BYTES} bytes.")]
    TooLong,
    #[error("The access token is invalid: it is not signed with a key of this installation.")]
    UnknownKey,
    #[error("The access token expired at {expired_at}.")]
    Expired { expired_at: String },
    #[error(
        "The access token has been obtained for the wrong audience '{found}'; the audience must be '{expected}'."
    )]
    Audience { found: String, expected: String },
    #[error(
        "The access token is from the wrong issuer '{found}'; it must be from the tenant of this installation, '{expected}'."
    )]
    Issuer { found: String, expected: String },
}

impl AuthenticationError {
    /// ARM's code for it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Token(_) | Self::TooLong | Self::UnknownKey => "InvalidAuthenticationToken",
            Self::Expired { .. } => "ExpiredAuthenticationToken",
            Self::Audience { .. } => "InvalidAuthenticationTokenAudience",
            Self::Issuer { .. } => "InvalidAuthenticationTokenTenant",
        }
    }

    /// Whether the token may have been good once, so that its client does well to ask for a new one.
    pub(crate) fn is_stale(&self) -> bool {
        match self {
            Self::UnknownKey | Self::Expired { .. } => true,
            Self::Token(_) | Self::TooLong | Self::Audience { .. } | Self::Issuer { .. } => false,
        }
    }
}

/// Tokens whose signature, issuer and audience were good: a signature costs much more than a look-up, and clients send the same token
/// many times.
pub(super) struct Verified(Cache<Arc<str>, VerifiedToken>);

#[derive(Clone)]
struct VerifiedToken {
    claims: Arc<Claims>,
    kid: Arc<str>,
}

impl Verified {
    pub(super) fn new() -> Self {
        let lifetime = TOKEN_LIFETIME
            .try_into()
            .expect("a token's lifetime is positive");
        Self(
            Cache::builder()
                .max_capacity(VERIFIED_TOKENS_BYTES)
                .weigher(|token: &Arc<str>, _: &VerifiedToken| {
                    // Beside the text: the claims and the cache's own entry.
                    u32::try_from(token.len() + 700).unwrap_or(u32::MAX)
                })
                .time_to_live(lifetime)
                .build(),
        )
    }
}

impl SignIn {
    /// The claims of a token for the control plane. Whether the credential behind it is still good is not asked here.
    ///
    /// # Errors
    /// See [`AuthenticationError`].
    pub(crate) fn verify(
        &self,
        token: &str,
        now: OffsetDateTime,
    ) -> Result<Arc<Claims>, AuthenticationError> {
        if token.len() > MAXIMUM_TOKEN_BYTES {
            return Err(AuthenticationError::TooLong);
        }
        let keys = self.keys.current();
        if let Some(known) = self.verified.0.get(token)
            && keys.verifying(&known.kid, now).is_some()
        {
            times(&known.claims, now)?;
            return Ok(known.claims);
        }
        let kid = kid_of(token).ok_or(AuthenticationError::Token(TokenError::Malformed))?;
        let verifier = keys
            .verifying(&kid, now)
            .ok_or(AuthenticationError::UnknownKey)?;
        let claims: Claims = verifier.verify(token).map_err(AuthenticationError::Token)?;
        self.addressed_to_control_plane(&claims)?;
        times(&claims, now)?;
        let claims = Arc::new(claims);
        let verified = VerifiedToken {
            claims: Arc::clone(&claims),
            kid: kid.into(),
        };
        self.verified.0.insert(token.into(), verified);
        Ok(claims)
    }

    fn addressed_to_control_plane(&self, claims: &Claims) -> Result<(), AuthenticationError> {
        let issuers = TenantForm::issuers(&self.public_url, self.tenant_id);
        if claims.tid != self.tenant_id || !issuers.contains(&claims.iss) {
            return Err(AuthenticationError::Issuer {
                found: claims.iss.clone(),
                expected: self.tenant_id.to_string(),
            });
        }
        let expected = Audience::ControlPlane.claim(&self.public_url);
        if claims.aud != expected {
            return Err(AuthenticationError::Audience {
                found: claims.aud.clone(),
                expected: expected.to_owned(),
            });
        }
        Ok(())
    }
}

fn times(claims: &Claims, now: OffsetDateTime) -> Result<(), AuthenticationError> {
    check_times(Some(claims.nbf), claims.exp, now).map_err(|error| match error {
        TokenError::Expired => AuthenticationError::Expired {
            expired_at: OffsetDateTime::from_unix_timestamp(claims.exp)
                .map_or_else(|_| claims.exp.to_string(), arm::format_time),
        },
        other => AuthenticationError::Token(other),
    })
}

#[cfg(test)]
mod tests {
    use super::super::audience::REGISTRY;
    use super::super::failure_limiter::FailureLimiter;
    use super::super::issuers::Issuers;
    use super::super::keys::KeySet;
    use super::super::refusal::SignInMetrics;
    use super::super::slow_checks::SlowChecks;
    use super::super::used::UsedCredentials;
    use super::*;
    use crate::slow_work::SlowWork;
    use credentials::{SigningKey, SystemRandomness};
    use proptest::prelude::*;
    use service::metrics::Metrics;
    use time::Duration;
    use time::macros::datetime;
    use uuid::Uuid;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);
    const URL: &str = "https://wharf.example";
    const TENANT: Uuid = Uuid::from_u128(0xa1);

    fn key() -> SigningKey {
        SigningKey::generate("one")
    }

    fn copy(key: &SigningKey) -> SigningKey {
        SigningKey::from_pkcs8(key.kid(), key.pkcs8()).expect("it is a key")
    }

    fn sign_in(keys: Vec<(SigningKey, OffsetDateTime, Option<OffsetDateTime>)>) -> SignIn {
        service::install_crypto_provider();
        let tls = service::tls::client_config(None).expect("the system's authorities");
        SignIn {
            public_url: URL.to_owned(),
            tenant_id: TENANT,
            keys: KeySet::of_keys(keys),
            verified: Verified::new(),
            failures: FailureLimiter::new(),
            slow_checks: SlowChecks::new(SlowWork::default(), &SystemRandomness),
            used: UsedCredentials::new(),
            issuers: Issuers::new(tls, false),
            metrics: SignInMetrics::new(&Metrics::new("test")),
        }
    }

    fn claims() -> Claims {
        let (oid, appid) = (Uuid::from_u128(0xb1), Uuid::from_u128(0xc1));
        Claims {
            iss: format!("{URL}/adfs"),
            aud: URL.to_owned(),
            sub: oid,
            oid,
            appid,
            azp: appid,
            tid: TENANT,
            iat: NOW.unix_timestamp(),
            nbf: NOW.unix_timestamp(),
            exp: (NOW + TOKEN_LIFETIME).unix_timestamp(),
            ver: "2.0".to_owned(),
            jti: Uuid::from_u128(0xd1),
            cred: Uuid::from_u128(0xe1),
            upn: None,
            name: None,
        }
    }

    #[tokio::test]
    async fn a_token_is_good_until_it_expires_first_seen_and_remembered() {
        let key = key();
        let token = key.sign(&claims()).expect("claims are JSON");
        let sign_in = sign_in(vec![(key, NOW, None)]);
        for _ in 0..2 {
            assert_eq!(*sign_in.verify(&token, NOW).expect("good"), claims());
        }
        let expired = sign_in.verify(&token, NOW + TOKEN_LIFETIME);
        let error = expired.expect_err("over");
        assert_eq!(error.code(), "ExpiredAuthenticationToken");
        assert!(error.is_stale());
    }

    #[tokio::test]
    async fn each_fault_has_its_code() {
        let key = key();
        let sign_in = sign_in(vec![(copy(&key), NOW, None)]);
        let code = |change: &dyn Fn(&mut Claims)| {
            let mut claims = claims();
            change(&mut claims);
            let token = key.sign(&claims).expect("claims are JSON");
            sign_in.verify(&token, NOW).map_err(|error| error.code())
        };
        assert!(code(&|claims| claims.iss = format!("{URL}/{TENANT}/v2.0")).is_ok());
        assert!(code(&|claims| claims.nbf += 299).is_ok());
        assert_eq!(
            code(&|claims| claims.nbf += 301),
            Err("InvalidAuthenticationToken")
        );
        assert_eq!(
            code(&|claims| claims.exp = NOW.unix_timestamp()),
            Err("ExpiredAuthenticationToken")
        );
        assert_eq!(
            code(&|claims| claims.aud = REGISTRY.to_owned()),
            Err("InvalidAuthenticationTokenAudience")
        );
        assert_eq!(
            code(&|claims| claims.iss = "https://other.example/adfs".to_owned()),
            Err("InvalidAuthenticationTokenTenant")
        );
        assert_eq!(
            code(&|claims| claims.tid = Uuid::from_u128(0xa2)),
            Err("InvalidAuthenticationTokenTenant")
        );
    }

    #[tokio::test]
    async fn a_token_of_another_or_of_a_long_retired_key_is_refused() {
        let key = key();
        let forged = SigningKey::generate("one")
            .sign(&claims())
            .expect("claims are JSON");
        let unknown = SigningKey::generate("two")
            .sign(&claims())
            .expect("claims are JSON");
        let token = key.sign(&claims()).expect("claims are JSON");
        let sign_in = sign_in(vec![(
            key,
            NOW - Duration::days(1),
            Some(NOW - TOKEN_LIFETIME + Duration::minutes(1)),
        )]);
        assert_eq!(
            sign_in.verify(&forged, NOW),
            Err(AuthenticationError::Token(TokenError::Signature))
        );
        assert_eq!(
            sign_in.verify(&unknown, NOW),
            Err(AuthenticationError::UnknownKey)
        );
        assert!(sign_in.verify(&token, NOW).is_ok());
        assert_eq!(
            sign_in.verify(&token, NOW + Duration::minutes(1)),
            Err(AuthenticationError::UnknownKey),
            "also when it is remembered"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_but_a_token_is_refused(text in "\\PC{0,200}") {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let refused = runtime.block_on(async { sign_in(vec![(key(), NOW, None)]).verify(&text, NOW) });
            prop_assert_eq!(refused.expect_err("no token").code(), "InvalidAuthenticationToken");
        }
    }

    #[tokio::test]
    async fn a_changed_token_is_refused() {
        let key = key();
        let token = key.sign(&claims()).expect("claims are JSON");
        let sign_in = sign_in(vec![(key, NOW, None)]);
        assert!(sign_in.verify(&token, NOW).is_ok());
        let dots: Vec<usize> = token.match_indices('.').map(|(at, _)| at).collect();
        for at in [dots[0] + 5, dots[1] - 5, dots[1] + 5] {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert!(sign_in.verify(&changed, NOW).is_err());
        }
        assert_eq!(
            sign_in.verify(&"x".repeat(MAXIMUM_TOKEN_BYTES + 1), NOW),
            Err(AuthenticationError::TooLong)
        );
    }
}
