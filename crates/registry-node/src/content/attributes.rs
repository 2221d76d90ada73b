//! The attributes that users change of repositories, manifests and tags: four switches, on unless they were switched off, which
//! lock what they stand on. They are in the record that they guard and change under the same compare-and-swap.
//!
//! A lock against deletion also guards against the deletion of what its owner is part of: a locked tag its manifest, and both
//! their repository. So whoever sets one rewrites the records above it afterwards. A deletion reads its record, then looks for
//! locks below, then marks the record at the version that it read: either it sees the lock, or the mark fails, or it came first and
//! whoever sets the lock finds the mark.

use serde::{Deserialize, Serialize};

use super::Repository;
use super::error::ContentError;
use super::layout;
use super::records::{Attributes, CONFLICT_ATTEMPTS, TagRecord};
use crate::names::{Digest, Tag};

const DELETE_ENABLED: &str = "deleteEnabled";
const WRITE_ENABLED: &str = "writeEnabled";
const READ_ENABLED: &str = "readEnabled";
const LIST_ENABLED: &str = "listEnabled";

/// What is allowed with a repository, a manifest or a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeableAttributes {
    /// It may be deleted.
    pub delete_enabled: bool,
    /// It may be written: pushed again, or moved to other content. What may not be written cannot be deleted either.
    pub write_enabled: bool,
    /// It may be pulled.
    pub read_enabled: bool,
    /// Listings show it.
    pub list_enabled: bool,
}

impl Default for ChangeableAttributes {
    fn default() -> Self {
        Self {
            delete_enabled: true,
            write_enabled: true,
            read_enabled: true,
            list_enabled: true,
        }
    }
}

/// Which attributes are to be changed, and to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttributeChange {
    /// See [`ChangeableAttributes::delete_enabled`].
    pub delete_enabled: Option<bool>,
    /// See [`ChangeableAttributes::write_enabled`].
    pub write_enabled: Option<bool>,
    /// See [`ChangeableAttributes::read_enabled`].
    pub read_enabled: Option<bool>,
    /// See [`ChangeableAttributes::list_enabled`].
    pub list_enabled: Option<bool>,
}

impl ChangeableAttributes {
    /// As they are kept in a record.
    pub(super) fn of(attributes: &Attributes) -> Self {
        let is_enabled =
            |name: &str| attributes.get(name).and_then(serde_json::Value::as_bool) != Some(false);
        Self {
            delete_enabled: is_enabled(DELETE_ENABLED),
            write_enabled: is_enabled(WRITE_ENABLED),
            read_enabled: is_enabled(READ_ENABLED),
            list_enabled: is_enabled(LIST_ENABLED),
        }
    }

    pub(super) fn may_be_deleted(self) -> bool {
        self.delete_enabled && self.write_enabled
    }

    pub(super) fn check_delete(self, what: impl FnOnce() -> String) -> Result<(), ContentError> {
        match self.may_be_deleted() {
            true => Ok(()),
            false => Err(ContentError::Locked {
                what: what(),
                attribute: match self.delete_enabled {
                    true => WRITE_ENABLED,
                    false => DELETE_ENABLED,
                },
            }),
        }
    }

    pub(super) fn check_write(self, what: impl FnOnce() -> String) -> Result<(), ContentError> {
        check(self.write_enabled, WRITE_ENABLED, what)
    }

    pub(super) fn check_read(self, what: impl FnOnce() -> String) -> Result<(), ContentError> {
        check(self.read_enabled, READ_ENABLED, what)
    }
}

fn check(
    is_enabled: bool,
    attribute: &'static str,
    what: impl FnOnce() -> String,
) -> Result<(), ContentError> {
    match is_enabled {
        true => Ok(()),
        false => Err(ContentError::Locked {
            what: what(),
            attribute,
        }),
    }
}

impl AttributeChange {
    fn apply(self, attributes: &mut Attributes) {
        for (name, value) in [
            (DELETE_ENABLED, self.delete_enabled),
            (WRITE_ENABLED, self.write_enabled),
            (READ_ENABLED, self.read_enabled),
            (LIST_ENABLED, self.list_enabled),
        ] {
            match value {
                Some(true) => {
                    attributes.remove(name);
                }
                Some(false) => {
                    attributes.insert(name.to_owned(), false.into());
                }
                None => {}
            }
        }
    }
}

impl Repository<'_> {
    /// Changes attributes of the repository.
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], or when the store fails.
    pub async fn change_attributes(&self, change: &AttributeChange) -> Result<(), ContentError> {
        let key = layout::repository(self.registry, self.name);
        for _ in 0..CONFLICT_ATTEMPTS {
            let mut found = self.live_record().await?;
            change.apply(&mut found.value.attributes);
            if !ChangeableAttributes::of(&found.value.attributes).list_enabled {
                self.mark_for_catalog().await?;
            }
            let replaced = self.records().rewrite(&key, &found).await?;
            if replaced.is_some() {
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }

    /// Changes attributes of a manifest.
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], [`ContentError::ManifestUnknown`], or when the store fails.
    pub async fn change_manifest_attributes(
        &self,
        digest: &Digest,
        change: &AttributeChange,
    ) -> Result<(), ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        for _ in 0..CONFLICT_ATTEMPTS {
            let repository = self.live_record().await?.value;
            let found = self.manifest_record(digest).await?;
            let mut found = found
                .filter(|found| {
                    !found.value.deleting && repository.has_manifest_of(found.value.life)
                })
                .ok_or(ContentError::ManifestUnknown)?;
            change.apply(&mut found.value.attributes);
            let attributes = ChangeableAttributes::of(&found.value.attributes);
            let replaced = self.records().rewrite(&key, &found).await?;
            if replaced.is_some() {
                if !attributes.may_be_deleted() {
                    self.renew_record().await?;
                }
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }

    /// Changes attributes of a tag.
    ///
    /// # Errors
    /// [`ContentError::RepositoryUnknown`], [`ContentError::TagUnknown`], or when the store fails.
    pub async fn change_tag_attributes(
        &self,
        tag: &Tag,
        change: &AttributeChange,
    ) -> Result<(), ContentError> {
        let key = layout::tag(self.registry, self.name, tag);
        let unknown = || ContentError::TagUnknown(tag.clone());
        self.live_record().await?;
        for _ in 0..CONFLICT_ATTEMPTS {
            let mut found = self.tag_record(tag).await?.ok_or_else(unknown)?;
            if !self.has_manifest(&found.value.digest).await? {
                return Err(unknown());
            }
            change.apply(&mut found.value.attributes);
            let attributes = ChangeableAttributes::of(&found.value.attributes);
            let replaced = self.records().rewrite(&key, &found).await?;
            if replaced.is_some() {
                if !attributes.may_be_deleted() {
                    if !self.renew_manifest_record(&found.value.digest).await? {
                        return Err(unknown());
                    }
                    self.renew_record().await?;
                }
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }

    /// What is allowed with a tag. The locks of one whose manifest is gone, which counts as absent, are void.
    pub(super) async fn locks_of_tag(
        &self,
        record: &TagRecord,
    ) -> Result<ChangeableAttributes, ContentError> {
        let attributes = ChangeableAttributes::of(&record.attributes);
        if attributes != ChangeableAttributes::default()
            && !self.has_manifest(&record.digest).await?
        {
            return Ok(ChangeableAttributes::default());
        }
        Ok(attributes)
    }

    /// Gives a manifest's record a new version, so that a deletion that read it before must look again. `false` if the manifest is
    /// deleted.
    pub(super) async fn renew_manifest_record(
        &self,
        digest: &Digest,
    ) -> Result<bool, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        for _ in 0..CONFLICT_ATTEMPTS {
            let found = self.manifest_record(digest).await?;
            let Some(found) = found.filter(|found| !found.value.deleting) else {
                return Ok(false);
            };
            let replaced = self.records().rewrite(&key, &found).await?;
            if replaced.is_some() {
                return Ok(true);
            }
        }
        Err(ContentError::Contended { key })
    }

    /// The same with the repository's record.
    async fn renew_record(&self) -> Result<(), ContentError> {
        let key = layout::repository(self.registry, self.name);
        for _ in 0..CONFLICT_ATTEMPTS {
            let found = self.live_record().await?;
            let replaced = self.records().rewrite(&key, &found).await?;
            if replaced.is_some() {
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }
}
