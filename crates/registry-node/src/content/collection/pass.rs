//! One pass over one registry: what its steps share.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use uuid::Uuid;

use super::lease::Lease;
use super::marks::Marks;
use super::pace::Pacer;
use super::{CollectOptions, CollectionReport};
use crate::content::Content;
use crate::content::error::ContentError;
use crate::content::record_store::{Durability, Version};
use crate::content::records::{Records, Versioned};

/// Reads under way at once.
pub(super) const READS_IN_FLIGHT: usize = 8;

pub(super) struct Pass<'a> {
    pub(super) content: &'a Content,
    pub(super) registry: Uuid,
    pub(super) options: &'a CollectOptions,
    /// Before anything was read. Things are judged by their age at this time.
    pub(super) began: OffsetDateTime,
    pub(super) report: CollectionReport,
    /// Blobs that a repository has.
    pub(super) linked: Marks,
    /// Keys of objects that a session or a blob's record names.
    pub(super) data: Marks,
    /// A record that names bytes cannot be read, so that no bytes can be judged.
    pub(super) is_data_unknown: bool,
    pacer: Pacer,
    lease: Option<Lease>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        content: &'a Content,
        registry: Uuid,
        options: &'a CollectOptions,
        lease: Option<Lease>,
    ) -> Self {
        Self {
            content,
            registry,
            options,
            began: content.now(),
            report: CollectionReport::default(),
            linked: Marks::default(),
            data: Marks::default(),
            is_data_unknown: false,
            pacer: Pacer::new(options.pace),
            lease,
        }
    }

    pub(super) async fn run(mut self) -> Result<CollectionReport, ContentError> {
        if let Some(deleted) = self.deleted_at().await? {
            if self.is_old(deleted) {
                self.remove_everything().await?;
            }
            return Ok(self.report);
        }
        self.sessions().await?;
        self.repositories().await?;
        self.blobs().await?;
        self.data().await?;
        if !self.options.is_dry_run {
            self.write_usage().await;
        }
        if let Some(lease) = self.lease.take() {
            self.content.end_lease(lease, self.began).await;
        }
        Ok(self.report)
    }

    pub(super) fn drop_lease(&mut self) {
        self.lease = None;
    }

    pub(super) fn records(&self) -> &'a Records {
        &self.content.records
    }

    /// Whether something that was touched then is older than the grace period.
    pub(super) fn is_old(&self, touched: OffsetDateTime) -> bool {
        self.is_older_than(touched, self.options.grace_period)
    }

    pub(super) fn is_older_than(&self, touched: OffsetDateTime, age: Duration) -> bool {
        self.began - touched > age
    }

    pub(super) fn stage(&self, stage: &'static str) {
        self.options.progress.begin(Some(self.registry), stage);
    }

    /// Between two pieces of work: lets others have their turn, and lets the other nodes know that this one is at it.
    pub(super) async fn breathe(&mut self, looked_at: usize) {
        self.options.progress.advance(looked_at);
        self.pacer.rest().await;
        if let Some(lease) = &mut self.lease {
            self.content.renew_lease(lease).await;
        }
    }

    /// Removes a record at the version that was judged. `false` if it has changed since. In a dry run, what would happen.
    pub(super) async fn remove(&self, key: &str, version: &Version) -> Result<bool, ContentError> {
        if self.options.is_dry_run {
            return Ok(true);
        }
        self.records()
            .remove(key, version, Durability::OnReturn)
            .await
    }

    /// Reads a record for judging it: one that is damaged counts as unreadable, and is kept.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Read<T>, ContentError> {
        match self.records().get(key).await {
            Ok(Some(found)) => Ok(Read::Record(found)),
            Ok(None) => Ok(Read::Gone),
            Err(ContentError::DamagedRecord { key }) => {
                tracing::warn!(
                    record.key = key,
                    "a record is damaged; what it may refer to is kept"
                );
                Ok(Read::Unreadable)
            }
            Err(error) => Err(error),
        }
    }

    /// A full disk must not keep a pass from making room, so that this fails is only said.
    async fn write_usage(&self) {
        let counted = self
            .content
            .write_count(self.registry, self.report.bytes, self.began)
            .await;
        if let Err(error) = counted {
            tracing::warn!(
                registry.uid = %self.registry,
                "what a registry's content comes to was counted and not written: {}",
                service::errors::chain(&error)
            );
        }
    }
}

/// A record as a pass reads it.
pub(super) enum Read<T> {
    Record(Versioned<T>),
    /// Somebody else removed it.
    Gone,
    Unreadable,
}

/// Writes a record whatever was there. Somebody else's that comes in between is as good.
pub(super) async fn write_over<T: Serialize>(
    records: &Records,
    key: &str,
    value: &T,
) -> Result<(), ContentError> {
    match records.version(key).await? {
        None => {
            records
                .create(key, value, &[], Durability::Eventually)
                .await?
        }
        Some(version) => {
            records
                .replace(key, value, &[], &version, Durability::Eventually)
                .await?
        }
    };
    Ok(())
}
