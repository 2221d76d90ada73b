//! A store of bytes whose objects are as old as they are in a time that runs fast: collection judges bytes by what the store says.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use time::OffsetDateTime;

#[derive(Debug)]
pub(crate) struct FastStore {
    pub(crate) store: LocalFileSystem,
    /// When its time began to run fast, and how fast.
    pub(crate) start: OffsetDateTime,
    pub(crate) speed: u32,
}

impl fmt::Display for FastStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for FastStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.store.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (start, speed) = (self.start.unix_timestamp_nanos(), self.speed);
        let listed = self.store.list(prefix);
        listed
            .map(move |object| {
                let mut object = object?;
                let nanoseconds = object.last_modified.timestamp_nanos_opt();
                let here = i128::from(nanoseconds.unwrap_or_default()) - start;
                let here = Duration::from_nanos(u64::try_from(here).unwrap_or_default());
                object.last_modified += here * (speed - 1);
                Ok(object)
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
