//! Deletion of manifests and of tags.
//!
//! A deletion of a manifest has one moment at which it happens, the `deleting` mark in the manifest's record; what follows is cleaning that
//! anybody can finish. Cleaning removes a thing only at the version that was read before the mark was seen to be still there, so it cannot
//! take what a later push of the same manifest wrote.

use super::Repository;
use super::attributes::ChangeableAttributes;
use super::error::ContentError;
use super::layout;
use super::record_store::{Durability, Version};
use super::records::{CONFLICT_ATTEMPTS, HintRecord, ManifestRecord, TagRecord, Versioned};
use super::repositories::attributes_of;
use crate::names::{Digest, Tag};

/// Hints read at a time when a deletion is cleaned up.
pub(super) const HINTS_PAGE: usize = 1000;

impl Repository<'_> {
    /// Deletes a manifest and with it all its tags.
    ///
    /// # Errors
    /// [`ContentError::ManifestUnknown`], [`ContentError::PreconditionFailed`], [`ContentError::Locked`] if it, its repository or a
    /// tag of it is locked, or when the store fails.
    pub async fn delete_manifest(&self, digest: &Digest) -> Result<(), ContentError> {
        for _ in 0..CONFLICT_ATTEMPTS {
            let repository = self.record().await?;
            attributes_of(repository.as_ref()).check_delete(|| self.what_is_locked())?;
            let mut manifest = self
                .manifest_record(digest)
                .await?
                .ok_or(ContentError::ManifestUnknown)?;
            if manifest.value.deleting {
                self.finish_deletion(digest, &manifest).await?;
                return Err(ContentError::ManifestUnknown);
            }
            let is_there = repository.is_some_and(|repository| {
                !repository.value.deleting && repository.value.has_manifest_of(manifest.value.life)
            });
            if !is_there {
                // Of a repository that was deleted, or of a push that broke off: collection takes it.
                return Err(ContentError::ManifestUnknown);
            }
            if let Some(precondition) = self.precondition {
                precondition.check(Some(digest))?;
            }
            ChangeableAttributes::of(&manifest.value.attributes)
                .check_delete(|| self.manifest_text(digest))?;
            self.check_tags_deletable(digest).await?;
            if !self.mark_deleted(digest, &mut manifest).await? {
                continue;
            }
            if let Err(locked) = self.check_deletable().await
                && self.take_back_mark(digest, &manifest).await?
            {
                return Err(locked);
            }
            let size = manifest.value.size;
            self.content.stored.shrank(self.registry, size);
            if let Err(error) = self.finish_deletion(digest, &manifest).await {
                // It is deleted all the same; whoever meets it cleans up.
                tracing::warn!(manifest.digest = %digest, %error, "a deleted manifest was not cleaned up");
            }
            return Ok(());
        }
        Err(ContentError::Contended {
            key: layout::manifest(self.registry, self.name, digest),
        })
    }

    /// Deletes a tag; the manifest stays.
    ///
    /// # Errors
    /// [`ContentError::TagUnknown`], [`ContentError::PreconditionFailed`], [`ContentError::Locked`] if it or its repository is locked,
    /// or when the store fails.
    pub async fn delete_tag(&self, tag: &Tag) -> Result<(), ContentError> {
        let key = layout::tag(self.registry, self.name, tag);
        let mut seen = None;
        for _ in 0..CONFLICT_ATTEMPTS {
            self.check_deletable().await?;
            let record = self
                .tag_record(tag)
                .await?
                .ok_or_else(|| ContentError::TagUnknown(tag.clone()))?;
            if !self.has_manifest(&record.value.digest).await? {
                // Either the manifest was deleted, or the tag moved on and then it was: the tag says which.
                if seen.replace(record.version.clone()) == Some(record.version) {
                    return Err(ContentError::TagUnknown(tag.clone()));
                }
                continue;
            }
            if let Some(precondition) = self.precondition {
                precondition.check(Some(&record.value.digest))?;
            }
            self.locks_of_tag(&record.value)
                .await?
                .check_delete(|| self.tag_text(tag))?;
            let removed = self
                .records()
                .remove(&key, &record.version, Durability::OnReturn)
                .await?;
            if !removed {
                continue;
            }
            if let Err(locked) = self.check_deletable().await {
                let restored = self
                    .records()
                    .create(&key, &record.value, &[], Durability::OnReturn)
                    .await?;
                // If somebody pushed it meanwhile, it was deleted before.
                if restored.is_some() {
                    return Err(locked);
                }
            }
            self.drop_hint(&record.value.digest, tag).await;
            return Ok(());
        }
        Err(ContentError::Contended { key })
    }

    /// Cleans up after a manifest that is marked as deleting: tags and hints, its entry as a referrer, the record itself.
    pub(super) async fn finish_deletion(
        &self,
        digest: &Digest,
        marked: &Versioned<ManifestRecord>,
    ) -> Result<(), ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        let prefix = layout::hints_prefix(self.registry, self.name, digest);
        let mut after = String::new();
        loop {
            let hints = self.records().list(&prefix, &after, HINTS_PAGE).await?;
            let Some(last) = hints.last() else {
                break;
            };
            after.clone_from(&last.key);
            for hint in &hints {
                self.clean_hint(digest, &hint.key, &marked.version).await?;
            }
        }
        if let Some(subject) = &marked.value.subject {
            let referrer = layout::referrer(self.registry, self.name, subject, digest);
            let version = self.records().version(&referrer).await?;
            self.remove_while_marked(digest, &marked.version, &referrer, version)
                .await?;
        }
        self.records()
            .remove(&key, &marked.version, Durability::OnReturn)
            .await?;
        Ok(())
    }

    /// Removes the tag that a hint names, if it still points to the manifest, and the hint.
    async fn clean_hint(
        &self,
        digest: &Digest,
        hint_key: &str,
        marked: &Version,
    ) -> Result<(), ContentError> {
        let hint = self.records().version(hint_key).await?;
        if let Ok(tag) = layout::last_component(hint_key).parse::<Tag>() {
            let record = self.tag_record(&tag).await?;
            // A locked tag was moved here while the manifest was deleted; the push brings the manifest back.
            let goes = |record: &Versioned<TagRecord>| {
                record.value.digest == *digest
                    && ChangeableAttributes::of(&record.value.attributes).may_be_deleted()
            };
            if let Some(record) = record.filter(goes) {
                let tag_key = layout::tag(self.registry, self.name, &tag);
                self.remove_while_marked(digest, marked, &tag_key, Some(record.version))
                    .await?;
            }
        }
        self.remove_while_marked(digest, marked, hint_key, hint)
            .await
    }

    /// Removes a record at a version that was read before, if the manifest is still the marked one now.
    async fn remove_while_marked(
        &self,
        digest: &Digest,
        marked: &Version,
        key: &str,
        version: Option<Version>,
    ) -> Result<(), ContentError> {
        let Some(version) = version else {
            return Ok(());
        };
        let manifest = layout::manifest(self.registry, self.name, digest);
        if self.records().version(&manifest).await?.as_ref() == Some(marked) {
            self.records()
                .remove(key, &version, Durability::OnReturn)
                .await?;
        }
        Ok(())
    }

    /// Marks a manifest that was read as deleted. `false` if it changed since.
    pub(super) async fn mark_deleted(
        &self,
        digest: &Digest,
        manifest: &mut Versioned<ManifestRecord>,
    ) -> Result<bool, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        manifest.value.deleting = true;
        let marked = self
            .records()
            .replace(
                &key,
                &manifest.value,
                &manifest.body,
                &manifest.version,
                Durability::OnReturn,
            )
            .await?;
        let Some(version) = marked else {
            return Ok(false);
        };
        manifest.version = version;
        self.content.manifest_cache.forget(&key);
        Ok(true)
    }

    async fn points_to(&self, tag: &Tag, digest: &Digest) -> Result<bool, ContentError> {
        let record = self.tag_record(tag).await?;
        Ok(record.is_some_and(|record| record.value.digest == *digest))
    }

    /// Makes a hint be there. Called when its tag is written: whoever moved that tag away just before may have taken the hint.
    pub(super) async fn keep_hint(&self, key: &str) -> Result<(), ContentError> {
        if self.records().version(key).await?.is_none() {
            self.records()
                .create(key, &HintRecord {}, &[], Durability::Eventually)
                .await?;
        }
        Ok(())
    }

    /// Removes a hint that leads nowhere any more; one that stays is harmless.
    pub(super) async fn drop_hint(&self, digest: &Digest, tag: &Tag) {
        let key = layout::hint(self.registry, self.name, digest, tag);
        let dropped = async {
            if let Some(version) = self.records().version(&key).await? {
                // The tag may have come back since; then its hint has to stay.
                if !self.points_to(tag, digest).await? {
                    self.records()
                        .remove(&key, &version, Durability::Eventually)
                        .await?;
                }
                // It may also have come back between the look and the removal.
                if self.points_to(tag, digest).await? {
                    self.keep_hint(&key).await?;
                }
            }
            Ok::<(), ContentError>(())
        };
        if let Err(error) = dropped.await {
            tracing::debug!(hint.key = key, %error, "a hint was not removed");
        }
    }
}
