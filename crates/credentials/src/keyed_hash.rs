//! What is remembered of a slow check that succeeded: a hash under a key that only this process has, and only while it runs.

use std::fmt;

use aws_lc_rs::hmac;

use crate::{PasswordVerifier, Randomness, Secret};

/// Makes [`KeyedHash`]es that nobody can make who does not have this process's memory.
pub struct KeyedHasher(hmac::Key);

/// Stands for a secret that matched a verifier. Useful as the key of a cache; a changed verifier gives another one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyedHash([u8; 32]);

impl KeyedHasher {
    /// With a fresh key.
    pub fn new(randomness: &dyn Randomness) -> Self {
        let mut key = zeroize::Zeroizing::new([0_u8; 32]);
        randomness.fill(key.as_mut());
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()))
    }

    /// The hash of a secret together with the verifier that it is checked against.
    pub fn hash(&self, verifier: &PasswordVerifier, candidate: &Secret) -> KeyedHash {
        let verifier = verifier.as_str().as_bytes();
        let length = u64::try_from(verifier.len()).expect("a verifier is short");
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&length.to_be_bytes());
        context.update(verifier);
        context.update(candidate.expose().as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        KeyedHash(hash)
    }
}

impl fmt::Debug for KeyedHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("KeyedHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandomness;

    #[test]
    fn a_hash_is_of_one_secret_one_verifier_and_one_key() {
        let secret = |text: &str| Secret::new(text.to_owned());
        let verifier = |text| PasswordVerifier::of(&secret(text), &SystemRandomness);
        let (one, other) = (verifier("correct horse"), verifier("correct horse"));
        let hasher = KeyedHasher::new(&SystemRandomness);
        let hash = hasher.hash(&one, &secret("correct horse"));
        assert_eq!(hash, hasher.hash(&one, &secret("correct horse")));
        assert_ne!(hash, hasher.hash(&one, &secret("correct horsf")));
        assert_ne!(hash, hasher.hash(&other, &secret("correct horse")));
        let of_another = KeyedHasher::new(&SystemRandomness);
        assert_ne!(hash, of_another.hash(&one, &secret("correct horse")));
    }
}
