//! Rounds: what shows something only while the machine keeps up with the node's own times is done again when it did not.

use std::time::{Duration, Instant};

use crate::node::Answer;

/// How long a slow machine is given.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the first round brings that was not disturbed. One that was, by a machine too slow for it to show anything, brings `None`.
pub(crate) async fn undisturbed<T>(mut round: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(outcome) = round().await {
            return outcome;
        }
        assert!(Instant::now() < deadline, "every round was disturbed");
    }
}

/// Fails to log in until one user's failures are used up for some time; until when they are for certain.
pub(crate) async fn use_up(mut failed_login: impl AsyncFnMut() -> Answer) -> Instant {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let asked_at = Instant::now();
        let answer = failed_login().await;
        if answer.status != 429 {
            assert_eq!(answer.status, 401, "{}", answer.body);
            continue;
        }
        let wait_seconds: u64 = answer.header("retry-after").parse().expect("seconds");
        if wait_seconds >= 4 {
            // It was rounded up.
            return asked_at + Duration::from_secs(wait_seconds - 1);
        }
    }
    panic!("failures are never used up");
}
