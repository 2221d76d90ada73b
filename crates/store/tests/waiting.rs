//! What waiting is bounded by, on a real Postgres.

use std::time::{Duration, Instant};

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use store::{LOCK_TIMEOUT, Store, StoreError};

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_lock_that_is_never_released_is_not_waited_for_without_end(
    pool: PgPoolOptions,
    options: PgConnectOptions,
) {
    let store = Store::open(options.to_url_lossy().as_str()).expect("a URL");
    let pool = pool.connect_with(options).await.expect("the database");
    let mut hanging = pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE regions IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *hanging)
        .await
        .expect("locked");
    let started = Instant::now();
    let outcome = store.region_list().await;
    assert!(
        matches!(outcome, Err(StoreError::Unavailable(_))),
        "{outcome:?}"
    );
    assert!(started.elapsed() < LOCK_TIMEOUT + Duration::from_secs(60));
    hanging.rollback().await.expect("rolled back");
    assert!(store.region_list().await.is_ok());
}
