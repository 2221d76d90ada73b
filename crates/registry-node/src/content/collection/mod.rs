//! Collection: what nobody refers to goes, while pushes go on, from any number of nodes and tools at once.
//!
//! One rule makes it safe. **A pass removes a thing only if it was last touched more than the grace period before the pass began, and only
//! at the version that was judged.** Whoever refers to a thing touches it first, unless it was touched within [`TOUCH_INTERVAL`], and
//! refers to it soon after. So of every reference that a pass can miss, because it was made after the pass began, the thing was touched
//! too late to be judged old; and a touch after the judgement changes the version. That holds however long the pass takes, as long as the
//! time between a touch and the reference, and what clocks differ by, stay below the grace period less [`TOUCH_INTERVAL`]. Reading the
//! references *after* the pass began finds all older ones.
//!
//! The steps of a pass over one registry, each of which takes away what the next ones judge by:
//!
//! 1. sessions of uploads (their bytes are marked; idle ones end);
//! 2. of each repository: manifests by the registry's retention rules, then links that no manifest refers to;
//! 3. blobs' records without a link;
//! 4. bytes that no record and no session names;
//! 5. the sum of what is left is written down: the bytes of all manifests and, each once, of all blobs that a repository has or had within
//!    the grace period. Records, uploads under way and bytes of stores that were taken over do not count.
//!
//! A session's bytes are named by the blob's record before the session goes, so reading sessions first misses nothing. Everything that is
//! removed is unreachable before; a pass that dies leaves nothing that the next one does not find.
//!
//! [`TOUCH_INTERVAL`]: crate::limits::TOUCH_INTERVAL

mod blobs;
mod data;
mod deleted;
mod lease;
mod marks;
mod pace;
mod pass;
mod repositories;
mod retention;
mod sessions;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use pace::Pace;
pub use retention::RetentionRules;

use super::Content;
use super::error::ContentError;
use super::layout;
use super::progress::Progress;
use crate::limits::GRACE_PERIOD;
use pass::Pass;

/// How a pass goes about.
#[derive(Clone)]
pub struct CollectOptions {
    /// What was touched within this time before the pass is left alone.
    pub grace_period: Duration,
    /// Which untagged manifests go; none without rules.
    pub retention: Option<RetentionRules>,
    /// Nothing is changed; the report says what would be.
    pub is_dry_run: bool,
    /// How fast.
    pub pace: Pace,
    /// Told how far it is.
    pub progress: Progress,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            grace_period: GRACE_PERIOD,
            retention: None,
            is_dry_run: false,
            pace: Pace::default(),
            progress: Progress::default(),
        }
    }
}

/// What a pass found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectionReport {
    /// Repositories looked through.
    pub repositories: u64,
    /// Manifests that are there.
    pub manifests: u64,
    /// Blobs that are there.
    pub blobs: u64,
    /// Bytes of these manifests and blobs: each blob once, however many repositories have it.
    pub bytes: u64,
    /// What was removed, or would be.
    pub removed: Removed,
    /// Records that cannot be understood; what they may refer to is kept.
    pub unreadable: u64,
    /// The registry was deleted and all of its content is gone.
    pub is_gone: bool,
}

/// What a pass removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removed {
    /// Manifests, by the rules of retention.
    pub manifests: u64,
    /// Deletions that somebody began and did not end.
    pub deletions: u64,
    /// Links of repositories to blobs.
    pub links: u64,
    /// Records of blobs.
    pub blobs: u64,
    /// Idle uploads.
    pub uploads: u64,
    /// Objects of bytes.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
}

impl Removed {
    /// Whether there was anything.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another pass's.
    pub fn add(&mut self, other: &Self) {
        self.manifests += other.manifests;
        self.deletions += other.deletions;
        self.links += other.links;
        self.blobs += other.blobs;
        self.uploads += other.uploads;
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

impl Content {
    /// The registry with content that comes after `after`, in the order of their uids.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn next_registry(&self, after: Option<Uuid>) -> Result<Option<Uuid>, ContentError> {
        let mut after = after.map_or_else(String::new, |after| {
            layout::after_all_of(&layout::registry_prefix(after))
        });
        loop {
            let listed = self.records.list(layout::REGISTRIES, &after, 1).await?;
            let Some(entry) = listed.into_iter().next() else {
                return Ok(None);
            };
            if let Some(registry) = layout::registry_of_key(&entry.key) {
                return Ok(Some(registry));
            }
            after = entry.key;
        }
    }

    /// Collects one registry's content. Safe beside everything else, also beside another pass over the same registry.
    ///
    /// # Errors
    /// When the store fails. What was removed until then was rightly removed.
    pub async fn collect(
        &self,
        registry: Uuid,
        options: &CollectOptions,
    ) -> Result<CollectionReport, ContentError> {
        Pass::new(self, registry, options, None).run().await
    }

    /// Collects one registry's content if nobody did lately and nobody else is at it. `holder` names the caller among those who do this.
    ///
    /// # Errors
    /// See [`Self::collect`].
    pub async fn collect_if_due(
        &self,
        registry: Uuid,
        holder: Uuid,
        options: &CollectOptions,
    ) -> Result<Option<CollectionReport>, ContentError> {
        let Some(lease) = self.take_lease(registry, holder).await? else {
            return Ok(None);
        };
        let report = Pass::new(self, registry, options, Some(lease))
            .run()
            .await?;
        Ok(Some(report))
    }
}
