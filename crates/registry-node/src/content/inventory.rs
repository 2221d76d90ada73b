//! What a repository holds, with its properties: tags and manifests, page by page, by name or by time.
//!
//! A page by name reads its own entries. There is no index by time: it would cost every push two more writes. A page by time
//! reads the records of all entries, of which there may be [`ORDERED_BY_TIME_MAXIMUM`].

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use time::OffsetDateTime;

use super::Repository;
use super::attributes::ChangeableAttributes;
use super::error::ContentError;
use super::layout;
use super::listings::Page;
use super::manifest_details::ManifestDetails;
use super::manifests::LOOKUPS_IN_FLIGHT;
use super::records::{ManifestRecord, RepositoryRecord, TagRecord, Versioned};
use super::repositories::KEYS_PAGE;
use crate::limits::{MANIFEST_TAGS_SHOWN_MAXIMUM, ORDERED_BY_TIME_MAXIMUM};
use crate::names::{Digest, Tag};

/// The order of a listing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// By name: of tags by their bytes, of manifests by their digests.
    #[default]
    ByName,
    /// What was updated longest ago comes first.
    OldestFirst,
    /// What was updated last comes first.
    NewestFirst,
}

/// Which part of a listing is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The order.
    pub order: Order,
    /// The name after which the part begins, and, where the order is by time, its time if that is known.
    pub after: Option<(String, Option<OffsetDateTime>)>,
    /// Most entries.
    pub limit: usize,
}

/// A tag as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagProperties {
    /// The tag.
    pub tag: Tag,
    /// The manifest that it points to.
    pub digest: Digest,
    /// When it was pushed first.
    pub created: OffsetDateTime,
    /// When it was pushed last.
    pub updated: OffsetDateTime,
    /// What is allowed with it.
    pub attributes: ChangeableAttributes,
}

/// A manifest as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestProperties {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// When it was pushed first.
    pub created: OffsetDateTime,
    /// What was read of it.
    pub details: ManifestDetails,
    /// Tags that point to it, by name, at most [`MANIFEST_TAGS_SHOWN_MAXIMUM`].
    pub tags: Vec<Tag>,
    /// What is allowed with it.
    pub attributes: ChangeableAttributes,
}

/// What an order by time compares.
trait Entry {
    fn name(&self) -> &str;
    fn time(&self) -> OffsetDateTime;
}

impl Entry for (Tag, TagRecord) {
    fn name(&self) -> &str {
        self.0.as_str()
    }

    fn time(&self) -> OffsetDateTime {
        self.1.updated
    }
}

impl Entry for (Digest, OffsetDateTime) {
    fn name(&self) -> &str {
        self.0.as_str()
    }

    fn time(&self) -> OffsetDateTime {
        self.1
    }
}

impl Repository<'_> {
    /// One tag.
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], [`ContentError::TagUnknown`], or when the store cannot be read.
    pub async fn tag_properties(&self, tag: &Tag) -> Result<TagProperties, ContentError> {
        self.live_record().await?;
        let unknown = || ContentError::TagUnknown(tag.clone());
        let record = self.tag_record(tag).await?.ok_or_else(unknown)?.value;
        if !self.has_manifest(&record.digest).await? {
            return Err(unknown());
        }
        Ok(tag_properties((tag.clone(), record)))
    }

    /// Tags that are to be listed, of all manifests or of one.
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], [`ContentError::TooManyToOrder`], [`ContentError::NoSuchPosition`], or when the store
    /// cannot be read.
    pub async fn tags_with_properties(
        &self,
        of: Option<&Digest>,
        part: &Part,
    ) -> Result<Page<TagProperties>, ContentError> {
        let repository = &self.live_record().await?.value;
        let prefix = match of {
            Some(digest) => layout::hints_prefix(self.registry, self.name, digest),
            None => layout::tags_prefix(self.registry, self.name),
        };
        let page = match part.order {
            Order::ByName => {
                let after = part.after.as_ref().map(|(name, _)| name.as_str());
                self.tags_below(repository, &prefix, of, after, part.limit)
                    .await?
            }
            Order::OldestFirst | Order::NewestFirst => {
                let maximum = ORDERED_BY_TIME_MAXIMUM;
                let all = self
                    .tags_below(repository, &prefix, of, None, maximum)
                    .await?;
                in_order_of_time(all, part)?
            }
        };
        Ok(Page {
            entries: page.entries.into_iter().map(tag_properties).collect(),
            has_more: page.has_more,
        })
    }

    /// One manifest.
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], [`ContentError::ManifestUnknown`], or when the store cannot be read.
    pub async fn manifest_properties(
        &self,
        digest: &Digest,
    ) -> Result<ManifestProperties, ContentError> {
        let repository = self.live_record().await?.value;
        let record = self.manifest_record(digest).await?;
        let record = record
            .filter(|record| {
                !record.value.deleting && repository.has_manifest_of(record.value.life)
            })
            .ok_or(ContentError::ManifestUnknown)?;
        self.properties_of_manifest(&repository, digest.clone(), record)
            .await
    }

    /// Manifests that are to be listed.
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], [`ContentError::TooManyToOrder`], [`ContentError::NoSuchPosition`], or when the store
    /// cannot be read.
    pub async fn manifests_with_properties(
        &self,
        part: &Part,
    ) -> Result<Page<ManifestProperties>, ContentError> {
        let repository = &self.live_record().await?.value;
        let page = match part.order {
            Order::ByName => {
                let after = part.after.as_ref().map(|(name, _)| name.as_str());
                self.listed_manifests(repository, after, part.limit).await?
            }
            Order::OldestFirst | Order::NewestFirst => {
                let maximum = ORDERED_BY_TIME_MAXIMUM;
                let all = self.listed_manifests(repository, None, maximum).await?;
                in_order_of_time(all, part)?
            }
        };
        let entries: Vec<Option<ManifestProperties>> = stream::iter(page.entries)
            .map(|(digest, _)| async move {
                match self.manifest_properties(&digest).await {
                    // Deleted since the page was put together.
                    Err(ContentError::ManifestUnknown) => Ok(None),
                    found => found.map(Some),
                }
            })
            .buffered(LOOKUPS_IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(Page {
            entries: entries.into_iter().flatten().collect(),
            has_more: page.has_more,
        })
    }

    /// Digests of manifests that are to be listed, each with its time.
    async fn listed_manifests(
        &self,
        repository: &RepositoryRecord,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<(Digest, OffsetDateTime)>, ContentError> {
        if limit == 0 {
            return Ok(Page::empty());
        }
        let prefix = layout::manifests_prefix(self.registry, self.name);
        let mut after = after.map_or_else(String::new, |after| {
            format!("{prefix}{}", after.replacen(':', "-", 1))
        });
        let mut entries = Vec::new();
        while entries.len() <= limit {
            let wanted = (limit + 1 - entries.len()).min(KEYS_PAGE);
            let found = self.manifests_after(repository, &mut after, wanted).await?;
            let Some(found) = found else {
                break;
            };
            let listed = found.into_iter().filter(|(_, record)| {
                ChangeableAttributes::of(&record.value.attributes).list_enabled
            });
            entries.extend(listed.map(|(digest, record)| (digest, record.value.created)));
        }
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { entries, has_more })
    }

    /// The manifests among the next `limit` keys after `after`, which then is the last of these; `None` behind the last.
    async fn manifests_after(
        &self,
        repository: &RepositoryRecord,
        after: &mut String,
        limit: usize,
    ) -> Result<Option<Vec<(Digest, Versioned<ManifestRecord>)>>, ContentError> {
        let prefix = layout::manifests_prefix(self.registry, self.name);
        let listed = self.records().list(&prefix, after, limit).await?;
        let Some(last) = listed.last() else {
            return Ok(None);
        };
        after.clone_from(&last.key);
        let digests: Vec<Digest> = listed
            .iter()
            .filter_map(|entry| layout::digest_of_name(layout::last_component(&entry.key)))
            .collect();
        let found: Vec<Option<(Digest, Versioned<ManifestRecord>)>> = stream::iter(digests)
            .map(|digest| async move {
                let record = self.manifest_record(&digest).await?;
                let record = record.filter(|record| {
                    !record.value.deleting && repository.has_manifest_of(record.value.life)
                });
                Ok::<_, ContentError>(record.map(|record| (digest, record)))
            })
            .buffered(LOOKUPS_IN_FLIGHT)
            .try_collect()
            .await?;
        Ok(Some(found.into_iter().flatten().collect()))
    }

    async fn properties_of_manifest(
        &self,
        repository: &RepositoryRecord,
        digest: Digest,
        record: Versioned<ManifestRecord>,
    ) -> Result<ManifestProperties, ContentError> {
        let prefix = layout::hints_prefix(self.registry, self.name, &digest);
        let (details, tags) = tokio::try_join!(
            self.manifest_details(&record),
            self.tags_below(
                repository,
                &prefix,
                Some(&digest),
                None,
                MANIFEST_TAGS_SHOWN_MAXIMUM
            )
        )?;
        Ok(ManifestProperties {
            digest,
            media_type: record.value.media_type,
            created: record.value.created,
            details,
            tags: tags.entries.into_iter().map(|(tag, _)| tag).collect(),
            attributes: ChangeableAttributes::of(&record.value.attributes),
        })
    }

    /// All manifests, listed or not; the first fault that `check` finds with one ends it.
    pub(super) async fn all_manifests(
        &self,
        repository: &RepositoryRecord,
        check: impl Fn(&Digest, ChangeableAttributes) -> Result<(), ContentError>,
    ) -> Result<Vec<Digest>, ContentError> {
        let mut after = String::new();
        let mut all = Vec::new();
        while let Some(found) = self
            .manifests_after(repository, &mut after, KEYS_PAGE)
            .await?
        {
            for (digest, record) in found {
                check(&digest, ChangeableAttributes::of(&record.value.attributes))?;
                all.push(digest);
            }
        }
        Ok(all)
    }

    /// The same with tags: all that point to one of the manifests.
    pub(super) async fn all_tags(
        &self,
        manifests: &HashSet<Digest>,
        check: impl Fn(&Tag, ChangeableAttributes) -> Result<(), ContentError>,
    ) -> Result<Vec<Tag>, ContentError> {
        let prefix = layout::tags_prefix(self.registry, self.name);
        let mut after = String::new();
        let mut all = Vec::new();
        loop {
            let listed = self.records().list(&prefix, &after, KEYS_PAGE).await?;
            let Some(last) = listed.last() else {
                return Ok(all);
            };
            after.clone_from(&last.key);
            let tags: Vec<Tag> = listed
                .iter()
                .filter_map(|entry| layout::last_component(&entry.key).parse().ok())
                .collect();
            let found: Vec<(Tag, Option<TagRecord>)> = stream::iter(tags)
                .map(|tag| async move {
                    let record = self.tag_record(&tag).await?;
                    Ok::<_, ContentError>((tag, record.map(|record| record.value)))
                })
                .buffered(LOOKUPS_IN_FLIGHT)
                .try_collect()
                .await?;
            for (tag, record) in found {
                let record = record.filter(|record| manifests.contains(&record.digest));
                if let Some(record) = record {
                    check(&tag, ChangeableAttributes::of(&record.attributes))?;
                    all.push(tag);
                }
            }
        }
    }
}

fn tag_properties((tag, record): (Tag, TagRecord)) -> TagProperties {
    TagProperties {
        tag,
        attributes: ChangeableAttributes::of(&record.attributes),
        digest: record.digest,
        created: record.created,
        updated: record.updated,
    }
}

/// The part of all entries that is asked for. Entries of one time are ordered by name.
fn in_order_of_time<T: Entry>(all: Page<T>, part: &Part) -> Result<Page<T>, ContentError> {
    if all.has_more {
        return Err(ContentError::TooManyToOrder);
    }
    let mut entries = all.entries;
    let compare = |left: (OffsetDateTime, &str), right: (OffsetDateTime, &str)| match part.order {
        Order::NewestFirst => right.cmp(&left),
        Order::ByName | Order::OldestFirst => left.cmp(&right),
    };
    if let Some((name, time)) = &part.after {
        let known = || entries.iter().find(|entry| entry.name() == name);
        let time = (*time)
            .or_else(|| known().map(Entry::time))
            .ok_or_else(|| ContentError::NoSuchPosition(crate::names::shown(name)))?;
        entries.retain(|entry| compare((entry.time(), entry.name()), (time, name)).is_gt());
    }
    entries
        .sort_by(|left, right| compare((left.time(), left.name()), (right.time(), right.name())));
    let has_more = entries.len() > part.limit;
    entries.truncate(part.limit);
    Ok(Page { entries, has_more })
}
