//! Manifests and the tags that point to them.
//!
//! A push writes in an order in which a crash leaves nothing half visible (see [`super::push`]). Deletion is in
//! [`super::manifest_deletion`].

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::Repository;
use super::attributes::ChangeableAttributes;
use super::error::ContentError;
use super::layout;
use super::manifest_document::{ManifestDocument, read_manifest};
use super::push::{Push, checked_digest};
use super::record_store::Version;
use super::records::{CONFLICT_ATTEMPTS, ManifestRecord, RepositoryRecord, TagRecord, Versioned};
use super::repositories::{Life, LifeNow};
use crate::limits::MANIFEST_BYTES_SMALL;
use crate::names::{Digest, Reference, Tag};

/// Look-ups under way for one request.
pub(super) const LOOKUPS_IN_FLIGHT: usize = 16;
/// Memory for manifests that were read.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;

/// A manifest as it was pushed.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Bytes,
    attributes: ChangeableAttributes,
    /// The life of the repository in which it was pushed last.
    pub(super) life: Option<Uuid>,
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

    pub(super) fn forget(&self, key: &str) {
        self.0.invalidate(key);
    }
}

impl Repository<'_> {
    /// The manifest that a tag or digest names, for whoever pulls it.
    ///
    /// # Errors
    /// [`ContentError::Locked`], or when the store cannot be read.
    pub async fn manifest(&self, reference: &Reference) -> Result<Option<Manifest>, ContentError> {
        match reference {
            Reference::Digest(digest) => self.pulled_manifest(digest).await,
            Reference::Tag(tag) => self.manifest_by_tag(tag).await,
        }
    }

    /// The manifest with that digest, for whoever pulls it.
    async fn pulled_manifest(&self, digest: &Digest) -> Result<Option<Manifest>, ContentError> {
        let Some((repository, manifest)) = self.manifest_with_repository(digest).await? else {
            return Ok(None);
        };
        ChangeableAttributes::of(&repository.attributes).check_read(|| self.what_is_locked())?;
        manifest
            .attributes
            .check_read(|| self.manifest_text(digest))?;
        Ok(Some(manifest))
    }

    /// Whether there is a manifest with that digest.
    pub(super) async fn has_manifest(&self, digest: &Digest) -> Result<bool, ContentError> {
        Ok(self.manifest_with_repository(digest).await?.is_some())
    }

    /// The manifest with that digest, looked up together with its repository, without which it counts as absent.
    async fn manifest_with_repository(
        &self,
        digest: &Digest,
    ) -> Result<Option<(RepositoryRecord, Manifest)>, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        let (repository, manifest) = match self.content.manifest_cache.0.get(&key) {
            Some(entry) => {
                let repository = layout::repository(self.registry, self.name);
                let looked_up = self.records().get_and_version(&repository, &key);
                let (repository, version) = looked_up.await?;
                let manifest = match version.as_ref() == Some(&entry.0) {
                    true => Some(entry.1.clone()),
                    false => self.manifest_by_digest(digest).await?,
                };
                (repository, manifest)
            }
            None => tokio::try_join!(self.record(), self.manifest_by_digest(digest))?,
        };
        let repository = repository.map(|record| record.value);
        let found = repository.zip(manifest);
        Ok(found.filter(|(repository, manifest)| {
            !repository.deleting && repository.has_manifest_of(manifest.life)
        }))
    }

    /// Takes a manifest in, under its digest and, if the reference is a tag, under that tag. All of it is durable when this
    /// returns. `declared` is the media type that the request names.
    ///
    /// # Errors
    /// [`ContentError::Manifest`], [`ContentError::DigestMismatch`], [`ContentError::ReferencesMissing`],
    /// [`ContentError::PreconditionFailed`], [`ContentError::Locked`], or when the store fails.
    pub async fn put_manifest(
        &self,
        reference: &Reference,
        declared: Option<&str>,
        bytes: Bytes,
        principal: &str,
    ) -> Result<PutManifest, ContentError> {
        let document = read_document(&bytes, declared).await?;
        let digest = checked_digest(reference, bytes.clone()).await?;
        self.check_precondition(reference).await?;
        let mut push = Push {
            repository: *self,
            document,
            digest,
            bytes,
            principal,
        };
        let mut written = None;
        for _ in 0..CONFLICT_ATTEMPTS {
            let (life, ()) = tokio::try_join!(
                self.life(),
                self.check_tag_writable(reference, written.as_ref())
            )?;
            self.touch_references(&push.document, &life).await?;
            let Some(mut version) = push.write_manifest(&life).await? else {
                continue;
            };
            if !self.write_record(&life).await? {
                continue;
            }
            if !life.is_established() {
                // A push in a life that did not come to be may be about to take the manifest for its own: it finds another version,
                // and then the repository.
                let Some(renewed) = push.claim_manifest(&life).await? else {
                    continue;
                };
                version = renewed;
            }
            if let Reference::Tag(tag) = reference {
                written = Some(push.write_tag(tag, written).await?);
                // It held when the tag was written; what is there from now on is this push's own.
                push.repository.precondition = None;
            }
            // The manifest may be deleted again already: then the tag would point to nothing.
            let (is_live, life_now) = tokio::try_join!(
                self.is_live_at(&push.digest, &version, &life),
                self.life_now(&life)
            )?;
            match life_now {
                LifeNow::Same if is_live => {
                    return Ok(PutManifest {
                        digest: push.digest,
                        subject: push.document.subject,
                    });
                }
                LifeNow::Locked(locked) => {
                    if let (Reference::Tag(tag), Some(written)) = (reference, written) {
                        self.take_back_tag(tag, written).await?;
                    }
                    return Err(locked);
                }
                LifeNow::Same | LifeNow::Over => {}
            }
        }
        Err(ContentError::Contended {
            key: layout::manifest(self.registry, self.name, &push.digest),
        })
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
    pub(super) async fn check_precondition_of_tag(
        &self,
        found: Option<&Versioned<TagRecord>>,
    ) -> Result<(), ContentError> {
        let Some(precondition) = self.precondition else {
            return Ok(());
        };
        let digest = found.map(|found| &found.value.digest);
        let is_there = match digest {
            Some(digest) => self.has_manifest(digest).await?,
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

    /// The manifest with that digest, if it is not deleted by itself: whether the repository has it is not asked.
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
            attributes: ChangeableAttributes::of(&found.value.attributes),
            life: found.value.life,
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
            if let Some(manifest) = self.pulled_manifest(&record.value.digest).await? {
                ChangeableAttributes::of(&record.value.attributes)
                    .check_read(|| self.tag_text(tag))?;
                return Ok(Some(manifest));
            }
            // Either the manifest was deleted, or the tag moved on and then it was: the tag says which.
            if seen.replace(record.version.clone()) == Some(record.version) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    pub(super) async fn manifest_record(
        &self,
        digest: &Digest,
    ) -> Result<Option<Versioned<ManifestRecord>>, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        self.records().get(&key).await
    }

    /// Whether a manifest that a push wrote at that version is still there. A push in another life may have taken it for its own.
    async fn is_live_at(
        &self,
        digest: &Digest,
        version: &Version,
        life: &Life,
    ) -> Result<bool, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        if self.records().version(&key).await?.as_ref() == Some(version) {
            return Ok(true);
        }
        let found = self.manifest_record(digest).await?;
        Ok(found.is_some_and(|found| !found.value.deleting && found.value.life == Some(life.id)))
    }

    /// Looks up all that the manifest refers to, and makes it young enough to be referred to.
    async fn touch_references(
        &self,
        document: &ManifestDocument,
        life: &Life,
    ) -> Result<(), ContentError> {
        let repository = *self;
        let blobs = stream::iter(document.blobs.clone()).map(|digest| async move {
            let is_missing = repository.touch_link(&digest).await?.is_none();
            Ok::<_, ContentError>(is_missing.then_some(digest))
        });
        let manifests = stream::iter(document.manifests.clone()).map(|digest| async move {
            let is_missing = !repository.touch_manifest(&digest, life).await?;
            Ok::<_, ContentError>(is_missing.then_some(digest))
        });
        let mut missing: Vec<Option<Digest>> =
            blobs.buffered(LOOKUPS_IN_FLIGHT).try_collect().await?;
        let missing_manifests: Vec<Option<Digest>> =
            manifests.buffered(LOOKUPS_IN_FLIGHT).try_collect().await?;
        missing.extend(missing_manifests);
        self.touch_optional_references(document, life).await?;
        let missing: Vec<Digest> = missing.into_iter().flatten().collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(ContentError::ReferencesMissing { missing })
    }

    /// What the manifest names and need not be here; if it is, it stays.
    async fn touch_optional_references(
        &self,
        document: &ManifestDocument,
        life: &Life,
    ) -> Result<(), ContentError> {
        let repository = *self;
        stream::iter(document.foreign_blobs.clone())
            .map(|digest| async move { repository.touch_link(&digest).await })
            .buffered(LOOKUPS_IN_FLIGHT)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await?;
        if let Some(subject) = &document.subject {
            self.touch_manifest(subject, life).await?;
        }
        Ok(())
    }

    async fn touch_manifest(&self, digest: &Digest, life: &Life) -> Result<bool, ContentError> {
        let key = layout::manifest(self.registry, self.name, digest);
        for _ in 0..CONFLICT_ATTEMPTS {
            let found = self.manifest_record(digest).await?;
            let is_there = |found: &Versioned<ManifestRecord>| {
                !found.value.deleting && life.has_manifest_of(found.value.life)
            };
            let Some(mut found) = found.filter(is_there) else {
                return Ok(false);
            };
            let is_of_life = found.value.life == Some(life.id);
            if is_of_life && !self.content.needs_touch(found.value.touched) {
                return Ok(true);
            }
            found.value.life = Some(life.id);
            found.value.touched = self.content.now();
            let replaced = self.records().rewrite(&key, &found).await?;
            if replaced.is_some() {
                return Ok(true);
            }
        }
        Err(ContentError::Contended { key })
    }
}

/// Reads a manifest, away from the thread that serves connections unless it is small.
async fn read_document(
    bytes: &Bytes,
    declared: Option<&str>,
) -> Result<ManifestDocument, ContentError> {
    if bytes.len() as u64 <= MANIFEST_BYTES_SMALL {
        return Ok(read_manifest(bytes, declared)?);
    }
    let (bytes, declared) = (bytes.clone(), declared.map(str::to_owned));
    let reading = spawn_blocking(move || read_manifest(&bytes, declared.as_deref()));
    Ok(reading.await.map_err(|_| ContentError::Interrupted)??)
}
