//! Keys of external issuers (OpenID Connect Discovery 1.0, 4): fetched over HTTPS within bounds, and kept for a while.
//!
//! Only an issuer that a federated credential names is ever asked. Anybody who may create an application can name one, and strangers make
//! it be asked: so few are asked at once, nobody waits for an answer while the key is at hand, and addresses of the inside are not asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use credentials::{ForeignKey, UnverifiedHeader};
use moka::sync::Cache;
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::{OwnedMutexGuard, Semaphore};

use super::issuer_addresses::{Resolver, is_allowed};
use crate::limits::{
    ISSUER_FETCH_INTERVAL, ISSUER_FETCH_TIMEOUT, ISSUER_FETCHES, ISSUER_KEYS_LIFETIME,
    ISSUER_KEYS_REFRESH, ISSUER_RETRY_INTERVAL, ISSUERS, MAXIMUM_ISSUER_ANSWER_BYTES,
    MAXIMUM_ISSUER_KEYS,
};

/// Why there is no key to verify a token with. Of those that pass the caller is told only that they do: otherwise it could look around in
/// the network with our eyes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum IssuerError {
    #[error("it is no https URL with a host and without user name, query and fragment")]
    Address,
    #[error("no answer can be had from {address}: {reason}")]
    Unreachable { address: String, reason: String },
    #[error(
        "{0} does not answer with status 200 and at most {MAXIMUM_ISSUER_ANSWER_BYTES} bytes of JSON"
    )]
    Answer(String),
    #[error("{0} is an address of the inside, which is asked only with --issuer-allow-private")]
    Inside(String),
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
        matches!(
            self,
            Self::Unreachable { .. } | Self::Answer(_) | Self::Inside(_)
        )
    }
}

/// The issuers that were asked.
pub(super) struct Issuers {
    asker: Arc<Asker>,
    issuers: Cache<String, Arc<Issuer>>,
}

/// What asks.
struct Asker {
    client: reqwest::Client,
    /// Where an issuer is asked.
    places: Semaphore,
    /// Whether addresses of the inside are asked too.
    allow_private: bool,
}

/// An issuer.
#[derive(Default)]
struct Issuer {
    known: Mutex<Known>,
    /// Held while it is asked.
    asking: Arc<tokio::sync::Mutex<()>>,
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
    /// `allow_private`: whether addresses are asked that are loopback, link-local or private.
    pub(super) fn new(tls: ClientConfig, allow_private: bool) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Resolver::new(allow_private))
            .timeout(ISSUER_FETCH_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true)
            // A connection belongs to the thread that opened it, and the next one is minutes away.
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self {
            asker: Arc::new(Asker {
                client,
                places: Semaphore::new(ISSUER_FETCHES),
                allow_private,
            }),
            issuers: Cache::new(ISSUERS),
        })
    }

    /// The key of an issuer that a token names.
    pub(super) async fn key(
        &self,
        name: &str,
        header: &UnverifiedHeader,
        now: OffsetDateTime,
    ) -> Result<ForeignKey, IssuerError> {
        let issuer = self
            .issuers
            .get_with(name.to_owned(), Arc::<Issuer>::default);
        let kid = header.kid.as_deref();
        let at_hand = issuer.known.lock().key(kid, now);
        if at_hand.is_ok() {
            // Whether it is still so is asked aside.
            if issuer.known.lock().wants_asking(kid, now)
                && let Ok(turn) = Arc::clone(&issuer.asking).try_lock_owned()
            {
                self.ask(&issuer, name, turn, now);
            }
            return at_hand;
        }
        // Whoever comes meanwhile waits, and finds what was fetched.
        let turn = Arc::clone(&issuer.asking).lock_owned().await;
        if issuer.known.lock().wants_asking(kid, now) {
            // It goes on when the caller does not wait any more.
            let _ = self.ask(&issuer, name, turn, now).await;
        }
        issuer.known.lock().key(kid, now)
    }

    /// Asks an issuer, and keeps what it says.
    fn ask(
        &self,
        issuer: &Arc<Issuer>,
        name: &str,
        turn: OwnedMutexGuard<()>,
        now: OffsetDateTime,
    ) -> tokio::task::JoinHandle<()> {
        let (asker, issuer, name) = (Arc::clone(&self.asker), Arc::clone(issuer), name.to_owned());
        let begun = Instant::now();
        {
            let mut known = issuer.known.lock();
            let fault = known.asked.take().and_then(|(_, fault)| fault);
            known.asked = Some((now, fault));
        }
        tokio::spawn(async move {
            let said = asker.keys_of(&name).await;
            let now = now + begun.elapsed();
            let mut known = issuer.known.lock();
            let fault = match said {
                Ok(keys) => {
                    known.keys = Some(Keys {
                        keys,
                        fetched_at: now,
                    });
                    None
                }
                Err(error) => {
                    tracing::warn!(
                        issuer = name,
                        error.cause = %error,
                        "the keys of an external issuer cannot be had"
                    );
                    Some(error)
                }
            };
            known.asked = Some((now, fault));
            drop(known);
            drop(turn);
        })
    }
}

impl Asker {
    /// The keys of an issuer, when its turn comes in time.
    async fn keys_of(
        &self,
        issuer: &str,
    ) -> Result<Vec<(Option<String>, ForeignKey)>, IssuerError> {
        let asked = async {
            let _place = self.places.acquire().await.expect("it is never closed");
            self.fetch(issuer).await
        };
        let both_answers: Duration = ISSUER_FETCH_TIMEOUT * 2;
        tokio::time::timeout(both_answers, asked)
            .await
            .unwrap_or_else(|_| {
                Err(IssuerError::Unreachable {
                    address: issuer.to_owned(),
                    reason: format!("it took more than {} seconds", both_answers.as_secs()),
                })
            })
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
        if !is_allowed(&address, self.allow_private) {
            return Err(IssuerError::Inside(address.to_string()));
        }
        let unreachable = |error: reqwest::Error| IssuerError::Unreachable {
            address: address.to_string(),
            reason: service::errors::chain(&error.without_url()).to_string(),
        };
        let bad = || IssuerError::Answer(address.to_string());
        let request = self
            .client
            .get(address.clone())
            .header("accept", "application/json");
        let mut response = request.send().await.map_err(unreachable)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(bad());
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
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
        let down = IssuerError::Inside("https://a".to_owned());
        let is_down = known("a", Some(down.clone()));
        let later = NOW + Duration::minutes(59);
        assert!(is_down.key(Some("a"), later).is_ok());
        let too_late = NOW + ISSUER_KEYS_LIFETIME;
        assert_eq!(is_down.key(Some("a"), too_late).map(|_| ()), Err(down));
        let lies = known("a", Some(IssuerError::OtherIssuer));
        let refused = lies.key(Some("a"), NOW).map(|_| ());
        assert_eq!(refused, Err(IssuerError::OtherIssuer));
    }

    #[tokio::test]
    async fn a_key_at_hand_is_used_while_the_issuer_does_not_answer() {
        service::install_crypto_provider();
        let tls = service::tls::client_config(None).expect("the system's authorities");
        let issuers = Issuers::new(tls, true).expect("a client");
        // It takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let name = format!("https://{}", silent.local_addr().expect("an address"));
        let issuer = Arc::new(Issuer {
            known: Mutex::new(known("a", None)),
            ..Issuer::default()
        });
        issuers.issuers.insert(name.clone(), Arc::clone(&issuer));
        let header = UnverifiedHeader {
            kid: Some("a".to_owned()),
            thumbprint_sha1: None,
            thumbprint_sha256: None,
        };
        let later = NOW + ISSUER_KEYS_REFRESH;
        let begun = Instant::now();
        for _ in 0..2 {
            assert!(issuers.key(&name, &header, later).await.is_ok());
        }
        assert!(begun.elapsed() < ISSUER_FETCH_TIMEOUT / 2);
        assert!(issuer.asking.try_lock().is_err(), "it is being asked");
        assert_eq!(issuer.known.lock().asked, Some((later, None)));
    }

    #[tokio::test]
    async fn addresses_of_the_inside_are_not_asked() {
        service::install_crypto_provider();
        let tls = service::tls::client_config(None).expect("the system's authorities");
        let issuers = Issuers::new(tls, false).expect("a client");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            let refused = issuers
                .asker
                .keys_of(&format!("https://{host}:{port}"))
                .await;
            let error = refused.map(|_| ()).expect_err(host);
            assert!(
                error.to_string().contains("--issuer-allow-private"),
                "{error}"
            );
            assert!(listener.accept().is_err(), "nobody knocked");
        }
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
