//! What becomes of a transaction that is not committed, and of its connection, on a real Postgres.

mod support;

use std::time::Duration;

use config_documents::{Document, Epoch, Group, Region, Revision};
use sqlx::PgPool;
use store::config::{self, Change, Published};
use store::{Store, StoreError};
use uuid::Uuid;

use support::with_head;

/// Over a pool that puts connections by.
async fn initialised(pool: PgPool) -> Store {
    with_head(
        Store::over(pool).with_own_pool(2),
        Epoch(Uuid::from_u128(1)),
    )
    .await
}

fn change() -> [Change; 1] {
    [Change::Upsert {
        region: Region::all(),
        document: Document::Group(Group {
            object_id: Uuid::from_u128(1),
            groups: Vec::new(),
        }),
    }]
}

async fn publish(store: &Store) -> Result<Published, StoreError> {
    let mut transaction = store.begin().await?;
    let published = config::publish(&mut transaction, &change()).await?;
    transaction.commit().await?;
    Ok(published)
}

/// A task of its own rolls back what was dropped.
async fn no_transaction_stays_open(store: &Store) -> bool {
    for _ in 0..1000 {
        let open: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
        )
        .fetch_one(store.pool())
        .await
        .expect("a count");
        if open == 0 {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    false
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn one_that_is_dropped_is_rolled_back_whoever_has_its_connection_next(pool: PgPool) {
    let store = initialised(pool).await;
    for _ in 0..20 {
        let mut transaction = store.begin().await.expect("a transaction");
        config::publish(&mut transaction, &change())
            .await
            .expect("published");
        drop(transaction);
        let head = config::head(&store).await.expect("a head");
        assert_eq!(head.position.revision, Revision(0));
    }
    let published = publish(&store).await.expect("published");
    assert_eq!(published.revision, Revision(1));
    assert!(no_transaction_stays_open(&store).await);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn one_that_is_given_up_while_a_statement_waits_leaves_nothing(pool: PgPool) {
    let store = initialised(pool.clone()).await;
    for _ in 0..3 {
        let mut holding = pool.begin().await.expect("a transaction");
        sqlx::query("SELECT FROM config_head FOR UPDATE")
            .execute(&mut *holding)
            .await
            .expect("locked");
        let given_up = tokio::time::timeout(Duration::from_millis(100), publish(&store)).await;
        assert!(given_up.is_err(), "it did not wait: {given_up:?}");
        holding.rollback().await.expect("rolled back");
    }
    let published = publish(&store).await.expect("published");
    assert_eq!(published.revision, Revision(1));
    assert!(no_transaction_stays_open(&store).await);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn one_whose_connection_broke_takes_no_other_with_it(pool: PgPool) {
    let store = initialised(pool.clone()).await;
    let mut transaction = store.begin().await.expect("a transaction");
    let id: i32 = sqlx::query_scalar("SELECT pg_backend_pid()")
        .fetch_one(&mut *transaction)
        .await
        .expect("a number");
    let ended: bool = sqlx::query_scalar("SELECT pg_terminate_backend($1, 5000)")
        .bind(id)
        .fetch_one(&pool)
        .await
        .expect("ended");
    assert!(ended);
    let refused = config::publish(&mut transaction, &change()).await;
    assert!(
        matches!(refused, Err(StoreError::Unavailable(_))),
        "{refused:?}"
    );
    drop(transaction);
    let published = publish(&store).await.expect("published");
    assert_eq!(published.revision, Revision(1));
}
