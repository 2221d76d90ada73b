//! Checks that are slow on purpose: passwords, and secrets that somebody chose. Never twice for a chosen secret that was right.

use credentials::{KeyedHash, KeyedHasher, PasswordVerifier, Randomness, Secret};
use moka::sync::Cache;

use crate::limits::{REMEMBERED_SECRET_LIFETIME, REMEMBERED_SECRETS};
use crate::slow_work::{Busy, Place, SlowWork};

/// Where such checks run, and what is remembered of those that succeeded.
pub(super) struct SlowChecks {
    slow_work: SlowWork,
    hasher: KeyedHasher,
    remembered: Cache<KeyedHash, ()>,
    /// Of a password that nobody has: checked for a person who is not there, so that the time does not tell.
    decoy: PasswordVerifier,
}

impl SlowChecks {
    pub(super) fn new(slow_work: SlowWork, randomness: &dyn Randomness) -> Self {
        let nobodys =
            credentials::generate(credentials::SecretKind::ServicePrincipalSecret, randomness);
        Self {
            slow_work,
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
    pub(super) async fn place(&self) -> Result<Place, Busy> {
        self.slow_work.place().await
    }

    /// Whether a candidate is the password; the place is given back to go on with.
    pub(super) async fn matches(
        &self,
        place: Place,
        verifier: &PasswordVerifier,
        candidate: &Secret,
    ) -> (bool, Place) {
        let (verifier, candidate) = (verifier.clone(), candidate.clone());
        place
            .run(move || verifier.matches(candidate.expose()))
            .await
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
    async fn a_secret_is_remembered_with_its_verifier_only() {
        let checks = SlowChecks::new(SlowWork::default(), &SystemRandomness);
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
