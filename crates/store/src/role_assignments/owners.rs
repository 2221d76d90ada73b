//! The guard of a subscription's last Owner: without one, nobody could assign a role in it any more.
//!
//! Whoever takes away what may make somebody an Owner waits for all others who do ([`lock`]), looks which subscriptions are concerned, changes,
//! and asks whether each still has an Owner: an enabled person or service principal that holds the role at the subscription, itself or by
//! its groups.
//!
//! One lock for all subscriptions, because which of them are concerned can change until the commit: a role or a membership that somebody
//! is given meanwhile would make another removal count on a principal that this one is about to take away. Whoever gives never waits.

use uuid::{Uuid, uuid};

use crate::{StoreError, Transaction};

/// The built-in role.
pub(super) const OWNER: Uuid = uuid!("8e3af657-a8ff-443c-a75c-2fe8c4bcb635");

/// The database's only advisory lock: "owners" in ASCII.
const LOCK: i64 = 0x6f77_6e65_7273;

/// The subscription that a scope's key is, if it is one.
pub(super) fn subscription_of(scope_key: &str) -> Option<Uuid> {
    Uuid::try_parse(scope_key.strip_prefix("/subscriptions/")?).ok()
}

/// The subscriptions that a principal owns, itself or by its groups; others who take something away wait for this transaction from here.
pub(crate) async fn lock_owned_by(
    transaction: &mut Transaction,
    principal_id: Uuid,
) -> Result<Vec<Uuid>, StoreError> {
    lock(transaction).await?;
    let scope_keys = sqlx::query_scalar!(
        r#"WITH RECURSIVE counting (id) AS (
             SELECT $1::uuid
             UNION
             SELECT above.group_id FROM counting CROSS JOIN LATERAL (
               SELECT group_id FROM group_members m WHERE m.member_id = counting.id OFFSET 0) above)
           SELECT DISTINCT held.scope_key FROM counting CROSS JOIN LATERAL (
             SELECT scope_key FROM role_assignments a
             WHERE a.principal_id = counting.id AND a.role_definition_id = $2 OFFSET 0) held"#,
        principal_id,
        OWNER
    )
    .fetch_all(&mut **transaction)
    .await?;
    Ok(scope_keys
        .iter()
        .filter_map(|key| subscription_of(key))
        .collect())
}

/// Lets nobody else take away what may make somebody an Owner, until this transaction ends. What is read afterwards, in a statement of its
/// own, has what others took away before.
pub(super) async fn lock(transaction: &mut Transaction) -> Result<(), StoreError> {
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", LOCK)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Whether each of these subscriptions has an Owner as this transaction, which holds the lock, sees it.
pub(crate) async fn have_owners(
    transaction: &mut Transaction,
    subscriptions: &[Uuid],
) -> Result<bool, StoreError> {
    for subscription in subscriptions {
        let owned = sqlx::query_scalar!(
            r#"WITH RECURSIVE holding (id) AS (
                 SELECT principal_id FROM role_assignments WHERE scope_key = $1 AND role_definition_id = $2
                 UNION
                 SELECT below.member_id FROM holding CROSS JOIN LATERAL (
                   SELECT member_id FROM group_members m WHERE m.group_id = holding.id OFFSET 0) below)
               SELECT EXISTS (SELECT FROM holding JOIN principals p ON p.object_id = holding.id
                 WHERE p.enabled AND p.kind <> 'Group') AS "owned!""#,
            format!("/subscriptions/{subscription}"),
            OWNER
        )
        .fetch_one(&mut **transaction)
        .await?;
        if !owned {
            return Ok(false);
        }
    }
    Ok(true)
}
