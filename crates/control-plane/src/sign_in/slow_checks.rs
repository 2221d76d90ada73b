//! Checks that are slow on purpose: passwords, and secrets that somebody chose. Few at once, and never twice for a chosen secret that was
//! right.

use std::sync::Arc;

use credentials::{KeyedHash, KeyedHasher, PasswordVerifier, Randomness, Secret};
use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::refusal::Refusal;
use crate::limits::{REMEMBERED_SECRET_LIFETIME, REMEMBERED_SECRETS, SLOW_CHECK_WAIT, SLOW_CHECKS};

/// The places in which such checks run, and what is remembered of those that succeeded.
pub(super) struct SlowChecks {
    places: Arc<Semaphore>,
    hasher: KeyedHasher,
    remembered: Cache<KeyedHash, ()>,
    /// Of a password that nobody has: checked for a person who is not there, so that the time does not tell.
    decoy: PasswordVerifier,
}

/// A place to check in; free again when the check is over, also if nobody waits for its outcome any more.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl SlowChecks {
    pub(super) fn new(randomness: &dyn Randomness) -> Self {
        let nobodys =
            credentials::generate(credentials::SecretKind::ServicePrincipalSecret, randomness);
        Self {
            places: Arc::new(Semaphore::new(SLOW_CHECKS)),
            hasher: KeyedHasher::new(randomness),
            remembered: Cache::builder()
                .max_capacity(REMEMBERED_SECRETS)
                .time_to_live(REMEMBERED_SECRET_LIFETIME)
                .build(),
            decoy: PasswordVerifier::of(&nobodys, randomness),
        }
    }

    pub(super) fn decoy(&self) -> &PasswordVerifier {
        &self.decoy
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// None became free in time.
    pub(super) async fn place(&self) -> Result<Place, Refusal> {
        let place = Arc::clone(&self.places).acquire_owned();
        match tokio::time::timeout(SLOW_CHECK_WAIT, place).await {
            Ok(permit) => Ok(Place {
                _permit: permit.expect("it is never closed"),
            }),
            Err(_) => Err(Refusal::busy()),
        }
    }

    /// Whether a candidate is the password; the place is given back to go on with.
    pub(super) async fn matches(
        &self,
        place: Place,
        verifier: &PasswordVerifier,
        candidate: &Secret,
    ) -> (bool, Place) {
        let (verifier, candidate) = (verifier.clone(), candidate.clone());
        // Whoever asked may give up; the work goes on, and keeps its place until it is done.
        tokio::task::spawn_blocking(move || (verifier.matches(candidate.expose()), place))
            .await
            .expect("a check neither panics nor is aborted")
    }

    /// Remembers that a secret is right for as long as its verifier is the same.
    pub(super) fn remember(&self, verifier: &PasswordVerifier, secret: &Secret) {
        self.remembered
            .insert(self.hasher.hash(verifier, secret), ());
    }

    /// Whether a secret was right lately.
    pub(super) fn is_remembered(&self, verifier: &PasswordVerifier, candidate: &Secret) -> bool {
        self.remembered
            .contains_key(&self.hasher.hash(verifier, candidate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use credentials::SystemRandomness;

    #[tokio::test]
    async fn no_more_run_at_once_than_there_are_places() {
        let checks = SlowChecks::new(&SystemRandomness);
        let mut taken = Vec::new();
        for _ in 0..SLOW_CHECKS {
            taken.push(checks.place().await.expect("a place is free"));
        }
        assert_eq!(checks.places.available_permits(), 0);
        let place = taken.pop().expect("one was taken");
        let (matches, place) = checks
            .matches(place, checks.decoy(), &Secret::new("x".to_owned()))
            .await;
        assert!(!matches);
        assert_eq!(checks.places.available_permits(), 0);
        drop(place);
        assert_eq!(checks.places.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_secret_is_remembered_with_its_verifier_only() {
        let checks = SlowChecks::new(&SystemRandomness);
        let secret = Secret::new("correct horse battery".to_owned());
        let verifier = PasswordVerifier::of(&secret, &SystemRandomness);
        assert!(!checks.is_remembered(&verifier, &secret));
        checks.remember(&verifier, &secret);
        assert!(checks.is_remembered(&verifier, &secret));
        assert!(!checks.is_remembered(&verifier, &Secret::new("another".to_owned())));
        let renewed = PasswordVerifier::of(&secret, &SystemRandomness);
        assert!(!checks.is_remembered(&renewed, &secret));
    }
}
