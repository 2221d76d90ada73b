//! How the rows of passwords are read.

use config_documents::{AdminPassword, AdminPasswordSlot};
use credentials::Verifier;
use time::OffsetDateTime;
use uuid::Uuid;

use super::SealedPassword;
use crate::StoreError;

fn slot(text: &str) -> Result<AdminPasswordSlot, StoreError> {
    AdminPasswordSlot::parse(text).ok_or_else(|| StoreError::Corrupt {
        table: "registry_passwords",
        reason: format!("slot '{text}'"),
    })
}

/// A number that was never a password's generation: a counter would come to the same number again after the database was restored, and give
/// tokens of another password their life back.
pub(super) fn new_generation() -> i64 {
    let (_, low) = Uuid::new_v4().as_u64_pair();
    i64::try_from(low >> 2).expect("62 bits fit")
}

fn verifier(bytes: &[u8]) -> Result<Verifier, StoreError> {
    Verifier::from_bytes(bytes).map_err(|error| StoreError::Corrupt {
        table: "registry_passwords",
        reason: error.to_string(),
    })
}

pub(super) fn admin_password(
    slot_text: &str,
    bytes: &[u8],
    generation: i64,
) -> Result<AdminPassword, StoreError> {
    Ok(AdminPassword {
        slot: slot(slot_text)?,
        generation: u64::try_from(generation).unwrap_or_default(),
        verifier: verifier(bytes)?,
    })
}

pub(super) fn sealed_password(
    slot_text: &str,
    sealed: Vec<u8>,
    bytes: &[u8],
    last_used_at: Option<OffsetDateTime>,
) -> Result<SealedPassword, StoreError> {
    Ok(SealedPassword {
        slot: slot(slot_text)?,
        sealed,
        verifier: verifier(bytes)?,
        last_used_at,
    })
}
