//! Stores in memory that outlive the content opened on them, and that fail, fail after having done what they were asked, or
//! make their callers overtake each other, as a plan says.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parking_lot::Mutex;
use registry_node::content::record_store::{
    Durability, ListedRecord, ReadError, RecordStore, StoredRecord, Version, WriteError,
    operation_id,
};
use registry_node::content::{Content, OpenError, Sources};

/// What becomes of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Nothing happens, and the caller is told so.
    Fails,
    /// Nothing happens, and the caller cannot know.
    TimesOut,
    /// It happens, and the caller cannot know.
    TimesOutAfterwards,
    /// It happens after others had this many turns.
    Waits(usize),
}

type Plan = Box<dyn Fn(usize) -> Fault + Send + Sync>;

/// Counts calls to the stores and says what becomes of each.
pub(crate) struct Faults {
    calls: AtomicUsize,
    plan: Plan,
}

impl Faults {
    pub(crate) fn new(plan: impl Fn(usize) -> Fault + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            calls: AtomicUsize::new(0),
            plan: Box::new(plan),
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn next(&self) -> Fault {
        let fault = (self.plan)(self.calls.fetch_add(1, Ordering::SeqCst));
        if let Fault::Waits(turns) = fault {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        }
        fault
    }
}

/// What lasts: records and data.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    records: Arc<Mutex<BTreeMap<String, Bytes>>>,
    data: Arc<InMemory>,
}

impl Disk {
    /// The stores without faults.
    pub(crate) async fn open(&self) -> Content {
        self.open_with(Faults::new(|_| Fault::None))
            .await
            .expect("it opens")
    }

    /// The stores with faults, which begin once the content is open.
    pub(crate) async fn open_with(&self, faults: Arc<Faults>) -> Result<Content, OpenError> {
        self.open_with_sources(faults, Sources::of_the_system())
            .await
    }

    pub(crate) async fn open_with_sources(
        &self,
        faults: Arc<Faults>,
        sources: Sources,
    ) -> Result<Content, OpenError> {
        let is_open = Arc::new(AtomicUsize::new(0));
        let records = FaultyRecords {
            records: Arc::clone(&self.records),
            faults: Arc::clone(&faults),
            is_open: Arc::clone(&is_open),
        };
        let data = FaultyData {
            data: Arc::clone(&self.data),
            faults,
        };
        let content =
            Content::open_on(Arc::new(records), Arc::new(data), "westus", sources).await?;
        is_open.store(1, Ordering::SeqCst);
        Ok(content)
    }

    /// A record's bytes.
    pub(crate) fn record(&self, key: &str) -> Bytes {
        self.records.lock().get(key).expect("a record").clone()
    }

    /// The record store alone, without faults.
    pub(crate) fn records(&self) -> FaultyRecords {
        FaultyRecords {
            records: Arc::clone(&self.records),
            faults: Faults::new(|_| Fault::None),
            is_open: Arc::new(AtomicUsize::new(0)),
        }
    }
}

pub(crate) struct FaultyRecords {
    records: Arc<Mutex<BTreeMap<String, Bytes>>>,
    faults: Arc<Faults>,
    is_open: Arc<AtomicUsize>,
}

fn version_of(bytes: &Bytes) -> Version {
    Version::new(operation_id(bytes).expect("records have operation ids"))
}

impl FaultyRecords {
    async fn fault(&self) -> Fault {
        if self.is_open.load(Ordering::SeqCst) == 0 {
            return Fault::None;
        }
        self.faults.next().await
    }

    async fn read<T>(
        &self,
        key: &str,
        read: impl FnOnce(&BTreeMap<String, Bytes>) -> T,
    ) -> Result<T, ReadError> {
        match self.fault().await {
            Fault::None | Fault::Waits(_) => Ok(read(&self.records.lock())),
            _ => Err(ReadError {
                key: key.to_owned(),
                source: "the test says so".into(),
            }),
        }
    }

    async fn change<T>(
        &self,
        key: &str,
        change: impl FnOnce(&mut BTreeMap<String, Bytes>) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        let key = key.to_owned();
        let source = "the test says so".into();
        match self.fault().await {
            Fault::None | Fault::Waits(_) => change(&mut self.records.lock()),
            Fault::Fails => Err(WriteError::Failed { key, source }),
            Fault::TimesOut => Err(WriteError::Unknown { key, source }),
            Fault::TimesOutAfterwards => {
                change(&mut self.records.lock())?;
                Err(WriteError::Unknown { key, source })
            }
        }
    }
}

#[async_trait]
impl RecordStore for FaultyRecords {
    async fn get(&self, key: &str) -> Result<Option<StoredRecord>, ReadError> {
        self.read(key, |records| {
            records.get(key).map(|bytes| StoredRecord {
                bytes: bytes.clone(),
                version: version_of(bytes),
            })
        })
        .await
    }

    async fn version(&self, key: &str) -> Result<Option<Version>, ReadError> {
        self.read(key, |records| records.get(key).map(version_of))
            .await
    }

    async fn create(&self, key: &str, bytes: Bytes, _: Durability) -> Result<Version, WriteError> {
        self.change(key, |records| {
            if records.contains_key(key) {
                return Err(WriteError::Conflict);
            }
            let version = version_of(&bytes);
            records.insert(key.to_owned(), bytes);
            Ok(version)
        })
        .await
    }

    async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        version: &Version,
        _: Durability,
    ) -> Result<Version, WriteError> {
        self.change(key, |records| {
            if records.get(key).map(version_of).as_ref() != Some(version) {
                return Err(WriteError::Conflict);
            }
            let version = version_of(&bytes);
            records.insert(key.to_owned(), bytes);
            Ok(version)
        })
        .await
    }

    async fn remove(&self, key: &str, version: &Version, _: Durability) -> Result<(), WriteError> {
        self.change(key, |records| {
            if records.get(key).map(version_of).as_ref() != Some(version) {
                return Err(WriteError::Conflict);
            }
            records.remove(key);
            Ok(())
        })
        .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedRecord>, ReadError> {
        self.read(prefix, |records| {
            records
                .iter()
                .filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after)
                .take(limit)
                .map(|(key, bytes)| ListedRecord {
                    key: key.clone(),
                    size_bytes: bytes.len() as u64,
                    version: None,
                    modified: None,
                })
                .collect()
        })
        .await
    }
}

#[derive(Clone)]
pub(crate) struct FaultyData {
    data: Arc<InMemory>,
    faults: Arc<Faults>,
}

impl fmt::Debug for FaultyData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FaultyData")
    }
}

impl fmt::Display for FaultyData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FaultyData")
    }
}

fn failure() -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: "the test says so".into(),
    }
}

impl FaultyData {
    async fn allowed(&self) -> object_store::Result<()> {
        match self.faults.next().await {
            Fault::None | Fault::Waits(_) => Ok(()),
            _ => Err(failure()),
        }
    }
}

#[async_trait]
impl ObjectStore for FaultyData {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let fault = self.faults.next().await;
        if matches!(fault, Fault::Fails | Fault::TimesOut) {
            return Err(failure());
        }
        let result = self.data.put_opts(location, payload, options).await?;
        match fault {
            Fault::TimesOutAfterwards => Err(failure()),
            _ => Ok(result),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.allowed().await?;
        self.data.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.allowed().await?;
        self.data.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move {
                    this.allowed().await?;
                    let location = futures_util::stream::iter([location]).boxed();
                    let deleted = this.data.delete_stream(location).next().await;
                    deleted.unwrap_or_else(|| Err(failure()))
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.data.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.data.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.data.copy_opts(from, to, options).await
    }
}
