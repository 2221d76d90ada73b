//! How much each registry stores, between two counts of all of it.
//!
//! A registry's record holds a sum that all nodes of the region share: a pass of collection counts it anew, and each node adds what it
//! wrote and took away since it last did so. What a node had not added when it ended is missing, and what was written during a pass may
//! be in the sum twice or not at all, until the next pass puts it right.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use config_documents::RegistryUsage;
use parking_lot::Mutex;
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::ContentError;
use super::record_store::Durability;
use super::records::{CONFLICT_ATTEMPTS, UsageRecord};
use super::{Content, layout};
use crate::limits::USAGE_INTERVAL;

/// What this node knows and has not added yet. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub(super) struct StoredBytes(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    unadded: HashMap<Uuid, i64>,
    read: HashMap<Uuid, Read>,
    /// What is to be reported.
    changed: HashSet<Uuid>,
}

#[derive(Clone, Copy)]
struct Read {
    record: UsageRecord,
    at: OffsetDateTime,
}

impl StoredBytes {
    /// So many bytes came.
    pub(super) fn grew(&self, registry: Uuid, bytes: u64) {
        self.change(registry, i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// So many bytes went.
    pub(super) fn shrank(&self, registry: Uuid, bytes: u64) {
        self.change(registry, -i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn change(&self, registry: Uuid, difference: i64) {
        let mut state = self.0.lock();
        let unadded = state.unadded.entry(registry).or_default();
        *unadded = unadded.saturating_add(difference);
    }

    fn take_unadded(&self) -> HashMap<Uuid, i64> {
        let mut unadded = std::mem::take(&mut self.0.lock().unadded);
        unadded.retain(|_, difference| *difference != 0);
        unadded
    }

    fn unadded(&self, registry: Uuid) -> i64 {
        let state = self.0.lock();
        state.unadded.get(&registry).copied().unwrap_or_default()
    }

    /// What was read at most so long ago.
    fn known(&self, registry: Uuid, now: OffsetDateTime) -> Option<UsageRecord> {
        let state = self.0.lock();
        let read = state.read.get(&registry)?;
        let is_fresh = now >= read.at && now - read.at < USAGE_INTERVAL;
        is_fresh.then_some(read.record)
    }

    fn learn(&self, registry: Uuid, record: UsageRecord, now: OffsetDateTime) {
        let mut state = self.0.lock();
        let before = state.read.insert(registry, Read { record, at: now });
        if before.is_none_or(|before| before.record != record) {
            state.changed.insert(registry);
        }
    }

    fn take_changed(&self) -> Vec<RegistryUsage> {
        let mut state = self.0.lock();
        let changed = std::mem::take(&mut state.changed);
        let reported = changed.into_iter().filter_map(|registry_uid| {
            let record = state.read.get(&registry_uid)?.record;
            Some(RegistryUsage {
                registry_uid,
                bytes: record.bytes,
                counted_at: record.changed.max(record.counted)?,
            })
        });
        reported.collect()
    }
}

impl Content {
    /// About how much a registry stores: the sum that nodes share, as it was a moment ago, with what this one has not added to it yet.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stored_bytes(&self, registry: Uuid) -> Result<u64, ContentError> {
        let record = match self.stored.known(registry, self.now()) {
            Some(record) => Some(record),
            None => self.read_usage(registry).await?,
        };
        let shared = record.map_or(0, |record| record.bytes);
        Ok(shared.saturating_add_signed(self.stored.unadded(registry)))
    }

    /// Adds what this node wrote and took away to the sums that nodes share, and says which sums have changed since it was last asked. What
    /// cannot be added now is added the next time.
    pub async fn settle_usage(&self) -> Vec<RegistryUsage> {
        for (registry, difference) in self.stored.take_unadded() {
            if let Err(error) = self.add_to_usage(registry, difference).await {
                self.stored.change(registry, difference);
                tracing::warn!(
                    registry.uid = %registry, error = %service::errors::chain(&error),
                    "how much a registry stores cannot be kept; it is tried again"
                );
            }
        }
        self.stored.take_changed()
    }

    async fn add_to_usage(&self, registry: Uuid, difference: i64) -> Result<(), ContentError> {
        let key = layout::usage(registry);
        for _ in 0..CONFLICT_ATTEMPTS {
            let found = self.records.get::<UsageRecord>(&key).await?;
            let now = self.now();
            let before = found.as_ref().map(|found| found.value);
            let record = UsageRecord {
                bytes: before
                    .map_or(0, |before| before.bytes)
                    .saturating_add_signed(difference),
                counted: before.and_then(|before| before.counted),
                // Nodes' clocks differ, and a sum is newer than the one it was made of.
                changed: before.and_then(|before| before.changed).max(Some(now)),
            };
            let (records, durability) = (&self.records, Durability::OnReturn);
            let written = match &found {
                Some(found) => {
                    records
                        .replace(&key, &record, &[], &found.version, durability)
                        .await?
                }
                None => records.create(&key, &record, &[], durability).await?,
            };
            if written.is_some() {
                self.stored.learn(registry, record, now);
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }

    async fn read_usage(&self, registry: Uuid) -> Result<Option<UsageRecord>, ContentError> {
        let key = layout::usage(registry);
        let Some(found) = self.records.get::<UsageRecord>(&key).await? else {
            return Ok(None);
        };
        self.stored.learn(registry, found.value, self.now());
        Ok(Some(found.value))
    }
}
