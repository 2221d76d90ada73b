//! Records as objects of a bucket, shared by any number of nodes on any number of hosts. A record's version is its entity tag.
//!
//! A write is sent once. What is not certain to have been refused is unknown, and is settled by whoever asked for it.
//!
//! Where the store cannot remove at a version, a record is replaced, at its version, by a tombstone: a record that reads and
//! listings treat as absent and a create replaces. So everything works, and only collection has to wait until it has the store
//! for itself: then a removal compares and deletes, and a listing deletes the tombstones that it meets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::client::{HttpError, HttpErrorKind};
use object_store::list::PaginatedListOptions;
use object_store::path::Path;
use object_store::{
    GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    UpdateVersion,
};
use time::OffsetDateTime;

use super::tombstone::{TOMBSTONE_BYTES, is_tombstone, tombstone};
use super::{
    Durability, ListedRecord, PROBE_PREFIX, ProbeError, ReadError, RecordStore, StoredRecord,
    Version, WriteError,
};
use crate::content::bucket::{
    BucketClients, BucketKind, BucketOptions, ListedStore, Removal, path_below,
};
use crate::content::error::OpenError;
use crate::content::layout;
use crate::content::sources::Sources;

/// Entries of the pages after the first. One is asked for where the first was not enough: it held tombstones, or the store gives
/// less than it was asked for, or cannot begin a listing in the middle.
const PAGE_ENTRIES: usize = 1000;
/// How often a write is sent again that certainly was not made: no connection, or somebody else's write was being made.
const SENDS_MAXIMUM: u32 = 4;
/// The wait before the second of them, doubled for each further one; also before an unknown outcome is told, which is often a store
/// that has too much to do.
const SEND_WAIT: Duration = Duration::from_millis(50);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A record store in a bucket.
pub struct BucketRecords {
    clients: BucketClients,
    sources: Sources,
    removes_at_version: bool,
    is_exclusive: AtomicBool,
}

/// What became of a write.
enum Write {
    Made(Version),
    NotAtVersion,
    /// It was not made, for a reason that passes.
    NotMadeNow(Cause),
    Refused(Cause),
    Unknown(Cause),
}

impl BucketRecords {
    /// Opens the records of a bucket, having found out whether it removes at a version.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(options: &BucketOptions, sources: Sources) -> Result<Self, OpenError> {
        let opened = Self::open_with(BucketClients::new(options)?, sources).await;
        opened.map_err(|source| OpenError::Bucket {
            location: options.location.clone(),
            source,
        })
    }

    pub(crate) async fn open_with(
        clients: BucketClients,
        sources: Sources,
    ) -> Result<Self, ProbeError> {
        let mut records = Self {
            clients,
            sources,
            removes_at_version: false,
            is_exclusive: AtomicBool::new(false),
        };
        records.removes_at_version = records.probe_removal().await?;
        Ok(records)
    }

    /// Whether a removal at an old version fails, as it must.
    async fn probe_removal(&self) -> Result<bool, ProbeError> {
        let id = (self.sources.random_id)();
        let key = format!("{PROBE_PREFIX}{id}/removal");
        let record = || tombstone((self.sources.random_id)());
        let old = self.create_object(&key, record()).await?;
        self.replace_object(&key, record(), &old).await?;
        let path = self.path(&key);
        let removal = self.clients.removal.remove(&path, &old).await;
        self.delete(&key).await?;
        match removal {
            Removal::NotAtVersion => Ok(true),
            Removal::Removed | Removal::Unsupported => Ok(false),
            Removal::Refused(reason) => Err(failed(&key, reason.into()).into()),
            Removal::Unknown(reason) => Err(unknown(&key, reason.into()).into()),
        }
    }

    fn path(&self, key: &str) -> Path {
        path_below(&self.clients.location.prefix, &self.stored_key(key))
    }

    /// Azure does not keep a dot at the end of a name, which a tag may have; a `!` after it sorts before whatever can follow a dot.
    fn stored_key(&self, key: &str) -> String {
        let ends_in_dot = || key.trim_end_matches('!').ends_with('.');
        match self.clients.location.kind {
            BucketKind::Azure if ends_in_dot() => format!("{key}!"),
            _ => key.to_owned(),
        }
    }

    /// The key of a path, or `None` for one that is not below the root.
    fn key(&self, path: &Path) -> Option<String> {
        let root = &self.clients.location.prefix;
        let key = match root.is_empty() {
            true => path.as_ref(),
            false => path.as_ref().strip_prefix(root)?.strip_prefix('/')?,
        };
        let without_mark = key.strip_suffix('!').filter(|rest| {
            self.clients.location.kind == BucketKind::Azure
                && rest.trim_end_matches('!').ends_with('.')
        });
        Some(without_mark.unwrap_or(key).to_owned())
    }

    /// The object as it is, a tombstone or not.
    async fn object(&self, key: &str) -> Result<Option<StoredRecord>, ReadError> {
        let read = async {
            let path = self.path(key);
            let result = self.reads().get_opts(&path, GetOptions::default()).await?;
            let version = entity_tag(&result.meta)?;
            let bytes = result.bytes().await?;
            Ok(StoredRecord { bytes, version })
        };
        match read.await {
            Ok(record) => Ok(Some(record)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(read_error(key, error)),
        }
    }

    fn reads(&self) -> &dyn ListedStore {
        &*self.clients.reads
    }

    async fn create_object(&self, key: &str, bytes: Bytes) -> Result<Version, WriteError> {
        self.write(key, bytes, PutMode::Create).await
    }

    async fn replace_object(
        &self,
        key: &str,
        bytes: Bytes,
        version: &Version,
    ) -> Result<Version, WriteError> {
        let expected = UpdateVersion {
            e_tag: Some(version.as_str().to_owned()),
            version: None,
        };
        self.write(key, bytes, PutMode::Update(expected)).await
    }

    /// Writes under a condition. Sent again only if it certainly was not made before.
    async fn write(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<Version, WriteError> {
        let mut sends = 1;
        loop {
            let cause = match self.send(key, bytes.clone(), mode.clone()).await {
                Write::Made(version) => return Ok(version),
                Write::NotAtVersion => return Err(WriteError::Conflict),
                Write::Refused(cause) => return Err(failed(key, cause)),
                Write::Unknown(cause) => {
                    tokio::time::sleep(SEND_WAIT).await;
                    return Err(unknown(key, cause));
                }
                Write::NotMadeNow(cause) => cause,
            };
            if sends == SENDS_MAXIMUM {
                return Err(failed(key, cause));
            }
            tokio::time::sleep(SEND_WAIT * 2_u32.pow(sends)).await;
            sends += 1;
        }
    }

    async fn send(&self, key: &str, bytes: Bytes, mode: PutMode) -> Write {
        let is_create = mode == PutMode::Create;
        let path = self.path(key);
        let payload = PutPayload::from_bytes(bytes);
        let sent = self
            .clients
            .writes
            .put_opts(&path, payload, PutOptions::from(mode))
            .await;
        match sent {
            Ok(result) => match strong_tag(result.e_tag) {
                Ok(version) => Write::Made(version),
                Err(error) => Write::Unknown(error.into()),
            },
            Err(error) => self.judge(error, is_create),
        }
    }

    /// What an error says of the write that it is the answer to.
    fn judge(&self, error: object_store::Error, is_create: bool) -> Write {
        use object_store::Error;
        match error {
            Error::Precondition { .. } => Write::NotAtVersion,
            Error::NotFound { .. } if !is_create => Write::NotAtVersion,
            Error::AlreadyExists { ref source, .. } => {
                // S3 answers 409 while it makes somebody else's write of the same object: this one was not made. Where the object
                // exists it answers 412, which comes wrapped once more. Azure answers 409 where the object exists.
                let is_failed_condition = is_create && source.downcast_ref::<Error>().is_some();
                match self.clients.location.kind {
                    BucketKind::S3 if !is_failed_condition => Write::NotMadeNow(error.into()),
                    _ => Write::NotAtVersion,
                }
            }
            Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::NotFound { .. }
            | Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::InvalidPath { .. } => Write::Refused(error.into()),
            _ if was_not_sent(&error) => Write::NotMadeNow(error.into()),
            _ => Write::Unknown(error.into()),
        }
    }

    /// Removes whatever is there.
    async fn delete(&self, key: &str) -> Result<(), WriteError> {
        match self.clients.writes.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(unknown(key, error.into())),
        }
    }

    async fn remove_at_version(&self, key: &str, version: &Version) -> Result<(), WriteError> {
        match self.clients.removal.remove(&self.path(key), version).await {
            Removal::Removed => Ok(()),
            Removal::NotAtVersion => Err(WriteError::Conflict),
            Removal::Unsupported => Err(failed(key, "it removes at no version any more".into())),
            Removal::Refused(reason) => Err(failed(key, reason.into())),
            Removal::Unknown(reason) => {
                tokio::time::sleep(SEND_WAIT).await;
                Err(unknown(key, reason.into()))
            }
        }
    }

    /// Removes without a removal at a version.
    async fn bury(&self, key: &str, version: &Version) -> Result<(), WriteError> {
        if self.is_exclusive.load(Ordering::Relaxed) {
            let current = self
                .object(key)
                .await
                .map_err(|error| failed(key, error.into()))?;
            if current.is_none_or(|current| current.version != *version) {
                return Err(WriteError::Conflict);
            }
            return self.delete(key).await;
        }
        let buried = tombstone((self.sources.random_id)());
        self.replace_object(key, buried, version).await?;
        if layout::is_never_used_again(key) {
            // Nobody can create it anew, so there is nothing that the tombstone has to keep.
            self.delete(key).await?;
        }
        Ok(())
    }

    /// One page of a listing, and where the next begins.
    async fn page(
        &self,
        prefix: &str,
        after: &str,
        page_token: Option<String>,
        limit: usize,
    ) -> Result<(Vec<ObjectMeta>, Option<String>), ReadError> {
        let full = |key: &str| match self.clients.location.prefix.as_str() {
            "" => key.to_owned(),
            root => format!("{root}/{key}"),
        };
        let options = PaginatedListOptions {
            offset: (after > prefix).then(|| full(&self.stored_key(after))),
            max_keys: Some(limit),
            page_token,
            ..PaginatedListOptions::default()
        };
        let listed = self
            .reads()
            .list_paginated(Some(&full(prefix)), options)
            .await
            .map_err(|error| read_error(prefix, error))?;
        Ok((listed.result.objects, listed.page_token))
    }

    async fn is_buried(&self, key: &str, size_bytes: u64) -> Result<bool, ReadError> {
        if size_bytes != TOMBSTONE_BYTES {
            return Ok(false);
        }
        let found = self.object(key).await?;
        let is_buried = found.is_some_and(|found| is_tombstone(&found.bytes));
        if is_buried && self.is_exclusive.load(Ordering::Relaxed) {
            // Nobody else is here; one that stays is met again.
            let _ = self.delete(key).await;
        }
        Ok(is_buried)
    }
}

#[async_trait]
impl RecordStore for BucketRecords {
    async fn get(&self, key: &str) -> Result<Option<StoredRecord>, ReadError> {
        let found = self.object(key).await?;
        Ok(found.filter(|found| !is_tombstone(&found.bytes)))
    }

    async fn version(&self, key: &str) -> Result<Option<Version>, ReadError> {
        let meta = match self.reads().head(&self.path(key)).await {
            Ok(meta) => meta,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(read_error(key, error)),
        };
        if meta.size == TOMBSTONE_BYTES {
            return Ok(self.get(key).await?.map(|found| found.version));
        }
        entity_tag(&meta)
            .map(Some)
            .map_err(|error| read_error(key, error))
    }

    async fn create(&self, key: &str, bytes: Bytes, _: Durability) -> Result<Version, WriteError> {
        let created = self.create_object(key, bytes.clone()).await;
        if !matches!(created, Err(WriteError::Conflict)) {
            return created;
        }
        let found = self
            .object(key)
            .await
            .map_err(|error| failed(key, error.into()))?;
        match found {
            Some(found) if is_tombstone(&found.bytes) => {
                self.replace_object(key, bytes, &found.version).await
            }
            _ => created,
        }
    }

    async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        version: &Version,
        _: Durability,
    ) -> Result<Version, WriteError> {
        self.replace_object(key, bytes, version).await
    }

    async fn remove(&self, key: &str, version: &Version, _: Durability) -> Result<(), WriteError> {
        match self.removes_at_version {
            true => self.remove_at_version(key, version).await,
            false => self.bury(key, version).await,
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedRecord>, ReadError> {
        let mut listed = Vec::new();
        let mut page_token = None;
        let mut page_limit = limit.saturating_add(1).min(PAGE_ENTRIES);
        while listed.len() < limit {
            let (objects, next) = self.page(prefix, after, page_token, page_limit).await?;
            for meta in objects {
                let Some(key) = self.key(&meta.location) else {
                    continue;
                };
                let is_asked_for = key.as_str() > after && listed.len() < limit;
                if !is_asked_for || self.is_buried(&key, meta.size).await? {
                    continue;
                }
                listed.push(ListedRecord {
                    version: Some(entity_tag(&meta).map_err(|error| read_error(&key, error))?),
                    modified: modified(&meta),
                    size_bytes: meta.size,
                    key,
                });
            }
            page_token = match next {
                Some(next) => Some(next),
                None => break,
            };
            page_limit = PAGE_ENTRIES;
        }
        Ok(listed)
    }

    fn removes_for_good(&self) -> bool {
        self.removes_at_version
    }

    fn assume_exclusive(&self) {
        self.is_exclusive.store(true, Ordering::Relaxed);
    }
}

fn modified(meta: &ObjectMeta) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(meta.last_modified.timestamp()).ok()
}

fn entity_tag(meta: &ObjectMeta) -> object_store::Result<Version> {
    strong_tag(meta.e_tag.clone())
}

/// The version that an entity tag is. Listings of Azure give it without the quotes that it has elsewhere.
fn strong_tag(tag: Option<String>) -> object_store::Result<Version> {
    let unfit = |source: &str| object_store::Error::Generic {
        store: "bucket",
        source: source.to_owned().into(),
    };
    let tag = tag.ok_or_else(|| unfit("the store gives no entity tags"))?;
    if tag.starts_with("W/") {
        return Err(unfit("the store gives weak entity tags"));
    }
    Ok(Version::new(match tag.starts_with('"') {
        true => tag,
        false => format!("\"{tag}\""),
    }))
}

/// Whether there was no connection on which it could have been sent.
fn was_not_sent(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return error.kind() == HttpErrorKind::Connect;
        }
        cause = error.source();
    }
    false
}

fn read_error(key: &str, error: object_store::Error) -> ReadError {
    ReadError {
        key: key.to_owned(),
        source: error.into(),
    }
}

fn failed(key: &str, source: Cause) -> WriteError {
    WriteError::Failed {
        key: key.to_owned(),
        source,
    }
}

fn unknown(key: &str, source: Cause) -> WriteError {
    WriteError::Unknown {
        key: key.to_owned(),
        source,
    }
}
