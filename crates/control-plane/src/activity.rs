//! What of the activity log is written beside requests: sign-ins, refusals without end, and the forgetting of what is old.
//!
//! Sign-ins are many and change nothing, so they are gathered for a moment, like ones together, and written in one statement: a token does not
//! wait for it. A process that is killed loses those of that moment; one that ends writes them first.

mod refusals;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use service::shutdown::Shutdown;
use store::Store;
use store::activity::{Attempt, Conclusion, SignIn, SignInCount};
use time::OffsetDateTime;

use self::refusals::Refusals;
use crate::Clock;
use crate::app::Parts;
use crate::limits::{
    ACTIVITY_FORGET_INTERVAL, ACTIVITY_FORGET_ROWS, MAXIMUM_GATHERED_SIGN_INS,
    REFUSALS_RECORD_INTERVAL, SIGN_IN_RECORD_INTERVAL, STATEMENT_TIMEOUT,
};

/// What is not written yet.
#[derive(Default)]
pub(crate) struct Activity {
    sign_ins: Mutex<HashMap<SignIn, SignInCount>>,
    refusals: Refusals,
}

impl Activity {
    /// Starts the tasks that write and forget; they end with the process.
    pub(crate) fn start(parts: &Parts) -> Arc<Self> {
        let this = Arc::new(Self::default());
        tokio::spawn(keep_writing(
            Arc::clone(&this),
            parts.store.clone(),
            parts.shutdown.clone(),
        ));
        tokio::spawn(keep_forgetting(
            parts.store.clone(),
            Arc::clone(&parts.clock),
            time::Duration::days(parts.settings.activity_retention_days.into()),
            parts.shutdown.clone(),
        ));
        this
    }

    /// Notes a sign-in, or an attempt at one.
    pub(crate) fn sign_in(&self, sign_in: SignIn, at: OffsetDateTime) {
        let mut gathered = self.sign_ins.lock();
        if let Some(known) = gathered.get_mut(&sign_in) {
            known.count += 1;
            return;
        }
        if gathered.len() >= MAXIMUM_GATHERED_SIGN_INS {
            drop(gathered);
            tracing::warn!(
                ?sign_in,
                "more kinds of sign-in in a moment than the activity log takes"
            );
            return;
        }
        gathered.insert(
            sign_in,
            SignInCount {
                first_at: at,
                count: 1,
            },
        );
    }

    /// Whether a refusal is to be written now; otherwise it is gathered with others like it.
    pub(crate) fn is_written_alone(&self, attempt: &Arc<Attempt>, conclusion: &Conclusion) -> bool {
        attempt.caller_id.is_none_or(|caller_id| {
            self.refusals
                .is_written_alone(caller_id, attempt, conclusion)
        })
    }

    /// Writes all that was gathered, as the last thing of a process.
    pub(crate) async fn write(&self, store: &Store) {
        self.write_sign_ins(store).await;
        self.refusals.write(store).await;
    }

    /// Writes the sign-ins that were gathered; what cannot be written is gathered on.
    async fn write_sign_ins(&self, store: &Store) {
        let gathered: Vec<(SignIn, SignInCount)> = self.sign_ins.lock().drain().collect();
        if gathered.is_empty() {
            return;
        }
        let written =
            store::within(STATEMENT_TIMEOUT, store.activity_add_sign_ins(&gathered)).await;
        let Err(error) = written else { return };
        tracing::warn!(
            error.cause = %service::errors::chain(&error),
            kinds = gathered.len(),
            "sign-ins are not in the activity log yet; it is tried again"
        );
        let mut later = self.sign_ins.lock();
        for (sign_in, counted) in gathered {
            let known = later.entry(sign_in).or_insert(SignInCount {
                count: 0,
                ..counted
            });
            known.first_at = known.first_at.min(counted.first_at);
            known.count += counted.count;
        }
    }
}

async fn keep_writing(activity: Arc<Activity>, store: Store, shutdown: Shutdown) {
    let mut of_sign_ins = tokio::time::interval(SIGN_IN_RECORD_INTERVAL);
    let mut of_refusals = tokio::time::interval(REFUSALS_RECORD_INTERVAL);
    while !shutdown.is_requested() {
        tokio::select! {
            _ = of_sign_ins.tick() => activity.write_sign_ins(&store).await,
            _ = of_refusals.tick() => activity.refusals.write(&store).await,
            // The rest is written when the last request is answered.
            () = shutdown.wait() => {}
        }
    }
}

/// Forgets what is older than the retention. Every control plane does; of several with different settings the shortest counts.
async fn keep_forgetting(
    store: Store,
    clock: Clock,
    retention: time::Duration,
    shutdown: Shutdown,
) {
    while !shutdown.is_requested() {
        let forgotten = store.activity_forget(clock() - retention, ACTIVITY_FORGET_ROWS);
        let is_more = match store::within(STATEMENT_TIMEOUT, forgotten).await {
            Ok(rows) => rows >= ACTIVITY_FORGET_ROWS.unsigned_abs(),
            Err(error) => {
                tracing::debug!(
                    error.cause = %service::errors::chain(&error),
                    "old rows of the activity log are not forgotten yet; it is tried again"
                );
                false
            }
        };
        if is_more {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(ACTIVITY_FORGET_INTERVAL) => {}
            () = shutdown.wait() => {}
        }
    }
}
