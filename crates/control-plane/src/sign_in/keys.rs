//! The keys that sign access tokens: sealed in the database, opened in memory, the same for all replicas.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use credentials::{KeyError, KeyRing, OpenError, PublicKey, SigningKey, TokenVerifier};
use parking_lot::RwLock;
use store::config::Published;
use store::installation::Installation;
use store::sign_in_keys::{FormerKeys, SignInKey, TokenLifetimes};
use store::{Store, StoreError};
use time::OffsetDateTime;
use uuid::Uuid;

use super::audience::Audience;
use super::tenant::TenantForm;
use crate::limits::{EXCHANGED_TOKEN_LIFETIME, SIGN_IN_KEY_LEAD, TOKEN_LIFETIME};
use crate::sealing::of_sign_in_key;

const LIFETIMES: TokenLifetimes = TokenLifetimes {
    signed: TOKEN_LIFETIME,
    exchanged: EXCHANGED_TOKEN_LIFETIME,
};

/// Why there are no keys to sign in with.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    #[error("the sign-in keys cannot be read")]
    Store(#[from] StoreError),
    #[error("the sign-in key '{kid}' cannot be opened with the key-encryption keys")]
    Sealed {
        kid: String,
        #[source]
        source: OpenError,
    },
    #[error("the installation seals with the key-encryption key {0}, which is not in the file")]
    SealingKey(String),
    #[error("the authorities by which external issuers are trusted cannot be read")]
    IssuerAuthorities(#[source] service::tls::TlsError),
    #[error("the sign-in key '{kid}' is damaged")]
    Damaged {
        kid: String,
        #[source]
        source: KeyError,
    },
}

/// Makes a signing key when there is none in use, and tells nodes the keys. For `admin init`; a control plane that starts does it too.
///
/// # Errors
/// Those of the database; that there is no installation is one.
pub async fn ensure_key(
    store: &Store,
    key_ring: &KeyRing,
    now: OffsetDateTime,
) -> Result<(), SignInError> {
    let installation = store.installation().await?;
    let keys = read_first(store, key_ring, now).await?;
    publish(store, &keys, &Addressing::of(&installation), now).await
}

/// Makes a key when there is none in use.
async fn make_key(
    store: &Store,
    key_ring: &KeyRing,
    now: OffsetDateTime,
) -> Result<(), SignInError> {
    let kid = Uuid::new_v4().to_string();
    let key = SigningKey::generate(&kid);
    let created = store
        .sign_in_key_create_if_none(&SignInKey {
            sealed_private: key_ring.seal(key.pkcs8(), &of_sign_in_key(&kid)),
            kid: kid.clone(),
            // The first key has no one before it who could sign meanwhile.
            not_before: now,
            retired_at: None,
        })
        .await?;
    if created {
        tracing::info!(key.kid = kid, "made a key to sign access tokens with");
    }
    Ok(())
}

/// A new key, and what becomes of those before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    pub kid: String,
    pub signs_from: OffsetDateTime,
    /// From then on nothing that the keys before signed counts.
    pub former_end_at: OffsetDateTime,
    pub published: Published,
}

/// Makes a new key to sign with. It is shown to everybody who verifies before it signs; those before it go on signing until then, and verify
/// for as long as a token is good. With [`FormerKeys::Revoke`] the new one signs at once, and nothing counts that the others signed.
///
/// # Errors
/// Those of the database, and that the installation seals with a key that is not in the ring.
pub async fn rotate_key(
    store: &Store,
    key_ring: &KeyRing,
    former: FormerKeys,
    now: OffsetDateTime,
) -> Result<Rotation, SignInError> {
    let installation = store.installation().await?;
    let seals = &installation.key_encryption_fingerprint;
    if !key_ring.seal_with(seals) {
        return Err(SignInError::SealingKey(seals.clone()));
    }
    let (signs_from, former_end_at) = match former {
        FormerKeys::Retire => {
            let signs_from = now + SIGN_IN_KEY_LEAD;
            (signs_from, signs_from + TOKEN_LIFETIME)
        }
        FormerKeys::Revoke => (now, now),
    };
    let kid = Uuid::new_v4().to_string();
    let key = SigningKey::generate(&kid);
    let row = SignInKey {
        sealed_private: key_ring.seal(key.pkcs8(), &of_sign_in_key(&kid)),
        kid: kid.clone(),
        not_before: signs_from,
        retired_at: None,
    };
    let document = Addressing::of(&installation).document(key.public(), None);
    let published = store
        .sign_in_key_rotate(&row, document, former, TOKEN_LIFETIME)
        .await?;
    Ok(Rotation {
        kid,
        signs_from,
        former_end_at,
        published,
    })
}

/// What tokens of this installation say of their issuer, and of whom they are for.
struct Addressing {
    tenant_id: Uuid,
    issuers: Vec<String>,
    audiences: Vec<String>,
}

impl Addressing {
    fn of(installation: &Installation) -> Self {
        let (url, tenant_id) = (&installation.public_url, installation.tenant_id);
        Self {
            tenant_id,
            issuers: TenantForm::issuers(url, tenant_id).to_vec(),
            audiences: [Audience::ControlPlane, Audience::Registry]
                .map(|audience| audience.claim(url).to_owned())
                .to_vec(),
        }
    }

    /// What nodes are told of a key.
    fn document(
        &self,
        public_key: PublicKey,
        ends_at: Option<OffsetDateTime>,
    ) -> config_documents::SignInKey {
        config_documents::SignInKey {
            public_key,
            tenant_id: self.tenant_id,
            issuers: self.issuers.clone(),
            audiences: self.audiences.clone(),
            ends_at,
        }
    }
}

/// Tells nodes the keys, if they do not know them.
async fn publish(
    store: &Store,
    keys: &OpenedKeys,
    addressing: &Addressing,
    now: OffsetDateTime,
) -> Result<(), SignInError> {
    let documents: Vec<config_documents::SignInKey> = keys
        .in_order
        .iter()
        .map(|key| {
            let ends_at = key.retired_at.map(|retired_at| retired_at + TOKEN_LIFETIME);
            addressing.document(key.signing.public(), ends_at)
        })
        .collect();
    let published = store
        .sign_in_keys_publish(&documents, LIFETIMES, now)
        .await?;
    if let Some(published) = published {
        tracing::info!(
            config.revision = published.revision.0,
            "nodes are told the keys that access tokens are signed with"
        );
    }
    Ok(())
}

/// The keys in memory.
pub(super) struct KeySet {
    store: Store,
    key_ring: Arc<KeyRing>,
    addressing: Addressing,
    opened: RwLock<Arc<OpenedKeys>>,
}

/// The keys as they were read last.
pub(super) struct OpenedKeys {
    /// In the order of their first use.
    in_order: Vec<Arc<OpenedKey>>,
    by_kid: HashMap<String, Arc<OpenedKey>>,
    /// Those of the database that cannot be opened here, by kid, and why.
    faults: BTreeMap<String, SignInError>,
}

/// A key, ready to sign and to verify.
pub(super) struct OpenedKey {
    pub(super) signing: Arc<SigningKey>,
    pub(super) verifier: TokenVerifier,
    not_before: OffsetDateTime,
    retired_at: Option<OffsetDateTime>,
}

impl KeySet {
    pub(super) async fn load(
        store: Store,
        key_ring: Arc<KeyRing>,
        installation: &Installation,
        now: OffsetDateTime,
    ) -> Result<Self, SignInError> {
        let addressing = Addressing::of(installation);
        let opened = read_first(&store, &key_ring, now).await?;
        publish(&store, &opened, &addressing, now).await?;
        Ok(Self {
            store,
            key_ring,
            addressing,
            opened: RwLock::new(Arc::new(opened)),
        })
    }

    /// Reads the keys again, and tells nodes what they do not know of them. What the database has no more counts no more, whatever else is
    /// wrong with the others.
    pub(super) async fn refresh(&self, now: OffsetDateTime) -> Result<(), SignInError> {
        let before = self.current();
        let opened = Arc::new(read(&self.store, &self.key_ring, &before, now).await?);
        *self.opened.write() = Arc::clone(&opened);
        publish(&self.store, &opened, &self.addressing, now).await
    }

    pub(super) fn current(&self) -> Arc<OpenedKeys> {
        Arc::clone(&self.opened.read())
    }

    #[cfg(test)]
    pub(super) fn of_keys(keys: Vec<(SigningKey, OffsetDateTime, Option<OffsetDateTime>)>) -> Self {
        let keys = keys.into_iter().map(|(key, not_before, retired_at)| {
            OpenedKey::new(Arc::new(key), not_before, retired_at)
        });
        let store = Store::open("postgres://localhost/unused").expect("the URL is well formed");
        let key_ring =
            KeyRing::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").expect("32 bytes");
        Self {
            store,
            key_ring: Arc::new(key_ring),
            addressing: Addressing {
                tenant_id: Uuid::nil(),
                issuers: Vec::new(),
                audiences: Vec::new(),
            },
            opened: RwLock::new(Arc::new(OpenedKeys::new(keys.collect(), BTreeMap::new()))),
        }
    }
}

impl OpenedKeys {
    fn new(keys: Vec<OpenedKey>, faults: BTreeMap<String, SignInError>) -> Self {
        let in_order: Vec<Arc<OpenedKey>> = keys.into_iter().map(Arc::new).collect();
        let by_kid = in_order
            .iter()
            .map(|key| (key.signing.kid().to_owned(), Arc::clone(key)))
            .collect();
        Self {
            in_order,
            by_kid,
            faults,
        }
    }

    fn none() -> Self {
        Self::new(Vec::new(), BTreeMap::new())
    }

    /// Opens what can be opened. Of a key that was opened before, the private part is the same for ever: it stays when its row cannot be
    /// opened any more. Public parts are taken from private ones only.
    fn open(rows: Vec<SignInKey>, key_ring: &KeyRing, before: &Self) -> Self {
        let mut keys = Vec::with_capacity(rows.len());
        let mut faults = BTreeMap::new();
        for row in rows {
            let signing = match open(&row, key_ring) {
                Ok(signing) => Arc::new(signing),
                Err(error) => {
                    let known = before.by_kid.get(&row.kid);
                    if !before.faults.contains_key(&row.kid) {
                        tracing::error!(
                            error.cause = %service::errors::chain(&error),
                            key.kid = row.kid,
                            key.in_use = known.is_some(),
                            "a key that signs access tokens cannot be opened here"
                        );
                    }
                    faults.insert(row.kid, error);
                    let Some(known) = known else { continue };
                    Arc::clone(&known.signing)
                }
            };
            keys.push(OpenedKey::new(signing, row.not_before, row.retired_at));
        }
        Self::new(keys, faults)
    }

    /// The key to sign with now: the newest whose time has come.
    pub(super) fn signing(&self, now: OffsetDateTime) -> Option<&SigningKey> {
        self.in_order
            .iter()
            .rev()
            .find(|key| {
                key.not_before <= now && key.retired_at.is_none_or(|retired_at| retired_at > now)
            })
            .map(|key| &*key.signing)
    }

    /// The key of that name, while tokens that it signed can be good.
    pub(super) fn verifying(&self, kid: &str, now: OffsetDateTime) -> Option<&TokenVerifier> {
        self.by_kid
            .get(kid)
            .filter(|key| key.verifies(now))
            .map(|key| &key.verifier)
    }

    /// The public parts of all keys that verifiers may meet, those that do not sign yet among them.
    pub(super) fn public(&self, now: OffsetDateTime) -> Vec<PublicKey> {
        self.in_order
            .iter()
            .filter(|key| key.verifies(now))
            .map(|key| key.signing.public())
            .collect()
    }
}

impl OpenedKey {
    fn new(
        signing: Arc<SigningKey>,
        not_before: OffsetDateTime,
        retired_at: Option<OffsetDateTime>,
    ) -> Self {
        let verifier = TokenVerifier::new(&signing.public());
        Self {
            signing,
            verifier,
            not_before,
            retired_at,
        }
    }

    fn verifies(&self, now: OffsetDateTime) -> bool {
        self.retired_at
            .is_none_or(|retired_at| now < retired_at + TOKEN_LIFETIME)
    }
}

/// The keys for whoever has none yet: that none of them can be opened is an error then.
async fn read_first(
    store: &Store,
    key_ring: &KeyRing,
    now: OffsetDateTime,
) -> Result<OpenedKeys, SignInError> {
    let mut opened = read(store, key_ring, &OpenedKeys::none(), now).await?;
    if opened.in_order.is_empty()
        && let Some((_, fault)) = opened.faults.pop_last()
    {
        return Err(fault);
    }
    Ok(opened)
}

async fn read(
    store: &Store,
    key_ring: &KeyRing,
    before: &OpenedKeys,
    now: OffsetDateTime,
) -> Result<OpenedKeys, SignInError> {
    let retired_since = now - LIFETIMES.after_last_signature();
    let mut rows = store.sign_in_key_list(retired_since).await?;
    if rows.iter().all(|row| row.retired_at.is_some()) {
        make_key(store, key_ring, now).await?;
        rows = store.sign_in_key_list(retired_since).await?;
    }
    Ok(OpenedKeys::open(rows, key_ring, before))
}

fn open(row: &SignInKey, key_ring: &KeyRing) -> Result<SigningKey, SignInError> {
    let pkcs8 = key_ring
        .open(&row.sealed_private, &of_sign_in_key(&row.kid))
        .map_err(|source| SignInError::Sealed {
            kid: row.kid.clone(),
            source,
        })?;
    SigningKey::from_pkcs8(&row.kid, &pkcs8).map_err(|source| SignInError::Damaged {
        kid: row.kid.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::Duration;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00 UTC);

    fn opened(keys: [(&'static str, Duration, Option<Duration>); 3]) -> OpenedKeys {
        OpenedKeys::new(
            keys.into_iter()
                .map(|(kid, not_before, retired_at)| {
                    let retired_at = retired_at.map(|retired_at| NOW + retired_at);
                    let signing = Arc::new(SigningKey::generate(kid));
                    OpenedKey::new(signing, NOW + not_before, retired_at)
                })
                .collect(),
            BTreeMap::new(),
        )
    }

    #[test]
    fn a_key_is_shown_before_it_signs_and_verifies_after_it_signed() {
        let keys = opened([
            ("old", Duration::days(-9), Some(Duration::minutes(-30))),
            ("now", Duration::days(-1), None),
            ("next", Duration::minutes(10), None),
        ]);
        let signing = |now| keys.signing(now).map(SigningKey::kid);
        assert_eq!(signing(NOW), Some("now"));
        assert_eq!(signing(NOW + Duration::minutes(10)), Some("next"));
        let shown = |now| -> Vec<String> {
            keys.public(now)
                .iter()
                .map(|key| key.kid().to_owned())
                .collect()
        };
        assert_eq!(shown(NOW), ["old", "now", "next"]);
        assert!(keys.verifying("old", NOW).is_some());
        assert_eq!(shown(NOW + Duration::minutes(30)), ["now", "next"]);
        assert!(keys.verifying("old", NOW + Duration::minutes(30)).is_none());
        assert!(keys.verifying("unknown", NOW).is_none());
    }

    #[test]
    fn a_sealed_key_opens_only_in_its_own_row() {
        let ring =
            KeyRing::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").expect("32 bytes");
        let key = SigningKey::generate("a");
        let row = |kid: &str| SignInKey {
            kid: kid.to_owned(),
            sealed_private: ring.seal(key.pkcs8(), &of_sign_in_key("a")),
            not_before: NOW,
            retired_at: None,
        };
        let opened = open(&row("a"), &ring).expect("it is its row");
        assert_eq!(opened.public(), key.public());
        assert!(matches!(
            open(&row("b"), &ring),
            Err(SignInError::Sealed {
                source: OpenError::Tampered,
                ..
            })
        ));
    }

    #[test]
    fn what_cannot_be_opened_keeps_nothing_else_from_being_known_and_stays_if_it_was_opened_before()
    {
        let ring =
            KeyRing::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").expect("32 bytes");
        let row = |kid: &str, is_damaged: bool| {
            let mut sealed = ring.seal(SigningKey::generate(kid).pkcs8(), &of_sign_in_key(kid));
            if is_damaged {
                sealed.reverse();
            }
            SignInKey {
                kid: kid.to_owned(),
                sealed_private: sealed,
                not_before: NOW,
                retired_at: None,
            }
        };
        let first = OpenedKeys::open(
            vec![row("a", false), row("b", false)],
            &ring,
            &OpenedKeys::none(),
        );
        let public = first.public(NOW);
        // One is gone, one is damaged, one is new, and one is new and damaged.
        let mut known = row("b", true);
        known.retired_at = Some(NOW + Duration::minutes(1));
        let rows = vec![known, row("c", false), row("d", true)];
        let next = OpenedKeys::open(rows, &ring, &first);
        let kids: Vec<&str> = next.in_order.iter().map(|key| key.signing.kid()).collect();
        assert_eq!(kids, ["b", "c"]);
        assert_eq!(next.public(NOW).first(), public.last());
        let over = NOW + Duration::minutes(1) + TOKEN_LIFETIME;
        assert!(next.verifying("b", over).is_none(), "by its row of now");
        assert!(next.verifying("a", NOW).is_none());
        assert_eq!(next.faults.keys().collect::<Vec<_>>(), ["b", "d"]);
    }
}
