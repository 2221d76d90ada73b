//! Registry nodes: join tokens, enrolment, credentials, and how far each node has got.
//!
//! Progress and leases are ordinary rows, so that a control plane can wait for nodes that are connected to another one. They are written
//! often and never touch the head of the configuration; their clock is Postgres's.

use std::collections::BTreeMap;
use std::time::Duration;

use config_documents::{Document, Epoch, Node, Region, Rejected, Revision, SigningKey};
use credentials::{PublicKey, Randomness, Secret, SecretKind, Verifier, generate};
use sqlx::types::Json;
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::{Change, Published, column_of, publish, revision_of};
use crate::{Store, StoreError};

/// How long a join token can be used: long enough to set up a machine, short enough to be forgotten in a shell's history.
pub const JOIN_TOKEN_VALIDITY: time::Duration = time::Duration::hours(24);

/// How long a used or expired join token is remembered, to tell the two apart from a wrong one.
const JOIN_TOKEN_MEMORY: time::Duration = time::Duration::days(30);

/// How long a node counts as alive after its last sign of progress.
pub const LEASE: Duration = Duration::from_secs(10);

/// A join token that was just made; its text is shown once and never kept.
pub struct JoinToken {
    pub secret: Secret,
    pub region: Region,
    pub expires_at: OffsetDateTime,
}

/// Makes a one-time join token for a region; `None` when there is no such region. For `wharfinger admin node create`.
///
/// # Errors
/// Those of the database.
pub async fn join_token_create(
    store: &Store,
    token_id: Uuid,
    region: &Region,
    randomness: &dyn Randomness,
    now: OffsetDateTime,
) -> Result<Option<JoinToken>, StoreError> {
    let secret = generate(SecretKind::JoinToken, randomness);
    let verifier = Verifier::of(&secret, randomness);
    let expires_at = now + JOIN_TOKEN_VALIDITY;
    let created = sqlx::query!(
        r#"
        WITH forgotten AS (DELETE FROM node_join_tokens WHERE expires_at < $6)
        INSERT INTO node_join_tokens (token_id, region, verifier, created_at, expires_at)
        SELECT $1, name, $3, $4, $5 FROM regions WHERE name = $2
        "#,
        token_id,
        region.as_str(),
        verifier.to_bytes(),
        now,
        expires_at,
        now - JOIN_TOKEN_MEMORY
    )
    .execute(store.pool())
    .await?;
    Ok((created.rows_affected() == 1).then(|| JoinToken {
        secret,
        region: region.clone(),
        expires_at,
    }))
}

/// A node that wants to enrol.
pub struct NewNode {
    /// Its id, if this is its first try.
    pub node_id: Uuid,
    pub region: Region,
    /// Host and port at which other nodes reach it.
    pub address: String,
    /// Of the credential that it gets.
    pub verifier: Verifier,
    pub public_key: PublicKey,
}

/// What came of an enrolment.
#[derive(Debug)]
pub enum Enrolment {
    /// The node is enrolled under this id, and its documents are published (unless an earlier try had published them).
    Enrolled {
        node_id: Uuid,
        published: Option<Published>,
    },
    /// No join token has this text.
    UnknownToken,
    TokenUsed {
        used_at: OffsetDateTime,
    },
    TokenExpired {
        expired_at: OffsetDateTime,
    },
    /// The token is for another region.
    OtherRegion {
        region: Region,
    },
    /// Another node signs with a key of this name.
    KeyInUse,
}

/// Enrols a node and uses up its join token, in one transaction with the documents that tell other nodes about it.
///
/// A node that never got its answer may repeat the call with the same token and key until it has connected once; it then gets the same id
/// and a new credential.
///
/// # Errors
/// Those of the database.
pub async fn enrol(
    store: &Store,
    join_token: &str,
    new: &NewNode,
    now: OffsetDateTime,
) -> Result<Enrolment, StoreError> {
    let mut transaction = store.begin().await?;
    let Some(token_id) = join_token_find(&mut transaction, join_token).await? else {
        return Ok(Enrolment::UnknownToken);
    };
    let token = sqlx::query!(
        "SELECT region, expires_at, used_at, node_id FROM node_join_tokens WHERE token_id = $1 FOR UPDATE",
        token_id
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(token) = token else {
        return Ok(Enrolment::UnknownToken);
    };
    if token.region != new.region.as_str() {
        return Ok(Enrolment::OtherRegion {
            region: Region(token.region),
        });
    }
    if let Some(used_at) = token.used_at {
        return match enrol_again(&mut transaction, token.node_id, new).await? {
            Some(node_id) => {
                transaction.commit().await?;
                Ok(Enrolment::Enrolled {
                    node_id,
                    published: None,
                })
            }
            None => Ok(Enrolment::TokenUsed { used_at }),
        };
    }
    if token.expires_at <= now {
        return Ok(Enrolment::TokenExpired {
            expired_at: token.expires_at,
        });
    }
    let Some(published) = enrol_first(&mut transaction, token_id, new, now).await? else {
        return Ok(Enrolment::KeyInUse);
    };
    transaction.commit().await?;
    Ok(Enrolment::Enrolled {
        node_id: new.node_id,
        published: Some(published),
    })
}

/// Verifiers are salted, so the token is looked for among all that there are: a few.
async fn join_token_find(
    transaction: &mut Transaction<'_, Postgres>,
    join_token: &str,
) -> Result<Option<Uuid>, StoreError> {
    let tokens = sqlx::query!("SELECT token_id, verifier FROM node_join_tokens")
        .fetch_all(&mut **transaction)
        .await?;
    for token in tokens {
        if verifier_of("node_join_tokens", &token.verifier)?.matches(join_token) {
            return Ok(Some(token.token_id));
        }
    }
    Ok(None)
}

async fn enrol_first(
    transaction: &mut Transaction<'_, Postgres>,
    token_id: Uuid,
    new: &NewNode,
    now: OffsetDateTime,
) -> Result<Option<Published>, StoreError> {
    let inserted = sqlx::query!(
        r#"
        INSERT INTO nodes (node_id, region, address, verifier, kid, created_at) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (kid) DO NOTHING
        "#,
        new.node_id,
        new.region.as_str(),
        new.address,
        new.verifier.to_bytes(),
        new.public_key.kid(),
        now
    )
    .execute(&mut **transaction)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    sqlx::query!(
        "UPDATE node_join_tokens SET used_at = $2, node_id = $3 WHERE token_id = $1",
        token_id,
        now,
        new.node_id
    )
    .execute(&mut **transaction)
    .await?;
    let signing_key = Document::SigningKey(SigningKey {
        node_id: new.node_id,
        public_key: new.public_key.clone(),
        region: Some(new.region.clone()),
    });
    let changes = [
        node_change(new.node_id, &new.region, &new.address),
        // Only its own region accepts tokens that it signs.
        Change::Upsert {
            region: new.region.clone(),
            document: signing_key,
        },
    ];
    publish(transaction, &changes).await.map(Some)
}

/// The same node with a new credential, if the token's node never connected and has the same key.
async fn enrol_again(
    transaction: &mut Transaction<'_, Postgres>,
    node_id: Option<Uuid>,
    new: &NewNode,
) -> Result<Option<Uuid>, StoreError> {
    let updated = sqlx::query!(
        r#"
        UPDATE nodes SET verifier = $3
        WHERE node_id = $1 AND kid = $2 AND NOT EXISTS (SELECT FROM node_progress WHERE node_id = $1)
            AND EXISTS (
                SELECT FROM config_documents
                WHERE region = nodes.region AND kind = 'signing-key' AND key = $2 AND body::jsonb -> 'publicKey' = $4
            )
        RETURNING node_id
        "#,
        node_id,
        new.public_key.kid(),
        new.verifier.to_bytes(),
        Json(&new.public_key) as _
    )
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(updated.map(|row| row.node_id))
}

/// Every node has all of these: it may have to forward to a node of another region.
fn node_change(node_id: Uuid, region: &Region, address: &str) -> Change {
    Change::Upsert {
        region: Region::all(),
        document: Document::Node(Node {
            node_id,
            region: region.clone(),
            address: address.to_owned(),
        }),
    }
}

/// Remembers and publishes a node's address; `None` when it was known, or when the node is not enrolled.
///
/// # Errors
/// Those of the database.
pub async fn address_update(
    store: &Store,
    node_id: Uuid,
    address: &str,
) -> Result<Option<Published>, StoreError> {
    let mut transaction = store.begin().await?;
    let updated = sqlx::query!(
        "UPDATE nodes SET address = $2 WHERE node_id = $1 AND address <> $2 RETURNING region",
        node_id,
        address
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(node) = updated else {
        return Ok(None);
    };
    let change = node_change(node_id, &Region(node.region), address);
    let published = publish(&mut transaction, &[change]).await?;
    transaction.commit().await?;
    Ok(Some(published))
}

/// A node, as its credential names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    pub node_id: Uuid,
    pub region: Region,
    pub address: String,
}

/// The enrolled node whose credential this is. Verifiers are salted, so all are tried: a fraction of a microsecond each.
///
/// # Errors
/// Those of the database.
pub async fn by_credential(
    store: &Store,
    credential: &str,
) -> Result<Option<NodeIdentity>, StoreError> {
    let nodes = sqlx::query!("SELECT node_id, region, address, verifier FROM nodes")
        .fetch_all(store.pool())
        .await?;
    for node in nodes {
        if verifier_of("nodes", &node.verifier)?.matches(credential) {
            return Ok(Some(NodeIdentity {
                node_id: node.node_id,
                region: Region(node.region),
                address: node.address,
            }));
        }
    }
    Ok(None)
}

fn verifier_of(table: &'static str, bytes: &[u8]) -> Result<Verifier, StoreError> {
    Verifier::from_bytes(bytes).map_err(|error| StoreError::Corrupt {
        table,
        reason: error.to_string(),
    })
}

/// How far a node has got.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub node_id: Uuid,
    pub epoch: Epoch,
    /// All up to here is durable at the node and visible to requests, but for what is rejected.
    pub revision: Revision,
    /// Every document that the node holds and cannot understand.
    pub rejected: Vec<Rejected>,
    /// The newest form of each kind that it understands.
    pub forms: BTreeMap<String, u32>,
    /// Whether a stream begins with it: then the revision holds even where an earlier one was higher (the node's disk was restored).
    /// Otherwise it can only rise, since two control planes may write for a node that moves from one to the other.
    pub begins_stream: bool,
}

/// Writes the progress of many nodes, each at most once, in one statement, and renews their leases. Not waited for on disk
/// (`synchronous_commit = off`): after a crash of Postgres nodes say it again.
///
/// Returns the nodes that are still enrolled.
///
/// # Errors
/// Those of the database.
pub async fn progress_write(store: &Store, progress: &[Progress]) -> Result<Vec<Uuid>, StoreError> {
    let ids: Vec<Uuid> = progress.iter().map(|node| node.node_id).collect();
    let epochs: Vec<Uuid> = progress.iter().map(|node| node.epoch.0).collect();
    let revisions: Vec<i64> = progress
        .iter()
        .map(|node| column_of(node.revision))
        .collect();
    let rejected: Vec<Json<&[Rejected]>> = progress
        .iter()
        .map(|node| Json(node.rejected.as_slice()))
        .collect();
    let forms: Vec<Json<&BTreeMap<String, u32>>> =
        progress.iter().map(|node| Json(&node.forms)).collect();
    let begins: Vec<bool> = progress.iter().map(|node| node.begins_stream).collect();
    let mut transaction = store
        .pool()
        .begin_with("BEGIN; SET LOCAL synchronous_commit = off")
        .await?;
    // Rows are written in the order of ids, so that two control planes cannot wait for each other.
    let enrolled = sqlx::query_scalar!(
        r#"
        INSERT INTO node_progress AS known (node_id, epoch, revision, rejected, forms, lease_expires_at)
        SELECT node_id, input.epoch, input.revision, input.rejected, input.forms, clock_timestamp() + make_interval(secs => $7)
        FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::jsonb[], $5::jsonb[], $6::boolean[])
            AS input (node_id, epoch, revision, rejected, forms, begins)
        JOIN nodes USING (node_id)
        ORDER BY node_id, input.epoch
        ON CONFLICT (node_id, epoch) DO UPDATE SET
            revision = CASE
                WHEN EXCLUDED.node_id = ANY(
                    SELECT begun.node_id FROM UNNEST($1::uuid[], $6::boolean[]) AS begun (node_id, begins) WHERE begun.begins
                ) THEN EXCLUDED.revision
                ELSE greatest(known.revision, EXCLUDED.revision)
            END,
            rejected = EXCLUDED.rejected,
            forms = EXCLUDED.forms,
            lease_expires_at = EXCLUDED.lease_expires_at
        RETURNING node_id
        "#,
        &ids,
        &epochs,
        &revisions,
        &rejected as _,
        &forms as _,
        &begins,
        LEASE.as_secs_f64()
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(enrolled)
}

/// An enrolled node, and what is known of it in the head's epoch.
#[derive(Debug, Clone)]
pub struct NodeState {
    pub node_id: Uuid,
    pub region: Region,
    pub address: String,
    pub enrolled_at: OffsetDateTime,
    /// What it has of the head's epoch; `None` when it never had any.
    pub progress: Option<NodeProgress>,
    /// By Postgres's clock; `None` for a node that never connected.
    pub lease_expires_at: Option<OffsetDateTime>,
    /// How long its lease lasts from the moment of reading; zero when it has ended.
    pub lease_remaining: Duration,
}

#[derive(Debug, Clone)]
pub struct NodeProgress {
    pub epoch: Epoch,
    pub revision: Revision,
    pub rejected: Vec<Rejected>,
}

/// All enrolled nodes, in the order of region and id.
///
/// # Errors
/// Those of the database.
pub async fn list(store: &Store) -> Result<Vec<NodeState>, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT
            node_id, nodes.region, nodes.address, nodes.created_at,
            progress.epoch AS "epoch?", progress.revision AS "revision?",
            progress.rejected AS "rejected?: Json<Vec<Rejected>>",
            lease.expires_at AS "lease_expires_at?",
            extract(epoch FROM lease.expires_at - clock_timestamp())::float8 AS "lease_seconds?"
        FROM nodes
        LEFT JOIN config_head ON true
        LEFT JOIN node_progress AS progress USING (node_id, epoch)
        LEFT JOIN LATERAL (
            SELECT max(lease_expires_at) AS expires_at FROM node_progress AS any_epoch WHERE any_epoch.node_id = nodes.node_id
        ) AS lease ON true
        ORDER BY nodes.region, node_id
        "#
    )
    .fetch_all(store.pool())
    .await?;
    rows.into_iter()
        .map(|row| {
            let progress = match (row.epoch, row.revision, row.rejected) {
                (Some(epoch), Some(revision), Some(Json(rejected))) => Some(NodeProgress {
                    epoch: Epoch(epoch),
                    revision: revision_of(revision)?,
                    rejected,
                }),
                _ => None,
            };
            let lease_seconds = row.lease_seconds.unwrap_or(0.0).max(0.0);
            Ok(NodeState {
                node_id: row.node_id,
                region: Region(row.region),
                address: row.address,
                enrolled_at: row.created_at,
                progress,
                lease_expires_at: row.lease_expires_at,
                lease_remaining: Duration::try_from_secs_f64(lease_seconds).unwrap_or_default(),
            })
        })
        .collect()
}
