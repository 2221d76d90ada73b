//! Sealing at rest: what binds a sealed value to its row, the key file as it changes while the process serves, and sealing everything anew
//! with another key.

use std::path::PathBuf;
use std::sync::Arc;

use credentials::{KeyRing, KeyRingError, OpenError};
use service::configuration::{ConfigurationError, require_secret};
use service::shutdown::Shutdown;
use store::sealing::{ControlPlane, SealedPlace};
use store::{Store, StoreError};
use uuid::Uuid;

use crate::limits::{KEY_FILE_INTERVAL, RESEALED_AT_ONCE, STATEMENT_TIMEOUT};

/// What binds a password of a registry's admin account to its row.
pub(crate) fn of_password(registry_uid: Uuid, slot: &str) -> Vec<u8> {
    format!("registry_passwords/{registry_uid}/{slot}").into_bytes()
}

/// What binds the private part of a key that signs access tokens to its row.
pub(crate) fn of_sign_in_key(kid: &str) -> Vec<u8> {
    format!("sign_in_keys/{kid}/private").into_bytes()
}

/// Why a key-encryption-key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error(transparent)]
    File(#[from] ConfigurationError),
    #[error("--key-encryption-key-file {} is no key ring", path.display())]
    Content {
        path: PathBuf,
        #[source]
        source: KeyRingError,
    },
}

/// A key-encryption-key file.
#[derive(Clone, Debug)]
pub struct KeyFile(pub PathBuf);

impl KeyFile {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, others may read it, or it holds something else.
    pub fn read(&self) -> Result<KeyRing, KeyFileError> {
        let text = require_secret("key-encryption-key", None, Some(&self.0))?;
        KeyRing::parse(&text).map_err(|source| KeyFileError::Content {
            path: self.0.clone(),
            source,
        })
    }
}

/// Keeps the ring as the file is, has the key seal that the installation says, and says in the database which keys this process has.
pub(crate) fn keep_keys(
    store: Store,
    key_ring: Arc<KeyRing>,
    file: Option<KeyFile>,
    instance_id: Uuid,
    shutdown: Shutdown,
) {
    tokio::spawn(async move {
        let mut faulty = false;
        while !shutdown.is_requested() {
            if let Some(file) = &file {
                faulty = take_up(&key_ring, file, faulty);
            }
            if let Err(error) = agree(&store, &key_ring, instance_id).await {
                tracing::debug!(error.cause = %service::errors::chain(&error), "the key-encryption keys of this process are not said yet");
            }
            tokio::select! {
                () = tokio::time::sleep(KEY_FILE_INTERVAL) => {}
                () = shutdown.wait() => {}
            }
        }
        let ended = store::within(STATEMENT_TIMEOUT, store.control_plane_ended(instance_id));
        // When it cannot be said, it shows by the silence.
        let _ = ended.await;
    });
}

/// Takes up a changed file; a faulty one changes nothing and is told once. Whether it is faulty.
fn take_up(key_ring: &KeyRing, file: &KeyFile, was_faulty: bool) -> bool {
    match file.read() {
        Ok(newer) => {
            if newer.fingerprints() != key_ring.fingerprints() {
                tracing::info!(keys = ?newer.fingerprints(), "the key-encryption-key file has changed and is taken up");
                key_ring.renew(newer);
            }
            false
        }
        Err(error) => {
            if !was_faulty {
                tracing::error!(
                    error.cause = %service::errors::chain(&error),
                    "the key-encryption-key file cannot be read any more; the keys known stay in use"
                );
            }
            true
        }
    }
}

async fn agree(store: &Store, key_ring: &KeyRing, instance_id: Uuid) -> Result<(), StoreError> {
    let say = || ControlPlane {
        instance_id,
        key_fingerprints: key_ring.fingerprints(),
        sealing_fingerprint: key_ring.fingerprint(),
    };
    let wanted = store::within(STATEMENT_TIMEOUT, store.control_plane_seen(&say())).await?;
    if wanted == key_ring.fingerprint() {
        return Ok(());
    }
    if !key_ring.seal_with(&wanted) {
        tracing::error!(
            key = wanted,
            "the key-encryption key that the installation seals with is not in this process's file"
        );
        return Ok(());
    }
    tracing::info!(key = wanted, "another key-encryption key seals from now on");
    store::within(STATEMENT_TIMEOUT, store.control_plane_seen(&say())).await?;
    Ok(())
}

/// Why not everything could be sealed anew.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{place:?} cannot be opened with the keys of the file")]
    Sealed {
        place: SealedPlace,
        #[source]
        source: OpenError,
    },
}

/// Seals with the ring's sealing key all that is sealed with another; how many there were. Control planes may serve meanwhile: what they change
/// is not touched, and seen at the next look.
///
/// # Errors
/// Something cannot be opened; what came before it is sealed anew, and nothing is lost.
pub async fn reseal(store: &Store, key_ring: &KeyRing) -> Result<u64, ResealError> {
    let fingerprint = key_ring.fingerprint();
    let mut resealed = 0;
    loop {
        let batch = store
            .sealed_otherwise(&fingerprint, RESEALED_AT_ONCE)
            .await?;
        if batch.is_empty() {
            return Ok(resealed);
        }
        let mut renewed = Vec::with_capacity(batch.len());
        for sealed in batch {
            let binding = match &sealed.place {
                SealedPlace::RegistryPassword { registry_uid, slot } => {
                    of_password(*registry_uid, slot)
                }
                SealedPlace::SignInKey { kid } => of_sign_in_key(kid),
            };
            let opened =
                key_ring
                    .open(&sealed.bytes, &binding)
                    .map_err(|source| ResealError::Sealed {
                        place: sealed.place.clone(),
                        source,
                    })?;
            let bytes = key_ring.seal(&opened, &binding);
            renewed.push((sealed, bytes));
        }
        resealed += store.sealed_replace(&renewed).await?;
    }
}
