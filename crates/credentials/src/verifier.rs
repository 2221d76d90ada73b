//! What is kept instead of a generated secret: enough to check one, nothing to recover it from.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{Randomness, Secret};

const SALT_LENGTH: usize = 16;
const HASH_LENGTH: usize = 32;
const VERIFIER_LENGTH: usize = SALT_LENGTH + HASH_LENGTH;

/// Salt and SHA-256 hash of a *generated* secret (256 random bits: no slow hash is needed).
///
/// Not secret, but of no use in a log: its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    salt: [u8; SALT_LENGTH],
    hash: [u8; HASH_LENGTH],
}

/// The bytes are not a verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a verifier is {VERIFIER_LENGTH} bytes: salt, then hash")]
pub struct MalformedVerifier;

impl Verifier {
    /// The verifier of a secret, under a fresh salt.
    pub fn of(secret: &Secret, randomness: &dyn Randomness) -> Self {
        let mut salt = [0_u8; SALT_LENGTH];
        randomness.fill(&mut salt);
        let hash = hash(&salt, secret.expose());
        Self { salt, hash }
    }

    /// Whether `candidate` is the secret, in a time that does not depend on where they differ.
    pub fn matches(&self, candidate: &str) -> bool {
        hash(&self.salt, candidate).ct_eq(&self.hash).into()
    }

    /// For a database column: 16 bytes of salt, then 32 of hash.
    pub fn to_bytes(&self) -> Vec<u8> {
        [self.salt.as_slice(), self.hash.as_slice()].concat()
    }

    /// The reverse of [`Verifier::to_bytes`].
    ///
    /// # Errors
    /// Bytes of any other length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MalformedVerifier> {
        let (salt, hash) = bytes
            .split_at_checked(SALT_LENGTH)
            .ok_or(MalformedVerifier)?;
        Ok(Self {
            salt: salt.try_into().map_err(|_| MalformedVerifier)?,
            hash: hash.try_into().map_err(|_| MalformedVerifier)?,
        })
    }
}

fn hash(salt: &[u8; SALT_LENGTH], text: &str) -> [u8; HASH_LENGTH] {
    Sha256::new()
        .chain_update(salt)
        .chain_update(text.as_bytes())
        .finalize()
        .into()
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Verifier(..)")
    }
}

/// One base64 string (64 characters) of [`Verifier::to_bytes`].
impl Serialize for Verifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD_NO_PAD.encode(self.to_bytes()))
    }
}

impl<'de> Deserialize<'de> for Verifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = STANDARD_NO_PAD
            .decode(text.as_bytes())
            .map_err(|_| de::Error::custom("a verifier is a base64 string"))?;
        Self::from_bytes(&bytes).map_err(de::Error::custom)
    }
}
