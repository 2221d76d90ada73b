//! Manifests and the tags that point to them.
//!
//! A push writes in an order in which a crash leaves nothing half visible: referrer, manifest, repository, hint, tag. A deletion
//! has one moment at which it happens, the `deleting` mark in the manifest's record; what follows is cleaning that anybody can
//! finish. Cleaning removes a thing only at the version that was read before the mark was seen to be still there, so it cannot
//! take what a later push of the same manifest wrote.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::Repository;
use super::data::hash_part;
use super::error::ContentError;
use super::hashing::ContentHasher;
use super::layout;
use super::listings::ReferrerDescriptor;
use super::manifest_document::{ManifestDocument, read_manifest};
use super::record_store::{Durability, Version};
use super::records::{
    CONFLICT_ATTEMPTS, HintRecord, ManifestRecord, RepositoryRecord, TagRecord, Versioned,
};
use crate::names::{Digest, DigestAlgorithm, Reference, Tag};

/// Look-ups under way for one request.
pub(super) const LOOKUPS_IN_FLIGHT: usize = 16;
/// Memory for manifests that were read.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// A repository's time of last push is kept no finer than this.
const REPOSITORY_UPDATED_SECONDS: i64 = 60;
/// Hints read at a time when a deletion is cleaned up.
const HINTS_PAGE: usize = 1000;

/// A manifest as it was pushed.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What a push of a manifest did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutManifest {
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest it says it is about.
    pub subject: Option<Digest>,
}

/// Manifests that were read, with the version of the record. A manifest never changes, but it can be deleted, by any process:
/// so an entry is used only after the store named the same version, which costs one small read and no parsing. A `deleting`
/// mark changes the version.
#[derive(Clone)]
pub(super) struct ManifestCache(moka::sync::Cache<String, Arc<(Version, Manifest)>>);

impl ManifestCache {
    pub(super) fn new() -> Self {
        let cache = moka::sync::Cache::builder()
            .max_capacity(CACHE_BYTES)
            .weigher(|key: &String, entry: &Arc<(Version, Manifest)>| {
                u32::try_from(2 * key.len() + entry.1.bytes.len() + 256).unwrap_or(u32::MAX)
            })
            .build();
        Self(cache)
    }
}

impl Repository<'_> {
    /// The manifest that a tag or digest names.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn manifest(&self, reference: &Reference) -> Result<Option<Manifest>, ContentError> {
        match reference {
            Reference::Digest(digest) => self.manifest_by_digest(digest).await,
            Reference::Tag(tag) => self.manifest_by_tag(tag).await,
        }
    }

    /// Takes a manifest in, under its digest and, if the reference is a tag, under that tag. All of it is durable when this
    /// returns. `declared` is the media type that the request names.
    ///
    /// # Errors
    /// [`ContentError::Manifest`], [`ContentError::DigestMismatch`], [`ContentError::ReferencesMissing`],
    /// [`ContentError::PreconditionFailed`], or when the store fails.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        declared: Option<&str>,
        bytes: Bytes,
        principal: &str,
    ) -> Result<PutManifest, ContentError> {
        let document = read_manifest(&bytes, declared)?;
        let digest = checked_digest(reference, bytes.clone()).await?;
        self.check_precondition(reference).await?;
        self.touch_references(&document).await?;
        let mut push = Push {
            repository: *self,
            document,
            digest,
            bytes,
            principal,
        };
        for _ in 0..CONFLICT_ATTEMPTS {
            let version = push.write_manifest().await?;
            push.write_repository().await?;
            if let Reference::Tag(tag) = reference {
                push.write_tag(tag).await?;
                // It held when the tag was written; what is there from now on is this push's own.
                push.repository.precondition = None;
                if !self.is_live_at(&push.digest, &version).await? {
                    // Deleted between the two writes: the tag would point to nothing.
                    continue;
                }
            }
            return Ok(PutManifest {
                digest: push.digest,
                subject: push.document.subject,
            });
        }
        Err(ContentError::Contended {
            key: layout::manifest(self.registry, self.name, &push.digest),
        })
    }

    /// Deletes a manifest and with it all its tags.
    ///
    /// # Errors
    /// [`ContentError::ManifestUnknown`], [`ContentError::PreconditionFailed`], or when the store fails.
    pub async fn delete_manifest(&self, digest: &Digest) -> Result<(), ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        for _ in 0..CONFLICT_ATTEMPTS {
            let mut manifest = self
                .manifest_record(digest)
                .await?
                .ok_or(ContentError::ManifestUnknown)?;
            if manifest.value.deleting {
                self.finish_deletion(digest, &manifest).await?;
                return Err(ContentError::ManifestUnknown);
            }
            if let Some(precondition) = self.precondition {
                precondition.check(Some(digest))?;
            }
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
                continue;
            };
            manifest.version = version;
            self.content
                .stored
                .shrank(self.registry, manifest.value.size);
            self.content.manifest_cache.0.invalidate(&key);
            if let Err(error) = self.finish_deletion(digest, &manifest).await {
                // It is deleted all the same; whoever meets it cleans up.
                tracing::warn!(manifest.digest = %digest, %error, "a deleted manifest was not cleaned up");
            }
            return Ok(());
        }
        Err(ContentError::Contended { key })
    }

    /// Deletes a tag; the manifest stays.
    ///
    /// # Errors
    /// [`ContentError::TagUnknown`], [`ContentError::PreconditionFailed`], or when the store fails.
    pub async fn delete_tag(&self, tag: &Tag) -> Result<(), ContentError> {
        let key = layout::tag(self.registry, self.name, tag);
        for _ in 0..CONFLICT_ATTEMPTS {
            let record = self
                .tag_record(tag)
                .await?
                .ok_or_else(|| ContentError::TagUnknown(tag.clone()))?;
            if let Some(precondition) = self.precondition {
                precondition.check(Some(&record.value.digest))?;
            }
            let removed = self
                .records()
                .remove(&key, &record.version, Durability::OnReturn)
                .await?;
            if removed {
                self.drop_hint(&record.value.digest, tag).await;
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }

    /// Refuses a push early, before it leaves anything; a tag is judged again when it is written.
    async fn check_precondition(&self, reference: &Reference) -> Result<(), ContentError> {
        let Some(precondition) = self.precondition else {
            return Ok(());
        };
        let current = self.manifest(reference).await?;
        precondition.check(current.map(|manifest| manifest.digest).as_ref())
    }

    /// Whether a tag that was read may be changed. One whose manifest is deleted counts as absent.
    async fn check_precondition_of_tag(
        &self,
        found: Option<&Versioned<TagRecord>>,
    ) -> Result<(), ContentError> {
        let Some(precondition) = self.precondition else {
            return Ok(());
        };
        let digest = found.map(|found| &found.value.digest);
        let is_there = match digest {
            Some(digest) => self.manifest_by_digest(digest).await?.is_some(),
            None => false,
        };
        precondition.check(digest.filter(|_| is_there))
    }

    pub(super) async fn tag_record(
        &self,
        tag: &Tag,
    ) -> Result<Option<Versioned<TagRecord>>, ContentError> {
        let key = layout::tag(self.registry, self.name, tag);
        self.records().get(&key).await
    }

    pub(super) async fn manifest_by_digest(
        &self,
        digest: &Digest,
    ) -> Result<Option<Manifest>, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        let cache = &self.content.manifest_cache.0;
        if let Some(entry) = cache.get(&key)
            && self.records().version(&key).await?.as_ref() == Some(&entry.0)
        {
            return Ok(Some(entry.1.clone()));
        }
        let found = self.manifest_record(digest).await?;
        let Some(found) = found.filter(|found| !found.value.deleting) else {
            cache.invalidate(&key);
            return Ok(None);
        };
        let manifest = Manifest {
            digest: digest.clone(),
            media_type: found.value.media_type,
            bytes: found.body,
        };
        cache.insert(key, Arc::new((found.version, manifest.clone())));
        Ok(Some(manifest))
    }

    async fn manifest_by_tag(&self, tag: &Tag) -> Result<Option<Manifest>, ContentError> {
        let mut seen = None;
        for _ in 0..CONFLICT_ATTEMPTS {
            let Some(record) = self.tag_record(tag).await? else {
                return Ok(None);
            };
            if let Some(manifest) = self.manifest_by_digest(&record.value.digest).await? {
                return Ok(Some(manifest));
            }
            // Either the manifest was deleted, or the tag moved on and then it was: the tag says which.
            if seen.replace(record.version.clone()) == Some(record.version) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    async fn manifest_record(
        &self,
        digest: &Digest,
    ) -> Result<Option<Versioned<ManifestRecord>>, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        self.records().get(&key).await
    }

    async fn is_live_at(&self, digest: &Digest, version: &Version) -> Result<bool, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        if self.records().version(&key).await?.as_ref() == Some(version) {
            return Ok(true);
        }
        let found = self.manifest_record(digest).await?;
        Ok(found.is_some_and(|found| !found.value.deleting))
    }

    /// Looks up all that the manifest refers to, and makes it young enough to be referred to.
    async fn touch_references(&self, document: &ManifestDocument) -> Result<(), ContentError> {
        let repository = *self;
        let blobs = stream::iter(document.blobs.clone()).map(|digest| async move {
            let is_missing = repository.touch_link(&digest).await?.is_none();
            Ok::<_, ContentError>(is_missing.then_some(digest))
        });
        let manifests = stream::iter(document.manifests.clone()).map(|digest| async move {
            let is_missing = !repository.touch_manifest(&digest).await?;
            Ok::<_, ContentError>(is_missing.then_some(digest))
        });
        let mut missing: Vec<Option<Digest>> =
            blobs.buffered(LOOKUPS_IN_FLIGHT).try_collect().await?;
        let missing_manifests: Vec<Option<Digest>> =
            manifests.buffered(LOOKUPS_IN_FLIGHT).try_collect().await?;
        missing.extend(missing_manifests);
        let missing: Vec<Digest> = missing.into_iter().flatten().collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(ContentError::ReferencesMissing { missing })
    }

    async fn touch_manifest(&self, digest: &Digest) -> Result<bool, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        for _ in 0..CONFLICT_ATTEMPTS {
            let found = self.manifest_record(digest).await?;
            let Some(mut found) = found.filter(|found| !found.value.deleting) else {
                return Ok(false);
            };
            if !self.content.needs_touch(found.value.touched) {
                return Ok(true);
            }
            found.value.touched = self.content.now();
            let replaced = self
                .records()
                .replace(
                    &key,
                    &found.value,
                    &found.body,
                    &found.version,
                    Durability::OnReturn,
                )
                .await?;
            if replaced.is_some() {
                return Ok(true);
            }
        }
        Err(ContentError::Contended { key })
    }

    /// Cleans up after a manifest that is marked as deleting: tags and hints, its entry as a referrer, the record itself.
    async fn finish_deletion(
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
            if let Some(record) = record.filter(|record| record.value.digest == *digest) {
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

    /// Removes a hint that leads nowhere any more; one that stays is harmless.
    async fn drop_hint(&self, digest: &Digest, tag: &Tag) {
        let key = layout::hint(self.registry, self.name, digest, tag);
        let dropped = async {
            if let Some(version) = self.records().version(&key).await? {
                // The tag may have come back since; then its hint has to stay.
                let record = self.tag_record(tag).await?;
                if record.is_none_or(|record| record.value.digest != *digest) {
                    self.records()
                        .remove(&key, &version, Durability::Eventually)
                        .await?;
                }
            }
            Ok::<(), ContentError>(())
        };
        if let Err(error) = dropped.await {
            tracing::debug!(hint.key = key, %error, "a hint was not removed");
        }
    }
}

/// A manifest on its way into a repository.
struct Push<'a> {
    repository: Repository<'a>,
    document: ManifestDocument,
    digest: Digest,
    bytes: Bytes,
    principal: &'a str,
}

impl Push<'_> {
    /// Makes the manifest's record be there, alive and young; the entry as a referrer comes first, so that no manifest is
    /// there without it.
    async fn write_manifest(&self) -> Result<Version, ContentError> {
        let repository = &self.repository;
        let key = layout::manifest(repository.registry, repository.name, &self.digest);
        for _ in 0..CONFLICT_ATTEMPTS {
            let found = repository.manifest_record(&self.digest).await?;
            let version = match found {
                Some(found) if found.value.deleting => {
                    repository.finish_deletion(&self.digest, &found).await?;
                    continue;
                }
                Some(found) => self.renew_manifest(&key, found).await?,
                None => {
                    self.write_referrer().await?;
                    self.create_manifest(&key).await?
                }
            };
            if let Some(version) = version {
                return Ok(version);
            }
        }
        Err(ContentError::Contended { key })
    }

    async fn create_manifest(&self, key: &str) -> Result<Option<Version>, ContentError> {
        let now = self.repository.content.now();
        let record = ManifestRecord {
            media_type: self.document.media_type.clone(),
            size: self.bytes.len() as u64,
            created: now,
            touched: now,
            by: self.principal.to_owned(),
            subject: self.document.subject.clone(),
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
    ) -> Result<Option<Version>, ContentError> {
        let content = self.repository.content;
        let is_same = found.value.media_type == self.document.media_type;
        if is_same && !content.needs_touch(found.value.touched) {
            return Ok(Some(found.version));
        }
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

    async fn write_repository(&self) -> Result<(), ContentError> {
        let repository = &self.repository;
        let records = repository.records();
        let key = layout::repository(repository.registry, repository.name);
        let now = repository.content.now();
        let Some(mut found) = records.get::<RepositoryRecord>(&key).await? else {
            let record = RepositoryRecord {
                created: now,
                updated: now,
                attributes: Default::default(),
            };
            // Somebody else's record is as good.
            records
                .create(&key, &record, &[], Durability::OnReturn)
                .await?;
            return Ok(());
        };
        if (now - found.value.updated).whole_seconds() >= REPOSITORY_UPDATED_SECONDS {
            found.value.updated = now;
            records
                .replace(
                    &key,
                    &found.value,
                    &[],
                    &found.version,
                    Durability::OnReturn,
                )
                .await?;
        }
        Ok(())
    }

    async fn write_tag(&self, tag: &Tag) -> Result<(), ContentError> {
        let repository = &self.repository;
        let records = repository.records();
        let key = layout::tag(repository.registry, repository.name, tag);
        let hint = layout::hint(repository.registry, repository.name, &self.digest, tag);
        records
            .create(&hint, &HintRecord {}, &[], Durability::Eventually)
            .await?;
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
        for _ in 0..CONFLICT_ATTEMPTS {
            let found = repository.tag_record(tag).await?;
            repository.check_precondition_of_tag(found.as_ref()).await?;
            let Some(found) = found else {
                let created = records
                    .create(&key, &record, &[], Durability::OnReturn)
                    .await?;
                if created.is_some() {
                    return Ok(());
                }
                continue;
            };
            record.created = found.value.created;
            record.attributes = found.value.attributes;
            let replaced = records
                .replace(&key, &record, &[], &found.version, Durability::OnReturn)
                .await?;
            if replaced.is_some() {
                if found.value.digest != self.digest {
                    repository.drop_hint(&found.value.digest, tag).await;
                }
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }
}

/// The digest of a manifest's bytes; a reference that is a digest must be that.
async fn checked_digest(reference: &Reference, bytes: Bytes) -> Result<Digest, ContentError> {
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
