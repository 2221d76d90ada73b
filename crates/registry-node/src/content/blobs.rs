//! Blobs: a record that all repositories of the registry share, and a link for each repository that may serve it.

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

use super::error::ContentError;
use super::layout;
use super::manifests::LOOKUPS_IN_FLIGHT;
use super::record_store::Durability;
use super::records::{BlobRecord, CONFLICT_ATTEMPTS, DataPiece, Versioned};
use super::{Content, Repository};
use crate::limits::{DOWNLOADS_MAXIMUM, MOUNT_SOURCES_MAXIMUM};
use crate::names::{Digest, RepositoryName};

/// A blob that the repository may serve.
#[derive(Debug, Clone)]
pub struct Blob {
    digest: Digest,
    record: BlobRecord,
}

impl Blob {
    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.record.size
    }
}

impl Repository<'_> {
    /// The blob, if this repository may serve it, for whoever pulls it.
    ///
    /// # Errors
    /// [`ContentError::Locked`], or when the store cannot be read.
    pub async fn blob(&self, digest: &Digest) -> Result<Option<Blob>, ContentError> {
        let ((), blob) = tokio::try_join!(self.check_readable(), self.blob_of_manifest(digest))?;
        Ok(blob)
    }

    /// The same for the node's own reading.
    pub(super) async fn blob_of_manifest(
        &self,
        digest: &Digest,
    ) -> Result<Option<Blob>, ContentError> {
        let link = self.link(digest).await?;
        Ok(link.map(|link| Blob {
            digest: digest.clone(),
            record: link.value,
        }))
    }

    /// The same for a caller who may push, to whom "it is there" is a promise: it will still be there when the manifest
    /// that refers to it comes.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn promised_blob(&self, digest: &Digest) -> Result<Option<Blob>, ContentError> {
        let record = self.touch_link(digest).await?;
        Ok(record.map(|record| Blob {
            digest: digest.clone(),
            record,
        }))
    }

    /// Bytes of a blob. The first of them are read before this returns, so that a fault is still an error and not a
    /// broken transfer.
    ///
    /// # Errors
    /// [`ContentError::TooManyDownloads`], or when the bytes cannot be read.
    pub async fn read_blob(
        &self,
        blob: &Blob,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, ContentError>>, ContentError> {
        if self.data().streams() >= DOWNLOADS_MAXIMUM {
            return Err(ContentError::TooManyDownloads);
        }
        let pieces = blob.record.data.clone();
        let mut bytes = self.data().read(pieces, range.clone()).boxed();
        let mut first = bytes.try_next().await;
        if is_missing(&first) {
            // The link's copy is older than the blob's record, whose damaged bytes were replaced by a later upload.
            let key = layout::blob(self.registry, &blob.digest);
            let record = self.records().get::<BlobRecord>(&key).await?;
            let pieces = record.map(|record| record.value.data).unwrap_or_default();
            bytes = self.data().read(pieces, range.clone()).boxed();
            first = bytes.try_next().await;
            if is_missing(&first) || (matches!(first, Ok(None)) && !range.is_empty()) {
                return Err(ContentError::DamagedData(blob.digest.clone()));
            }
        }
        Ok(stream::iter(first?.map(Ok)).chain(bytes).boxed())
    }

    /// A URL by which a client is to fetch the blob by itself, good for
    /// [`SIGNED_URL_LIFETIME`](crate::limits::SIGNED_URL_LIFETIME). `None` where it is not: redirects are off, or the blob was
    /// pushed in several chunks.
    ///
    /// # Errors
    /// When the store cannot be asked, or nothing can be signed.
    pub async fn blob_url(&self, blob: &Blob) -> Result<Option<String>, ContentError> {
        if !self.content.redirects_downloads {
            return Ok(None);
        }
        self.data().signed_url(&blob.record.data).await
    }

    /// Takes the blob out of this repository. Its bytes stay while others use them, and until collection otherwise.
    ///
    /// # Errors
    /// [`ContentError::BlobUnknown`], [`ContentError::Locked`] if the repository is, or when the store fails.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<(), ContentError> {
        let key = layout::link(self.registry, self.name, digest);
        self.check_deletable().await?;
        for _ in 0..CONFLICT_ATTEMPTS {
            let link = self
                .link(digest)
                .await?
                .ok_or_else(|| ContentError::BlobUnknown(digest.clone()))?;
            let removed = self
                .records()
                .remove(&key, &link.version, Durability::OnReturn)
                .await?;
            if removed {
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }

    /// Lets this repository serve a blob of another one, without any bytes moving. `false` if the other one has no such
    /// blob. Whether the caller may read the other one is the caller's to ask.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn mount_blob(
        &self,
        digest: &Digest,
        from: &RepositoryName,
    ) -> Result<bool, ContentError> {
        let source = self.content.repository(self.registry, from);
        if source.link(digest).await?.is_none() {
            return Ok(false);
        }
        // From here on the blob is young, so its record cannot be judged unused before the new link exists.
        let Some(record) = self
            .content
            .touch_blob_record(self.registry, digest)
            .await?
        else {
            return Ok(false);
        };
        self.link_blob(digest, &record).await?;
        Ok(true)
    }

    /// The same where the client does not say which repository has the blob: the first is taken that does, of those that
    /// `may_read` says yes to. At most [`MOUNT_SOURCES_MAXIMUM`] repositories are looked at.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn mount_found_blob(
        &self,
        digest: &Digest,
        may_read: impl Fn(&RepositoryName) -> bool,
    ) -> Result<bool, ContentError> {
        let key = layout::blob(self.registry, digest);
        if self.records().version(&key).await?.is_none() {
            return Ok(false);
        }
        let candidates = self
            .content
            .repositories(self.registry, None, MOUNT_SOURCES_MAXIMUM)
            .await?
            .entries
            .into_iter()
            .filter(may_read);
        let mut sources = stream::iter(candidates)
            .map(|name| async move {
                let key = layout::link(self.registry, &name, digest);
                let link = self.records().version(&key).await?;
                Ok::<_, ContentError>(link.map(|_| name))
            })
            .buffered(LOOKUPS_IN_FLIGHT);
        while let Some(source) = sources.try_next().await? {
            if let Some(source) = source
                && self.mount_blob(digest, &source).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) async fn link(
        &self,
        digest: &Digest,
    ) -> Result<Option<Versioned<BlobRecord>>, ContentError> {
        let key = layout::link(self.registry, self.name, digest);
        self.records().get(&key).await
    }

    /// The link's record, young enough now to be referred to.
    pub(super) async fn touch_link(
        &self,
        digest: &Digest,
    ) -> Result<Option<BlobRecord>, ContentError> {
        let key = layout::link(self.registry, self.name, digest);
        self.content.touch(&key).await
    }

    /// Lets this repository serve a blob whose record was touched before.
    pub(super) async fn link_blob(
        &self,
        digest: &Digest,
        record: &BlobRecord,
    ) -> Result<(), ContentError> {
        let key = layout::link(self.registry, self.name, digest);
        let now = self.content.now();
        for _ in 0..CONFLICT_ATTEMPTS {
            let fresh = BlobRecord {
                created: now,
                touched: now,
                ..record.clone()
            };
            let created = self
                .records()
                .create(&key, &fresh, &[], Durability::OnReturn)
                .await?;
            if created.is_some() {
                return Ok(());
            }
            let Some(link) = self.link(digest).await? else {
                continue;
            };
            if link.value.data == record.data && !self.content.needs_touch(link.value.touched) {
                return Ok(());
            }
            let renewed = BlobRecord {
                created: link.value.created,
                ..fresh
            };
            let replaced = self
                .records()
                .replace(&key, &renewed, &[], &link.version, Durability::OnReturn)
                .await?;
            if replaced.is_some() {
                return Ok(());
            }
        }
        Err(ContentError::Contended { key })
    }

    /// Makes a blob of bytes whose digest was checked, and links it to this repository. Returns the pieces that were not
    /// used because the same content was there before; they are the caller's to remove, last of all.
    pub(super) async fn adopt_data(
        &self,
        digest: &Digest,
        size: u64,
        pieces: Vec<DataPiece>,
    ) -> Result<Vec<DataPiece>, ContentError> {
        let key = layout::blob(self.registry, digest);
        let now = self.content.now();
        let own = BlobRecord {
            size,
            data: pieces,
            created: now,
            touched: now,
        };
        for _ in 0..CONFLICT_ATTEMPTS {
            let created = self
                .records()
                .create(&key, &own, &[], Durability::OnReturn)
                .await?;
            if created.is_some() {
                self.content.stored.grew(self.registry, size);
                self.link_blob(digest, &own).await?;
                return Ok(Vec::new());
            }
            let Some(other) = self.records().get::<BlobRecord>(&key).await? else {
                continue;
            };
            let is_good =
                other.value.size == size && self.data().is_whole(&other.value.data).await?;
            if !is_good {
                let repaired = BlobRecord {
                    created: other.value.created,
                    ..own.clone()
                };
                self.records()
                    .replace(&key, &repaired, &[], &other.version, Durability::OnReturn)
                    .await?;
                continue;
            }
            let Some(record) = self
                .content
                .touch_blob_record(self.registry, digest)
                .await?
            else {
                continue;
            };
            if record.data != other.value.data {
                continue;
            }
            self.link_blob(digest, &record).await?;
            let unused = own.data.iter().filter(|piece| !record.data.contains(piece));
            return Ok(unused.cloned().collect());
        }
        Err(ContentError::Contended { key })
    }
}

impl Content {
    async fn touch_blob_record(
        &self,
        registry: uuid::Uuid,
        digest: &Digest,
    ) -> Result<Option<BlobRecord>, ContentError> {
        self.touch(&layout::blob(registry, digest)).await
    }

    /// Makes a blob's record or link young, unless it is. `None` if there is none.
    async fn touch(&self, key: &str) -> Result<Option<BlobRecord>, ContentError> {
        for _ in 0..CONFLICT_ATTEMPTS {
            let Some(found) = self.records.get::<BlobRecord>(key).await? else {
                return Ok(None);
            };
            if !self.needs_touch(found.value.touched) {
                return Ok(Some(found.value));
            }
            let touched = BlobRecord {
                touched: self.now(),
                ..found.value
            };
            let replaced = self
                .records
                .replace(key, &touched, &[], &found.version, Durability::OnReturn)
                .await?;
            if replaced.is_some() {
                return Ok(Some(touched));
            }
        }
        Err(ContentError::Contended {
            key: key.to_owned(),
        })
    }
}

fn is_missing(read: &Result<Option<Bytes>, ContentError>) -> bool {
    matches!(
        read,
        Err(ContentError::Data(object_store::Error::NotFound { .. }))
    )
}
