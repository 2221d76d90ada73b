//! Uploads: sessions that any node continues, and bytes that become a blob once their digest is checked.
//!
//! A session's record is changed only at the version that was read. Whoever loses drops the bytes it brought, which nobody
//! else can have referred to, and tells its client where the upload really is. Before a blob's record may name a session's
//! bytes the session is marked as finishing; from then on nobody removes them by way of the session.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use uuid::Uuid;

use super::Repository;
use super::error::{BodyError, ContentError};
use super::hashing::ContentHasher;
use super::layout;
use super::record_store::Durability;
use super::records::{DataPiece, UploadRecord, Versioned};
use crate::limits::UPLOAD_CHUNKS_MAXIMUM;
use crate::names::{Digest, DigestAlgorithm};

/// An upload and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upload {
    /// Names the upload in its repository.
    pub id: Uuid,
    /// Bytes received so far.
    pub offset: u64,
}

impl Repository<'_> {
    /// Begins an upload.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn start_upload(
        &self,
        algorithm: DigestAlgorithm,
        principal: &str,
    ) -> Result<Upload, ContentError> {
        let id = self.content.random_id();
        let record = UploadRecord {
            repository: self.name.clone(),
            chunks: Vec::new(),
            offset: 0,
            algorithm,
            midstate: ContentHasher::new(algorithm).midstate(),
            updated: self.content.now(),
            principal: principal.to_owned(),
            finishing: false,
        };
        let key = layout::upload(self.registry, id);
        let created = self
            .records()
            .create(&key, &record, &[], Durability::Eventually)
            .await?;
        match created {
            Some(_) => Ok(Upload { id, offset: 0 }),
            None => Err(ContentError::Contended { key }),
        }
    }

    /// How far an upload is.
    ///
    /// # Errors
    /// [`ContentError::UploadUnknown`], or when the store fails.
    pub async fn upload(&self, id: Uuid) -> Result<Upload, ContentError> {
        let session = self.session(id).await?;
        Ok(Upload {
            id,
            offset: session.value.offset,
        })
    }

    /// Adds a chunk. `start` is where the client believes it goes; without it, the end.
    ///
    /// # Errors
    /// [`ContentError::NotAtOffset`] if the chunk goes elsewhere or another one was faster; see [`ContentError`].
    pub async fn append_to_upload<S>(
        &self,
        id: Uuid,
        start: Option<u64>,
        body: S,
    ) -> Result<Upload, ContentError>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Unpin,
    {
        let session = self.session_at(id, start).await?;
        let (record, piece) = self.write_chunk(id, &session.value, body).await?;
        let Some(piece) = piece else {
            return Ok(Upload {
                id,
                offset: record.offset,
            });
        };
        self.replace_session(id, &session, &record, &[piece])
            .await?;
        Ok(Upload {
            id,
            offset: record.offset,
        })
    }

    /// Ends an upload, with the last chunk if there is one: checks the digest and makes the blob. All of it is durable when
    /// this returns. A wrong digest ends the upload and leaves nothing.
    ///
    /// # Errors
    /// [`ContentError::DigestMismatch`], [`ContentError::NotAtOffset`]; see [`ContentError`].
    pub async fn finish_upload<S>(
        &self,
        id: Uuid,
        digest: &Digest,
        start: Option<u64>,
        body: S,
    ) -> Result<u64, ContentError>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Unpin,
    {
        let session = self.session_at(id, start).await?;
        let (mut record, piece) = if session.value.finishing {
            (session.value.clone(), None)
        } else {
            self.write_chunk(id, &session.value, body).await?
        };
        let own: Vec<DataPiece> = piece.into_iter().collect();
        let actual = match self.session_digest(&record, digest.algorithm()).await {
            Ok(actual) => actual,
            Err(error) => {
                self.data().remove(&own).await;
                return Err(error);
            }
        };
        if actual != *digest {
            self.end_session(id, &session, &own).await?;
            return Err(ContentError::DigestMismatch {
                expected: digest.clone(),
                actual,
            });
        }
        // Also of a session that was finishing already: it must not end as an idle one while its bytes become a blob.
        record.finishing = true;
        record.updated = self.content.now();
        let version = self.replace_session(id, &session, &record, &own).await?;
        let size = record.offset;
        let unused = self.adopt_data(digest, size, record.chunks).await?;
        let key = layout::upload(self.registry, id);
        let ended = self
            .records()
            .remove(&key, &version, Durability::Eventually)
            .await?;
        if ended {
            self.data().remove(&unused).await;
        }
        Ok(size)
    }

    /// Makes a blob of one body, without a session.
    ///
    /// # Errors
    /// [`ContentError::DigestMismatch`]; see [`ContentError`].
    pub async fn put_blob<S>(&self, digest: &Digest, body: S) -> Result<u64, ContentError>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Unpin,
    {
        let key = self.data_key(self.content.random_id(), 0);
        let hasher = ContentHasher::new(digest.algorithm());
        let written = self.data().write(&key, body, hasher).await?;
        let size = written.size;
        let pieces = owned_piece(key, size).into_iter().collect::<Vec<_>>();
        let actual = written.hasher.digest();
        if actual != *digest {
            self.data().remove(&pieces).await;
            return Err(ContentError::DigestMismatch {
                expected: digest.clone(),
                actual,
            });
        }
        let unused = self.adopt_data(digest, size, pieces).await?;
        self.data().remove(&unused).await;
        Ok(size)
    }

    /// Ends an upload and drops its bytes.
    ///
    /// # Errors
    /// [`ContentError::UploadUnknown`], [`ContentError::UploadFinishing`], or when the store fails.
    pub async fn cancel_upload(&self, id: Uuid) -> Result<(), ContentError> {
        let session = self.session(id).await?;
        if session.value.finishing {
            return Err(ContentError::UploadFinishing(id));
        }
        if self.end_session(id, &session, &[]).await? {
            return Ok(());
        }
        Err(ContentError::Contended {
            key: layout::upload(self.registry, id),
        })
    }

    fn data_key(&self, upload: Uuid, number: usize) -> String {
        layout::data(self.registry, upload, number, self.content.random_id())
    }

    async fn session(&self, id: Uuid) -> Result<Versioned<UploadRecord>, ContentError> {
        let key = layout::upload(self.registry, id);
        let session = match self.records().get::<UploadRecord>(&key).await {
            // Sessions need not survive a loss of power; one that did so in part is as good as gone.
            Err(ContentError::DamagedRecord { .. }) => None,
            other => other?,
        };
        session
            .filter(|session| session.value.repository == *self.name)
            .ok_or(ContentError::UploadUnknown(id))
    }

    /// The session, if a chunk at `start` can be added to it now.
    async fn session_at(
        &self,
        id: Uuid,
        start: Option<u64>,
    ) -> Result<Versioned<UploadRecord>, ContentError> {
        let session = self.session(id).await?;
        let offset = session.value.offset;
        if start.is_some_and(|start| start != offset) {
            return Err(ContentError::NotAtOffset { offset });
        }
        Ok(session)
    }

    /// Writes a chunk and gives the session's record with it, and the chunk, unless it was empty.
    async fn write_chunk<S>(
        &self,
        id: Uuid,
        session: &UploadRecord,
        body: S,
    ) -> Result<(UploadRecord, Option<DataPiece>), ContentError>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Unpin,
    {
        if session.finishing {
            return Err(ContentError::UploadFinishing(id));
        }
        let mut body = body.peekable();
        if std::pin::Pin::new(&mut body).peek().await.is_none() {
            return Ok((session.clone(), None));
        }
        if session.chunks.len() >= UPLOAD_CHUNKS_MAXIMUM {
            return Err(ContentError::TooManyChunks(id));
        }
        let hasher = ContentHasher::from_midstate(session.algorithm, &session.midstate)
            .ok_or_else(|| ContentError::DamagedRecord {
                key: layout::upload(self.registry, id),
            })?;
        let key = self.data_key(id, session.chunks.len());
        let written = self.data().write(&key, body, hasher).await?;
        let piece = owned_piece(key, written.size);
        let mut record = session.clone();
        record.chunks.extend(piece.clone());
        record.offset += written.size;
        record.midstate = written.hasher.midstate();
        record.updated = self.content.now();
        Ok((record, piece))
    }

    /// Replaces the session that was read. If it changed since, the caller's own pieces go and the client is told where the
    /// upload is now.
    async fn replace_session(
        &self,
        id: Uuid,
        session: &Versioned<UploadRecord>,
        record: &UploadRecord,
        own: &[DataPiece],
    ) -> Result<super::record_store::Version, ContentError> {
        let key = layout::upload(self.registry, id);
        let replaced = self
            .records()
            .replace(&key, record, &[], &session.version, Durability::Eventually)
            .await?;
        if let Some(version) = replaced {
            return Ok(version);
        }
        self.data().remove(own).await;
        let now = self.session(id).await?;
        Err(ContentError::NotAtOffset {
            offset: now.value.offset,
        })
    }

    /// Removes the session at the version that was read, then all its bytes and the caller's own pieces; only the latter if it
    /// changed since. Says which.
    async fn end_session(
        &self,
        id: Uuid,
        session: &Versioned<UploadRecord>,
        own: &[DataPiece],
    ) -> Result<bool, ContentError> {
        self.data().remove(own).await;
        if session.value.finishing {
            return Ok(false);
        }
        let key = layout::upload(self.registry, id);
        let ended = self
            .records()
            .remove(&key, &session.version, Durability::Eventually)
            .await?;
        if ended {
            self.data().remove(&session.value.chunks).await;
        }
        Ok(ended)
    }

    /// The digest of all bytes of the session: from the state of its hash, or, for another hash function than the session
    /// was begun with, by reading them again.
    async fn session_digest(
        &self,
        record: &UploadRecord,
        algorithm: DigestAlgorithm,
    ) -> Result<Digest, ContentError> {
        if algorithm == record.algorithm {
            return ContentHasher::from_midstate(algorithm, &record.midstate)
                .map(ContentHasher::digest)
                .ok_or_else(|| ContentError::DamagedRecord {
                    key: "of an upload".to_owned(),
                });
        }
        let mut hasher = ContentHasher::new(algorithm);
        let mut bytes = self
            .data()
            .read(record.chunks.clone(), 0..record.offset)
            .boxed();
        while let Some(block) = bytes.try_next().await? {
            hasher = super::parts::hash_part(hasher, block).await?;
        }
        Ok(hasher.digest())
    }
}

/// The piece that a written body makes; an empty one makes none.
fn owned_piece(key: String, size: u64) -> Option<DataPiece> {
    (size > 0).then_some(DataPiece {
        key,
        size,
        owned: true,
    })
}
