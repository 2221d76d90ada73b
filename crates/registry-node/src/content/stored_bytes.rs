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
pub(super) struct StoredBytes(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Held while something is added, so that nothing is added twice.
    settling: tokio::sync::Mutex<()>,
}

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
        self.0.state.lock().change(registry, difference);
    }

    fn all_unadded(&self) -> Vec<(Uuid, i64)> {
        let mut state = self.0.state.lock();
        state.unadded.retain(|_, difference| *difference != 0);
        let unadded = state.unadded.iter();
        unadded
            .map(|(registry, difference)| (*registry, *difference))
            .collect()
    }

    fn unadded(&self, registry: Uuid) -> i64 {
        let state = self.0.state.lock();
        state.unadded.get(&registry).copied().unwrap_or_default()
    }

    /// What was read at most so long ago.
    fn known(&self, registry: Uuid, now: OffsetDateTime) -> Option<UsageRecord> {
        let state = self.0.state.lock();
        let read = state.read.get(&registry)?;
        let is_fresh = now >= read.at && now - read.at < USAGE_INTERVAL;
        is_fresh.then_some(read.record)
    }

    /// A record was read, or written with this difference added.
    fn learn(&self, registry: Uuid, record: UsageRecord, added: i64, now: OffsetDateTime) {
        let mut state = self.0.state.lock();
        state.change(registry, added.saturating_neg());
        let before = state.read.insert(registry, Read { record, at: now });
        if before.is_none_or(|before| before.record != record) {
            state.changed.insert(registry);
        }
    }

    fn take_changed(&self) -> Vec<RegistryUsage> {
        let mut state = self.0.state.lock();
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

impl State {
    fn change(&mut self, registry: Uuid, difference: i64) {
        let unadded = self.unadded.entry(registry).or_default();
        *unadded = unadded.saturating_add(difference);
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
        let settling = self.stored.0.settling.lock().await;
        for (registry, difference) in self.stored.all_unadded() {
            if let Err(error) = self.add_to_usage(registry, difference).await {
                tracing::warn!(
                    registry.uid = %registry, error = %service::errors::chain(&error),
                    "how much a registry stores cannot be kept; it is tried again"
                );
            }
        }
        drop(settling);
        self.stored.take_changed()
    }

    async fn add_to_usage(&self, registry: Uuid, difference: i64) -> Result<(), ContentError> {
        let key = layout::usage(registry);
        for _ in 0..CONFLICT_ATTEMPTS {
            let (before, version) = match self.records.get::<UsageRecord>(&key).await {
                Ok(Some(found)) => (Some(found.value), Some(found.version)),
                Ok(None) => (None, None),
                // What it said is lost until the next count.
                Err(ContentError::DamagedRecord { .. }) => {
                    (None, self.records.version(&key).await?)
                }
                Err(error) => return Err(error),
            };
            let now = self.now();
            let record = UsageRecord {
                bytes: before
                    .map_or(0, |before| before.bytes)
                    .saturating_add_signed(difference),
                counted: before.and_then(|before| before.counted),
                // Nodes' clocks differ, and a sum is newer than the one it was made of.
                changed: before.and_then(|before| before.changed).max(Some(now)),
            };
            let (records, durability) = (&self.records, Durability::OnReturn);
            let written = match &version {
                Some(version) => {
                    records
                        .replace(&key, &record, &[], version, durability)
                        .await?
                }
                None => records.create(&key, &record, &[], durability).await?,
            };
            if written.is_some() {
                self.stored.learn(registry, record, difference, now);
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }

    /// Puts a count of everything in the place of the sum. `began` is when counting began.
    pub(super) async fn write_count(
        &self,
        registry: Uuid,
        bytes: u64,
        began: OffsetDateTime,
    ) -> Result<(), ContentError> {
        let key = layout::usage(registry);
        for _ in 0..CONFLICT_ATTEMPTS {
            let version = self.records.version(&key).await?;
            let found = match self.records.get::<UsageRecord>(&key).await {
                Err(ContentError::DamagedRecord { .. }) => None,
                other => other?,
            };
            let now = self.now();
            let changed = found.and_then(|found| found.value.changed);
            let record = UsageRecord {
                bytes,
                counted: Some(began),
                changed: changed.max(Some(now)),
            };
            let (records, durability) = (&self.records, Durability::OnReturn);
            let written = match &version {
                Some(version) => {
                    records
                        .replace(&key, &record, &[], version, durability)
                        .await?
                }
                None => records.create(&key, &record, &[], durability).await?,
            };
            if written.is_some() {
                self.stored.learn(registry, record, 0, now);
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }

    async fn read_usage(&self, registry: Uuid) -> Result<Option<UsageRecord>, ContentError> {
        let key = layout::usage(registry);
        let found = match self.records.get::<UsageRecord>(&key).await {
            Err(ContentError::DamagedRecord { .. }) => None,
            other => other?,
        };
        let Some(found) = found else {
            return Ok(None);
        };
        self.stored.learn(registry, found.value, 0, self.now());
        Ok(Some(found.value))
    }
}
