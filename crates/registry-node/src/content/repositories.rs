//! Repositories as such: their record, their life from the first push to their deletion, the catalog.
//!
//! A repository's record carries a random id, its life: made again after a deletion, it has another. Manifests carry the life
//! under which they were written, and count as absent in any other. A push reads the record first and again at its end: only if it is still the same life, and not
//! locked, is the push done. So a push that overlaps a deletion, or the setting of a lock, came first or notices.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use time::OffsetDateTime;
use uuid::Uuid;

use super::attributes::ChangeableAttributes;
use super::error::ContentError;
use super::layout;
use super::listings::Page;
use super::manifests::LOOKUPS_IN_FLIGHT;
use super::record_store::Durability;
use super::records::{CONFLICT_ATTEMPTS, HintRecord, RepositoryRecord, Versioned};
use super::{Content, Repository};
use crate::names::{Digest, RepositoryName};

/// Keys read at a time where all of a repository is read.
pub(super) const KEYS_PAGE: usize = 1000;
/// A repository's time of last push is kept no finer than this.
const REPOSITORY_UPDATED_SECONDS: i64 = 60;

/// A repository as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryProperties {
    /// When something was pushed to it first.
    pub created: OffsetDateTime,
    /// When something was pushed to it last, to the minute.
    pub updated: OffsetDateTime,
    /// How many manifests it has, listed or not.
    pub manifest_count: usize,
    /// How many tags it has, listed or not.
    pub tag_count: usize,
    /// What is allowed with it.
    pub attributes: ChangeableAttributes,
}

/// The life of a repository that a push found, or begins.
pub(super) struct Life {
    pub(super) id: Uuid,
    found: Option<Versioned<RepositoryRecord>>,
}

impl Life {
    /// Whether the repository's record named this life already when the push began.
    pub(super) fn is_established(&self) -> bool {
        let found = self.found.as_ref();
        found.is_some_and(|found| found.value.id == Some(self.id))
    }

    /// Whether a manifest that was pushed in that life is there in this one.
    pub(super) fn has_manifest_of(&self, life: Option<Uuid>) -> bool {
        let found = self.found.as_ref();
        found.is_some_and(|found| found.value.has_manifest_of(life))
    }
}

/// What became of a life while a push wrote.
pub(super) enum LifeNow {
    /// It goes on.
    Same,
    /// It goes on, and nothing may be written any more.
    Locked(ContentError),
    /// It ended.
    Over,
}

impl Content {
    /// Repositories of one registry, at most `limit`, after the name `after` (which need not be one). Those that are not to be
    /// listed, or are being deleted, are left out.
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
        let mut after = after.map_or_else(String::new, |after| format!("{prefix}{after}!"));
        let mut entries = Vec::new();
        while entries.len() <= limit {
            let wanted = limit + 1 - entries.len();
            let listed = self.records.list(&prefix, &after, wanted).await?;
            let Some(last) = listed.last() else {
                break;
            };
            let names: Vec<RepositoryName> = listed
                .iter()
                .filter_map(|entry| layout::repository_of_key(registry, &entry.key))
                .collect();
            let hidden = match (names.first(), names.last()) {
                (Some(first), Some(last)) => {
                    self.hidden_repositories(registry, first, last).await?
                }
                _ => HashSet::new(),
            };
            entries.extend(names.into_iter().filter(|name| !hidden.contains(name)));
            if listed.len() < wanted {
                break;
            }
            after.clone_from(&last.key);
        }
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { entries, has_more })
    }

    /// Repositories from `first` to `last` that a catalog leaves out.
    async fn hidden_repositories(
        &self,
        registry: Uuid,
        first: &RepositoryName,
        last: &RepositoryName,
    ) -> Result<HashSet<RepositoryName>, ContentError> {
        let prefix = layout::catalog_marks_prefix(registry);
        let last = layout::catalog_mark(registry, last);
        // Nothing has a name between this and the first one.
        let mut after = format!("{prefix}{first}");
        let mut hidden = HashSet::new();
        loop {
            let marks = self.records.list(&prefix, &after, KEYS_PAGE).await?;
            let marked: Vec<RepositoryName> = marks
                .iter()
                .filter(|mark| mark.key <= last)
                .filter_map(|mark| layout::repository_of_catalog_mark(registry, &mark.key))
                .collect();
            let is_end = marked.len() < KEYS_PAGE;
            let found: Vec<Option<RepositoryName>> = stream::iter(marked)
                .map(|name| async move {
                    let record = self.repository(registry, &name).record().await?;
                    let is_hidden = record.is_none_or(|record| {
                        record.value.deleting
                            || !ChangeableAttributes::of(&record.value.attributes).list_enabled
                    });
                    Ok::<_, ContentError>(is_hidden.then_some(name))
                })
                .buffered(LOOKUPS_IN_FLIGHT)
                .try_collect()
                .await?;
            hidden.extend(found.into_iter().flatten());
            match marks.last() {
                Some(mark) if !is_end => after.clone_from(&mark.key),
                _ => return Ok(hidden),
            }
        }
    }
}

impl Repository<'_> {
    /// Whether anything was ever pushed to this repository.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn exists(&self) -> Result<bool, ContentError> {
        let record = self.record().await?;
        Ok(record.is_some_and(|record| !record.value.deleting))
    }

    /// The repository with its counts, for which all its tags and manifests are read.
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], or when the store cannot be read.
    pub async fn properties(&self) -> Result<RepositoryProperties, ContentError> {
        let record = self.live_record().await?.value;
        let manifests = self.all_manifests(&record, |_, _| Ok(())).await?;
        let live: HashSet<Digest> = manifests.into_iter().collect();
        let tags = self.all_tags(&live, |_, _| Ok(())).await?;
        Ok(RepositoryProperties {
            created: record.created,
            updated: record.updated,
            manifest_count: live.len(),
            tag_count: tags.len(),
            attributes: ChangeableAttributes::of(&record.attributes),
        })
    }

    pub(super) async fn record(&self) -> Result<Option<Versioned<RepositoryRecord>>, ContentError> {
        let key = layout::repository(self.registry, self.name);
        self.records().get(&key).await
    }

    pub(super) async fn live_record(&self) -> Result<Versioned<RepositoryRecord>, ContentError> {
        let record = self.record().await?;
        record
            .filter(|record| !record.value.deleting)
            .ok_or(ContentError::RepositoryUnknown)
    }

    /// What is allowed with the repository. With one that is not there, everything.
    pub(super) async fn attributes(&self) -> Result<ChangeableAttributes, ContentError> {
        let record = self.record().await?;
        Ok(attributes_of(record.as_ref()))
    }

    /// Lets catalogs look at the repository's record before they show it. A mark that is there gets a new version, so that a
    /// deletion that is late does not take it away.
    pub(super) async fn mark_for_catalog(&self) -> Result<(), ContentError> {
        let key = layout::catalog_mark(self.registry, self.name);
        for _ in 0..CONFLICT_ATTEMPTS {
            let version = self.records().version(&key).await?;
            let mark = HintRecord {};
            let written = match version {
                Some(version) => {
                    self.records()
                        .replace(&key, &mark, &[], &version, Durability::OnReturn)
                        .await?
                }
                None => {
                    self.records()
                        .create(&key, &mark, &[], Durability::OnReturn)
                        .await?
                }
            };
            if written.is_some() {
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }

    /// The life in which a push begins. A deletion that was begun is finished first.
    pub(super) async fn life(&self) -> Result<Life, ContentError> {
        loop {
            let found = self.record().await?;
            if let Some(found) = &found
                && found.value.deleting
            {
                self.finish_deletion_of_all(&found.version).await?;
                continue;
            }
            attributes_of(found.as_ref()).check_write(|| self.what_is_locked())?;
            let id = found.as_ref().and_then(|found| found.value.id);
            return Ok(Life {
                id: id.unwrap_or_else(|| self.content.random_id()),
                found,
            });
        }
    }

    /// Writes the repository's record for a push. `false` if it is of another life by now.
    pub(super) async fn write_record(&self, life: &Life) -> Result<bool, ContentError> {
        let key = layout::repository(self.registry, self.name);
        let now = self.content.now();
        let Some(found) = &life.found else {
            let record = RepositoryRecord {
                id: Some(life.id),
                created: now,
                updated: now,
                attributes: Default::default(),
                deleting: false,
            };
            let created = self
                .records()
                .create(&key, &record, &[], Durability::OnReturn)
                .await?;
            return Ok(created.is_some());
        };
        let has_life = found.value.id == Some(life.id);
        if has_life && (now - found.value.updated).whole_seconds() < REPOSITORY_UPDATED_SECONDS {
            return Ok(true);
        }
        let record = RepositoryRecord {
            id: Some(life.id),
            updated: now,
            ..found.value.clone()
        };
        let replaced = self
            .records()
            .replace(&key, &record, &[], &found.version, Durability::OnReturn)
            .await?;
        // Somebody else's time of last push is as good.
        Ok(has_life || replaced.is_some())
    }

    /// Looks, once everything is written, whether the life is still the one that the push began in.
    pub(super) async fn life_now(&self, life: &Life) -> Result<LifeNow, ContentError> {
        let record = self.record().await?;
        let is_same = record
            .as_ref()
            .is_some_and(|record| !record.value.deleting && record.value.id == Some(life.id));
        if !is_same {
            return Ok(LifeNow::Over);
        }
        let writable = attributes_of(record.as_ref()).check_write(|| self.what_is_locked());
        Ok(match writable {
            Ok(()) => LifeNow::Same,
            Err(locked) => LifeNow::Locked(locked),
        })
    }
}

pub(super) fn attributes_of(record: Option<&Versioned<RepositoryRecord>>) -> ChangeableAttributes {
    record.map_or_else(ChangeableAttributes::default, |record| {
        ChangeableAttributes::of(&record.value.attributes)
    })
}
