//! Keys of external issuers (OpenID Connect Discovery 1.0, 4): fetched over HTTPS within bounds, and kept for a while.
//!
//! Only an issuer that a federated credential names is ever asked. Anybody who may create an application can name one, and strangers make
//! it be asked. So few are asked at once, those that have answered before apart from those that never did; one that fails is asked again later
//! and later; nobody waits for an answer while the key is at hand, and addresses of the inside are not asked.

use std::sync::Arc;
use std::time::Instant;

use credentials::{ForeignKey, UnverifiedHeader};
use moka::sync::Cache;
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::sync::OwnedMutexGuard;

use super::issuer_addresses::{Resolver, is_allowed};
use super::issuer_places::{Place, Places};
use crate::limits::{
    ISSUER_FETCH_INTERVAL, ISSUER_FETCH_TIMEOUT, ISSUER_KEYS_LIFETIME, ISSUER_KEYS_REFRESH,
    ISSUER_RETRY_INTERVAL, ISSUER_TURN_TIMEOUT, ISSUERS, MAXIMUM_ISSUER_ANSWER_BYTES,
    MAXIMUM_ISSUER_KEYS, MAXIMUM_ISSUER_RETRY_INTERVAL,
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
    #[error("its turn did not come: too many others are being asked")]
    Busy,
}

/// That there is no key to verify a token with.
#[derive(Debug)]
pub(super) struct NoKey {
    pub(super) error: IssuerError,
    /// Until the issuer is asked again.
    pub(super) wait: time::Duration,
}

impl IssuerError {
    /// Whether it may be over soon by itself.
    pub(super) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Answer(_) | Self::Inside(_) | Self::Busy
        )
    }
}

/// The issuers that were asked.
pub(super) struct Issuers {
    asker: Arc<Asker>,
    /// Those that have answered, kept apart so that no number of others pushes one out.
    answered: Cache<String, Arc<Issuer>>,
    /// Those that never did.
    strangers: Cache<String, Arc<Issuer>>,
}

/// What asks.
struct Asker {
    tls: ClientConfig,
    places_of_answered: Places,
    places_of_strangers: Places,
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
    /// How often it failed since it answered last.
    failures: u32,
}

/// Keys with their names.
type NamedKeys = Vec<(Option<String>, ForeignKey)>;

struct Keys {
    keys: NamedKeys,
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
    pub(super) fn new(tls: ClientConfig, allow_private: bool) -> Self {
        Self {
            asker: Arc::new(Asker {
                tls,
                places_of_answered: Places::new(),
                places_of_strangers: Places::new(),
                allow_private,
            }),
            answered: Cache::new(ISSUERS),
            strangers: Cache::new(ISSUERS),
        }
    }

    /// The key of an issuer that a token names.
    pub(super) async fn key(
        &self,
        name: &str,
        header: &UnverifiedHeader,
        now: OffsetDateTime,
    ) -> Result<ForeignKey, NoKey> {
        let begun = Instant::now();
        let issuer = self.issuer(name);
        let kid = header.kid.as_deref();
        let at_hand = issuer.known.lock().key(kid, now);
        if let Ok(key) = at_hand {
            // Whether it is still so is asked aside.
            if issuer.known.lock().wants_asking(kid, now)
                && let Ok(turn) = Arc::clone(&issuer.asking).try_lock_owned()
            {
                self.ask(&issuer, name, turn, now);
            }
            return Ok(key);
        }
        // Whoever comes meanwhile waits, and finds what was fetched.
        let turn = Arc::clone(&issuer.asking).lock_owned().await;
        let now_in_turn = now + begun.elapsed();
        if issuer.known.lock().wants_asking(kid, now_in_turn) {
            // It goes on when the caller does not wait any more.
            let _ = self.ask(&issuer, name, turn, now_in_turn).await;
        }
        let known = issuer.known.lock();
        let now = now + begun.elapsed();
        known.key(kid, now).map_err(|error| NoKey {
            error,
            wait: known.rest(now),
        })
    }

    fn issuer(&self, name: &str) -> Arc<Issuer> {
        self.answered.get(name).unwrap_or_else(|| {
            self.strangers
                .get_with(name.to_owned(), Arc::<Issuer>::default)
        })
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
        let (answered, strangers) = (self.answered.clone(), self.strangers.clone());
        let begun = Instant::now();
        let has_answered = {
            let mut known = issuer.known.lock();
            let fault = known.asked.take().and_then(|(_, fault)| fault);
            known.asked = Some((now, fault));
            known.keys.is_some()
        };
        tokio::spawn(async move {
            let said = asker.keys_of(&name, has_answered).await;
            let is_answer = said.is_ok();
            if let Err(error) = &said {
                tracing::warn!(
                    issuer = name,
                    error.cause = %error,
                    "the keys of an external issuer cannot be had"
                );
            }
            issuer.known.lock().take_up(said, now + begun.elapsed());
            if is_answer && !has_answered {
                answered.insert(name.clone(), issuer);
                strangers.invalidate(&name);
            }
            drop(turn);
        })
    }
}

impl Asker {
    /// The keys of an issuer.
    async fn keys_of(&self, issuer: &str, has_answered: bool) -> Result<NamedKeys, IssuerError> {
        let places = if has_answered {
            &self.places_of_answered
        } else {
            &self.places_of_strangers
        };
        let base = https(issuer).ok_or(IssuerError::Address)?;
        if base.query().is_some() || base.fragment().is_some() {
            return Err(IssuerError::Address);
        }
        let address = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        let address = https(&address).ok_or(IssuerError::Address)?;
        let document: DiscoveryDocument = self.get(address, places).await?;
        if document.issuer != issuer {
            return Err(IssuerError::OtherIssuer);
        }
        let address = https(&document.jwks_uri).ok_or(IssuerError::KeysAddress)?;
        let document: KeyDocument = self.get(address, places).await?;
        let keys: NamedKeys = document
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

    async fn get<T: DeserializeOwned>(
        &self,
        address: reqwest::Url,
        places: &Places,
    ) -> Result<T, IssuerError> {
        if !is_allowed(&address, self.allow_private) {
            return Err(IssuerError::Inside(address.to_string()));
        }
        let unreachable = |error: reqwest::Error| IssuerError::Unreachable {
            address: address.to_string(),
            reason: service::errors::chain(&error.without_url()).to_string(),
        };
        let bad = || IssuerError::Answer(address.to_string());
        // The keys may be at another host than the issuer, so each request takes a place of its own.
        let place = places.take(address.host_str().unwrap_or_default());
        let place = tokio::time::timeout(ISSUER_TURN_TIMEOUT, place)
            .await
            .map_err(|_| IssuerError::Busy)?;
        let client = self.client(place).map_err(unreachable)?;
        let request = client
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

    /// A client for one request: a lookup keeps the request's place, also when it takes longer than the request.
    fn client(&self, place: Place) -> reqwest::Result<reqwest::Client> {
        reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .dns_resolver(Resolver::new(Arc::new(place), self.allow_private))
            .timeout(ISSUER_FETCH_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true)
            .pool_max_idle_per_host(0)
            .build()
    }
}

impl Known {
    /// Whether the issuer is to be asked.
    fn wants_asking(&self, kid: Option<&str>, now: OffsetDateTime) -> bool {
        let is_wanted = self.keys.as_ref().is_none_or(|keys| {
            now - keys.fetched_at >= ISSUER_KEYS_REFRESH || keys.of(kid).is_none()
        });
        is_wanted && self.rest(now).is_zero()
    }

    /// How long the issuer is not asked yet: a minute when it answered last, and longer after each time that it did not.
    fn rest(&self, now: OffsetDateTime) -> time::Duration {
        let Some((asked_at, fault)) = &self.asked else {
            return time::Duration::ZERO;
        };
        let interval = match fault {
            None => ISSUER_FETCH_INTERVAL,
            Some(_) => retry_interval(self.failures),
        };
        (*asked_at + interval - now).max(time::Duration::ZERO)
    }

    /// Takes up what the issuer said when it was asked.
    fn take_up(&mut self, said: Result<NamedKeys, IssuerError>, now: OffsetDateTime) {
        let fault_before = self.asked.take().and_then(|(_, fault)| fault);
        let fault = match said {
            Ok(keys) => {
                self.keys = Some(Keys {
                    keys,
                    fetched_at: now,
                });
                self.failures = 0;
                None
            }
            // That is not its fault: what was wrong with it stays, and it does not wait for longer.
            Err(IssuerError::Busy) => Some(fault_before.unwrap_or(IssuerError::Busy)),
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                Some(error)
            }
        };
        self.asked = Some((now, fault));
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

/// After how long an issuer is asked again that failed so often.
fn retry_interval(failures: u32) -> time::Duration {
    // More doublings than any maximum needs, and few enough for the number.
    let doublings = failures.saturating_sub(1).min(16);
    (ISSUER_RETRY_INTERVAL * 2_i32.pow(doublings)).min(MAXIMUM_ISSUER_RETRY_INTERVAL)
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
            failures: 0,
        }
    }

    fn issuers(allow_private: bool) -> Issuers {
        service::install_crypto_provider();
        let tls = service::tls::client_config(None).expect("the system's authorities");
        Issuers::new(tls, allow_private)
    }

    fn header(kid: &str) -> UnverifiedHeader {
        UnverifiedHeader {
            kid: Some(kid.to_owned()),
            thumbprint_sha1: None,
            thumbprint_sha256: None,
        }
    }

    /// Answers nobody; at every address of the loopback.
    async fn silent() -> (tokio::net::TcpListener, u16) {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        (listener, port)
    }

    /// Whether an issuer is asked before any that is silent is given up.
    async fn is_asked(issuers: &Issuers, name: &str, listener: &tokio::net::TcpListener) -> bool {
        let header = header("a");
        tokio::select! {
            biased;
            accepted = listener.accept() => accepted.is_ok(),
            _ = issuers.key(name, &header, NOW) => false,
            () = tokio::time::sleep(ISSUER_FETCH_TIMEOUT / 2) => false,
        }
    }

    /// Has issuers asked that never answer; in the order of asking they are before whoever comes next.
    async fn ask_in_vain(issuers: &Arc<Issuers>, names: impl Iterator<Item = String>) {
        for name in names {
            let issuers = Arc::clone(issuers);
            tokio::spawn(async move { issuers.key(&name, &header("a"), NOW).await.map(|_| ()) });
        }
        // On one thread, each of what was spawned, and what that spawns, runs until it waits.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn paths_of_one_silent_host_keep_no_other_host_from_being_asked() {
        let issuers = Arc::new(issuers(true));
        let (_slow, slow_port) = silent().await;
        let slow = (0..20).map(|path| format!("https://127.0.0.1:{slow_port}/{path}"));
        ask_in_vain(&issuers, slow).await;
        let (other, port) = silent().await;
        let name = format!("https://127.0.0.2:{port}");
        assert!(is_asked(&issuers, &name, &other).await);
    }

    #[tokio::test]
    async fn many_that_never_answered_keep_none_that_did_from_being_asked() {
        let issuers = Arc::new(issuers(true));
        let (_slow, slow_port) = silent().await;
        let slow = (1..100).map(|host| format!("https://127.0.1.{host}:{slow_port}"));
        ask_in_vain(&issuers, slow).await;
        let (other, port) = silent().await;
        let name = format!("https://127.0.0.2:{port}");
        let mut known = known("a", None);
        known.keys.as_mut().expect("keys").fetched_at = NOW - ISSUER_KEYS_LIFETIME;
        known.asked = None;
        let issuer = Arc::new(Issuer {
            known: Mutex::new(known),
            ..Issuer::default()
        });
        issuers.answered.insert(name.clone(), issuer);
        assert!(is_asked(&issuers, &name, &other).await);
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_whose_turn_did_not_come_does_not_count_as_failed() {
        let issuers = issuers(true);
        let mut places = Vec::new();
        for host in 0..crate::limits::ISSUER_FETCHES {
            let host = format!("h{host}");
            places.push(issuers.asker.places_of_strangers.take(&host).await);
        }
        let name = "https://127.0.0.1:1";
        let refused = issuers.key(name, &header("a"), NOW).await;
        let error = refused.map(|_| ()).expect_err("all places are taken").error;
        assert_eq!(error, IssuerError::Busy);
        assert!(error.is_passing());
        assert_eq!(issuers.issuer(name).known.lock().failures, 0);
    }

    #[test]
    fn one_that_fails_is_asked_later_and_later_until_it_answers() {
        let mut known = Known::default();
        let mut now = NOW;
        let down = || Err(IssuerError::Inside("https://a".to_owned()));
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            assert!(known.wants_asking(Some("a"), now));
            known.take_up(down(), now);
            let interval = Duration::seconds(seconds);
            assert_eq!(known.rest(now), interval);
            assert!(!known.wants_asking(Some("a"), now + interval - Duration::SECOND));
            now += interval;
        }
        known.take_up(Err(IssuerError::Busy), now);
        let stays = known.key(Some("a"), now).map(|_| ());
        assert_eq!(stays, down().map(|_: NamedKeys| ()));
        assert_eq!(known.rest(now), MAXIMUM_ISSUER_RETRY_INTERVAL);
        known.take_up(Ok(vec![(Some("a".to_owned()), key())]), now);
        known.take_up(down(), now);
        assert_eq!(known.rest(now), ISSUER_RETRY_INTERVAL);
        known.failures = u32::MAX;
        known.take_up(down(), now);
        assert_eq!(known.rest(now), MAXIMUM_ISSUER_RETRY_INTERVAL);
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
        let issuers = issuers(true);
        // It takes connections and says nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let name = format!("https://{}", silent.local_addr().expect("an address"));
        let issuer = Arc::new(Issuer {
            known: Mutex::new(known("a", None)),
            ..Issuer::default()
        });
        issuers.answered.insert(name.clone(), Arc::clone(&issuer));
        let later = NOW + ISSUER_KEYS_REFRESH;
        let begun = Instant::now();
        for _ in 0..2 {
            assert!(issuers.key(&name, &header("a"), later).await.is_ok());
        }
        assert!(begun.elapsed() < ISSUER_FETCH_TIMEOUT / 2);
        assert!(issuer.asking.try_lock().is_err(), "it is being asked");
        assert_eq!(issuer.known.lock().asked, Some((later, None)));
    }

    #[tokio::test]
    async fn addresses_of_the_inside_are_not_asked() {
        let issuers = issuers(false);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a socket");
        let port = listener.local_addr().expect("an address").port();
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            let refused = issuers
                .asker
                .keys_of(&format!("https://{host}:{port}"), false)
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
