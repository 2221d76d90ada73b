//! What is kept instead of a secret that a person chose: checking one is slow on purpose.

use std::fmt;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{CustomizedPasswordHasher, PasswordVerifier as _, phc},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Randomness, Secret};

const SALT_LENGTH: usize = 16;
/// What a verifier may ask for of memory, in KiB, and of passes: one that asks for more was not made here, and would hold up whoever
/// checks it.
const MEMORY_MAXIMUM: u32 = 64 * 1024;
const PASSES_MAXIMUM: u32 = 4;

/// An Argon2id hash with its salt and parameters, in PHC string format. Checking one takes tens of milliseconds and 19 MiB: whoever does
/// bounds how many are checked at once.
///
/// Not secret, but of no use in a log: its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordVerifier(String);

/// The text is not a verifier that this build would check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a password's verifier is an Argon2id hash in PHC string format, of at most {MEMORY_MAXIMUM} KiB and {PASSES_MAXIMUM} passes"
)]
pub struct MalformedPasswordVerifier;

impl PasswordVerifier {
    /// The verifier of a password, under a fresh salt, with the parameters that OWASP recommends (19 MiB, two passes).
    pub fn of(password: &Secret, randomness: &dyn Randomness) -> Self {
        let mut salt = [0_u8; SALT_LENGTH];
        randomness.fill(&mut salt);
        let hash: phc::PasswordHash = Argon2::default()
            .hash_password_customized(
                password.expose().as_bytes(),
                &salt,
                Some(Algorithm::Argon2id.ident().as_str()),
                Some(Version::default().into()),
                Params::DEFAULT,
            )
            .expect("the salt's length and the parameters are within Argon2's limits");
        Self(hash.to_string())
    }

    /// Whether `candidate` is the password. Slow.
    pub fn matches(&self, candidate: &str) -> bool {
        phc::PasswordHash::new(&self.0).is_ok_and(|hash| {
            Argon2::default()
                .verify_password(candidate.as_bytes(), &hash)
                .is_ok()
        })
    }

    /// In PHC string format.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The reverse of [`PasswordVerifier::as_str`].
    ///
    /// # Errors
    /// Anything but an Argon2id hash of bounded cost.
    pub fn parse(text: &str) -> Result<Self, MalformedPasswordVerifier> {
        let hash = phc::PasswordHash::new(text).map_err(|_| MalformedPasswordVerifier)?;
        let params = Params::try_from(&hash).map_err(|_| MalformedPasswordVerifier)?;
        let is_ours = hash.algorithm == Algorithm::Argon2id.ident()
            && hash.salt.is_some()
            && hash.hash.is_some()
            && params.m_cost() <= MEMORY_MAXIMUM
            && params.t_cost() <= PASSES_MAXIMUM
            && params.p_cost() == 1;
        is_ours
            .then(|| Self(text.to_owned()))
            .ok_or(MalformedPasswordVerifier)
    }
}

impl fmt::Debug for PasswordVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PasswordVerifier(..)")
    }
}

impl Serialize for PasswordVerifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PasswordVerifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SystemRandomness;

    #[test]
    fn a_password_matches_its_own_verifier_only_and_survives_being_written() {
        let password = Secret::new("correct horse battery".to_owned());
        let verifier = PasswordVerifier::of(&password, &SystemRandomness);
        assert!(verifier.matches("correct horse battery"));
        assert!(!verifier.matches("correct horse batterz"));
        assert!(!format!("{verifier:?}").contains("argon2"));
        let read = PasswordVerifier::parse(verifier.as_str()).expect("it is one");
        assert_eq!(read, verifier);
    }

    #[test]
    fn what_would_cost_too_much_or_is_something_else_is_refused() {
        let good = PasswordVerifier::of(&Secret::new("x".repeat(16)), &SystemRandomness);
        let text = good.as_str();
        for other in [
            text.replace("argon2id", "argon2d"),
            text.replace("m=19456", "m=1000000"),
            text.replace("t=2", "t=100"),
            text.rsplit_once('$').expect("a hash").0.to_owned(),
            String::new(),
        ] {
            assert_eq!(
                PasswordVerifier::parse(&other),
                Err(MalformedPasswordVerifier),
                "{other}"
            );
        }
    }
}
