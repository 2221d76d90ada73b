//! Secrets that somebody chose: checking one is slow on purpose, so few are checked at once, and one that was right is not checked again.

use std::sync::Arc;

use config_documents::ChosenSecret;
use credentials::{KeyedHash, KeyedHasher, PasswordVerifier, Secret, SystemRandomness};
use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use super::login::CredentialId;
use crate::limits::{
    CHOSEN_SECRET_REMEMBERED_FOR, CHOSEN_SECRET_WAIT, CHOSEN_SECRETS_AT_ONCE,
    CHOSEN_SECRETS_REMEMBERED,
};

/// What is left to check of a login.
pub(super) struct Candidates {
    object_id: Uuid,
    secrets: Vec<(Uuid, PasswordVerifier)>,
}

/// The places in which secrets are checked, and what is remembered of those that were right.
pub(super) struct ChosenSecrets {
    places: Arc<Semaphore>,
    hasher: KeyedHasher,
    remembered: Cache<KeyedHash, ()>,
}

/// A place to check in; free again when the check is over, also if nobody waits for its outcome any more.
pub(super) struct Place(OwnedSemaphorePermit);

impl Candidates {
    /// Those of a principal; `None` without any.
    pub(super) fn of<'a>(
        object_id: Uuid,
        secrets: impl Iterator<Item = &'a ChosenSecret>,
    ) -> Option<Self> {
        let secrets: Vec<_> = secrets
            .map(|secret| (secret.key_id, secret.verifier.clone()))
            .collect();
        (!secrets.is_empty()).then_some(Self { object_id, secrets })
    }

    /// Whose they are.
    pub(super) fn object_id(&self) -> Uuid {
        self.object_id
    }

    fn credential(&self, key_id: Uuid) -> CredentialId {
        CredentialId::Principal {
            object_id: self.object_id,
            key_id,
        }
    }
}

impl Default for ChosenSecrets {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(CHOSEN_SECRETS_AT_ONCE)),
            hasher: KeyedHasher::new(&SystemRandomness),
            remembered: Cache::builder()
                .max_capacity(CHOSEN_SECRETS_REMEMBERED)
                .time_to_live(CHOSEN_SECRET_REMEMBERED_FOR)
                .build(),
        }
    }
}

impl ChosenSecrets {
    /// The credential that a password was found to be lately. It was for the very verifier that is in force now.
    pub(super) fn recall(
        &self,
        candidates: &Candidates,
        password: &Secret,
    ) -> Option<CredentialId> {
        let is_remembered = |verifier: &PasswordVerifier| {
            let hash = self.hasher.hash(verifier, password);
            self.remembered.contains_key(&hash)
        };
        let mut secrets = candidates.secrets.iter();
        secrets
            .find(|(_, verifier)| is_remembered(verifier))
            .map(|(key_id, _)| candidates.credential(*key_id))
    }

    /// Waits for a place; `None` when none became free in time.
    pub(super) async fn place(&self) -> Option<Place> {
        let place = Arc::clone(&self.places).acquire_owned();
        let place = tokio::time::timeout(CHOSEN_SECRET_WAIT, place).await.ok()?;
        Some(Place(place.expect("it is never closed")))
    }

    /// The credential that a password is; what is found is remembered.
    pub(super) async fn check(
        &self,
        place: Place,
        candidates: Candidates,
        password: &Secret,
    ) -> Option<CredentialId> {
        let candidate = password.clone();
        let (found, candidates, place) = tokio::task::spawn_blocking(move || {
            let found = candidates
                .secrets
                .iter()
                .position(|(_, verifier)| verifier.matches(candidate.expose()));
            // Whoever asked may have given up; the work went on, and kept its place until now.
            (found, candidates, place)
        })
        .await
        .expect("a check neither panics nor is aborted");
        let (key_id, verifier) = &candidates.secrets[found?];
        self.remembered
            .insert(self.hasher.hash(verifier, password), ());
        // Only now: who has it next and brings the same secret finds it remembered.
        drop(place.0);
        Some(candidates.credential(*key_id))
    }
}
