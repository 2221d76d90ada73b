//! Listings, page by page: repositories of a registry, tags of a repository, referrers of a manifest. The work of a page is
//! that of its entries, however many there are in all.

use std::collections::{BTreeMap, HashMap};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::ContentError;
use super::layout;
use super::manifests::LOOKUPS_IN_FLIGHT;
use super::records::RepositoryRecord;
use super::{Content, Repository};
use crate::limits::REFERRERS_PAGE_BYTES_MAXIMUM;
use crate::names::{Digest, RepositoryName, Tag};

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries in order.
    pub entries: Vec<T>,
    /// Whether there is more after the last entry.
    pub has_more: bool,
}

impl<T> Page<T> {
    fn empty() -> Self {
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

impl Content {
    /// Repositories of one registry, at most `limit`, after the name `after` (which need not be one).
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn repositories(
        &self,
        registry: Uuid,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<RepositoryName>, ContentError> {
        if limit == 0 {
            return Ok(Page::empty());
        }
        let prefix = layout::repositories_prefix(registry);
        let after = after.map_or_else(String::new, |after| format!("{prefix}{after}!"));
        let listed = self.records.list(&prefix, &after, limit + 1).await?;
        let has_more = listed.len() > limit;
        let entries = listed
            .iter()
            .take(limit)
            .filter_map(|entry| layout::repository_of_key(registry, &entry.key))
            .collect();
        Ok(Page { entries, has_more })
    }
}

impl Repository<'_> {
    /// Whether anything was ever pushed to this repository.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn exists(&self) -> Result<bool, ContentError> {
        let key = layout::repository(self.registry, self.name);
        Ok(self
            .records()
            .get::<RepositoryRecord>(&key)
            .await?
            .is_some())
    }

    /// Tags of this repository, at most `limit`, after the tag `after` (which need not be one).
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], or when the store cannot be read.
    pub async fn tags(&self, after: Option<&str>, limit: usize) -> Result<Page<Tag>, ContentError> {
        if !self.exists().await? {
            return Err(ContentError::RepositoryUnknown);
        }
        if limit == 0 {
            return Ok(Page::empty());
        }
        let prefix = layout::tags_prefix(self.registry, self.name);
        let mut after = after.map_or_else(String::new, |after| format!("{prefix}{after}"));
        let mut entries = Vec::new();
        while entries.len() <= limit {
            let wanted = limit + 1 - entries.len();
            let listed = self.records().list(&prefix, &after, wanted).await?;
            let is_end = listed.len() < wanted;
            if let Some(last) = listed.last() {
                after.clone_from(&last.key);
            }
            let tags = listed
                .iter()
                .filter_map(|entry| layout::last_component(&entry.key).parse().ok())
                .collect();
            entries.extend(self.tags_that_lead_somewhere(tags).await?);
            if is_end {
                break;
            }
        }
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { entries, has_more })
    }

    /// Drops the tags whose manifest is deleted, or being deleted.
    async fn tags_that_lead_somewhere(&self, tags: Vec<Tag>) -> Result<Vec<Tag>, ContentError> {
        let records: Vec<(Tag, Option<Digest>)> = stream::iter(tags)
            .map(|tag| async move {
                let record = self.tag_record(&tag).await?;
                Ok::<_, ContentError>((tag, record.map(|record| record.value.digest)))
            })
            .buffered(LOOKUPS_IN_FLIGHT)
            .try_collect()
            .await?;
        let mut is_live: HashMap<Digest, bool> = records
            .iter()
            .filter_map(|(_, digest)| Some((digest.clone()?, false)))
            .collect();
        let looked_up: Vec<(Digest, bool)> =
            stream::iter(is_live.keys().cloned().collect::<Vec<_>>())
                .map(|digest| async move {
                    let manifest = self.manifest_by_digest(&digest).await?;
                    Ok::<_, ContentError>((digest, manifest.is_some()))
                })
                .buffered(LOOKUPS_IN_FLIGHT)
                .try_collect()
                .await?;
        is_live.extend(looked_up);
        let leads_somewhere =
            |digest: Option<Digest>| digest.is_some_and(|digest| is_live[&digest]);
        Ok(records
            .into_iter()
            .filter_map(|(tag, digest)| leads_somewhere(digest).then_some(tag))
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
        if limit == 0 {
            return Ok(Page::empty());
        }
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
            let found: Vec<Option<(ReferrerDescriptor, usize)>> = stream::iter(listed)
                .map(|entry| async move { self.live_referrer(&entry.key).await })
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
        key: &str,
    ) -> Result<Option<(ReferrerDescriptor, usize)>, ContentError> {
        let Some(digest) = layout::digest_of_name(layout::last_component(key)) else {
            return Ok(None);
        };
        if self.manifest_by_digest(&digest).await?.is_none() {
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
