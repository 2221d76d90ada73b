//! Forgetting what was deleted long ago. A node that has not been here since then gets a snapshot.

use std::time::Duration;

use config_documents::Revision;

use super::revision_of;
use crate::{Store, StoreError};

/// How long a tombstone is kept.
pub const TOMBSTONE_AGE: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    pub tombstones: u64,
    /// Whoever has less than this needs a snapshot.
    pub purged_through: Revision,
}

/// Forgets tombstones older than `age`, the oldest first and at most `limit`, under the head's lock. By Postgres's clock.
///
/// # Errors
/// [`StoreError::NotInitialised`] without a head; otherwise those of the database.
pub async fn tombstones_purge(
    store: &Store,
    age: Duration,
    limit: u32,
) -> Result<Purged, StoreError> {
    let mut transaction = store.begin().await?;
    let purged_through =
        sqlx::query_scalar!("SELECT purged_through FROM config_head WHERE singleton FOR UPDATE")
            .fetch_optional(&mut *transaction)
            .await?
            .ok_or(StoreError::NotInitialised)?;
    // By age, not by revision: the highest revision among them counts, and a tombstone below it that stays is merely not needed.
    let gone = sqlx::query!(
        r#"
        WITH old AS (
            SELECT region, kind, key FROM config_documents
            WHERE deleted AND deleted_at < clock_timestamp() - make_interval(secs => $1)
            ORDER BY deleted_at LIMIT $2
        ),
        gone AS (
            DELETE FROM config_documents AS document USING old
            WHERE (document.region, document.kind, document.key) = (old.region, old.kind, old.key)
            RETURNING document.revision
        )
        SELECT count(*) AS "count!", max(revision) AS "through" FROM gone
        "#,
        age.as_secs_f64(),
        i64::from(limit)
    )
    .fetch_one(&mut *transaction)
    .await?;
    let purged_through = purged_through.max(gone.through.unwrap_or(0));
    if gone.count > 0 {
        sqlx::query!(
            "UPDATE config_head SET purged_through = $1 WHERE singleton",
            purged_through
        )
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    Ok(Purged {
        tombstones: u64::try_from(gone.count).unwrap_or(0),
        purged_through: revision_of(purged_through)?,
    })
}
