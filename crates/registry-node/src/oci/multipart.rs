//! Several ranges of a blob in one answer, as `multipart/byteranges` (RFC 9110, 14.6). Clients that unpack images lazily, or only the files
//! that they lack, ask like this.

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use uuid::Uuid;

use crate::content::{Blob, Content, ContentError};
use crate::names::RepositoryName;

/// The parts of an answer, and what separates them.
pub(super) struct Multipart {
    boundary: String,
    ranges: Vec<Range<u64>>,
    size: u64,
}

impl Multipart {
    /// `boundary` must not be in the content: something random. `size` is that of the whole blob.
    pub(super) fn new(boundary: Uuid, ranges: Vec<Range<u64>>, size: u64) -> Self {
        Self {
            boundary: boundary.simple().to_string(),
            ranges,
            size,
        }
    }

    /// The answer's `Content-Type`.
    pub(super) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// The answer's length in bytes.
    pub(super) fn length(&self) -> u64 {
        let parts = self
            .ranges
            .iter()
            .map(|range| self.head(range).len() as u64 + (range.end - range.start));
        parts.sum::<u64>() + self.tail().len() as u64
    }

    /// The answer's bytes. The first of them are read before this returns, so that a fault is still an error and not a broken
    /// transfer.
    pub(super) async fn read(
        self,
        content: Content,
        registry: Uuid,
        name: RepositoryName,
        blob: Blob,
    ) -> Result<BoxStream<'static, Result<Bytes, ContentError>>, ContentError> {
        let tail = self.tail();
        let parts: Vec<(Bytes, Range<u64>)> = self
            .ranges
            .iter()
            .map(|range| (self.head(range), range.clone()))
            .collect();
        let mut bytes = stream::iter(parts)
            .then(move |(head, range)| {
                let (content, name, blob) = (content.clone(), name.clone(), blob.clone());
                async move {
                    let repository = content.repository(registry, &name);
                    let bytes = repository.read_blob(&blob, range).await?;
                    Ok::<_, ContentError>(stream::iter([Ok(head)]).chain(bytes))
                }
            })
            .try_flatten()
            .boxed();
        let first = bytes.try_next().await?;
        let last = stream::iter([Ok(tail)]);
        Ok(stream::iter(first.map(Ok)).chain(bytes).chain(last).boxed())
    }

    fn head(&self, range: &Range<u64>) -> Bytes {
        let Self { boundary, size, .. } = self;
        let (first, last) = (range.start, range.end - 1);
        Bytes::from(format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n"
        ))
    }

    fn tail(&self) -> Bytes {
        Bytes::from(format!("\r\n--{}--\r\n", self.boundary))
    }
}
