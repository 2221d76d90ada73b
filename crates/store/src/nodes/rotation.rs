//! A node's new credential and signing key: asked for by an operator, announced by the node, in force when the node first connects with them.

use std::time::Duration;

use config_documents::{
    Document, Epoch, Kind, REGISTRY_REFRESH_TOKEN_LIFETIME_SECONDS, Region, SigningKey,
};
use credentials::{PublicKey, Randomness, Secret, Verifier};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::verifier_of;
use crate::config::{Change, Published, publish, revision_of};
use crate::{Store, StoreError, Transaction};

/// How long the key of before a rotation is still accepted: as long as its last token lasts, and some time for what is under way.
pub const RETIRED_KEY_VALIDITY: Duration =
    Duration::from_secs(REGISTRY_REFRESH_TOKEN_LIFETIME_SECONDS + 5 * 60);

/// How far a node's rotation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotationState {
    pub region: Region,
    pub kid: String,
    /// The key that it has announced, until it connects with the credential that came with it.
    pub next_kid: Option<String>,
    pub requested_at: Option<OffsetDateTime>,
}

/// Asks a node for a new credential and key; false when there is no such node. Asking again changes nothing.
///
/// # Errors
/// Those of the database.
pub async fn rotation_request(store: &Store, node_id: Uuid) -> Result<bool, StoreError> {
    let asked = sqlx::query!(
        "UPDATE nodes SET rotation_requested_at = coalesce(rotation_requested_at, clock_timestamp()) WHERE node_id = $1",
        node_id
    )
    .execute(store.pool())
    .await?;
    Ok(asked.rows_affected() == 1)
}

/// How far a node's rotation is; `None` when there is no such node.
///
/// # Errors
/// Those of the database.
pub async fn rotation_state(
    store: &Store,
    node_id: Uuid,
) -> Result<Option<RotationState>, StoreError> {
    let node = sqlx::query!(
        "SELECT region, kid, next_kid, rotation_requested_at FROM nodes WHERE node_id = $1",
        node_id
    )
    .fetch_optional(store.pool())
    .await?;
    Ok(node.map(|node| RotationState {
        region: Region(node.region),
        kid: node.kid,
        next_kid: node.next_kid,
        requested_at: node.rotation_requested_at,
    }))
}

/// What came of an announcement.
#[derive(Debug)]
pub enum Rotation {
    /// The key is published with this.
    Announced { node_id: Uuid, published: Published },
    /// No enrolled node has the credential that it was announced with.
    UnknownCredential,
    /// Another key has this name.
    KeyInUse,
}

/// Takes a node's new credential and key, and publishes the key. With what was announced before it changes nothing, and says with which
/// revision that was published. `credential` is one that the node may connect with.
///
/// # Errors
/// Those of the database.
pub async fn rotation_announce(
    store: &Store,
    credential: &str,
    new_credential: &Secret,
    public_key: &PublicKey,
    randomness: &dyn Randomness,
) -> Result<Rotation, StoreError> {
    let Some(identity) = super::by_credential(store, credential).await? else {
        return Ok(Rotation::UnknownCredential);
    };
    let node_id = identity.node_id;
    let mut transaction = store.begin().await?;
    let node = sqlx::query!(
        "SELECT region, kid, verifier, next_kid, next_verifier FROM nodes WHERE node_id = $1 FOR UPDATE",
        node_id
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(node) = node else {
        return Ok(Rotation::UnknownCredential);
    };
    let kid = public_key.kid();
    let known = [
        (Some(&node.kid), Some(&node.verifier)),
        (node.next_kid.as_ref(), node.next_verifier.as_ref()),
    ];
    let same_key = known
        .into_iter()
        .find_map(|(known, verifier)| verifier.filter(|_| known.is_some_and(|known| known == kid)));
    if let Some(verifier) = same_key {
        let is_same = verifier_of("nodes", verifier)?.matches(new_credential.expose());
        let published = published_key(&mut transaction, public_key).await?;
        return Ok(match published {
            Some(published) if is_same => Rotation::Announced { node_id, published },
            _ => Rotation::KeyInUse,
        });
    }
    if is_key_in_use(&mut transaction, kid).await? {
        return Ok(Rotation::KeyInUse);
    }
    sqlx::query!(
        "UPDATE nodes SET next_verifier = $2, next_kid = $3 WHERE node_id = $1",
        node_id,
        Verifier::of(new_credential, randomness).to_bytes(),
        kid
    )
    .execute(&mut *transaction)
    .await?;
    let region = Region(node.region);
    let mut changes = vec![Change::Upsert {
        region: region.clone(),
        document: Document::SigningKey(SigningKey {
            node_id,
            public_key: public_key.clone(),
            region: Some(region.clone()),
        }),
    }];
    // One that was announced before and is given up.
    changes.extend(node.next_kid.map(|key| withdrawal(&region, key)));
    let published = publish(&mut transaction, &changes).await?;
    transaction.commit().await?;
    Ok(Rotation::Announced { node_id, published })
}

pub(super) fn withdrawal(region: &Region, key: String) -> Change {
    Change::Delete {
        region: region.clone(),
        kind: Kind::SigningKey,
        key,
    }
}

/// The revision with which exactly this key was published.
async fn published_key(
    transaction: &mut Transaction,
    public_key: &PublicKey,
) -> Result<Option<Published>, StoreError> {
    let row = sqlx::query!(
        r#"
        SELECT document.region, document.revision, head.epoch
        FROM config_documents AS document CROSS JOIN config_head AS head
        WHERE head.singleton AND document.kind = 'signing-key' AND document.key = $1 AND NOT document.deleted
            AND document.body::jsonb -> 'publicKey' = $2
        ORDER BY document.revision DESC LIMIT 1
        "#,
        public_key.kid(),
        Json(public_key) as _
    )
    .fetch_optional(&mut **transaction)
    .await?;
    row.map(|row| {
        Ok(Published {
            epoch: Epoch(row.epoch),
            revision: revision_of(row.revision)?,
            regions: vec![Region(row.region)],
        })
    })
    .transpose()
}

async fn is_key_in_use(transaction: &mut Transaction, kid: &str) -> Result<bool, StoreError> {
    let in_use = sqlx::query_scalar!(
        r#"
        SELECT EXISTS (SELECT FROM nodes WHERE kid = $1 OR next_kid = $1)
            OR EXISTS (SELECT FROM retired_signing_keys WHERE kid = $1) AS "in_use!"
        "#,
        kid
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(in_use)
}

/// The node connects with what it announced: that is in force, what was before is dead, and the key of before is retired. False when
/// another control plane was quicker.
///
/// # Errors
/// Those of the database.
pub async fn rotation_finish(
    store: &Store,
    node_id: Uuid,
    next_kid: &str,
) -> Result<bool, StoreError> {
    let finished = sqlx::query!(
        r#"
        WITH old AS (
            SELECT node_id, region, kid FROM nodes WHERE node_id = $1 AND next_kid = $2 FOR UPDATE
        ),
        retired AS (
            INSERT INTO retired_signing_keys (kid, node_id, region, retired_at)
            SELECT kid, node_id, region, clock_timestamp() FROM old
            ON CONFLICT (kid) DO NOTHING
        )
        UPDATE nodes SET
            verifier = next_verifier, kid = next_kid, next_verifier = NULL, next_kid = NULL, rotation_requested_at = NULL
        FROM old WHERE nodes.node_id = old.node_id
        "#,
        node_id,
        next_kid
    )
    .execute(store.pool())
    .await?;
    Ok(finished.rows_affected() == 1)
}

/// Withdraws the keys that were retired so long ago that none of their tokens is valid; `None` when there was none.
///
/// # Errors
/// Those of the database.
pub async fn retired_keys_withdraw(
    store: &Store,
    validity: Duration,
) -> Result<Option<Published>, StoreError> {
    let mut transaction = store.begin().await?;
    let keys = sqlx::query!(
        "DELETE FROM retired_signing_keys WHERE retired_at < clock_timestamp() - make_interval(secs => $1) RETURNING kid, region",
        validity.as_secs_f64()
    )
    .fetch_all(&mut *transaction)
    .await?;
    if keys.is_empty() {
        return Ok(None);
    }
    let changes: Vec<Change> = keys
        .into_iter()
        .map(|key| withdrawal(&Region(key.region), key.kid))
        .collect();
    let published = publish(&mut transaction, &changes).await?;
    transaction.commit().await?;
    Ok(Some(published))
}
