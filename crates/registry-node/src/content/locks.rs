//! What locks forbid while something is pushed or deleted, and how a change is taken back that a lock of the repository overtook.

use super::Repository;
use super::attributes::ChangeableAttributes;
use super::error::ContentError;
use super::layout;
use super::manifest_deletion::HINTS_PAGE;
use super::push::WrittenTag;
use super::record_store::Durability;
use super::records::{HintRecord, ManifestRecord, Versioned};
use crate::names::{Digest, Reference, Tag};

impl Repository<'_> {
    /// Refuses what would write to the repository while it is locked.
    ///
    /// # Errors
    /// [`ContentError::Locked`], or when the store cannot be read.
    pub async fn check_writable(&self) -> Result<(), ContentError> {
        let attributes = self.attributes().await?;
        attributes.check_write(|| self.what_is_locked())
    }

    /// Refuses a push to a locked tag before it leaves anything; the tag is judged again when it is written. `written` is what the
    /// same push wrote.
    pub(super) async fn check_tag_writable(
        &self,
        reference: &Reference,
        written: Option<&WrittenTag>,
    ) -> Result<(), ContentError> {
        let Reference::Tag(tag) = reference else {
            return Ok(());
        };
        let Some(found) = self.tag_record(tag).await? else {
            return Ok(());
        };
        if written.is_some_and(|written| written.version == found.version) {
            return Ok(());
        }
        let locks = self.locks_of_tag(&found.value).await?;
        locks.check_write(|| self.tag_text(tag))
    }

    /// Refuses to delete anything in the repository while that is locked.
    pub(super) async fn check_deletable(&self) -> Result<(), ContentError> {
        let attributes = self.attributes().await?;
        attributes.check_delete(|| self.what_is_locked())
    }

    /// Refuses to pull anything from the repository while that is locked.
    pub(super) async fn check_readable(&self) -> Result<(), ContentError> {
        let attributes = self.attributes().await?;
        attributes.check_read(|| self.what_is_locked())
    }

    /// Refuses to delete a manifest while one of its tags is locked.
    pub(super) async fn check_tags_deletable(&self, digest: &Digest) -> Result<(), ContentError> {
        let prefix = layout::hints_prefix(self.registry, self.name, digest);
        let mut after = String::new();
        loop {
            let hints = self.records().list(&prefix, &after, HINTS_PAGE).await?;
            let Some(last) = hints.last() else {
                return Ok(());
            };
            after.clone_from(&last.key);
            for hint in &hints {
                let Ok(tag) = layout::last_component(&hint.key).parse::<Tag>() else {
                    continue;
                };
                let record = self.tag_record(&tag).await?;
                if let Some(record) = record.filter(|record| record.value.digest == *digest) {
                    ChangeableAttributes::of(&record.value.attributes)
                        .check_delete(|| self.tag_text(&tag))?;
                }
            }
        }
    }

    /// Takes the mark of a deletion back. `false` if somebody has finished the deletion.
    pub(super) async fn take_back_mark(
        &self,
        digest: &Digest,
        marked: &Versioned<ManifestRecord>,
    ) -> Result<bool, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        let record = ManifestRecord {
            deleting: false,
            ..marked.value.clone()
        };
        let restored = self
            .records()
            .replace(
                &key,
                &record,
                &marked.body,
                &marked.version,
                Durability::OnReturn,
            )
            .await?;
        Ok(restored.is_some())
    }

    /// Lets a tag be what it was before a push wrote it, unless somebody has changed it since.
    pub(super) async fn take_back_tag(
        &self,
        tag: &Tag,
        written: WrittenTag,
    ) -> Result<(), ContentError> {
        let key = layout::tag(self.registry, self.name, tag);
        let Some(before) = written.replaced else {
            self.records()
                .remove(&key, &written.version, Durability::OnReturn)
                .await?;
            return Ok(());
        };
        let hint = layout::hint(self.registry, self.name, &before.digest, tag);
        self.records()
            .create(&hint, &HintRecord {}, &[], Durability::Eventually)
            .await?;
        self.records()
            .replace(&key, &*before, &[], &written.version, Durability::OnReturn)
            .await?;
        Ok(())
    }

    pub(super) fn what_is_locked(&self) -> String {
        format!("repository {}", self.name)
    }

    pub(super) fn manifest_text(&self, digest: &Digest) -> String {
        format!("manifest {}@{digest}", self.name)
    }

    pub(super) fn tag_text(&self, tag: &Tag) -> String {
        format!("tag {}:{tag}", self.name)
    }
}
