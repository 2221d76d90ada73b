//! Hashing of chosen passwords, which is slow on purpose: beside the threads that serve requests, and few at a time.

use std::sync::Arc;

use arm::ApiError;
use credentials::{PasswordVerifier, Secret};
use tokio::sync::Semaphore;

use crate::App;
use crate::limits::CONCURRENT_NEW_PASSWORDS;

static PERMITS: Semaphore = Semaphore::const_new(CONCURRENT_NEW_PASSWORDS);

/// The verifier of a new password.
pub(super) async fn verifier_of(app: &App, password: Secret) -> Result<PasswordVerifier, ApiError> {
    let _permit = PERMITS.acquire().await.map_err(ApiError::internal)?;
    let randomness = Arc::clone(&app.randomness);
    tokio::task::spawn_blocking(move || PasswordVerifier::of(&password, &*randomness))
        .await
        .map_err(ApiError::internal)
}
