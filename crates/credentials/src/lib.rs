//! Secrets and what is made of them: generated secrets and their verifiers, sealing at rest, and
//! signed tokens.
//!
//! Pure: no I/O and no clock. Randomness comes in through [`Randomness`]; times are compared by
//! the caller with its own clock ([`check_times`]). What a secret is *for* (who may do what with
//! it) does not belong here.

mod certificate;
mod foreign_key;
mod key_ring;
mod keyed_hash;
mod password;
mod randomness;
mod secret;
mod signing;
mod verifier;

pub use certificate::{Certificate, CertificateError};
pub use foreign_key::{ForeignKey, ForeignKeyError, UnverifiedHeader, read_unverified};
pub use key_ring::{KeyRing, KeyRingError, OpenError};
pub use keyed_hash::{KeyedHash, KeyedHasher};
pub use password::{MalformedPasswordVerifier, PasswordVerifier};
pub use randomness::{Randomness, SystemRandomness};
pub use secret::{MalformedSecret, Secret, SecretKind, generate, recognise, without_secrets};
pub use signing::{
    KeyError, NOT_BEFORE_TOLERANCE, PublicKey, SignError, SigningKey, TokenError, TokenVerifier,
    check_times, kid_of,
};
pub use verifier::{MalformedVerifier, Verifier};
