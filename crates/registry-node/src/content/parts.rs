//! A body on its way into an object: collected into parts, hashed and written part by part.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, UploadPart};
use tokio::task::JoinHandle;

use super::bucket::BucketKind;
use super::data::{Medium, PART_BYTES, remove_object};
use super::error::{BodyError, ContentError};
use super::hashing::ContentHasher;

/// Fewer bytes than this are hashed where they are: handing them to another thread costs more.
const HASHED_IN_PLACE_BYTES: usize = 32 * 1024;

/// An object being written part by part. Dropping it drops what was written.
pub(super) struct PartWriter {
    /// Taken when it is complete, or discarded.
    upload: Option<Box<dyn MultipartUpload>>,
    /// The parts that are being written while the next one is received and hashed.
    in_flight: VecDeque<JoinHandle<object_store::Result<()>>>,
    in_flight_maximum: usize,
    store: Arc<dyn ObjectStore>,
    path: Path,
    medium: Medium,
}

impl PartWriter {
    pub(super) async fn begin(
        store: &Arc<dyn ObjectStore>,
        path: &Path,
        medium: &Medium,
    ) -> Result<Self, ContentError> {
        let upload = store
            .put_multipart(path)
            .await
            .map_err(ContentError::Data)?;
        Ok(Self {
            upload: Some(upload),
            in_flight: VecDeque::new(),
            in_flight_maximum: medium.parts_in_flight(),
            store: Arc::clone(store),
            path: path.clone(),
            medium: medium.clone(),
        })
    }

    /// Hands the part on to be written, and hashes it meanwhile.
    pub(super) async fn write_part(
        &mut self,
        part: Bytes,
        hasher: ContentHasher,
    ) -> Result<ContentHasher, ContentError> {
        self.settle(self.in_flight_maximum - 1).await?;
        if let Some(upload) = &mut self.upload
            && !part.is_empty()
        {
            let write: UploadPart = upload.put_part(PutPayload::from_bytes(part.clone()));
            self.in_flight.push_back(tokio::spawn(write));
        }
        hash_part(hasher, part).await
    }

    /// Waits until no more than `rest` parts are under way.
    async fn settle(&mut self, rest: usize) -> Result<(), ContentError> {
        while self.in_flight.len() > rest
            && let Some(oldest) = self.in_flight.front_mut()
        {
            let written = oldest.await;
            self.in_flight.pop_front();
            match written {
                Ok(result) => result.map_err(ContentError::Data)?,
                Err(_) => return Err(ContentError::Interrupted),
            }
        }
        Ok(())
    }

    pub(super) async fn complete(&mut self) -> Result<(), ContentError> {
        self.settle(0).await?;
        if let Some(upload) = &mut self.upload {
            upload.complete().await.map_err(ContentError::Data)?;
        }
        self.upload = None;
        Ok(())
    }

    /// Removes what was written.
    pub(super) async fn discard(mut self) {
        if let Some(discarding) = self.discarding() {
            discarding.await;
        }
    }

    fn discarding(&mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let mut upload = self.upload.take()?;
        // A part that arrived later would stay.
        for part in self.in_flight.drain(..) {
            part.abort();
        }
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let medium = self.medium.clone();
        Some(async move {
            if let Err(error) = upload.abort().await {
                tracing::warn!(data.key = %path, %error, "parts of an upload that failed were not removed");
            }
            let Medium::Bucket(kind, _) = medium else {
                return;
            };
            if kind == BucketKind::Azure {
                // Azure cannot abort; a whole write drops the blocks that were sent.
                let _ = store.put(&path, PutPayload::new()).await;
            }
            // The completion may have been made although its answer was an error.
            remove_object(&store, &path).await;
        })
    }
}

impl Drop for PartWriter {
    /// The request was dropped in the middle: its client went away.
    fn drop(&mut self) {
        let is_far = matches!(self.medium, Medium::Bucket(..));
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && is_far
            && let Some(discarding) = self.discarding()
        {
            runtime.spawn(discarding);
        }
    }
}

/// Collects the next part of a body; with it, whether the body ended.
pub(super) async fn next_part<S>(
    body: &mut S,
    part_bytes: usize,
) -> Result<(Bytes, bool), BodyError>
where
    S: Stream<Item = Result<Bytes, BodyError>> + Unpin,
{
    let Some(first) = body.next().await.transpose()? else {
        return Ok((Bytes::new(), true));
    };
    let mut part = BytesMut::from(first);
    while part.len() < part_bytes {
        match body.next().await.transpose()? {
            Some(more) => {
                if part.len() + more.len() > part.capacity() {
                    part.reserve(growth(part.len(), part_bytes).max(more.len()));
                }
                part.extend_from_slice(&more);
            }
            None => return Ok((part.freeze(), true)),
        }
    }
    Ok((part.freeze(), false))
}

/// By how much a buffer that is full grows: to what a disk takes, then to all of a larger part, so that small bodies take little.
fn growth(length: usize, part_bytes: usize) -> usize {
    let target = match length < PART_BYTES {
        true => PART_BYTES,
        false => part_bytes,
    };
    target.saturating_sub(length)
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
