//! Stores in memory for many callers whose every call is one step that a scheduler grants, and that can be made to break a rule.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::SystemTime;

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
use registry_node::content::{Content, Sources};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::random::Random;

/// A rule that a store breaks, as the protocol would if its authors had forgotten it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Nothing,
    /// Whoever refers to a blob does not touch it.
    Touch,
    /// Collection removes whatever is there, not the version that it judged.
    ConditionalRemove,
    /// Collection judges by what it read when it listed.
    JudgedAsRead,
    /// A deletion begins with its clean-up.
    DeletionMark,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    /// Nothing happens, and the caller is told so.
    Fails,
    /// It happens, and the caller cannot know.
    TimesOutAfterwards,
}

/// What lasts, and the clock that everybody looks at.
pub(crate) struct World {
    records: Mutex<BTreeMap<String, Bytes>>,
    data: InMemory,
    /// When each object was written, by the clock of the world.
    written: Mutex<BTreeMap<String, i64>>,
    seconds: AtomicI64,
    ids: AtomicU64,
    /// Calls that may still be made before the scheduler's next turn.
    turns: AtomicUsize,
    /// Of a thousand changes so many fail, and so many time out after they were made.
    unreliable_per_mille: AtomicUsize,
    random: Mutex<Random>,
    /// No byte can be written.
    pub(crate) is_full: AtomicBool,
}

const START: i64 = 1_800_000_000;
const UNBOUNDED: usize = usize::MAX;

impl World {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            data: InMemory::new(),
            written: Mutex::default(),
            seconds: AtomicI64::new(START),
            ids: AtomicU64::new(0),
            turns: AtomicUsize::new(UNBOUNDED),
            unreliable_per_mille: AtomicUsize::new(0),
            random: Mutex::new(Random::new(seed ^ 0x5eed)),
            is_full: AtomicBool::new(false),
        })
    }

    /// Content on these stores; `broken` is what its stores get wrong.
    pub(crate) fn open(self: &Arc<Self>, broken: Broken) -> Content {
        let turns = self.turns.swap(UNBOUNDED, Ordering::SeqCst);
        let is_open = Arc::new(AtomicBool::new(false));
        let records = SteppedRecords {
            world: Arc::clone(self),
            broken,
            is_open: Arc::clone(&is_open),
            as_listed: Mutex::default(),
        };
        let data = SteppedData(Arc::clone(self));
        let opened = Content::open_on(Arc::new(records), Arc::new(data), "westus", self.sources());
        let content = super::scheduler::finish(opened).expect("it opens");
        self.turns.store(turns, Ordering::SeqCst);
        is_open.store(true, Ordering::SeqCst);
        content
    }

    fn sources(self: &Arc<Self>) -> Sources {
        let (clock, ids) = (Arc::clone(self), Arc::clone(self));
        Sources {
            now: Arc::new(move || clock.now()),
            random_id: Arc::new(move || {
                let number = ids.ids.fetch_add(1, Ordering::SeqCst);
                Uuid::from_u128(0x1000_0000_0000_4000_8000_0000_0000_0000 + u128::from(number))
            }),
        }
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.seconds.load(Ordering::SeqCst)).expect("a time")
    }

    pub(crate) fn advance(&self, time: Duration) {
        self.seconds
            .fetch_add(time.whole_seconds(), Ordering::SeqCst);
    }

    pub(crate) fn grant(&self, turns: usize) {
        self.turns.store(turns, Ordering::SeqCst);
    }

    /// From now on every call is made at once.
    pub(crate) fn grant_all(&self) {
        self.grant(UNBOUNDED);
    }

    pub(crate) fn be_unreliable(&self, per_mille: usize) {
        self.unreliable_per_mille.store(per_mille, Ordering::SeqCst);
    }

    /// Objects of bytes.
    pub(crate) fn objects(&self) -> Vec<String> {
        self.written.lock().keys().cloned().collect()
    }

    /// Keys of records that begin so.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let records = self.records.lock();
        let keys = records.keys().filter(|key| key.starts_with(prefix));
        keys.cloned().collect()
    }

    /// Takes a record away behind everybody's back.
    pub(crate) fn lose(&self, key: &str) {
        self.records.lock().remove(key).expect("a record");
    }

    async fn turn(&self) {
        std::future::poll_fn(|context| {
            let taken = self
                .turns
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |turns| match turns {
                    0 => None,
                    UNBOUNDED => Some(UNBOUNDED),
                    more => Some(more - 1),
                });
            if taken.is_ok() {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    fn fate(&self) -> Fate {
        let share = self.unreliable_per_mille.load(Ordering::SeqCst);
        match self.random.lock().below(1000) {
            number if number < share => Fate::TimesOutAfterwards,
            number if number < share + share / 4 => Fate::Fails,
            _ => Fate::Done,
        }
    }

    fn is_full(&self) -> bool {
        self.is_full.load(Ordering::SeqCst)
    }
}

struct SteppedRecords {
    world: Arc<World>,
    broken: Broken,
    /// The probe at the start would notice.
    is_open: Arc<AtomicBool>,
    as_listed: Mutex<BTreeMap<String, Bytes>>,
}

fn version_of(bytes: &Bytes) -> Version {
    Version::new(operation_id(bytes).expect("records have operation ids"))
}

/// The record without what a touch changes.
fn untouched(bytes: &Bytes) -> Option<serde_json::Value> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let mut value: serde_json::Value = serde_json::from_slice(line).ok()?;
    value.as_object_mut()?.remove("operation");
    value.as_object_mut()?.remove("touched")?;
    Some(value)
}

fn is_marked(bytes: &Bytes) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next();
    let value = line.and_then(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    value.is_some_and(|value| value["deleting"] == true)
}

impl SteppedRecords {
    fn lacks(&self, rule: Broken) -> bool {
        self.broken == rule && self.is_open.load(Ordering::SeqCst)
    }

    async fn change<T>(
        &self,
        key: &str,
        needs_room: bool,
        change: impl FnOnce(&mut BTreeMap<String, Bytes>) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        self.world.turn().await;
        let key = key.to_owned();
        if needs_room && self.world.is_full() {
            let source = "no space left on device".into();
            return Err(WriteError::Failed { key, source });
        }
        let source = "the test says so".into();
        match self.world.fate() {
            Fate::Done => change(&mut self.world.records.lock()),
            Fate::Fails => Err(WriteError::Failed { key, source }),
            Fate::TimesOutAfterwards => {
                change(&mut self.world.records.lock())?;
                Err(WriteError::Unknown { key, source })
            }
        }
    }

    /// Whether this change is one that the broken rule leaves out.
    fn is_left_out(&self, old: &Bytes, new: &Bytes) -> bool {
        match self.broken {
            Broken::Touch => untouched(old).is_some() && untouched(old) == untouched(new),
            Broken::DeletionMark => is_marked(new),
            _ => false,
        }
    }
}

#[async_trait]
impl RecordStore for SteppedRecords {
    async fn get(&self, key: &str) -> Result<Option<StoredRecord>, ReadError> {
        self.world.turn().await;
        let records = self.world.records.lock();
        let Some(bytes) = records.get(key) else {
            return Ok(None);
        };
        let version = version_of(bytes);
        let listed = self.as_listed.lock();
        let bytes = match self.broken {
            Broken::JudgedAsRead => listed.get(key).unwrap_or(bytes).clone(),
            _ => bytes.clone(),
        };
        Ok(Some(StoredRecord { bytes, version }))
    }

    async fn version(&self, key: &str) -> Result<Option<Version>, ReadError> {
        self.world.turn().await;
        Ok(self.world.records.lock().get(key).map(version_of))
    }

    async fn create(&self, key: &str, bytes: Bytes, _: Durability) -> Result<Version, WriteError> {
        self.change(key, true, |records| {
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
        self.change(key, true, |records| {
            let found = records.get(key).ok_or(WriteError::Conflict)?;
            if version_of(found) != *version {
                return Err(WriteError::Conflict);
            }
            if self.is_left_out(found, &bytes) {
                return Ok(version.clone());
            }
            let version = version_of(&bytes);
            records.insert(key.to_owned(), bytes);
            Ok(version)
        })
        .await
    }

    async fn remove(&self, key: &str, version: &Version, _: Durability) -> Result<(), WriteError> {
        self.change(key, false, |records| {
            let found = records.get(key).ok_or(WriteError::Conflict)?;
            if version_of(found) != *version && !self.lacks(Broken::ConditionalRemove) {
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
        self.world.turn().await;
        let records = self.world.records.lock();
        let from = after.max(prefix).to_owned();
        let listed = records
            .range(from..)
            .filter(|(key, _)| key.as_str() > after)
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit);
        let mut entries = Vec::new();
        for (key, bytes) in listed {
            self.as_listed.lock().insert(key.clone(), bytes.clone());
            entries.push(ListedRecord {
                key: key.clone(),
                size_bytes: bytes.len() as u64,
                version: None,
                modified: None,
            });
        }
        Ok(entries)
    }
}

#[derive(Clone)]
struct SteppedData(Arc<World>);

impl fmt::Debug for SteppedData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SteppedData")
    }
}

impl fmt::Display for SteppedData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SteppedData")
    }
}

fn failure(text: &'static str) -> object_store::Error {
    object_store::Error::Generic {
        store: "stepped",
        source: text.into(),
    }
}

impl SteppedData {
    async fn delete_one(self, location: Path) -> object_store::Result<Path> {
        self.0.turn().await;
        if self.0.fate() == Fate::Fails {
            return Err(failure("the test says so"));
        }
        self.0.written.lock().remove(location.as_ref());
        let one = futures_util::stream::iter([Ok(location)]).boxed();
        let deleted = self.0.data.delete_stream(one).next().await;
        deleted.unwrap_or_else(|| Err(failure("nothing was deleted")))
    }
}

#[async_trait]
impl ObjectStore for SteppedData {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.0.turn().await;
        if self.0.is_full() {
            return Err(failure("no space left on device"));
        }
        if self.0.fate() == Fate::Fails {
            return Err(failure("the test says so"));
        }
        let seconds = self.0.seconds.load(Ordering::SeqCst);
        self.0.written.lock().insert(location.to_string(), seconds);
        self.0.data.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.data.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.0.turn().await;
        self.0.data.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let this = self.clone();
        locations
            .then(move |location| {
                let this = this.clone();
                async move { this.delete_one(location?).await }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let world = Arc::clone(&self.0);
        self.0
            .data
            .list(prefix)
            .then(move |found| {
                let world = Arc::clone(&world);
                async move {
                    world.turn().await;
                    let mut found = found?;
                    let seconds = world.written.lock().get(found.location.as_ref()).copied();
                    let written = OffsetDateTime::from_unix_timestamp(seconds.unwrap_or(START));
                    found.last_modified = SystemTime::from(written.expect("a time")).into();
                    Ok(found)
                }
            })
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.0.data.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.0.data.copy_opts(from, to, options).await
    }
}
