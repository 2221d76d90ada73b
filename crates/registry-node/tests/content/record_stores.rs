//! What every record store promises, held against a model; and the start-up probe, which must notice a store that does not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::memory::InMemory;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use registry_node::content::record_store::{
    BucketRecords, Durability, ListedRecord, LocalRecords, OPERATION_PREFIX, ReadError,
    RecordStore, StoredRecord, Version, WriteError,
};
use registry_node::content::{Content, OpenError, Sources};
use tempfile::TempDir;
use uuid::Uuid;

use super::faulty_stores::Disk;
use super::stores::{StoreKind, bucket_options};

fn record(body: &str) -> Bytes {
    let mut bytes = OPERATION_PREFIX.to_vec();
    bytes.extend_from_slice(format!("{}\"}}\n{body}", Uuid::new_v4()).as_bytes());
    Bytes::from(bytes)
}

#[derive(Debug, Clone)]
enum Step {
    Create(String),
    Replace(String, bool),
    Remove(String, bool),
    List(String, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = "p/(a!|a-b!|a/b!|a/b/c!|a/b-c!|b!|0!|v1|v1[.]|v1[.]!|v1[.]2)";
    let step = prop_oneof![
        3 => key.prop_map(Step::Create),
        2 => (key, any::<bool>()).prop_map(|(key, stale)| Step::Replace(key, stale)),
        2 => (key, any::<bool>()).prop_map(|(key, stale)| Step::Remove(key, stale)),
        2 => ("(|p/[ab0!/-]{0,5}|p/v1[.]?!?)", 0_usize..8).prop_map(|(after, limit)| Step::List(after, limit)),
    ];
    proptest::collection::vec(step, 1..40)
}

/// The record as the store must have it.
type Model = BTreeMap<String, (Bytes, Version)>;

/// The right version, or one that no record ever had.
fn version(model: &Model, key: &str, stale: bool) -> Version {
    match model.get(key) {
        Some((_, version)) if !stale => version.clone(),
        _ => Version::new(format!("\"{}\"", Uuid::new_v4().simple())),
    }
}

/// What a change gave, which is made or a conflict as expected.
fn made<T>(result: Result<T, WriteError>, is_expected: bool, step: &Step) -> Option<T> {
    match result {
        Ok(value) if is_expected => Some(value),
        Err(WriteError::Conflict) if !is_expected => None,
        Ok(_) => panic!("{step:?} was made"),
        Err(error) => panic!("{step:?}: {}", service::errors::chain(&error)),
    }
}

async fn follows_the_model(store: &dyn RecordStore, steps: &[Step]) {
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Create(key) => {
                let bytes = record("created");
                let result = store.create(key, bytes.clone(), Durability::OnReturn).await;
                if let Some(version) = made(result, !model.contains_key(key), step) {
                    model.insert(key.clone(), (bytes, version));
                }
            }
            Step::Replace(key, stale) => {
                let bytes = record("replaced");
                let expected = version(&model, key, *stale);
                let result = store
                    .replace(key, bytes.clone(), &expected, Durability::Eventually)
                    .await;
                let is_current = !stale && model.contains_key(key);
                if let Some(version) = made(result, is_current, step) {
                    model.insert(key.clone(), (bytes, version));
                }
            }
            Step::Remove(key, stale) => {
                let expected = version(&model, key, *stale);
                let result = store.remove(key, &expected, Durability::OnReturn).await;
                if model.contains_key(key) {
                    made(result, !stale, step);
                }
                if !stale {
                    model.remove(key);
                }
            }
            Step::List(after, limit) => is_listed(store, &model, after, *limit).await,
        }
        for key in ["p/a!", "p/a/b!", "p/v1."] {
            let read = store.get(key).await.expect("read");
            let expected = model.get(key);
            assert_eq!(
                read.as_ref().map(|read| (&read.bytes, &read.version)),
                expected.map(|(bytes, version)| (bytes, version)),
            );
            let version = store.version(key).await.expect("read");
            assert_eq!(read.map(|read| read.version), version);
        }
    }
}

async fn is_listed(store: &dyn RecordStore, model: &Model, after: &str, limit: usize) {
    let listed = store.list("p/", after, limit).await.expect("listed");
    let expected: Vec<(&String, u64)> = model
        .iter()
        .filter(|(key, _)| key.as_str() > after)
        .take(limit)
        .map(|(key, (bytes, _))| (key, bytes.len() as u64))
        .collect();
    let found: Vec<(&String, u64)> = listed
        .iter()
        .map(|entry| (&entry.key, entry.size_bytes))
        .collect();
    assert_eq!(found, expected, "after {after:?}, at most {limit}");
    for entry in &listed {
        let version = entry.version.as_ref();
        assert!(version.is_none_or(|version| *version == model[&entry.key].1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn record_stores_do_what_they_promise(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let directory = tempfile::TempDir::new().expect("a directory");
            let local = LocalRecords::open(directory.path(), Sources::of_the_system()).expect("opens");
            follows_the_model(&local, &steps).await;
            follows_the_model(&Disk::default().records(), &steps).await;
        });
    }
}

/// Few cases: a request to a server takes a thousand times as long as one to a map.
const CASES_WITH_A_SERVER: u32 = 6;

fn a_bucket_does_what_record_stores_promise(kind: StoreKind) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(CASES_WITH_A_SERVER)
    });
    let checked = runner.run(&steps(), |steps| {
        runtime.block_on(async {
            let options = bucket_options(kind);
            let opened = BucketRecords::open(&options, Sources::of_the_system()).await;
            follows_the_model(&opened.expect("opens"), &steps).await;
        });
        Ok(())
    });
    checked.unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn s3_does_what_record_stores_promise() {
    a_bucket_does_what_record_stores_promise(StoreKind::S3);
}

#[test]
fn azure_does_what_record_stores_promise() {
    a_bucket_does_what_record_stores_promise(StoreKind::Azure);
}

#[test]
fn s3_without_conditional_removal_does_what_record_stores_promise() {
    a_bucket_does_what_record_stores_promise(StoreKind::S3WithoutConditionalRemoval);
}

/// Two handles to one store compete: of eight creations and of eight replacements at one version one wins.
async fn one_of_many_wins(stores: [Arc<dyn RecordStore>; 2], rounds: usize) {
    let mut version: Option<Version> = None;
    for _ in 0..rounds {
        let attempts = (0..8).map(|number| {
            let (store, version) = (Arc::clone(&stores[number % 2]), version.clone());
            tokio::spawn(async move {
                let bytes = record("");
                match version {
                    Some(version) => {
                        let durability = Durability::Eventually;
                        store.replace("p/a!", bytes, &version, durability).await
                    }
                    None => store.create("p/a!", bytes, Durability::OnReturn).await,
                }
            })
        });
        let outcomes = futures_util::future::join_all(attempts).await;
        let mut won: Vec<Version> = outcomes
            .into_iter()
            .filter_map(|outcome| outcome.expect("no panic").ok())
            .collect();
        assert_eq!(won.len(), 1);
        version = won.pop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_changes_at_one_version_one_wins() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let open = || -> Arc<dyn RecordStore> {
        let opened = LocalRecords::open(directory.path(), Sources::of_the_system());
        Arc::new(opened.expect("opens"))
    };
    one_of_many_wins([open(), open()], 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_changes_at_one_version_one_wins_in_a_bucket() {
    for kind in [StoreKind::S3, StoreKind::Azure] {
        let options = bucket_options(kind);
        let open = async || {
            let opened = BucketRecords::open(&options, Sources::of_the_system()).await;
            Arc::new(opened.expect("opens")) as Arc<dyn RecordStore>
        };
        one_of_many_wins([open().await, open().await], 6).await;
    }
}

/// A store with one habit that no content could live with.
struct Unfit {
    good: super::faulty_stores::FaultyRecords,
    habit: Habit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Habit {
    CreatesTwice,
    ReplacesAnything,
    RemovesAnything,
    ListsBackwards,
}

impl Unfit {
    async fn current(&self, key: &str) -> Version {
        let version = self.good.version(key).await.expect("read");
        version.unwrap_or_else(|| Version::new("none"))
    }
}

#[async_trait]
impl RecordStore for Unfit {
    async fn get(&self, key: &str) -> Result<Option<StoredRecord>, ReadError> {
        self.good.get(key).await
    }

    async fn version(&self, key: &str) -> Result<Option<Version>, ReadError> {
        self.good.version(key).await
    }

    async fn create(
        &self,
        key: &str,
        bytes: Bytes,
        durability: Durability,
    ) -> Result<Version, WriteError> {
        if self.habit == Habit::CreatesTwice && self.good.get(key).await.expect("read").is_some() {
            let version = self.current(key).await;
            return self.good.replace(key, bytes, &version, durability).await;
        }
        self.good.create(key, bytes, durability).await
    }

    async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        version: &Version,
        durability: Durability,
    ) -> Result<Version, WriteError> {
        let current = self.current(key).await;
        let version = if self.habit == Habit::ReplacesAnything {
            &current
        } else {
            version
        };
        self.good.replace(key, bytes, version, durability).await
    }

    async fn remove(
        &self,
        key: &str,
        version: &Version,
        durability: Durability,
    ) -> Result<(), WriteError> {
        let current = self.current(key).await;
        let version = if self.habit == Habit::RemovesAnything {
            &current
        } else {
            version
        };
        self.good.remove(key, version, durability).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedRecord>, ReadError> {
        let mut listed = self.good.list(prefix, after, limit).await?;
        if self.habit == Habit::ListsBackwards {
            listed.reverse();
        }
        Ok(listed)
    }
}

#[tokio::test]
async fn a_directory_that_is_removed_while_it_is_empty_is_made_again() {
    // Fewer than a creation makes its directory again, so that it succeeds however the two threads are scheduled.
    const REMOVALS_A_RECORD: u32 = 12;
    let root = TempDir::new().expect("a directory");
    let store = LocalRecords::open(root.path(), Sources::of_the_system()).expect("it opens");
    let (path, is_over) = (root.path().to_owned(), Arc::new(AtomicBool::new(false)));
    let (removed, allowed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (count, left, until) = (removed.clone(), allowed.clone(), is_over.clone());
    let removing = std::thread::spawn(move || {
        while !until.load(Ordering::Relaxed) {
            for directory in ["p/a/b", "p/a", "p"] {
                if left.load(Ordering::SeqCst) > 0
                    && std::fs::remove_dir(path.join(directory)).is_ok()
                {
                    count.fetch_add(1, Ordering::Relaxed);
                    // The writer may have set it anew meanwhile: then this one is of the record before.
                    left.fetch_sub(1, Ordering::SeqCst);
                }
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    let writing = async {
        let mut number = 0;
        while number < 1000 || removed.load(Ordering::Relaxed) < 300 {
            allowed.store(REMOVALS_A_RECORD, Ordering::SeqCst);
            let durability = match number % 4 {
                0 => Durability::OnReturn,
                _ => Durability::Eventually,
            };
            let created = store.create("p/a/b/c", record("created"), durability);
            let version = created.await?;
            store.remove("p/a/b/c", &version, durability).await?;
            number += 1;
        }
        Ok::<_, WriteError>(())
    };
    let written = writing.await;
    is_over.store(true, Ordering::Relaxed);
    removing.join().expect("no panic");
    written.expect("every record was written and removed");
}

#[tokio::test]
async fn a_store_that_does_not_compare_is_refused_at_the_start() {
    let habits = [
        Habit::CreatesTwice,
        Habit::ReplacesAnything,
        Habit::RemovesAnything,
        Habit::ListsBackwards,
    ];
    for habit in habits {
        let good = Disk::default().records();
        let records = Arc::new(Unfit { good, habit });
        let data = Arc::new(InMemory::new());
        let opened = Content::open_on(records, data, "westus", Sources::of_the_system()).await;
        assert!(matches!(opened.err(), Some(OpenError::Probe(_))));
    }
}
