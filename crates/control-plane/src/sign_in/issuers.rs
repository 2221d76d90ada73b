//! Keys of external issuers (OpenID Connect Discovery 1.0, 4): fetched over HTTPS within bounds, and kept for a while.
//!
//! Only an issuer that a federated credential names is ever asked.

use std::sync::Arc;

use credentials::{ForeignKey, UnverifiedHeader};
use moka::sync::Cache;
use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::Mutex;

use crate::limits::{
    ISSUER_FETCH_INTERVAL, ISSUER_FETCH_TIMEOUT, ISSUER_KEYS_LIFETIME, ISSUER_KEYS_REFRESH,
    ISSUER_RETRY_INTERVAL, ISSUERS, MAXIMUM_ISSUER_ANSWER_BYTES, MAXIMUM_ISSUER_KEYS,
};

/// Why there is no key to verify a token with. What the caller is told says nothing of what an address answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum IssuerError {
    #[error("it is no https URL with a host and without user name, query and fragment")]
    Address,
    #[error("no answer can be had from {0}")]
    Unreachable(String),
    #[error(
        "{0} does not answer with status 200 and at most {MAXIMUM_ISSUER_ANSWER_BYTES} bytes of JSON"
    )]
    Answer(String),
    #[error("its discovery document is of another issuer")]
    OtherIssuer,
    #[error("its discovery document names no https URL of keys")]
    KeysAddress,
    #[error("it shows no key for RS256, PS256 or ES256")]
    NoKeys,
    #[error("it shows no key with the name that the token gives (kid)")]
    UnknownKey,
}

impl IssuerError {
    /// Whether it may be over soon by itself.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Answer(_))
    }
}

/// The issuers that were asked.
pub(super) struct Issuers {
    client: reqwest::Client,
    known: Cache<String, Arc<Mutex<Known>>>,
}

/// What is known of an issuer.
#[derive(Default)]
struct Known {
    keys: Option<Keys>,
    /// When it was asked last, and what was wrong then.
    asked: Option<(OffsetDateTime, Option<IssuerError>)>,
}

struct Keys {
    keys: Vec<(Option<String>, ForeignKey)>,
    fetched_at: OffsetDateTime,
}

#[derive(Deserialize)]
struct DiscoveryDocument {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeyDocument {
    keys: Vec<Value>,
}

impl Issuers {
    pub(super) fn new(tls: ClientConfig) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .timeout(ISSUER_FETCH_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true)
            // A connection belongs to the thread that opened it, and the next one is minutes away.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self {
            client,
            known: Cache::new(ISSUERS),
        })
    }

    /// The key of an issuer that a token names.
    pub(super) async fn key(
        &self,
        issuer: &str,
        header: &UnverifiedHeader,
        now: OffsetDateTime,
    ) -> Result<ForeignKey, IssuerError> {
        let known = self
            .known
            .get_with(issuer.to_owned(), Arc::<Mutex<Known>>::default);
        // Whoever comes meanwhile waits, and finds what was fetched.
        let mut known = known.lock().await;
        if known.wants_asking(header.kid.as_deref(), now) {
            let error = match self.fetch(issuer).await {
                Ok(keys) => {
                    known.keys = Some(Keys {
                        keys,
                        fetched_at: now,
                    });
                    None
                }
                Err(error) => {
                    tracing::warn!(
                        issuer,
                        error.cause = %error,
                        "the keys of an external issuer cannot be had"
                    );
                    Some(error)
                }
            };
            known.asked = Some((now, error));
        }
        known.key(header.kid.as_deref(), now)
    }

    async fn fetch(&self, issuer: &str) -> Result<Vec<(Option<String>, ForeignKey)>, IssuerError> {
        let base = https(issuer).ok_or(IssuerError::Address)?;
        if base.query().is_some() || base.fragment().is_some() {
            return Err(IssuerError::Address);
        }
        let address = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let address = https(&address).ok_or(IssuerError::Address)?;
        let document: DiscoveryDocument = self.get(address).await?;
        if document.issuer != issuer {
            return Err(IssuerError::OtherIssuer);
        }
        let address = https(&document.jwks_uri).ok_or(IssuerError::KeysAddress)?;
        let document: KeyDocument = self.get(address).await?;
        let keys: Vec<_> = document
            .keys
            .iter()
            .take(MAXIMUM_ISSUER_KEYS)
            .filter_map(|key| {
                let kid = key.get("kid").and_then(Value::as_str).map(str::to_owned);
                ForeignKey::of_json_web_key(key).ok().map(|key| (kid, key))
            })
            .collect();
        if keys.is_empty() {
            return Err(IssuerError::NoKeys);
        }
        Ok(keys)
    }

    async fn get<T: DeserializeOwned>(&self, address: reqwest::Url) -> Result<T, IssuerError> {
        let unreachable = || IssuerError::Unreachable(address.to_string());
        let bad = || IssuerError::Answer(address.to_string());
        let request = self
            .client
            .get(address.clone())
            .header("accept", "application/json");
        let mut response = request.send().await.map_err(|error| {
            tracing::debug!(error.cause = %service::errors::chain(&error), "an external issuer does not answer");
            unreachable()
        })?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(bad());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| unreachable())? {
            body.extend_from_slice(&chunk);
            if body.len() > MAXIMUM_ISSUER_ANSWER_BYTES {
                return Err(bad());
            }
        }
        serde_json::from_slice(&body).map_err(|_| bad())
    }
}

impl Known {
    /// Whether the issuer is to be asked: never more than once a minute when it answered last, once in a few seconds when it did not.
    fn wants_asking(&self, kid: Option<&str>, now: OffsetDateTime) -> bool {
        let interval = match &self.asked {
            None => return true,
            Some((_, None)) => ISSUER_FETCH_INTERVAL,
            Some((_, Some(_))) => ISSUER_RETRY_INTERVAL,
        };
        let is_allowed = self
            .asked
            .as_ref()
            .is_none_or(|(asked_at, _)| now - *asked_at >= interval);
        let is_wanted = self.keys.as_ref().is_none_or(|keys| {
            now - keys.fetched_at >= ISSUER_KEYS_REFRESH || keys.of(kid).is_none()
        });
        is_allowed && is_wanted
    }

    fn key(&self, kid: Option<&str>, now: OffsetDateTime) -> Result<ForeignKey, IssuerError> {
        let fault = self.asked.as_ref().and_then(|(_, error)| error.clone());
        match &self.keys {
            // An issuer that says something wrong now is not believed what it said before.
            Some(keys)
                if now - keys.fetched_at < ISSUER_KEYS_LIFETIME
                    && fault.as_ref().is_none_or(IssuerError::is_passing) =>
            {
                keys.of(kid).cloned().ok_or(IssuerError::UnknownKey)
            }
            _ => Err(fault.unwrap_or(IssuerError::NoKeys)),
        }
    }
}

impl Keys {
    /// The key of that name; the only key there is when a token names none.
    fn of(&self, kid: Option<&str>) -> Option<&ForeignKey> {
        match kid {
            Some(kid) => self
                .keys
                .iter()
                .find(|(known, _)| known.as_deref() == Some(kid))
                .map(|(_, key)| key),
            None => match self.keys.as_slice() {
                [(_, only)] => Some(only),
                _ => None,
            },
        }
    }
}

/// An https URL with a host and nobody's name in it.
fn https(text: &str) -> Option<reqwest::Url> {
    let url = reqwest::Url::parse(text).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none();
    (url.scheme() == "https" && url.has_host() && is_plain).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

    fn key() -> ForeignKey {
        let key = credentials::SigningKey::generate("a").public();
        let key = serde_json::to_value(key).expect("JSON");
        ForeignKey::of_json_web_key(&key).expect("a key")
    }

    fn known(kid: &str, asked: Option<IssuerError>) -> Known {
        Known {
            keys: Some(Keys {
                keys: vec![(Some(kid.to_owned()), key())],
                fetched_at: NOW,
            }),
            asked: Some((NOW, asked)),
        }
    }

    #[test]
    fn an_unknown_kid_asks_again_at_most_once_a_minute() {
        let known = known("a", None);
        assert!(!known.wants_asking(Some("a"), NOW + Duration::minutes(4)));
        assert!(!known.wants_asking(Some("b"), NOW + Duration::seconds(59)));
        assert!(known.wants_asking(Some("b"), NOW + Duration::seconds(60)));
        assert!(known.wants_asking(Some("a"), NOW + ISSUER_KEYS_REFRESH));
        assert_eq!(
            known.key(Some("b"), NOW).map(|_| ()),
            Err(IssuerError::UnknownKey)
        );
    }

    #[test]
    fn keys_outlive_an_issuer_that_is_down_for_an_hour_and_one_that_lies_not_at_all() {
        let down = IssuerError::Unreachable("https://a".to_owned());
        let is_down = known("a", Some(down.clone()));
        let later = NOW + Duration::minutes(59);
        assert!(is_down.key(Some("a"), later).is_ok());
        let too_late = NOW + ISSUER_KEYS_LIFETIME;
        assert_eq!(is_down.key(Some("a"), too_late).map(|_| ()), Err(down));
        let lies = known("a", Some(IssuerError::OtherIssuer));
        let refused = lies.key(Some("a"), NOW).map(|_| ());
        assert_eq!(refused, Err(IssuerError::OtherIssuer));
    }

    #[test]
    fn only_https_is_asked() {
        for text in ["https://a.example", "https://a.example:8443/b/"] {
            assert!(https(text).is_some(), "{text}");
        }
        for text in ["http://a", "https://", "https://u@a", "file:///a", "a", ""] {
            assert!(https(text).is_none(), "{text}");
        }
    }
}
