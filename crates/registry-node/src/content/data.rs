//! The bytes of blobs: written once under a name that is never used again, read in ranges. Streams in both directions hold a
//! fixed amount of memory whatever the size of the blob.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutPayload};
use time::{OffsetDateTime, PrimitiveDateTime};

use super::bucket::{BucketClients, BucketKind, SignedUrls};
use super::error::{BodyError, ContentError, OpenError};
use super::hashing::ContentHasher;
use super::parts::{PartWriter, hash_part, next_part};
use super::records::DataPiece;
use crate::limits::BUCKET_CHUNK_BYTES_MAXIMUM;

/// Bytes collected before they are hashed and written to a local disk; also the size of one read of it.
pub(super) const PART_BYTES: usize = 1024 * 1024;
/// The same for a bucket, which takes no smaller parts but the last …
const BUCKET_PART_BYTES: usize = 5 * 1024 * 1024;
/// … and 10,000 of them at most, so those of an object that is getting large are larger.
const LARGE_BUCKET_PART_BYTES: usize = 24 * 1024 * 1024;
/// What is a large object.
const LARGE_OBJECT_BYTES: u64 = 5 * 1024 * 1024 * 1024;
const _: () = {
    let small = LARGE_OBJECT_BYTES / (BUCKET_PART_BYTES as u64);
    let rest = BUCKET_CHUNK_BYTES_MAXIMUM - LARGE_OBJECT_BYTES;
    let large = rest / (LARGE_BUCKET_PART_BYTES as u64);
    assert!(
        small + large + 2 < 10_000,
        "a bucket takes the parts of the largest object"
    );
};
/// Parts on their way to a bucket, while the next one is received.
const BUCKET_PARTS_IN_FLIGHT: usize = 2;
/// With more streams being read than this, each reads less ahead: most of them wait for their clients.
const GENEROUS_STREAMS_MAXIMUM: usize = 64;
/// What they read then.
const SMALL_PART_BYTES: usize = 128 * 1024;
/// Reads under way for one response: the next is read while one is sent.
const READS_IN_FLIGHT: usize = 2;
/// In the names of files that the local store has not put in place yet.
const STAGED_MARK: char = '#';

/// What a body became.
pub(crate) struct WrittenData {
    pub(crate) size: u64,
    /// The hash after the last byte.
    pub(crate) hasher: ContentHasher,
}

/// What the bytes lie on.
#[derive(Clone)]
pub(super) enum Medium {
    /// A disk or memory: near, read in ranges.
    Near,
    /// A local disk's directory, whose empty directories are removed too.
    Directory(Arc<PathBuf>),
    /// A bucket: far, written in few large parts and read in one stream.
    Bucket(BucketKind, SignedUrls),
}

impl Medium {
    /// The size of the next part of an object that has this many bytes.
    pub(super) fn part_bytes(&self, written: u64) -> usize {
        match self {
            Self::Near | Self::Directory(_) => PART_BYTES,
            Self::Bucket(..) if written < LARGE_OBJECT_BYTES => BUCKET_PART_BYTES,
            Self::Bucket(..) => LARGE_BUCKET_PART_BYTES,
        }
    }

    fn bytes_maximum(&self) -> u64 {
        match self {
            Self::Near | Self::Directory(_) => u64::MAX,
            Self::Bucket(..) => BUCKET_CHUNK_BYTES_MAXIMUM,
        }
    }

    pub(super) fn parts_in_flight(&self) -> usize {
        match self {
            Self::Near | Self::Directory(_) => 1,
            Self::Bucket(..) => BUCKET_PARTS_IN_FLIGHT,
        }
    }
}

/// An object of bytes as a listing shows it.
pub(crate) struct StoredData {
    pub(crate) key: String,
    pub(crate) size: u64,
    /// When it was written, by the store's clock.
    pub(crate) modified: OffsetDateTime,
}

/// The data store of a content root.
#[derive(Clone)]
pub(crate) struct DataStore {
    store: Arc<dyn ObjectStore>,
    medium: Medium,
    /// Streams that are being read.
    streams: Arc<AtomicUsize>,
}

/// Counts a stream for as long as it lives.
struct CountedStream(Arc<AtomicUsize>);

impl CountedStream {
    fn begin(streams: &Arc<AtomicUsize>) -> Self {
        streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(streams))
    }
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl DataStore {
    /// On a store that is near.
    pub(crate) fn near(store: Arc<dyn ObjectStore>) -> Self {
        Self::new(store, Medium::Near)
    }

    /// On a local disk's directory.
    pub(crate) fn directory(store: Arc<dyn ObjectStore>, directory: &FilePath) -> Self {
        Self::new(store, Medium::Directory(Arc::new(directory.to_owned())))
    }

    /// In a bucket.
    pub(crate) fn bucket(clients: &BucketClients) -> Self {
        let medium = Medium::Bucket(clients.location.kind, clients.signed_urls());
        Self::new(clients.data_store(), medium)
    }

    fn new(store: Arc<dyn ObjectStore>, medium: Medium) -> Self {
        Self {
            store,
            medium,
            streams: Arc::default(),
        }
    }

    /// Streams a body through the hash into an object, durable when this returns. An empty body makes no object. When the
    /// body ends early nothing is left.
    pub(crate) async fn write<S>(
        &self,
        key: &str,
        body: S,
        hasher: ContentHasher,
    ) -> Result<WrittenData, ContentError>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Unpin,
    {
        let path = Path::from(key);
        let mut writer = None;
        let written = self.write_parts(&path, body, hasher, &mut writer).await;
        if let Err(error) = &written {
            match writer {
                Some(writer) => writer.discard().await,
                None => self.discard_whole(&path, error).await,
            }
            self.remove_directory(key).await;
        }
        written
    }

    async fn write_parts<S>(
        &self,
        path: &Path,
        mut body: S,
        mut hasher: ContentHasher,
        writer: &mut Option<PartWriter>,
    ) -> Result<WrittenData, ContentError>
    where
        S: Stream<Item = Result<Bytes, BodyError>> + Unpin,
    {
        let mut size = 0;
        loop {
            let (part, is_last) = next_part(&mut body, self.medium.part_bytes(size)).await?;
            size += part.len() as u64;
            if size > self.medium.bytes_maximum() {
                return Err(ContentError::ChunkTooLarge);
            }
            if is_last && writer.is_none() {
                let (put, hashed) = tokio::join!(
                    self.write_whole(path, part.clone()),
                    hash_part(hasher, part)
                );
                put?;
                let hasher = hashed?;
                return Ok(WrittenData { size, hasher });
            }
            let begun = match writer {
                Some(begun) => begun,
                None => writer.insert(PartWriter::begin(&self.store, path, &self.medium).await?),
            };
            hasher = begun.write_part(part, hasher).await?;
            if is_last {
                begun.complete().await?;
                return Ok(WrittenData { size, hasher });
            }
        }
    }

    /// Removes an object whose one write failed and may have been made all the same. Nobody else has its name.
    async fn discard_whole(&self, path: &Path, error: &ContentError) {
        if matches!(
            (&self.medium, error),
            (Medium::Bucket(..), ContentError::Data(_))
        ) {
            remove_object(&self.store, path).await;
        }
    }

    async fn write_whole(&self, path: &Path, bytes: Bytes) -> Result<(), ContentError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.store
            .put(path, PutPayload::from_bytes(bytes))
            .await
            .map(drop)
            .map_err(ContentError::Data)
    }

    /// Whether all pieces are there with the sizes that their record says.
    pub(crate) async fn is_whole(&self, pieces: &[DataPiece]) -> Result<bool, ContentError> {
        for piece in pieces {
            match self.store.head(&Path::from(piece.key.as_str())).await {
                Ok(metadata) if metadata.size == piece.size => {}
                Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(false),
                Err(error) => return Err(ContentError::Data(error)),
            }
        }
        Ok(true)
    }

    /// Removes objects that nothing refers to. What cannot be removed now is left to collection.
    pub(crate) async fn remove(&self, pieces: &[DataPiece]) {
        for piece in pieces.iter().filter(|piece| piece.owned) {
            remove_object(&self.store, &Path::from(piece.key.as_str())).await;
            self.remove_directory(&piece.key).await;
        }
    }

    /// Removes an upload's own directory, whose name is never used again, if it is empty.
    async fn remove_directory(&self, key: &str) {
        if let Medium::Directory(root) = &self.medium
            && let Some(directory) = root.join(key).parent()
        {
            // It may have other chunks, or none that was ever written: then there is nothing to do.
            let _ = tokio::fs::remove_dir(directory).await;
        }
    }

    /// All objects below a prefix, in no order. Parts of objects that are being written are none.
    pub(crate) fn list(
        &self,
        prefix: &str,
    ) -> impl Stream<Item = Result<StoredData, ContentError>> + Send + Unpin + 'static {
        let listed = self.store.list(Some(&Path::from(prefix)));
        listed.map(|found| match found {
            Ok(object) => Ok(StoredData {
                key: object.location.to_string(),
                size: object.size,
                // With a time that no clock shows it is never old: the object stays.
                modified: OffsetDateTime::from_unix_timestamp(object.last_modified.timestamp())
                    .unwrap_or(PrimitiveDateTime::MAX.assume_utc()),
            }),
            Err(error) => Err(ContentError::Data(error)),
        })
    }

    /// The size of an object, or `None` if there is none.
    pub(crate) async fn size_of(&self, key: &str) -> Result<Option<u64>, ContentError> {
        match self.store.head(&Path::from(key)).await {
            Ok(metadata) => Ok(Some(metadata.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(ContentError::Data(error)),
        }
    }

    /// On a local disk: the directories of uploads. Elsewhere parts that were never put together are the store's to forget.
    pub(crate) async fn upload_directories(&self, prefix: &str) -> Vec<PathBuf> {
        let Medium::Directory(root) = &self.medium else {
            return Vec::new();
        };
        let directory = root.join(prefix);
        let listing = tokio::task::spawn_blocking(move || {
            let entries = std::fs::read_dir(directory).into_iter().flatten();
            entries.flatten().map(|entry| entry.path()).collect()
        });
        listing.await.unwrap_or_default()
    }

    /// Removes from directories of uploads what processes that died left half written, and directories that are empty; all of them only
    /// if they were last changed before that time.
    pub(crate) async fn remove_abandoned_parts(directories: Vec<PathBuf>, before: SystemTime) {
        let removal = tokio::task::spawn_blocking(move || {
            for directory in directories {
                remove_abandoned_parts_of(&directory, before);
            }
        });
        // What is left is found at the next pass.
        let _ = removal.await;
    }

    /// On a local disk, where the records lie too: removes the directories below a prefix, and that of the prefix, as far as nothing is in
    /// them. Whoever is about to write into one makes it again.
    pub(crate) async fn remove_empty_directories(&self, prefix: &str) {
        if let Medium::Directory(root) = &self.medium {
            let directory = root.join(prefix);
            // What is left does no harm.
            let _ = tokio::task::spawn_blocking(move || remove_if_empty(&directory)).await;
        }
    }

    /// How many streams are being read.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// A URL by which a client can fetch the bytes by itself, if they are in a bucket, in one piece, and there.
    pub(crate) async fn signed_url(
        &self,
        pieces: &[DataPiece],
    ) -> Result<Option<String>, ContentError> {
        let (Medium::Bucket(_, urls), [piece]) = (&self.medium, pieces) else {
            return Ok(None);
        };
        if !self.is_whole(pieces).await? {
            return Ok(None);
        }
        urls.url(&piece.key)
            .await
            .map(Some)
            .map_err(ContentError::Data)
    }

    /// Whether URLs can be signed at all.
    pub(crate) async fn check_signing(&self) -> Result<(), OpenError> {
        let signed = match &self.medium {
            Medium::Bucket(_, urls) => urls.url("_probe/signing").await.map(drop),
            Medium::Near | Medium::Directory(_) => Err(object_store::Error::NotSupported {
                source: "the content is in no bucket".into(),
            }),
        };
        signed.map_err(|error| OpenError::NoSignedUrls(ContentError::Data(error)))
    }

    /// The bytes of a range that lies inside the pieces.
    pub(crate) fn read(
        &self,
        pieces: Vec<DataPiece>,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, ContentError>> {
        match &self.medium {
            Medium::Bucket(..) => self.read_streams(pieces, range).boxed(),
            Medium::Near | Medium::Directory(_) => self.read_blocks(pieces, range).boxed(),
        }
    }

    /// In blocks, with the next ones being read ahead.
    fn read_blocks(
        &self,
        pieces: Vec<DataPiece>,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, ContentError>> + Send + 'static {
        let store = Arc::clone(&self.store);
        let block_bytes = match self.streams() {
            few if few < GENEROUS_STREAMS_MAXIMUM => PART_BYTES,
            _ => SMALL_PART_BYTES,
        };
        let counted = CountedStream::begin(&self.streams);
        stream::iter(blocks(pieces, range, block_bytes))
            .map(move |(key, range)| {
                let _counted = &counted;
                let store = Arc::clone(&store);
                async move {
                    let length = range.end - range.start;
                    let bytes = store.get_range(&Path::from(&*key), range).await?;
                    match bytes.len() as u64 == length {
                        true => Ok(bytes),
                        false => Err(shorter_than_recorded()),
                    }
                }
            })
            .buffered(READS_IN_FLIGHT)
            .map_err(ContentError::Data)
    }

    /// In one request for each piece, as the store sends it: no more is held than the connection's buffers.
    fn read_streams(
        &self,
        pieces: Vec<DataPiece>,
        range: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, ContentError>> + Send + 'static {
        let store = Arc::clone(&self.store);
        let counted = CountedStream::begin(&self.streams);
        stream::iter(blocks(pieces, range, usize::MAX))
            .then(move |(key, range)| {
                let _counted = &counted;
                let store = Arc::clone(&store);
                async move {
                    let options = GetOptions::default().with_range(Some(range.clone()));
                    let result = store.get_opts(&Path::from(&*key), options).await?;
                    match result.range == range {
                        true => Ok(result.into_stream()),
                        false => Err(shorter_than_recorded()),
                    }
                }
            })
            .try_flatten()
            .map_err(ContentError::Data)
    }
}

fn shorter_than_recorded() -> object_store::Error {
    object_store::Error::Generic {
        store: "data",
        source: "an object is shorter than its record says".into(),
    }
}

/// Removes an object that nothing refers to. What cannot be removed now is left to collection.
pub(super) async fn remove_object(store: &Arc<dyn ObjectStore>, path: &Path) {
    match store.delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => {
            tracing::warn!(data.key = %path, %error, "data of no use was not removed");
        }
    }
}

fn remove_abandoned_parts_of(directory: &FilePath, before: SystemTime) {
    let is_old = |metadata: std::io::Result<std::fs::Metadata>| {
        let modified = metadata.and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| modified < before)
    };
    // Before its content is changed, which makes it young.
    let is_old_directory = is_old(std::fs::metadata(directory));
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_part = entry.file_name().to_string_lossy().contains(STAGED_MARK);
        if is_part && is_old(entry.metadata()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    if is_old_directory {
        // Fails as long as something is in it.
        let _ = std::fs::remove_dir(directory);
    }
}

fn remove_if_empty(directory: &FilePath) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_if_empty(&entry.path());
        }
    }
    // Fails as long as something is in it.
    let _ = std::fs::remove_dir(directory);
}

/// The reads that a range of a blob needs: key and range inside that object.
fn blocks(
    pieces: Vec<DataPiece>,
    range: Range<u64>,
    block_bytes: usize,
) -> impl Iterator<Item = (Arc<str>, Range<u64>)> + Send + 'static {
    let mut piece_start = 0;
    pieces
        .into_iter()
        .filter_map(move |piece| {
            let start = range.start.clamp(piece_start, piece_start + piece.size) - piece_start;
            let end = range.end.clamp(piece_start, piece_start + piece.size) - piece_start;
            piece_start += piece.size;
            (start < end).then(|| (Arc::<str>::from(piece.key), start..end))
        })
        .flat_map(move |(key, range)| {
            (range.start..range.end)
                .step_by(block_bytes)
                .map(move |start| {
                    let end = range.end.min(start.saturating_add(block_bytes as u64));
                    (Arc::clone(&key), start..end)
                })
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_cover_the_range_once_and_in_order(
            sizes in proptest::collection::vec(0_u64..3_000_000, 0..5),
            bounds in (0.0..=1.0_f64, 0.0..=1.0_f64),
            block_bytes in prop_oneof![Just(PART_BYTES), Just(SMALL_PART_BYTES)],
        ) {
            let total: u64 = sizes.iter().sum();
            let at = |part: f64| (total as f64 * part) as u64;
            let (start, end) = (at(bounds.0.min(bounds.1)), at(bounds.0.max(bounds.1)));
            let starts: Vec<u64> = sizes
                .iter()
                .scan(0, |sum, size| { let start = *sum; *sum += size; Some(start) })
                .collect();
            let pieces: Vec<DataPiece> = sizes
                .iter()
                .enumerate()
                .map(|(index, size)| DataPiece { key: index.to_string(), size: *size, owned: true })
                .collect();
            let mut position = start;
            for (key, block) in blocks(pieces, start..end, block_bytes) {
                let index: usize = key.parse().expect("a key of this test");
                prop_assert_eq!(starts[index] + block.start, position);
                prop_assert!(block.end - block.start <= block_bytes as u64);
                prop_assert!(block.end <= sizes[index]);
                position += block.end - block.start;
            }
            prop_assert_eq!(position, end);
        }
    }
}
