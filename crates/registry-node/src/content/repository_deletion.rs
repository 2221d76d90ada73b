//! Deletes a repository with all its manifests and tags.
//!
//! The mark in the repository's record is the moment at which it happens; from then on the repository counts as absent, and
//! whoever meets the mark to push, or repeats the deletion, takes away what is left. What is taken away was read before the mark was
//! seen to be still there, and goes only at the version that was read; a push in a later life writes its manifests and tags anew.
//! So one who is late cannot take what came after. Links to blobs stay: they are promises to pushes under way, and collection
//! takes those that nothing refers to.

use std::collections::HashSet;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::Repository;
use super::attributes::ChangeableAttributes;
use super::error::ContentError;
use super::layout;
use super::manifests::LOOKUPS_IN_FLIGHT;
use super::record_store::{Durability, Version};
use super::records::{CONFLICT_ATTEMPTS, RepositoryRecord};
use super::repositories::KEYS_PAGE;
use crate::names::{Digest, Tag};

/// What was deleted with a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeletedRepository {
    /// Its manifests.
    pub manifests: Vec<Digest>,
    /// Its tags.
    pub tags: Vec<Tag>,
}

impl Repository<'_> {
    /// Deletes the repository: all its manifests and tags.
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], [`ContentError::Locked`] if it, or any tag or manifest in it, is locked, or when the
    /// store fails.
    pub async fn delete(&self) -> Result<DeletedRepository, ContentError> {
        let key = layout::repository(self.registry, self.name);
        for _ in 0..CONFLICT_ATTEMPTS {
            let found = self.record().await?;
            let mut found = found.ok_or(ContentError::RepositoryUnknown)?;
            let is_begun = found.value.deleting;
            if !is_begun {
                ChangeableAttributes::of(&found.value.attributes)
                    .check_delete(|| self.what_is_locked())?;
            }
            let content = self.content_to_delete(&found.value, !is_begun).await?;
            if !is_begun {
                self.mark_for_catalog().await?;
                found.value.deleting = true;
                let marked = self.records().rewrite(&key, &found).await?;
                let Some(version) = marked else {
                    continue;
                };
                found.version = version;
            }
            if let Err(error) = self.finish_deletion_of_all(&found.version).await {
                // It is deleted all the same; whoever meets it cleans up.
                tracing::warn!(repository = %self.name, %error, "a deleted repository was not cleaned up");
            }
            return Ok(content);
        }
        Err(ContentError::Contended { key })
    }

    /// All manifests and tags; with `unless_locked`, only if none of them is.
    async fn content_to_delete(
        &self,
        record: &RepositoryRecord,
        unless_locked: bool,
    ) -> Result<DeletedRepository, ContentError> {
        let check = |attributes: ChangeableAttributes, what: String| match unless_locked {
            true => attributes.check_delete(|| what),
            false => Ok(()),
        };
        let manifests = self
            .all_manifests(record, |digest, attributes| {
                check(attributes, self.manifest_text(digest))
            })
            .await?;
        let live: HashSet<Digest> = manifests.iter().cloned().collect();
        let tags = self
            .all_tags(&live, |tag, attributes| {
                check(attributes, self.tag_text(tag))
            })
            .await?;
        Ok(DeletedRepository { manifests, tags })
    }

    /// Takes away all that is left of a repository whose record is marked, and at last the record.
    pub(super) async fn finish_deletion_of_all(
        &self,
        marked: &Version,
    ) -> Result<(), ContentError> {
        let prefix = layout::manifests_prefix(self.registry, self.name);
        let mut after = String::new();
        loop {
            let listed = self.records().list(&prefix, &after, KEYS_PAGE).await?;
            let Some(last) = listed.last() else {
                break;
            };
            after.clone_from(&last.key);
            let digests: Vec<Digest> = listed
                .iter()
                .filter_map(|entry| layout::digest_of_name(layout::last_component(&entry.key)))
                .collect();
            stream::iter(digests)
                .map(|digest| async move { self.delete_with_all(&digest, marked).await })
                .buffer_unordered(LOOKUPS_IN_FLIGHT)
                .try_collect::<Vec<()>>()
                .await?;
        }
        // Usually nothing is left of these.
        for prefix in [
            layout::tags_prefix(self.registry, self.name),
            layout::all_hints_prefix(self.registry, self.name),
            layout::all_referrers_prefix(self.registry, self.name),
        ] {
            self.sweep(&prefix, marked).await?;
        }
        let mark = layout::catalog_mark(self.registry, self.name);
        let mark_version = self.records().version(&mark).await?;
        if !self.is_marked(marked).await? {
            return Ok(());
        }
        let key = layout::repository(self.registry, self.name);
        self.records()
            .remove(&key, marked, Durability::OnReturn)
            .await?;
        if let Some(version) = mark_version {
            self.records()
                .remove(&mark, &version, Durability::Eventually)
                .await?;
        }
        Ok(())
    }

    async fn is_marked(&self, marked: &Version) -> Result<bool, ContentError> {
        let key = layout::repository(self.registry, self.name);
        Ok(self.records().version(&key).await?.as_ref() == Some(marked))
    }

    /// Deletes one manifest of a marked repository.
    async fn delete_with_all(&self, digest: &Digest, marked: &Version) -> Result<(), ContentError> {
        for _ in 0..CONFLICT_ATTEMPTS {
            let Some(mut manifest) = self.manifest_record(digest).await? else {
                return Ok(());
            };
            if !self.is_marked(marked).await? {
                return Ok(());
            }
            if !manifest.value.deleting {
                if !self.mark_deleted(digest, &mut manifest).await? {
                    continue;
                }
                let size = manifest.value.size;
                self.content.stored.shrank(self.registry, size);
            }
            return self.finish_deletion(digest, &manifest).await;
        }
        Err(ContentError::Contended {
            key: layout::manifest(self.registry, self.name, digest),
        })
    }

    /// Removes all records below a prefix that were there while the repository was marked.
    async fn sweep(&self, prefix: &str, marked: &Version) -> Result<(), ContentError> {
        let mut after = String::new();
        loop {
            let listed = self.records().list(prefix, &after, KEYS_PAGE).await?;
            let Some(last) = listed.last() else {
                return Ok(());
            };
            after.clone_from(&last.key);
            let versions: Vec<(String, Option<Version>)> = stream::iter(listed)
                .map(|entry| async move {
                    let version = self.records().version(&entry.key).await?;
                    Ok::<_, ContentError>((entry.key, version))
                })
                .buffered(LOOKUPS_IN_FLIGHT)
                .try_collect()
                .await?;
            if !self.is_marked(marked).await? {
                return Ok(());
            }
            stream::iter(versions)
                .map(|(key, version)| async move {
                    if let Some(version) = version {
                        self.records()
                            .remove(&key, &version, Durability::OnReturn)
                            .await?;
                    }
                    Ok::<_, ContentError>(())
                })
                .buffer_unordered(LOOKUPS_IN_FLIGHT)
                .try_collect::<Vec<()>>()
                .await?;
        }
    }
}
