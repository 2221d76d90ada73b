//! Who collects a registry's content. Two at once would be safe; the lease saves the work, so that whatever goes wrong with it is only said.

use time::OffsetDateTime;
use uuid::Uuid;

use super::pass::write_over;
use crate::content::Content;
use crate::content::error::ContentError;
use crate::content::layout;
use crate::content::pulls::whole;
use crate::content::record_store::Durability;
use crate::content::records::LeaseRecord;
use crate::limits::{COLLECTION_INTERVAL, COLLECTION_LEASE};

/// The right to be the one who collects.
pub(super) struct Lease {
    key: String,
    record: LeaseRecord,
}

impl Content {
    /// `None` if the registry was collected lately, or somebody else is at it.
    pub(super) async fn take_lease(
        &self,
        registry: Uuid,
        holder: Uuid,
    ) -> Result<Option<Lease>, ContentError> {
        let key = layout::lease(registry);
        let now = self.now();
        let version = self.records.version(&key).await?;
        let found = whole(self.records.get::<LeaseRecord>(&key).await)?;
        let previous = found.map(|found| found.value);
        let is_recent = |time: OffsetDateTime| {
            let passed = now - time;
            !passed.is_negative() && passed < COLLECTION_INTERVAL
        };
        if let Some(previous) = &previous {
            let is_held = previous.holder != holder && previous.until > now;
            if is_held || previous.collected.is_some_and(is_recent) {
                return Ok(None);
            }
        }
        let record = LeaseRecord {
            holder,
            until: now + COLLECTION_LEASE,
            collected: previous.and_then(|previous| previous.collected),
        };
        let durability = Durability::Eventually;
        let written = match &version {
            None => self.records.create(&key, &record, &[], durability).await,
            Some(version) => {
                self.records
                    .replace(&key, &record, &[], version, durability)
                    .await
            }
        };
        let is_ours = match written {
            Ok(version) => version.is_some(),
            // A full disk, say: then it is all the more time to collect.
            Err(ContentError::Write(error)) => {
                note(registry, &ContentError::Write(error));
                true
            }
            Err(error) => return Err(error),
        };
        Ok(is_ours.then_some(Lease { key, record }))
    }

    /// Prolongs the lease when half of it has passed.
    pub(super) async fn renew_lease(&self, lease: &mut Lease) {
        let now = self.now();
        if lease.record.until - now > COLLECTION_LEASE / 2 {
            return;
        }
        lease.record.until = now + COLLECTION_LEASE;
        if let Err(error) = write_over(&self.records, &lease.key, &lease.record).await {
            tracing::debug!(
                "a lease was not prolonged: {}",
                service::errors::chain(&error)
            );
        }
    }

    /// Gives the lease back and says when the pass began.
    pub(super) async fn end_lease(&self, lease: Lease, began: OffsetDateTime) {
        let record = LeaseRecord {
            until: self.now(),
            collected: Some(began),
            ..lease.record
        };
        if let Err(error) = write_over(&self.records, &lease.key, &record).await {
            tracing::debug!(
                "a lease was not given back: {}",
                service::errors::chain(&error)
            );
        }
    }
}

fn note(registry: Uuid, error: &ContentError) {
    tracing::warn!(
        registry.uid = %registry,
        "collecting without saying so to the other nodes: {}",
        service::errors::chain(error)
    );
}
