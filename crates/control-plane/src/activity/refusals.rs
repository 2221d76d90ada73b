//! Refused attempts of callers who are refused without end: each gets a row of its own up to a rate, and beyond it like ones share one, so
//! that nobody fills the database by being refused.

use std::collections::HashMap;
use std::sync::Arc;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;
use store::activity::{Attempt, Conclusion};
use store::{Store, StoreError};
use uuid::Uuid;

use crate::limits::{MAXIMUM_GATHERED_REFUSALS, RECORDED_REFUSALS_OF_CALLER, STATEMENT_TIMEOUT};

type Limiter<C> =
    RateLimiter<Uuid, DashMapStateStore<Uuid>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Refusals that are not written yet, and who has used up its rows.
pub(super) struct Refusals<C: Clock = DefaultClock> {
    of_caller: Limiter<C>,
    gathered: Mutex<HashMap<Kind, Gathered>>,
}

/// What refusals have in common that share a row.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    caller_id: Uuid,
    operation_name: String,
    error_code: Option<String>,
}

/// The first of its kind, which the row shows, and how many there were.
struct Gathered {
    attempt: Arc<Attempt>,
    conclusion: Conclusion,
    count: u64,
}

impl Default for Refusals {
    fn default() -> Self {
        Self::with_clock(DefaultClock::default())
    }
}

impl<C: Clock> Refusals<C> {
    fn with_clock(clock: C) -> Self {
        let quota = Quota::per_minute(RECORDED_REFUSALS_OF_CALLER);
        Self {
            of_caller: RateLimiter::dashmap_with_clock(quota, clock),
            gathered: Mutex::default(),
        }
    }

    /// Whether a refusal is to be written now; otherwise it is gathered with others like it.
    pub(super) fn is_written_alone(
        &self,
        caller_id: Uuid,
        attempt: &Arc<Attempt>,
        conclusion: &Conclusion,
    ) -> bool {
        if self.of_caller.check_key(&caller_id).is_ok() {
            return true;
        }
        let kind = Kind {
            caller_id,
            operation_name: attempt.operation_name.clone(),
            error_code: conclusion.failure.as_ref().map(|(code, _)| code.clone()),
        };
        let mut gathered = self.gathered.lock();
        if let Some(known) = gathered.get_mut(&kind) {
            known.count += 1;
        } else if gathered.len() < MAXIMUM_GATHERED_REFUSALS {
            let first = Gathered {
                attempt: Arc::clone(attempt),
                conclusion: conclusion.clone(),
                count: 1,
            };
            gathered.insert(kind, first);
        } else {
            tracing::warn!(
                caller.object_id = %caller_id,
                activity.operation = attempt.operation_name,
                "more kinds of refusals in a minute than the activity log takes"
            );
        }
        false
    }

    /// Writes what was gathered, each kind as the first of it with how many there were. What cannot be written is gathered on: all that is
    /// left at the first failure, or when the time for all of it together is up.
    pub(super) async fn write(&self, store: &Store) {
        self.of_caller.retain_recent();
        let gathered = std::mem::take(&mut *self.gathered.lock());
        let mut left: Vec<(Kind, Gathered)> = gathered.into_iter().collect();
        let write = async {
            while let Some((_, refusals)) = left.last() {
                refusals.attempt.detail("count", refusals.count.to_string());
                store
                    .activity_conclude(&refusals.attempt, &refusals.conclusion)
                    .await?;
                left.pop();
            }
            Ok::<(), StoreError>(())
        };
        let Err(error) = store::within(STATEMENT_TIMEOUT, write).await else {
            return;
        };
        tracing::warn!(
            error.cause = %service::errors::chain(&error),
            kinds = left.len(),
            "refusals are not in the activity log yet; it is tried again"
        );
        let mut later = self.gathered.lock();
        for (kind, mut refusals) in left {
            // The first of its kind stays the one that the row shows: it may have been written although the answer did not come.
            refusals.count += later.remove(&kind).map_or(0, |since| since.count);
            later.insert(kind, refusals);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use std::time::Duration;
    use time::OffsetDateTime;

    fn attempt(operation: &str) -> Arc<Attempt> {
        Arc::new(Attempt::new(
            Uuid::from_u128(1),
            OffsetDateTime::UNIX_EPOCH,
            operation,
            "/",
        ))
    }

    fn refused() -> Conclusion {
        Conclusion {
            http_status: Some(403),
            failure: Some(("AuthorizationFailed".to_owned(), "No.".to_owned())),
        }
    }

    #[test]
    fn a_caller_without_rows_left_has_like_refusals_counted_and_others_go_on() {
        let clock = FakeRelativeClock::default();
        let refusals = Refusals::with_clock(clock.clone());
        let (ann, ben) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let writes = |who, what: &str| refusals.is_written_alone(who, &attempt(what), &refused());
        let alone = (0..1000).filter(|_| writes(ann, "a/delete")).count();
        assert_eq!(alone, RECORDED_REFUSALS_OF_CALLER.get() as usize);
        assert!(!writes(ann, "b/delete"));
        assert!(writes(ben, "a/delete"));
        let mut counts: Vec<u64> = refusals
            .gathered
            .lock()
            .values()
            .map(|it| it.count)
            .collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 1000 - alone as u64]);
        clock.advance(Duration::from_secs(60));
        assert!(writes(ann, "a/delete"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_is_waited_for_once_and_gathered_on() {
        const KINDS: u64 = 10;
        let (_listener, store) = crate::activity::tests::silent_database();
        let refusals = Refusals::with_clock(FakeRelativeClock::default());
        let refuse = |what: u64| {
            let attempt = attempt(&format!("{what}/delete"));
            refusals.is_written_alone(Uuid::from_u128(7), &attempt, &refused())
        };
        while refuse(0) {}
        for _ in 0..2 {
            (1..KINDS).for_each(|what| assert!(!refuse(what)));
            let started = tokio::time::Instant::now();
            refusals.write(&store).await;
            assert!(started.elapsed() <= STATEMENT_TIMEOUT);
        }
        let gathered = refusals.gathered.lock();
        assert_eq!(gathered.len() as u64, KINDS);
        let total: u64 = gathered.values().map(|it| it.count).sum();
        assert_eq!(total, 1 + 2 * (KINDS - 1));
    }
}
