//! Hashing of chosen passwords, which is slow on purpose: beside the threads that serve requests, and few at a time.

use std::sync::{Arc, LazyLock};

use arm::{ApiError, Kind};
use credentials::{PasswordVerifier, Secret};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::App;
use crate::front_door::{Request, decide_again};
use crate::limits::{CONCURRENT_NEW_PASSWORDS, NEW_PASSWORD_WAIT, RETRY_AFTER_SECONDS};

static PLACES: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(CONCURRENT_NEW_PASSWORDS)));

/// The verifier of a new password, for a caller that may still do what it asked for when the work is done.
///
/// # Errors
/// None of the places became free in time; the caller lost the right meanwhile.
pub(super) async fn verifier_of(
    app: &App,
    request: &Request,
    password: Secret,
) -> Result<PasswordVerifier, ApiError> {
    let place = place(&PLACES).await?;
    let randomness = Arc::clone(&app.randomness);
    let verifier = hash(place, move || PasswordVerifier::of(&password, &*randomness)).await?;
    decide_again(app, request).await?;
    Ok(verifier)
}

async fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
    let place = Arc::clone(places).acquire_owned();
    match tokio::time::timeout(NEW_PASSWORD_WAIT, place).await {
        Ok(place) => place.map_err(ApiError::internal),
        Err(_) => {
            let mut busy = ApiError::new(
                Kind::TooManyRequests,
                "TooManyRequests",
                "Too many new passwords are being set at the moment. Repeat the request.",
            );
            busy.retry_after_seconds = Some(RETRY_AFTER_SECONDS);
            Err(busy)
        }
    }
}

/// Whoever asked may give up; the work goes on, and keeps its place until it is done.
async fn hash<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(move || {
        let done = work();
        drop(place);
        done
    })
    .await
    .map_err(ApiError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn work_keeps_its_place_when_nobody_waits_for_it_any_more() {
        let places = Arc::new(Semaphore::new(1));
        let taken = place(&places).await.expect("one is free");
        let (finish, may_finish) = mpsc::channel::<()>();
        let (begin, has_begun) = tokio::sync::oneshot::channel();
        let work = tokio::spawn(hash(taken, move || {
            begin.send(()).expect("the test waits");
            may_finish.recv().expect("the test says when");
        }));
        has_begun.await.expect("it begins");
        work.abort();
        assert!(work.await.expect_err("aborted").is_cancelled());
        assert_eq!(places.available_permits(), 0);
        finish.send(()).expect("it waits");
        drop(places.acquire().await.expect("it is free in the end"));
    }

    #[tokio::test]
    async fn whoever_waits_too_long_is_sent_away() {
        let places = Arc::new(Semaphore::new(1));
        let taken = place(&places).await.expect("one is free");
        let refused = place(&places).await.expect_err("none is free");
        assert_eq!(refused.kind, Kind::TooManyRequests);
        assert!(refused.retry_after_seconds.is_some());
        drop(taken);
        assert!(place(&places).await.is_ok());
    }
}
