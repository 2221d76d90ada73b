//! Removing a node: its enrolment ends together with everything that others know of it.

use config_documents::{Kind, Region};
use uuid::Uuid;

use super::rotation::withdrawal;
use super::{NodeIdentity, verifier_of};
use crate::config::{Change, Published, publish};
use crate::{Store, StoreError};

/// A node that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    pub region: Region,
    pub address: String,
    pub published: Published,
}

/// Removes a node: its enrolment, what it can connect with, and its keys, also those of before a rotation; `None` when there is no such
/// node. It is remembered as removed, so that it can be told.
///
/// # Errors
/// Those of the database.
pub async fn remove(store: &Store, node_id: Uuid) -> Result<Option<Removal>, StoreError> {
    let mut transaction = store.begin().await?;
    let node = sqlx::query!(
        "DELETE FROM nodes WHERE node_id = $1 RETURNING region, address, verifier, next_verifier, kid, next_kid",
        node_id
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(node) = node else {
        return Ok(None);
    };
    let verifiers: Vec<Vec<u8>> = [Some(node.verifier), node.next_verifier]
        .into_iter()
        .flatten()
        .collect();
    sqlx::query!(
        r#"
        INSERT INTO removed_nodes (node_id, region, address, verifiers, removed_at) VALUES ($1, $2, $3, $4, clock_timestamp())
        ON CONFLICT (node_id) DO UPDATE SET verifiers = EXCLUDED.verifiers, removed_at = EXCLUDED.removed_at
        "#,
        node_id,
        node.region,
        node.address,
        &verifiers
    )
    .execute(&mut *transaction)
    .await?;
    let retired = sqlx::query_scalar!(
        "DELETE FROM retired_signing_keys WHERE node_id = $1 RETURNING kid",
        node_id
    )
    .fetch_all(&mut *transaction)
    .await?;
    let region = Region(node.region);
    let keys = [Some(node.kid), node.next_kid].into_iter().flatten();
    let mut changes: Vec<Change> = keys
        .chain(retired)
        .map(|key| withdrawal(&region, key))
        .collect();
    changes.push(Change::Delete {
        region: Region::all(),
        kind: Kind::Node,
        key: node_id.to_string(),
    });
    let published = publish(&mut transaction, &changes).await?;
    transaction.commit().await?;
    Ok(Some(Removal {
        region,
        address: node.address,
        published,
    }))
}

/// The removed node whose credential this was.
///
/// # Errors
/// Those of the database.
pub async fn removed_by_credential(
    store: &Store,
    credential: &str,
) -> Result<Option<NodeIdentity>, StoreError> {
    let nodes = sqlx::query!("SELECT node_id, region, address, verifiers FROM removed_nodes")
        .fetch_all(store.pool())
        .await?;
    for node in nodes {
        for verifier in &node.verifiers {
            if verifier_of("removed_nodes", verifier)?.matches(credential) {
                return Ok(Some(NodeIdentity {
                    node_id: node.node_id,
                    region: Region(node.region),
                    address: node.address,
                    next_kid: None,
                    rotation_requested: false,
                }));
            }
        }
    }
    Ok(None)
}
