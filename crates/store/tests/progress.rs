//! Streams, leases, progress and fencing of nodes, on a real Postgres.

use config_documents::{Epoch, Region, Rejected, Revision, forms};
use sqlx::PgPool;
use store::Store;
use store::config;
use store::nodes::{self, LEASE, NewStream, NodeState, Progress, Written};
use uuid::Uuid;

const EPOCH: Epoch = Epoch(Uuid::from_u128(1));

async fn with_nodes(pool: PgPool, count: u128) -> Store {
    let store = Store::over(pool);
    let mut transaction = store.begin().await.expect("a transaction");
    config::initialise(&mut transaction, EPOCH)
        .await
        .expect("a head");
    transaction.commit().await.expect("committed");
    sqlx::query("INSERT INTO regions (name, display_name) VALUES ('westus', 'West US')")
        .execute(store.pool())
        .await
        .expect("a region");
    for id in 1..=count {
        sqlx::query(
            "INSERT INTO nodes (node_id, region, address, verifier, kid, forms, created_at) VALUES ($1, 'westus', 'a:1', '', $2, '{}', now())",
        )
        .bind(Uuid::from_u128(id))
        .bind(id.to_string())
        .execute(store.pool())
        .await
        .expect("a node");
    }
    store
}

fn stream(id: u128, stream_id: u128, revision: u64) -> NewStream {
    NewStream {
        stream_id: Uuid::from_u128(stream_id),
        node_id: Uuid::from_u128(id),
        epoch: EPOCH,
        revision: Revision(revision),
        forms: forms(),
        staleness_bound_seconds: None,
    }
}

async fn begin(store: &Store, stream: &NewStream) {
    assert!(nodes::stream_begin(store, stream).await.expect("asked"));
}

fn progress(id: u128, stream_id: u128, revision: u64) -> Progress {
    Progress {
        node_id: Uuid::from_u128(id),
        stream_id: Uuid::from_u128(stream_id),
        epoch: EPOCH,
        revision: Revision(revision),
        rejected: Vec::new(),
    }
}

async fn write(store: &Store, progress: Progress) -> Written {
    let written = nodes::progress_write(store, &[progress]).await;
    written.expect("written")[0]
}

async fn node(store: &Store, id: u128) -> NodeState {
    let nodes = nodes::list(store).await.expect("listed");
    let node = nodes
        .into_iter()
        .find(|node| node.node_id == Uuid::from_u128(id));
    node.expect("enrolled")
}

async fn revision_of(store: &Store, id: u128) -> Option<Revision> {
    let progress = node(store, id).await.progress;
    progress.map(|progress| progress.revision)
}

fn rejected(revision: u64) -> Vec<Rejected> {
    vec![Rejected {
        region: Region("westus".into()),
        kind: "ship".into(),
        key: "k".into(),
        revision: Revision(revision),
        reason: "unknown".into(),
    }]
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn progress_of_many_nodes_is_written_at_once(pool: PgPool) {
    let store = with_nodes(pool, 3).await;
    assert_eq!(revision_of(&store, 1).await, None);
    begin(&store, &stream(1, 11, 0)).await;
    begin(&store, &stream(2, 12, 0)).await;
    let mut second = progress(2, 12, 6);
    second.rejected = rejected(5);
    let rows = [progress(99, 19, 7), second, progress(1, 11, 5)];
    let written = nodes::progress_write(&store, &rows).await.expect("written");
    assert_eq!(
        written,
        [Written::Unknown, Written::Heard, Written::Heard],
        "99 is not enrolled, and nobody removed it"
    );
    assert_eq!(revision_of(&store, 1).await, Some(Revision(5)));
    let second = node(&store, 2).await;
    assert_eq!(second.progress.expect("has progress").rejected, rejected(5));
    assert!(!second.lease_remaining.is_zero() && second.lease_remaining <= LEASE);
    assert!(second.applied_at.is_some() && second.age.is_some());
    let third = node(&store, 3).await;
    assert!(third.lease_remaining.is_zero() && third.lease_expires_at.is_none());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_an_older_stream_brings_does_not_count(pool: PgPool) {
    let store = with_nodes(pool, 1).await;
    begin(&store, &stream(1, 11, 0)).await;
    assert_eq!(write(&store, progress(1, 11, 5)).await, Written::Heard);
    // At another control plane.
    begin(&store, &stream(1, 12, 5)).await;
    assert_eq!(write(&store, progress(1, 11, 9)).await, Written::Superseded);
    assert_eq!(revision_of(&store, 1).await, Some(Revision(5)));
    assert_eq!(write(&store, progress(1, 12, 6)).await, Written::Heard);
    assert_eq!(revision_of(&store, 1).await, Some(Revision(6)));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_hello_lowers_what_is_known_and_never_raises_it(pool: PgPool) {
    let store = with_nodes(pool, 1).await;
    begin(&store, &stream(1, 11, 7)).await;
    assert_eq!(
        revision_of(&store, 1).await,
        Some(Revision(0)),
        "what it could not understand is not known"
    );
    let mut said = progress(1, 11, 7);
    said.rejected = rejected(7);
    assert_eq!(write(&store, said).await, Written::Heard);
    begin(&store, &stream(1, 12, 9)).await;
    let known = node(&store, 1).await.progress.expect("has progress");
    assert_eq!(
        (known.revision, known.rejected),
        (Revision(7), rejected(7)),
        "still rejected until it says otherwise"
    );
    begin(&store, &stream(1, 13, 3)).await;
    assert_eq!(
        revision_of(&store, 1).await,
        Some(Revision(3)),
        "its disk was restored"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn progress_of_another_epoch_keeps_the_lease_but_counts_for_nothing(pool: PgPool) {
    let store = with_nodes(pool, 1).await;
    begin(&store, &stream(1, 11, 0)).await;
    let mut other = progress(1, 11, 50);
    other.epoch = Epoch(Uuid::from_u128(2));
    assert_eq!(write(&store, other).await, Written::Heard);
    assert_eq!(revision_of(&store, 1).await, Some(Revision(0)));
    assert!(!node(&store, 1).await.lease_remaining.is_zero());
    assert_eq!(nodes::progress_forget(&store).await.expect("forgotten"), 1);
}

/// As if so much time had passed; without it that the epoch began long ago, as if Postgres had been running since.
async fn pass(store: &Store, seconds: f64) {
    sqlx::query("UPDATE node_streams SET applied_at = applied_at - make_interval(secs => $1), begun_at = begun_at - make_interval(secs => $1)")
        .bind(seconds)
        .execute(store.pool())
        .await
        .expect("passed");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_node_is_fenced_once_its_bound_and_a_tenth_have_passed(pool: PgPool) {
    let store = with_nodes(pool, 2).await;
    let mut bounded = stream(1, 11, 0);
    // Less than Postgres has been running in any test.
    let bound = 1;
    bounded.staleness_bound_seconds = Some(bound);
    begin(&store, &bounded).await;
    begin(&store, &stream(2, 12, 0)).await;
    for (id, stream_id) in [(1, 11), (2, 12)] {
        assert_eq!(
            write(&store, progress(id, stream_id, 1)).await,
            Written::Heard
        );
    }
    assert!(!node(&store, 1).await.is_fenced);
    pass(&store, 100.0).await;
    assert!(
        !node(&store, 1).await.is_fenced,
        "the epoch is younger than that, and may have lost what the node said since"
    );
    sqlx::query("UPDATE config_head SET begun_at = begun_at - interval '100 seconds'")
        .execute(store.pool())
        .await
        .expect("passed");
    let fenced = node(&store, 1).await;
    assert!(fenced.is_fenced);
    assert_eq!(fenced.staleness_bound_seconds, Some(1));
    assert!(!node(&store, 2).await.is_fenced, "it has no bound");
    assert_eq!(write(&store, progress(1, 11, 2)).await, Written::Heard);
    assert!(!node(&store, 1).await.is_fenced);
    pass(&store, 2.0).await;
    assert!(
        !node(&store, 1).await.is_fenced,
        "a backend that crashed may have lost what the node said in the last seconds"
    );
    // A longer bound counts as soon as the node may live by it.
    bounded.staleness_bound_seconds = None;
    bounded.stream_id = Uuid::from_u128(13);
    begin(&store, &bounded).await;
    pass(&store, 100.0).await;
    assert!(!node(&store, 1).await.is_fenced);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_removal_that_is_waited_for_is_told_as_such(pool: PgPool) {
    let store = with_nodes(pool, 1).await;
    begin(&store, &stream(1, 11, 0)).await;
    let mut removal = store.pool().begin().await.expect("a transaction");
    for sql in [
        "INSERT INTO removed_nodes SELECT node_id, region, address, '{}', now() FROM nodes",
        "DELETE FROM nodes",
    ] {
        sqlx::query(sql)
            .execute(&mut *removal)
            .await
            .expect("executed");
    }
    let writing = {
        let store = store.clone();
        tokio::spawn(async move { write(&store, progress(1, 11, 1)).await })
    };
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
    while !sqlx::query_scalar::<_, bool>(waiting)
        .fetch_one(store.pool())
        .await
        .expect("read")
    {
        tokio::task::yield_now().await;
    }
    removal.commit().await.expect("committed");
    assert_eq!(writing.await.expect("no panic"), Written::Removed);
}
