//! What of the activity log is written beside requests: sign-ins, refusals without end, and the forgetting of what is old.
//!
//! Sign-ins are many and change nothing, so they are gathered for a moment, like ones together, and written in one statement: a token does not
//! wait for it. Attempts in the name of nobody who is known are gathered for longer, by where they come from: strangers make them without end.
//! A process that is killed loses what is gathered; one that ends writes it first.

mod refusals;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use service::clock::Clock;
use service::shutdown::Shutdown;
use store::Store;
use store::activity::{Attempt, Conclusion, SignIn, SignInCount};
use time::OffsetDateTime;

use self::refusals::Refusals;
use crate::app::Parts;
use crate::limits::{
    ACTIVITY_FORGET_INTERVAL, ACTIVITY_FORGET_ROWS, MAXIMUM_GATHERED_SIGN_INS,
    MAXIMUM_GATHERED_STRANGERS, REFUSALS_RECORD_INTERVAL, SIGN_IN_RECORD_INTERVAL,
    STATEMENT_TIMEOUT, STRANGERS_RECORD_INTERVAL,
};

type SignIns = HashMap<SignIn, SignInCount>;

/// What is not written yet.
#[derive(Default)]
pub(crate) struct Activity {
    sign_ins: Mutex<SignIns>,
    /// Those in the name of nobody who is known, which share rows for longer.
    of_strangers: Mutex<SignIns>,
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
        let once = SignInCount {
            first_at: at,
            count: 1,
        };
        if sign_in.is_of_nobody() {
            gather_stranger(&mut self.of_strangers.lock(), sign_in, once);
            return;
        }
        let mut gathered = self.sign_ins.lock();
        if !gathered.contains_key(&sign_in) && gathered.len() >= MAXIMUM_GATHERED_SIGN_INS {
            drop(gathered);
            tracing::warn!(
                ?sign_in,
                "more kinds of sign-in in a moment than the activity log takes"
            );
            return;
        }
        gather(&mut gathered, sign_in, once);
    }

    /// Whether a refusal is to be written now; otherwise it is gathered with others like it.
    pub(crate) fn is_written_alone(&self, attempt: &Arc<Attempt>, conclusion: &Conclusion) -> bool {
        attempt.caller_id.is_none_or(|caller_id| {
            self.refusals
                .is_written_alone(caller_id, attempt, conclusion)
        })
    }

    /// Writes all that was gathered, as the last thing of a process; at once, so that a database that does not answer is waited for once.
    pub(crate) async fn write(&self, store: &Store) {
        tokio::join!(
            self.write_sign_ins(store),
            self.write_strangers(store),
            self.refusals.write(store)
        );
    }

    async fn write_sign_ins(&self, store: &Store) {
        write_gathered(&self.sign_ins, store, gather).await;
    }

    async fn write_strangers(&self, store: &Store) {
        write_gathered(&self.of_strangers, store, gather_stranger).await;
    }
}

fn gather(gathered: &mut SignIns, sign_in: SignIn, counted: SignInCount) {
    let known = gathered.entry(sign_in).or_insert(SignInCount {
        count: 0,
        ..counted
    });
    known.first_at = known.first_at.min(counted.first_at);
    known.count += counted.count;
}

/// Leaves out the address when there are too many: then only grant and outcome, which are few, are told apart.
fn gather_stranger(gathered: &mut SignIns, mut sign_in: SignIn, counted: SignInCount) {
    if gathered.len() >= MAXIMUM_GATHERED_STRANGERS && !gathered.contains_key(&sign_in) {
        sign_in.address = None;
    }
    gather(gathered, sign_in, counted);
}

/// Writes the sign-ins that were gathered; what cannot be written is gathered on.
async fn write_gathered(
    sign_ins: &Mutex<SignIns>,
    store: &Store,
    gather: fn(&mut SignIns, SignIn, SignInCount),
) {
    let gathered: Vec<(SignIn, SignInCount)> = sign_ins.lock().drain().collect();
    if gathered.is_empty() {
        return;
    }
    let written = store::within(STATEMENT_TIMEOUT, store.activity_add_sign_ins(&gathered)).await;
    let Err(error) = written else { return };
    tracing::warn!(
        error.cause = %service::errors::chain(&error),
        kinds = gathered.len(),
        "sign-ins are not in the activity log yet; it is tried again"
    );
    let mut later = sign_ins.lock();
    for (sign_in, counted) in gathered {
        gather(&mut later, sign_in, counted);
    }
}

async fn keep_writing(activity: Arc<Activity>, store: Store, shutdown: Shutdown) {
    let mut of_sign_ins = tokio::time::interval(SIGN_IN_RECORD_INTERVAL);
    let mut of_strangers = tokio::time::interval(STRANGERS_RECORD_INTERVAL);
    let mut of_refusals = tokio::time::interval(REFUSALS_RECORD_INTERVAL);
    while !shutdown.is_requested() {
        tokio::select! {
            _ = of_sign_ins.tick() => activity.write_sign_ins(&store).await,
            _ = of_strangers.tick() => activity.write_strangers(&store).await,
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, TcpListener};
    use uuid::Uuid;

    fn attempt(address: u32, client_id: Option<u128>) -> SignIn {
        SignIn {
            principal_id: None,
            account_id: None,
            client_id: client_id.map(Uuid::from_u128),
            credential_id: None,
            address: Some(IpAddr::V4(address.into())),
            grant: Some("password"),
            outcome: "limited",
        }
    }

    #[test]
    fn strangers_fill_no_more_rows_than_there_are() {
        let activity = Activity::default();
        let maximum = u32::try_from(MAXIMUM_GATHERED_STRANGERS).expect("it is small");
        for address in 0..maximum * 3 {
            activity.sign_in(attempt(address, None), OffsetDateTime::UNIX_EPOCH);
        }
        activity.sign_in(attempt(1, Some(1)), OffsetDateTime::UNIX_EPOCH);
        assert_eq!(activity.sign_ins.lock().len(), 1);
        let gathered = activity.of_strangers.lock();
        assert_eq!(gathered.len(), MAXIMUM_GATHERED_STRANGERS + 1);
        let total: u64 = gathered.values().map(|counted| counted.count).sum();
        assert_eq!(total, u64::from(maximum) * 3);
    }

    /// A database that takes connections as long as the listener is there, and no more.
    pub(super) fn silent_database() -> (TcpListener, Store) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it has one");
        let store = Store::open(&format!("postgres://nobody@{address}/none")).expect("a URL");
        (listener, store)
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_does_not_answer_is_waited_for_once_and_nothing_is_lost() {
        let (_listener, store) = silent_database();
        let activity = Activity::default();
        activity.sign_in(attempt(1, None), OffsetDateTime::UNIX_EPOCH);
        activity.sign_in(attempt(1, Some(1)), OffsetDateTime::UNIX_EPOCH);
        let started = tokio::time::Instant::now();
        activity.write(&store).await;
        assert!(started.elapsed() <= STATEMENT_TIMEOUT);
        assert_eq!(activity.sign_ins.lock().len(), 1);
        assert_eq!(activity.of_strangers.lock().len(), 1);
    }
}
