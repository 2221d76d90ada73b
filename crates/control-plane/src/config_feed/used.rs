//! Which credentials nodes say were used, gathered and written for all nodes together.

use std::collections::BTreeMap;

use config_documents::{UsedCredential, UsedCredentialId};
use parking_lot::Mutex;
use store::used_credentials::used_credentials_record;
use time::{OffsetDateTime, UtcOffset};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::ConfigFeed;
use super::limits::{BACK_OFF, USED_CREDENTIALS, USED_INTERVAL, USED_WRITTEN_AT_ONCE};
use crate::limits::STATEMENT_TIMEOUT;

/// What was said and is not written yet.
#[derive(Default)]
pub(super) struct Used {
    unwritten: Mutex<BTreeMap<UsedCredentialId, OffsetDateTime>>,
    said: Notify,
}

impl Used {
    /// A node says that credentials were used. Its clock may be ahead, and it is not believed beyond the hour of `now`; what is more than
    /// can be kept until it is written is passed over, since nodes say it again on their next stream.
    pub(super) fn say(&self, credentials: Vec<UsedCredential>, now: OffsetDateTime) {
        let mut unwritten = self.unwritten.lock();
        for used in credentials {
            let hour = hour_of(used.hour.min(now));
            let has_room = unwritten.len() < USED_CREDENTIALS;
            if let Some(known) = unwritten.get_mut(&used.credential) {
                *known = hour.max(*known);
            } else if has_room {
                unwritten.insert(used.credential, hour);
            }
        }
        drop(unwritten);
        self.said.notify_one();
    }

    fn take(&self) -> Vec<UsedCredential> {
        let mut unwritten = self.unwritten.lock();
        let mut taken = Vec::new();
        while taken.len() < USED_WRITTEN_AT_ONCE
            && let Some((credential, hour)) = unwritten.pop_first()
        {
            taken.push(UsedCredential { credential, hour });
        }
        if !unwritten.is_empty() {
            self.said.notify_one();
        }
        taken
    }
}

fn hour_of(time: OffsetDateTime) -> OffsetDateTime {
    let time = time.to_offset(UtcOffset::UTC);
    let hour = time::Time::from_hms(time.hour(), 0, 0).expect("an hour of the day");
    time.replace_time(hour)
}

/// Writes what nodes said, at most once an interval.
pub(super) async fn write_used(feed: &ConfigFeed, clock: &service::clock::Clock) {
    let mut failing = false;
    loop {
        feed.used.said.notified().await;
        let used = feed.used.take();
        if used.is_empty() {
            continue;
        }
        let written = used_credentials_record(&feed.store, &used);
        match store::within(STATEMENT_TIMEOUT, written).await {
            Ok(()) => {
                failing = false;
                sleep(USED_INTERVAL).await;
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(
                        error.cause = %service::errors::chain(&error),
                        "when credentials were last used cannot be written; it is tried again"
                    );
                }
                failing = true;
                feed.used.say(used, clock());
                sleep(BACK_OFF).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;
    use uuid::Uuid;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:34:56.7 UTC);

    fn used(number: u128, hour: OffsetDateTime) -> UsedCredential {
        let key_id = Uuid::from_u128(number);
        UsedCredential {
            credential: UsedCredentialId::Secret { key_id },
            hour,
        }
    }

    #[test]
    fn the_latest_hour_counts_and_none_that_has_not_begun() {
        let said = Used::default();
        said.say(vec![used(1, datetime!(2026-11-23 11:00 UTC))], NOW);
        said.say(vec![used(1, datetime!(2026-11-23 09:00 UTC))], NOW);
        said.say(vec![used(2, datetime!(2030-01-01 00:00 UTC))], NOW);
        said.say(vec![used(3, datetime!(2026-11-23 12:59:59 +2))], NOW);
        assert_eq!(
            said.take(),
            [
                used(1, datetime!(2026-11-23 11:00 UTC)),
                used(2, datetime!(2026-11-23 12:00 UTC)),
                used(3, datetime!(2026-11-23 10:00 UTC)),
            ]
        );
        assert_eq!(said.take(), []);
    }

    #[test]
    fn what_one_node_says_has_a_bound_and_is_written_in_parts() {
        let said = Used::default();
        let many = USED_CREDENTIALS as u128 + 10;
        said.say((0..many).map(|number| used(number, NOW)).collect(), NOW);
        let mut count = 0;
        loop {
            let taken = said.take();
            assert!(taken.len() <= USED_WRITTEN_AT_ONCE);
            if taken.is_empty() {
                break;
            }
            count += taken.len();
        }
        assert_eq!(count, USED_CREDENTIALS);
    }
}
