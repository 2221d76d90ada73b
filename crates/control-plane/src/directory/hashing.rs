//! Hashing of chosen passwords and secrets that are set.

use std::sync::Arc;

use arm::{ApiError, Kind};
use credentials::{PasswordVerifier, Secret};

use crate::App;
use crate::front_door::{Request, decide_again};
use crate::limits::RETRY_AFTER_SECONDS;

/// The verifier of a new password, for a caller that may still do what it asked for when the work is done.
///
/// # Errors
/// There was no time for it; the caller lost the right meanwhile.
pub(super) async fn verifier_of(
    app: &App,
    request: &Request,
    password: Secret,
) -> Result<PasswordVerifier, ApiError> {
    let place = app.slow_work.place().await.map_err(|_| busy())?;
    let randomness = Arc::clone(&app.randomness);
    let (verifier, _) = place
        .run(move || PasswordVerifier::of(&password, &*randomness))
        .await;
    decide_again(app, request).await?;
    Ok(verifier)
}

/// Too much else is being checked or hashed.
pub(super) fn busy() -> ApiError {
    let mut busy = ApiError::new(
        Kind::TooManyRequests,
        "TooManyRequests",
        "Too many passwords are being set or checked at the moment. Repeat the request.",
    );
    busy.retry_after_seconds = Some(RETRY_AFTER_SECONDS);
    busy
}
