//! A manifest on its way into a repository: the records that a push writes.
//!
//! They are written in an order in which a crash leaves nothing half visible: referrer, manifest, repository, hint, tag.

use bytes::Bytes;

use super::Repository;
use super::attributes::ChangeableAttributes;
use super::error::ContentError;
use super::hashing::ContentHasher;
use super::layout;
use super::listings::ReferrerDescriptor;
use super::manifest_document::ManifestDocument;
use super::parts::hash_part;
use super::record_store::{Durability, Version};
use super::records::{CONFLICT_ATTEMPTS, HintRecord, ManifestRecord, TagRecord, Versioned};
use super::repositories::Life;
use crate::names::{Digest, DigestAlgorithm, Reference, Tag};

/// A manifest on its way into a repository.
pub(super) struct Push<'a> {
    pub(super) repository: Repository<'a>,
    pub(super) document: ManifestDocument,
    pub(super) digest: Digest,
    pub(super) bytes: Bytes,
    pub(super) principal: &'a str,
}

impl Push<'_> {
    /// Makes the manifest's record be there, alive and young; the entry as a referrer comes first, so that no manifest is
    /// there without it.
    pub(super) async fn write_manifest(
        &self,
        life: &Life,
    ) -> Result<Option<Version>, ContentError> {
        let repository = &self.repository;
        let key = layout::manifest(repository.registry, repository.name, &self.digest);
        for _ in 0..CONFLICT_ATTEMPTS {
            let found = repository.manifest_record(&self.digest).await?;
            let version = match found {
                Some(found) if found.value.deleting => {
                    repository.finish_deletion(&self.digest, &found).await?;
                    continue;
                }
                Some(found)
                    if found.value.life != Some(life.id) && self.is_overtaken(life).await? =>
                {
                    return Ok(None);
                }
                Some(found) => self.renew_manifest(&key, found, life).await?,
                None => {
                    self.write_referrer().await?;
                    self.create_manifest(&key, life).await?
                }
            };
            if version.is_some() {
                return Ok(version);
            }
        }
        Err(ContentError::Contended { key })
    }

    /// Whether the repository has another life by now. Asked after a manifest of another life was read and before it is taken for this
    /// one: a manifest that another push was told of would be taken for a life that never is.
    async fn is_overtaken(&self, life: &Life) -> Result<bool, ContentError> {
        Ok(match self.repository.record().await? {
            Some(record) => {
                record.value.deleting || record.value.id.is_some_and(|id| id != life.id)
            }
            None => life.is_established(),
        })
    }

    /// Gives the manifest another version once the repository's record names the life. `None` if somebody else changed it since.
    pub(super) async fn claim_manifest(
        &self,
        life: &Life,
    ) -> Result<Option<Version>, ContentError> {
        let repository = &self.repository;
        let found = repository.manifest_record(&self.digest).await?;
        let is_own = |found: &Versioned<ManifestRecord>| {
            !found.value.deleting && found.value.life == Some(life.id)
        };
        let Some(found) = found.filter(is_own) else {
            return Ok(None);
        };
        let key = layout::manifest(repository.registry, repository.name, &self.digest);
        repository.records().rewrite(&key, &found).await
    }

    async fn create_manifest(
        &self,
        key: &str,
        life: &Life,
    ) -> Result<Option<Version>, ContentError> {
        let now = self.repository.content.now();
        let record = ManifestRecord {
            media_type: self.document.media_type.clone(),
            size: self.bytes.len() as u64,
            created: now,
            touched: now,
            by: self.principal.to_owned(),
            subject: self.document.subject.clone(),
            life: Some(life.id),
            attributes: Default::default(),
            deleting: false,
        };
        let repository = &self.repository;
        let created = repository
            .records()
            .create(key, &record, &self.bytes, Durability::OnReturn)
            .await?;
        if created.is_some() {
            let stored = &repository.content.stored;
            stored.grew(repository.registry, record.size);
        }
        Ok(created)
    }

    async fn renew_manifest(
        &self,
        key: &str,
        mut found: Versioned<ManifestRecord>,
        life: &Life,
    ) -> Result<Option<Version>, ContentError> {
        let content = self.repository.content;
        ChangeableAttributes::of(&found.value.attributes)
            .check_write(|| self.repository.manifest_text(&self.digest))?;
        let is_of_life = found.value.life == Some(life.id);
        let is_same = found.value.media_type == self.document.media_type;
        if is_of_life && is_same && !content.needs_touch(found.value.touched) {
            return Ok(Some(found.version));
        }
        if !is_of_life {
            // A deletion of the repository may have taken it.
            self.write_referrer().await?;
        }
        found.value.life = Some(life.id);
        found.value.media_type.clone_from(&self.document.media_type);
        found.value.touched = content.now();
        self.repository
            .records()
            .replace(
                key,
                &found.value,
                &found.body,
                &found.version,
                Durability::OnReturn,
            )
            .await
    }

    async fn write_referrer(&self) -> Result<(), ContentError> {
        let Some(subject) = &self.document.subject else {
            return Ok(());
        };
        let repository = &self.repository;
        let key = layout::referrer(repository.registry, repository.name, subject, &self.digest);
        let descriptor = ReferrerDescriptor {
            media_type: self.document.media_type.clone(),
            digest: self.digest.clone(),
            size: self.bytes.len() as u64,
            artifact_type: self.document.artifact_type.clone(),
            annotations: self.document.annotations.clone(),
        };
        repository
            .records()
            .create(&key, &descriptor, &[], Durability::OnReturn)
            .await?;
        Ok(())
    }

    /// Points the tag to the manifest. `before` is what an earlier attempt of the same push wrote.
    pub(super) async fn write_tag(
        &self,
        tag: &Tag,
        before: Option<WrittenTag>,
    ) -> Result<WrittenTag, ContentError> {
        let repository = &self.repository;
        let records = repository.records();
        let key = layout::tag(repository.registry, repository.name, tag);
        let hint = layout::hint(repository.registry, repository.name, &self.digest, tag);
        records
            .create(&hint, &HintRecord {}, &[], Durability::Eventually)
            .await?;
        for _ in 0..CONFLICT_ATTEMPTS {
            let found = repository.tag_record(tag).await?;
            repository.check_precondition_of_tag(found.as_ref()).await?;
            let is_own = match (&before, &found) {
                (Some(before), Some(found)) => before.version == found.version,
                _ => false,
            };
            let record = self.tag_instead_of(tag, found.as_ref(), is_own).await?;
            let written = match &found {
                Some(found) => {
                    let version = &found.version;
                    records
                        .replace(&key, &record, &[], version, Durability::OnReturn)
                        .await?
                }
                None => {
                    records
                        .create(&key, &record, &[], Durability::OnReturn)
                        .await?
                }
            };
            let Some(version) = written else {
                continue;
            };
            if let Some(found) = &found
                && found.value.digest != self.digest
            {
                repository.drop_hint(&found.value.digest, tag).await;
            }
            repository.keep_hint(&hint).await?;
            if !ChangeableAttributes::of(&record.attributes).may_be_deleted() {
                // A deletion of the manifest that looked for locked tags before must look again. If it came first, that is seen.
                repository.renew_manifest_record(&self.digest).await?;
            }
            let replaced = match before {
                Some(before) if is_own => before.replaced,
                _ => found.map(|found| Box::new(found.value)),
            };
            return Ok(WrittenTag { version, replaced });
        }
        Err(ContentError::Contended { key })
    }

    /// The tag's record in the place of what was found: it keeps when the tag was pushed first, and its locks.
    async fn tag_instead_of(
        &self,
        tag: &Tag,
        found: Option<&Versioned<TagRecord>>,
        is_own: bool,
    ) -> Result<TagRecord, ContentError> {
        let repository = &self.repository;
        let now = repository.content.now();
        let mut record = TagRecord {
            digest: self.digest.clone(),
            media_type: self.document.media_type.clone(),
            size: self.bytes.len() as u64,
            created: now,
            updated: now,
            by: self.principal.to_owned(),
            attributes: Default::default(),
        };
        let Some(found) = found.map(|found| &found.value) else {
            return Ok(record);
        };
        record.created = found.created;
        let locks = match is_own {
            true => ChangeableAttributes::of(&found.attributes),
            false => repository.locks_of_tag(found).await?,
        };
        if !is_own {
            locks.check_write(|| repository.tag_text(tag))?;
        }
        if locks != ChangeableAttributes::default() {
            record.attributes.clone_from(&found.attributes);
        }
        Ok(record)
    }
}

/// A tag that a push wrote, and what was there before.
pub(super) struct WrittenTag {
    pub(super) version: Version,
    pub(super) replaced: Option<Box<TagRecord>>,
}

/// The digest of a manifest's bytes; a reference that is a digest must be that.
pub(super) async fn checked_digest(
    reference: &Reference,
    bytes: Bytes,
) -> Result<Digest, ContentError> {
    let algorithm = match reference {
        Reference::Digest(digest) => digest.algorithm(),
        Reference::Tag(_) => DigestAlgorithm::Sha256,
    };
    let hasher = hash_part(ContentHasher::new(algorithm), bytes).await?;
    let actual = hasher.digest();
    match reference {
        Reference::Digest(expected) if *expected != actual => Err(ContentError::DigestMismatch {
            expected: expected.clone(),
            actual,
        }),
        _ => Ok(actual),
    }
}
