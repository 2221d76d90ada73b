//! Listings, page by page: tags of a repository, referrers of a manifest. The work of a page is
//! that of its entries, however many there are in all.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::Repository;
use super::attributes::ChangeableAttributes;
use super::error::ContentError;
use super::layout;
use super::manifests::LOOKUPS_IN_FLIGHT;
use super::records::{RepositoryRecord, TagRecord};
use crate::limits::REFERRERS_PAGE_BYTES_MAXIMUM;
use crate::names::{Digest, Tag};

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries in order.
    pub entries: Vec<T>,
    /// Whether there is more after the last entry.
    pub has_more: bool,
}

impl<T> Page<T> {
    pub(super) fn empty() -> Self {
        Self {
            entries: Vec::new(),
            has_more: false,
        }
    }
}

/// A referrer as listings show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferrerDescriptor {
    /// Media type of the referrer's manifest.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What kind of artifact it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub artifact_type: Option<String>,
    /// The annotations of its manifest.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub annotations: BTreeMap<String, String>,
}

impl Repository<'_> {
    /// Tags of this repository, at most `limit`, after the tag `after` (which need not be one).
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], or when the store cannot be read.
    pub async fn tags(&self, after: Option<&str>, limit: usize) -> Result<Page<Tag>, ContentError> {
        let repository = self.live_record().await?.value;
        let prefix = layout::tags_prefix(self.registry, self.name);
        let page = self
            .tags_below(&repository, &prefix, None, after, limit)
            .await?;
        Ok(Page {
            entries: page.entries.into_iter().map(|(tag, _)| tag).collect(),
            has_more: page.has_more,
        })
    }

    /// Tags that are to be listed, with their records, by the names of the keys below a prefix: that of all tags, or that of the
    /// hints of the manifest `of`.
    pub(super) async fn tags_below(
        &self,
        repository: &RepositoryRecord,
        prefix: &str,
        of: Option<&Digest>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(Tag, TagRecord)>, ContentError> {
        if limit == 0 {
            return Ok(Page::empty());
        }
        let mut after = after.map_or_else(String::new, |after| format!("{prefix}{after}"));
        let mut entries = Vec::new();
        while entries.len() <= limit {
            let wanted = limit + 1 - entries.len();
            let listed = self.records().list(prefix, &after, wanted).await?;
            let is_end = listed.len() < wanted;
            if let Some(last) = listed.last() {
                after.clone_from(&last.key);
            }
            let tags = listed
                .iter()
                .filter_map(|entry| layout::last_component(&entry.key).parse().ok())
                .collect();
            let found = self.tags_that_lead_somewhere(repository, tags).await?;
            entries.extend(found.into_iter().filter(|(_, record)| {
                of.is_none_or(|digest| record.digest == *digest)
                    && ChangeableAttributes::of(&record.attributes).list_enabled
            }));
            if is_end {
                break;
            }
        }
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { entries, has_more })
    }

    /// Drops the tags whose manifest is deleted, or being deleted.
    async fn tags_that_lead_somewhere(
        &self,
        repository: &RepositoryRecord,
        tags: Vec<Tag>,
    ) -> Result<Vec<(Tag, TagRecord)>, ContentError> {
        let records: Vec<Option<(Tag, TagRecord)>> = stream::iter(tags)
            .map(|tag| async move {
                let record = self.tag_record(&tag).await?;
                Ok::<_, ContentError>(record.map(|record| (tag, record.value)))
            })
            .buffered(LOOKUPS_IN_FLIGHT)
            .try_collect()
            .await?;
        let records: Vec<(Tag, TagRecord)> = records.into_iter().flatten().collect();
        let digests: HashSet<Digest> = records
            .iter()
            .map(|(_, record)| record.digest.clone())
            .collect();
        let is_live: HashMap<Digest, bool> = stream::iter(digests)
            .map(|digest| async move {
                let manifest = self.manifest_by_digest(&digest).await?;
                let is_live =
                    manifest.is_some_and(|manifest| repository.has_manifest_of(manifest.life));
                Ok::<_, ContentError>((digest, is_live))
            })
            .buffered(LOOKUPS_IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(records
            .into_iter()
            .filter(|(_, record)| is_live[&record.digest])
            .collect())
    }

    /// Manifests that name `subject` as what they are about: at most `limit`, of one artifact type if one is named, after the
    /// digest `after`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<ReferrerDescriptor>, ContentError> {
        let repository = self.record().await?.map(|record| record.value);
        let repository = repository.filter(|repository| !repository.deleting);
        let Some(repository) = repository.filter(|_| limit > 0) else {
            return Ok(Page::empty());
        };
        let prefix = layout::referrers_prefix(self.registry, self.name, subject);
        let mut after = after.map_or_else(String::new, |after| {
            format!("{prefix}{}", after.replacen(':', "-", 1))
        });
        let mut entries = Vec::new();
        let mut bytes = 0;
        loop {
            let listed = self
                .records()
                .list(&prefix, &after, LOOKUPS_IN_FLIGHT)
                .await?;
            let Some(last) = listed.last() else {
                return Ok(Page {
                    entries,
                    has_more: false,
                });
            };
            after.clone_from(&last.key);
            let repository = &repository;
            let found: Vec<Option<(ReferrerDescriptor, usize)>> = stream::iter(listed)
                .map(|entry| async move { self.live_referrer(repository, &entry.key).await })
                .buffered(LOOKUPS_IN_FLIGHT)
                .try_collect()
                .await?;
            for (descriptor, size) in found.into_iter().flatten() {
                if artifact_type.is_some() && descriptor.artifact_type.as_deref() != artifact_type {
                    continue;
                }
                bytes += size;
                let is_full = entries.len() == limit
                    || (bytes > REFERRERS_PAGE_BYTES_MAXIMUM && !entries.is_empty());
                if is_full {
                    return Ok(Page {
                        entries,
                        has_more: true,
                    });
                }
                entries.push(descriptor);
            }
        }
    }

    /// The descriptor under a referrer's key with its size in bytes, if its manifest is there.
    async fn live_referrer(
        &self,
        repository: &RepositoryRecord,
        key: &str,
    ) -> Result<Option<(ReferrerDescriptor, usize)>, ContentError> {
        let Some(digest) = layout::digest_of_name(layout::last_component(key)) else {
            return Ok(None);
        };
        let manifest = self.manifest_by_digest(&digest).await?;
        if manifest.is_none_or(|manifest| !repository.has_manifest_of(manifest.life)) {
            return Ok(None);
        }
        let record = self.records().get::<ReferrerDescriptor>(key).await?;
        Ok(record.map(|record| {
            let size = record
                .value
                .annotations
                .iter()
                .map(|(name, value)| name.len() + value.len() + 8)
                .sum::<usize>()
                + 512;
            (record.value, size)
        }))
    }
}
