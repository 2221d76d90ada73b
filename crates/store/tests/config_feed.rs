//! The config feed's tables under concurrent writers and readers, on a real Postgres.

mod support;

use std::collections::BTreeMap;

use config_documents::{Checksum, Document, Epoch, Group, Kind, Region, Revision, StoredDocument};
use sqlx::PgPool;
use store::config::{self, Change, Position, Published, Reading};
use store::{Store, StoreError};
use uuid::Uuid;

use support::with_head;

const WRITERS: u128 = 16;

async fn initialised(pool: PgPool) -> Store {
    with_head(Store::over(pool), Epoch(Uuid::from_u128(1))).await
}

async fn publish(store: &Store, changes: &[Change]) -> Published {
    let mut transaction = store.begin().await.expect("a transaction");
    let published = config::publish(&mut transaction, changes)
        .await
        .expect("published");
    transaction.commit().await.expect("committed");
    published
}

/// A document whose body differs by `content`.
fn group(key: u128, content: u128) -> Document {
    Document::Group(Group {
        object_id: Uuid::from_u128(key),
        groups: vec![Uuid::from_u128(content)],
    })
}

fn upsert(region: &str, key: u128, content: u128) -> Change {
    Change::Upsert {
        region: Region(region.into()),
        document: group(key, content),
    }
}

fn delete(region: &str, key: u128) -> Change {
    Change::Delete {
        region: Region(region.into()),
        kind: Kind::Group,
        key: Uuid::from_u128(key).to_string(),
    }
}

/// A small repeatable sequence of numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a node of one region keeps, applied as a node applies it.
#[derive(Default, Debug, PartialEq)]
struct Copy {
    documents: BTreeMap<(Region, String, String), StoredDocument>,
}

impl Copy {
    fn apply(&mut self, document: StoredDocument) {
        let key = (
            document.region.clone(),
            document.kind.clone(),
            document.key.clone(),
        );
        match document.body {
            Some(_) => self.documents.insert(key, document),
            None => self.documents.remove(&key),
        };
    }

    fn checksum(&self) -> Checksum {
        self.documents
            .values()
            .fold(Checksum::default(), |sum, document| {
                let body = document.body.as_deref().expect("live documents have one");
                sum + Checksum::of(
                    document.region.as_str(),
                    &document.kind,
                    &document.key,
                    body,
                )
            })
    }
}

async fn read_all(
    store: &Store,
    region: &Region,
    copy: Option<Position>,
) -> (Reading, Vec<StoredDocument>) {
    let mut reading = Reading::begin(store, region, copy)
        .await
        .expect("a reading");
    let mut documents = Vec::new();
    loop {
        let page = reading.next_page().await.expect("a page");
        if page.is_empty() {
            return (reading, documents);
        }
        documents.extend(page);
    }
}

async fn snapshot(store: &Store, region: &Region) -> (Position, Checksum, Copy) {
    let (reading, documents) = read_all(store, region, None).await;
    let mut copy = Copy::default();
    for document in documents {
        copy.apply(document);
    }
    let head = reading.head();
    (head.position, head.checksum(region), copy)
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn revisions_are_dense_and_in_commit_order_under_concurrent_writers(pool: PgPool) {
    let store = initialised(pool).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            for change in 0..20 {
                // Everybody fights for the same few documents.
                let published = publish(
                    &store,
                    &[
                        upsert("westus", change % 3, writer),
                        upsert("*", writer, change),
                    ],
                )
                .await;
                mine.push(published.revision);
            }
            mine
        }));
    }
    let mut all = Vec::new();
    for writer in writers {
        let mine = writer.await.expect("a writer must not panic");
        assert!(mine.is_sorted(), "one writer's revisions go up: {mine:?}");
        all.extend(mine);
    }
    all.sort();
    let expected: Vec<Revision> = (1..=u64::try_from(WRITERS).expect("small") * 20)
        .map(Revision)
        .collect();
    assert_eq!(all, expected);
    let (position, checksum, copy) = snapshot(&store, &Region("westus".into())).await;
    assert_eq!(position.revision, *expected.last().expect("not empty"));
    assert_eq!(copy.checksum(), checksum);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_transaction_that_is_rolled_back_uses_no_revision(pool: PgPool) {
    let store = initialised(pool).await;
    let mut transaction = store.begin().await.expect("a transaction");
    config::publish(&mut transaction, &[upsert("*", 1, 1)])
        .await
        .expect("published");
    drop(transaction);
    let published = publish(&store, &[upsert("*", 2, 1)]).await;
    assert_eq!(published.revision, Revision(1));
    let (_, checksum, copy) = snapshot(&store, &Region("westus".into())).await;
    assert_eq!(copy.documents.len(), 1);
    assert_eq!(copy.checksum(), checksum);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn checksums_equal_the_sum_of_live_documents_after_any_changes(pool: PgPool) {
    let store = initialised(pool).await;
    let mut numbers = Numbers(7);
    let regions = ["*", "westus", "northeurope"];
    for _ in 0..150 {
        let mut changes = Vec::new();
        for _ in 0..=numbers.below(5) {
            let region = regions[numbers.below(3) as usize];
            let key = u128::from(numbers.below(12));
            changes.push(if numbers.below(3) == 0 {
                delete(region, key)
            } else {
                upsert(region, key, u128::from(numbers.below(4)))
            });
        }
        publish(&store, &changes).await;
    }
    for region in regions {
        let region = Region(region.into());
        let (_, checksum, copy) = snapshot(&store, &region).await;
        assert!(!copy.documents.is_empty());
        assert_eq!(copy.checksum(), checksum, "region {region}");
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn of_several_changes_of_one_document_the_last_counts(pool: PgPool) {
    let store = initialised(pool).await;
    let published = publish(
        &store,
        &[
            upsert("westus", 1, 1),
            delete("westus", 1),
            upsert("westus", 1, 2),
            upsert("westus", 2, 1),
            delete("westus", 2),
        ],
    )
    .await;
    assert_eq!(published.regions, [Region("westus".into())]);
    let (_, checksum, copy) = snapshot(&store, &Region("westus".into())).await;
    let bodies: Vec<_> = copy
        .documents
        .values()
        .filter_map(|document| document.body.clone())
        .collect();
    assert_eq!(bodies, [group(1, 2).body()]);
    assert_eq!(copy.checksum(), checksum);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_deleted_document_is_sent_as_tombstone_and_left_out_of_snapshots(pool: PgPool) {
    let store = initialised(pool).await;
    let region = Region("westus".into());
    let first = publish(&store, &[upsert("westus", 1, 1), upsert("westus", 2, 1)]).await;
    let from = Position {
        epoch: first.epoch,
        revision: first.revision,
    };
    publish(&store, &[delete("westus", 1), delete("westus", 3)]).await;
    let batch = config::read(&store, from, 100).await.expect("a batch");
    let documents = batch.documents.expect("within the limit");
    assert_eq!(
        documents.len(),
        1,
        "what never was leaves no tombstone: {documents:?}"
    );
    assert_eq!(documents[0].key, Uuid::from_u128(1).to_string());
    assert_eq!(documents[0].body, None);
    let (reading, resumed) = read_all(&store, &region, Some(from)).await;
    assert!(!reading.is_snapshot());
    assert_eq!(resumed, documents);
    let (_, _, copy) = snapshot(&store, &region).await;
    assert_eq!(copy.documents.len(), 1);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_reader_misses_nothing_and_every_mark_holds_while_writers_write(pool: PgPool) {
    let store = initialised(pool).await;
    let region = Region("westus".into());
    let mut position = config::head(&store).await.expect("a head").position;
    let (reads, is_read) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, mut is_read) = (store.clone(), is_read.clone());
            tokio::spawn(async move {
                let mut numbers = Numbers(writer as u64);
                for at in 0..25 {
                    if at == 12 {
                        is_read
                            .wait_for(|is_read| *is_read)
                            .await
                            .expect("a reader");
                    }
                    let key = u128::from(numbers.below(8));
                    let region = ["*", "westus", "northeurope"][numbers.below(3) as usize];
                    let change = if numbers.below(4) == 0 {
                        delete(region, key)
                    } else {
                        upsert(region, key, u128::from(numbers.below(1000)))
                    };
                    publish(&store, &[change]).await;
                }
            })
        })
        .collect();
    let last = Revision(u64::try_from(WRITERS).expect("small") * 25);
    let mut copy = Copy::default();
    let mut batches = 0;
    while position.revision < last {
        let batch = config::read(&store, position, 10_000)
            .await
            .expect("a batch");
        for document in batch.documents.expect("within the limit") {
            assert!(document.revision > position.revision);
            assert!(document.revision <= batch.head.position.revision);
            if document.region.is_all() || document.region == region {
                copy.apply(document);
            }
        }
        position = batch.head.position;
        assert_eq!(
            copy.checksum(),
            batch.head.checksum(&region),
            "at {position:?}"
        );
        batches += 1;
        // The writers go on to their second half.
        reads.send_replace(true);
    }
    for writer in writers {
        writer.await.expect("a writer must not panic");
    }
    assert!(batches > 1, "the reader followed while the writers wrote");
    let (_, checksum, whole) = snapshot(&store, &region).await;
    assert_eq!(copy, whole);
    assert_eq!(copy.checksum(), checksum);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn the_pages_of_a_reading_are_of_one_moment(pool: PgPool) {
    let store = initialised(pool).await;
    let region = Region("westus".into());
    let many: Vec<Change> = (0..1_203).map(|key| upsert("westus", key, 1)).collect();
    let first = publish(&store, &many).await;
    let mut reading = Reading::begin(&store, &region, None)
        .await
        .expect("a reading");
    let mut copy = Copy::default();
    for page in 0.. {
        let documents = reading.next_page().await.expect("a page");
        if documents.is_empty() {
            assert_eq!(page, 3, "1,203 documents are three pages");
            break;
        }
        for document in documents {
            copy.apply(document);
        }
        // Changed and deleted behind the reading's back: it must not see it.
        publish(
            &store,
            &[upsert("westus", 1_202, 9), delete("westus", 1_201)],
        )
        .await;
    }
    assert_eq!(reading.head().position.revision, first.revision);
    assert_eq!(copy.documents.len(), 1_203);
    assert_eq!(copy.checksum(), reading.head().checksum(&region));
    reading.finish().await.expect("finished");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_long_way_back_is_read_in_pages_and_leads_to_the_snapshot(pool: PgPool) {
    let store = initialised(pool).await;
    let region = Region("westus".into());
    publish(&store, &[upsert("*", 1, 1)]).await;
    let (position, _, mut copy) = snapshot(&store, &region).await;
    let many = |content| -> Vec<Change> {
        (0..1_100)
            .map(|key| {
                upsert(
                    ["*", "westus", "northeurope"][key as usize % 3],
                    key,
                    content,
                )
            })
            .collect()
    };
    publish(&store, &many(1)).await;
    publish(&store, &many(2)[..700]).await;
    publish(&store, &[delete("*", 0)]).await;
    let batch = config::read(&store, position, 1_000)
        .await
        .expect("a batch");
    assert!(batch.documents.is_none(), "more than the limit");
    let (reading, documents) = read_all(&store, &region, Some(position)).await;
    assert!(documents.is_sorted_by_key(|document| document.revision));
    assert!(
        documents
            .iter()
            .all(|document| document.region.as_str() != "northeurope")
    );
    for document in documents {
        copy.apply(document);
    }
    assert_eq!(copy.checksum(), reading.head().checksum(&region));
    drop(reading);
    assert_eq!(copy, snapshot(&store, &region).await.2);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_copy_of_another_epoch_gets_a_snapshot(pool: PgPool) {
    let store = initialised(pool).await;
    publish(&store, &[upsert("*", 1, 1)]).await;
    let other = Position {
        epoch: Epoch(Uuid::from_u128(2)),
        revision: Revision(1),
    };
    let batch = config::read(&store, other, 100).await.expect("a batch");
    assert!(batch.documents.is_none());
    let reading = Reading::begin(&store, &Region("westus".into()), Some(other))
        .await
        .expect("a reading");
    assert!(reading.is_snapshot());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn nothing_is_published_before_there_is_a_head(pool: PgPool) {
    let store = Store::over(pool);
    let mut transaction = store.begin().await.expect("a transaction");
    let refused = config::publish(&mut transaction, &[upsert("*", 1, 1)]).await;
    assert!(matches!(refused, Err(StoreError::NotInitialised)));
    drop(transaction);
    let refused = config::head(&store).await;
    assert!(matches!(refused, Err(StoreError::NotInitialised)));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn built_in_roles_are_published_when_they_differ(pool: PgPool) {
    let store = initialised(pool).await;
    let first = config::publish_built_in_roles(&store)
        .await
        .expect("published")
        .expect("there were none");
    assert_eq!(first.revision, Revision(1));
    let again = config::publish_built_in_roles(&store).await.expect("read");
    assert_eq!(again, None);
    let (_, _, copy) = snapshot(&store, &Region("westus".into())).await;
    assert_eq!(copy.documents.len(), rbac::built_in_roles().len());
    let lost = rbac::built_in_roles()[0].id.to_string();
    let kind = Kind::RoleDefinition;
    let region = Region::all();
    publish(
        &store,
        &[Change::Delete {
            region,
            kind,
            key: lost,
        }],
    )
    .await;
    let repaired = config::publish_built_in_roles(&store)
        .await
        .expect("published");
    assert_eq!(
        repaired.map(|published| published.revision),
        Some(Revision(3))
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn other_control_planes_hear_what_is_announced_and_not_their_own(pool: PgPool) {
    let store = initialised(pool).await;
    let (own, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let mut listener = config::Listener::connect(&store).await.expect("connected");
    config::notify(&store, own).await.expect("announced");
    config::notify(&store, other).await.expect("announced");
    listener.heard(own).await.expect("heard the other");
    // The other's announcement was the only one to hear: the next wait ends with the next announcement.
    let next = tokio::spawn(async move { listener.heard(own).await });
    config::notify(&store, own).await.expect("announced");
    config::notify(&store, other).await.expect("announced");
    next.await
        .expect("no panic")
        .expect("heard the other again");
}
