//! Hashes of content whose state between two requests can be kept in a record.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256, Sha512};

use crate::names::{Digest, DigestAlgorithm};

/// A running hash.
#[derive(Clone)]
pub(crate) enum ContentHasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl ContentHasher {
    pub(crate) fn new(algorithm: DigestAlgorithm) -> Self {
        match algorithm {
            DigestAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
            DigestAlgorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    pub(crate) fn digest(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::from_hash(DigestAlgorithm::Sha256, &hasher.finalize()),
            Self::Sha512(hasher) => Digest::from_hash(DigestAlgorithm::Sha512, &hasher.finalize()),
        }
    }

    /// The state as text for a record.
    pub(crate) fn midstate(&self) -> String {
        match self {
            Self::Sha256(hasher) => STANDARD.encode(hasher.serialize()),
            Self::Sha512(hasher) => STANDARD.encode(hasher.serialize()),
        }
    }

    /// The hash that continues from such a text, or `None` if the text is none of this algorithm.
    pub(crate) fn from_midstate(algorithm: DigestAlgorithm, midstate: &str) -> Option<Self> {
        let state = STANDARD.decode(midstate).ok()?;
        match algorithm {
            DigestAlgorithm::Sha256 => {
                let state = SerializedState::<Sha256>::try_from(state.as_slice()).ok()?;
                Sha256::deserialize(&state).ok().map(Self::Sha256)
            }
            DigestAlgorithm::Sha512 => {
                let state = SerializedState::<Sha512>::try_from(state.as_slice()).ok()?;
                Sha512::deserialize(&state).ok().map(Self::Sha512)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hash_goes_on_from_its_midstate(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            cut in 0_usize..600,
            long in any::<bool>(),
        ) {
            let algorithm = if long { DigestAlgorithm::Sha512 } else { DigestAlgorithm::Sha256 };
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut hasher = ContentHasher::new(algorithm);
            hasher.update(first);
            let mut continued =
                ContentHasher::from_midstate(algorithm, &hasher.midstate()).expect("own midstate");
            continued.update(second);
            let mut whole = ContentHasher::new(algorithm);
            whole.update(&bytes);
            prop_assert_eq!(continued.digest(), whole.digest());
        }

        #[test]
        fn text_that_is_no_midstate_is_refused(text in "[A-Za-z0-9+/]{0,80}") {
            prop_assert!(ContentHasher::from_midstate(DigestAlgorithm::Sha512, &text).is_none());
        }
    }
}
