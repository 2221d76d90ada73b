//! How much registries store, as nodes say, gathered and written for all nodes together.

use std::collections::BTreeMap;

use config_documents::{Region, RegistryUsage};
use parking_lot::Mutex;
use store::registries::usage_record;
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::sleep;
use uuid::Uuid;

use super::ConfigFeed;
use super::limits::{BACK_OFF, USAGE_INTERVAL, USAGES, USAGES_WRITTEN_AT_ONCE};
use crate::limits::STATEMENT_TIMEOUT;

/// What was said and is not written yet.
#[derive(Default)]
pub(super) struct Usage {
    unwritten: Mutex<BTreeMap<(Uuid, Region), RegistryUsage>>,
    said: Notify,
}

impl Usage {
    /// A node of a region says how much registries store. Its clock may be ahead, and it is not believed beyond `now`; what is more than
    /// can be kept until it is written is passed over, since nodes say it again on their next stream.
    pub(super) fn say(&self, region: &Region, registries: Vec<RegistryUsage>, now: OffsetDateTime) {
        let mut unwritten = self.unwritten.lock();
        for mut usage in registries {
            usage.counted_at = usage.counted_at.min(now);
            let key = (usage.registry_uid, region.clone());
            let has_room = unwritten.len() < USAGES;
            if let Some(known) = unwritten.get_mut(&key) {
                if known.counted_at <= usage.counted_at {
                    *known = usage;
                }
            } else if has_room {
                unwritten.insert(key, usage);
            }
        }
        drop(unwritten);
        self.said.notify_one();
    }

    fn take(&self) -> Vec<(Region, RegistryUsage)> {
        let mut unwritten = self.unwritten.lock();
        let mut taken = Vec::new();
        while taken.len() < USAGES_WRITTEN_AT_ONCE
            && let Some(((_, region), usage)) = unwritten.pop_first()
        {
            taken.push((region, usage));
        }
        if !unwritten.is_empty() {
            self.said.notify_one();
        }
        taken
    }
}

/// Writes what nodes said, at most once an interval.
pub(super) async fn write_usage(feed: &ConfigFeed, clock: &service::clock::Clock) {
    let mut failing = false;
    loop {
        feed.usage.said.notified().await;
        let said = feed.usage.take();
        if said.is_empty() {
            continue;
        }
        let written = usage_record(&feed.store, &said);
        match store::within(STATEMENT_TIMEOUT, written).await {
            Ok(()) => {
                failing = false;
                sleep(USAGE_INTERVAL).await;
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(
                        error.cause = %service::errors::chain(&error),
                        "how much registries store cannot be written; it is tried again"
                    );
                }
                failing = true;
                for (region, usage) in said {
                    feed.usage.say(&region, vec![usage], clock());
                }
                sleep(BACK_OFF).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:34:56 UTC);

    fn usage(number: u128, bytes: u64, counted_at: OffsetDateTime) -> RegistryUsage {
        RegistryUsage {
            registry_uid: Uuid::from_u128(number),
            bytes,
            counted_at,
        }
    }

    #[test]
    fn the_latest_count_stays_and_none_is_from_the_future() {
        let region = Region("westus".into());
        let said = Usage::default();
        let earlier = NOW - time::Duration::minutes(1);
        said.say(&region, vec![usage(1, 10, NOW)], NOW);
        said.say(&region, vec![usage(1, 99, earlier)], NOW);
        said.say(
            &region,
            vec![usage(2, 5, NOW + time::Duration::days(1))],
            NOW,
        );
        let taken = [
            (region.clone(), usage(1, 10, NOW)),
            (region, usage(2, 5, NOW)),
        ];
        assert_eq!(said.take(), taken);
        assert_eq!(said.take(), []);
    }

    #[test]
    fn what_nodes_say_has_a_bound_and_is_written_in_parts() {
        let said = Usage::default();
        let many = (0..USAGES as u128 + 10).map(|number| usage(number, 1, NOW));
        said.say(&Region("westus".into()), many.collect(), NOW);
        let mut count = 0;
        loop {
            let taken = said.take();
            assert!(taken.len() <= USAGES_WRITTEN_AT_ONCE);
            if taken.is_empty() {
                break;
            }
            count += taken.len();
        }
        assert_eq!(count, USAGES);
    }
}
