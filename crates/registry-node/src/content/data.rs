//! The bytes of blobs: written once under a name that is never used again, read in ranges. Streams in both directions hold a
//! fixed amount of memory whatever the size of the blob.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, UploadPart};
use tokio::task::JoinHandle;

use super::error::{BodyError, ContentError};
use super::hashing::ContentHasher;
use super::records::DataPiece;

/// Bytes collected before they are hashed and written; also the size of one read. Object stores of clouds want parts of
/// 5 MiB; a local disk is as fast with less.
const PART_BYTES: usize = 1024 * 1024;
/// With more streams being read than this, each reads less ahead: most of them wait for their clients.
const GENEROUS_STREAMS_MAXIMUM: usize = 64;
/// What they read then.
const SMALL_PART_BYTES: usize = 128 * 1024;
/// Reads under way for one response: the next is read while one is sent.
const READS_IN_FLIGHT: usize = 2;
/// Fewer bytes than this are hashed where they are: handing them to another thread costs more.
const HASHED_IN_PLACE_BYTES: usize = 32 * 1024;

/// What a body became.
pub(crate) struct WrittenData {
    pub(crate) size: u64,
    /// The hash after the last byte.
    pub(crate) hasher: ContentHasher,
}

/// The data store of a content root.
#[derive(Clone)]
pub(crate) struct DataStore {
    store: Arc<dyn ObjectStore>,
    /// The directory of a local store, whose empty directories are removed too.
    directory: Option<Arc<PathBuf>>,
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
    pub(crate) fn new(store: Arc<dyn ObjectStore>, directory: Option<&FilePath>) -> Self {
        Self {
            store,
            directory: directory.map(|directory| Arc::new(directory.to_owned())),
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
        let mut writer = None;
        let written = self
            .write_parts(&Path::from(key), body, hasher, &mut writer)
            .await;
        if written.is_err() {
            if let Some(mut writer) = writer
                && let Err(error) = writer.upload.abort().await
            {
                tracing::warn!(data.key = key, %error, "parts of an upload that failed were not removed");
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
            let (part, is_last) = next_part(&mut body).await?;
            size += part.len() as u64;
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
                None => writer.insert(PartWriter::begin(&self.store, path).await?),
            };
            hasher = begun.write_part(part, hasher).await?;
            if is_last {
                begun.complete().await?;
                return Ok(WrittenData { size, hasher });
            }
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
            let path = Path::from(piece.key.as_str());
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => {
                    tracing::warn!(data.key = piece.key, %error, "data of no use was not removed");
                }
            }
            self.remove_directory(&piece.key).await;
        }
    }

    /// Removes an upload's own directory, whose name is never used again, if it is empty.
    async fn remove_directory(&self, key: &str) {
        if let Some(root) = &self.directory
            && let Some(directory) = root.join(key).parent()
        {
            // It may have other chunks, or none that was ever written: then there is nothing to do.
            let _ = tokio::fs::remove_dir(directory).await;
        }
    }

    /// How many streams are being read.
    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// The bytes of a range that lies inside the pieces, in blocks, with the next ones being read ahead.
    pub(crate) fn read(
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
                    if bytes.len() as u64 == length {
                        return Ok(bytes);
                    }
                    Err(object_store::Error::Generic {
                        store: "data",
                        source: "an object is shorter than its record says".into(),
                    })
                }
            })
            .buffered(READS_IN_FLIGHT)
            .map_err(ContentError::Data)
    }
}

/// An object being written part by part. Dropping it drops what was written.
struct PartWriter {
    upload: Box<dyn MultipartUpload>,
    /// The part that is being written while the next one is received and hashed.
    in_flight: Option<JoinHandle<object_store::Result<()>>>,
}

impl PartWriter {
    async fn begin(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<Self, ContentError> {
        let upload = store
            .put_multipart(path)
            .await
            .map_err(ContentError::Data)?;
        Ok(Self {
            upload,
            in_flight: None,
        })
    }

    /// Hands the part on to be written, and hashes it meanwhile.
    async fn write_part(
        &mut self,
        part: Bytes,
        hasher: ContentHasher,
    ) -> Result<ContentHasher, ContentError> {
        self.settle().await?;
        if !part.is_empty() {
            let write: UploadPart = self.upload.put_part(PutPayload::from_bytes(part.clone()));
            self.in_flight = Some(tokio::spawn(write));
        }
        hash_part(hasher, part).await
    }

    /// Waits for the part under way.
    async fn settle(&mut self) -> Result<(), ContentError> {
        let Some(in_flight) = self.in_flight.take() else {
            return Ok(());
        };
        match in_flight.await {
            Ok(result) => result.map_err(ContentError::Data),
            Err(_) => Err(ContentError::Interrupted),
        }
    }

    async fn complete(&mut self) -> Result<(), ContentError> {
        self.settle().await?;
        self.upload
            .complete()
            .await
            .map(drop)
            .map_err(ContentError::Data)
    }
}

/// Collects the next part of a body; with it, whether the body ended.
async fn next_part<S>(body: &mut S) -> Result<(Bytes, bool), BodyError>
where
    S: Stream<Item = Result<Bytes, BodyError>> + Unpin,
{
    let Some(first) = body.next().await.transpose()? else {
        return Ok((Bytes::new(), true));
    };
    let mut part = BytesMut::from(first);
    while part.len() < PART_BYTES {
        match body.next().await.transpose()? {
            Some(more) => {
                if part.len() + more.len() > part.capacity() {
                    part.reserve(PART_BYTES.saturating_sub(part.len()).max(more.len()));
                }
                part.extend_from_slice(&more);
            }
            None => return Ok((part.freeze(), true)),
        }
    }
    Ok((part.freeze(), false))
}

/// Hashes a part, away from the thread that serves connections unless it is small.
pub(crate) async fn hash_part(
    mut hasher: ContentHasher,
    part: Bytes,
) -> Result<ContentHasher, ContentError> {
    if part.len() <= HASHED_IN_PLACE_BYTES {
        hasher.update(&part);
        return Ok(hasher);
    }
    let hashing = tokio::task::spawn_blocking(move || {
        hasher.update(&part);
        hasher
    });
    hashing.await.map_err(|_| ContentError::Interrupted)
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
                    let end = range.end.min(start + block_bytes as u64);
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
