//! What every record store promises, held against a model; and the start-up probe, which must notice a store that does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::memory::InMemory;
use proptest::prelude::*;
use registry_node::content::record_store::{
    Durability, ListedRecord, LocalRecords, OPERATION_PREFIX, ReadError, RecordStore, StoredRecord,
    Version, WriteError, operation_id,
};
use registry_node::content::{Content, OpenError, Sources};
use uuid::Uuid;

use super::faulty_stores::Disk;

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
    let key = "p/(a!|a-b!|a/b!|a/b/c!|a/b-c!|b!|0!)";
    let step = prop_oneof![
        3 => key.prop_map(Step::Create),
        2 => (key, any::<bool>()).prop_map(|(key, stale)| Step::Replace(key, stale)),
        2 => (key, any::<bool>()).prop_map(|(key, stale)| Step::Remove(key, stale)),
        2 => ("(|p/[ab0!/-]{0,5})", 0_usize..8).prop_map(|(after, limit)| Step::List(after, limit)),
    ];
    proptest::collection::vec(step, 1..40)
}

/// A version of another record, or the right one.
fn version(model: &BTreeMap<String, Bytes>, key: &str, stale: bool) -> Version {
    let current = model.get(key).and_then(|bytes| operation_id(bytes));
    match current {
        Some(id) if !stale => Version::new(id),
        _ => Version::new(Uuid::new_v4().to_string()),
    }
}

async fn follows_the_model(store: &dyn RecordStore, steps: &[Step]) {
    let mut model = BTreeMap::<String, Bytes>::new();
    for step in steps {
        match step {
            Step::Create(key) => {
                let bytes = record("created");
                let result = store.create(key, bytes.clone(), Durability::OnReturn).await;
                assert_eq!(result.is_ok(), !model.contains_key(key), "{step:?}");
                if result.is_ok() {
                    model.insert(key.clone(), bytes);
                }
            }
            Step::Replace(key, stale) => {
                let bytes = record("replaced");
                let expected = version(&model, key, *stale);
                let result = store
                    .replace(key, bytes.clone(), &expected, Durability::Eventually)
                    .await;
                assert_eq!(
                    result.is_ok(),
                    !stale && model.contains_key(key),
                    "{step:?}"
                );
                if result.is_ok() {
                    model.insert(key.clone(), bytes);
                }
            }
            Step::Remove(key, stale) => {
                let expected = version(&model, key, *stale);
                let result = store.remove(key, &expected, Durability::OnReturn).await;
                assert_eq!(
                    result.is_ok(),
                    !stale && model.contains_key(key),
                    "{step:?}"
                );
                if result.is_ok() {
                    model.remove(key);
                }
            }
            Step::List(after, limit) => {
                let listed = store.list("p/", after, *limit).await.expect("listed");
                let expected: Vec<(&String, u64)> = model
                    .iter()
                    .filter(|(key, _)| *key > after)
                    .take(*limit)
                    .map(|(key, bytes)| (key, bytes.len() as u64))
                    .collect();
                let found: Vec<(&String, u64)> = listed
                    .iter()
                    .map(|entry| (&entry.key, entry.size_bytes))
                    .collect();
                assert_eq!(found, expected, "{step:?}");
            }
        }
        for key in ["p/a!", "p/a/b!"] {
            let read = store.get(key).await.expect("read");
            assert_eq!(read.as_ref().map(|read| &read.bytes), model.get(key));
            let version = store.version(key).await.expect("read");
            assert_eq!(read.map(|read| read.version), version);
        }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_replacements_at_one_version_one_wins() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let open = || LocalRecords::open(directory.path(), Sources::of_the_system()).expect("opens");
    let stores = [open(), open()];
    let created = stores[0]
        .create("p/a!", record(""), Durability::OnReturn)
        .await;
    let mut version = created.expect("created");
    for _ in 0..20 {
        let attempts = (0..8).map(|number| {
            let (store, version) = (stores[number % 2].clone(), version.clone());
            tokio::spawn(async move {
                store
                    .replace("p/a!", record(""), &version, Durability::Eventually)
                    .await
            })
        });
        let outcomes = futures_util::future::join_all(attempts).await;
        let mut won: Vec<Version> = outcomes
            .into_iter()
            .filter_map(|outcome| outcome.expect("no panic").ok())
            .collect();
        assert_eq!(won.len(), 1);
        version = won.remove(0);
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
