//! Registry nodes: join tokens, enrolment, credentials, and how far each node has got ([`progress`]).

mod progress;
mod removal;
mod rotation;

pub use progress::{
    FENCE_MARGIN, LEASE, NewStream, NodeProgress, NodeState, Progress, Written, list,
    progress_forget, progress_write, stream_begin, survey,
};
pub use removal::{Removal, remove, removed_by_credential};
pub use rotation::{
    RETIRED_KEY_VALIDITY, Rotation, RotationState, retired_keys_withdraw, rotation_announce,
    rotation_finish, rotation_request, rotation_state,
};

use std::collections::BTreeMap;

use config_documents::{Document, Node, Region, SigningKey};
use credentials::{PublicKey, Randomness, Secret, SecretKind, Verifier, generate};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::{Change, FormMap, Forms, Published, publish};
use crate::{Store, StoreError, Transaction};

/// How long a join token can be used: long enough to set up a machine, short enough to be forgotten in a shell's history.
pub const JOIN_TOKEN_VALIDITY: time::Duration = time::Duration::hours(24);

/// How long a used or expired join token is remembered, to tell the two apart from a wrong one.
const JOIN_TOKEN_MEMORY: time::Duration = time::Duration::days(30);

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
    /// The newest form of each kind that it understands.
    pub forms: BTreeMap<String, u32>,
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
    /// The node's build is too old: kinds with the form that is published, which it would not understand.
    FormsBeyond {
        forms: Vec<(String, u32)>,
    },
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
        let Some(node_id) = enrol_again(&mut transaction, token.node_id, new).await? else {
            return Ok(Enrolment::TokenUsed { used_at });
        };
        return finish(transaction, node_id, new, None).await;
    }
    if token.expires_at <= now {
        return Ok(Enrolment::TokenExpired {
            expired_at: token.expires_at,
        });
    }
    let Some(published) = enrol_first(&mut transaction, token_id, new, now).await? else {
        return Ok(Enrolment::KeyInUse);
    };
    finish(transaction, new.node_id, new, Some(published)).await
}

/// Commits an enrolment, unless the node's build is too old.
async fn finish(
    mut transaction: Transaction,
    node_id: Uuid,
    new: &NewNode,
    published: Option<Published>,
) -> Result<Enrolment, StoreError> {
    let forms = forms_beyond(&mut transaction, &new.forms).await?;
    if !forms.is_empty() {
        return Ok(Enrolment::FormsBeyond { forms });
    }
    transaction.commit().await?;
    Ok(Enrolment::Enrolled { node_id, published })
}

/// The kinds whose form in use a node does not understand. Compared under the head's lock, after the node's row is written: the forms in
/// use are raised under that lock too, by the rows that there are then.
async fn forms_beyond(
    transaction: &mut Transaction,
    understood: &FormMap,
) -> Result<Vec<(String, u32)>, StoreError> {
    let in_use = sqlx::query_scalar!(
        r#"SELECT forms AS "forms: Json<FormMap>" FROM config_head WHERE singleton FOR SHARE"#
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(Forms(in_use.0).beyond(understood))
}

/// Verifiers are salted, so the token is looked for among all that there are: a few.
async fn join_token_find(
    transaction: &mut Transaction,
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
    transaction: &mut Transaction,
    token_id: Uuid,
    new: &NewNode,
    now: OffsetDateTime,
) -> Result<Option<Published>, StoreError> {
    let inserted = sqlx::query!(
        r#"
        INSERT INTO nodes (node_id, region, address, verifier, kid, forms, created_at)
        SELECT $1, $2, $3, $4, $5, $6, $7
        WHERE NOT EXISTS (SELECT FROM nodes WHERE next_kid = $5) AND NOT EXISTS (SELECT FROM retired_signing_keys WHERE kid = $5)
        ON CONFLICT (kid) DO NOTHING
        "#,
        new.node_id,
        new.region.as_str(),
        new.address,
        new.verifier.to_bytes(),
        new.public_key.kid(),
        Json(&new.forms) as _,
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
        Change::Upsert {
            region: new.region.clone(),
            document: signing_key,
        },
    ];
    publish(transaction, &changes).await.map(Some)
}

/// The same node with a new credential and the forms of its build now, if the token's node never connected and has the same key.
async fn enrol_again(
    transaction: &mut Transaction,
    node_id: Option<Uuid>,
    new: &NewNode,
) -> Result<Option<Uuid>, StoreError> {
    let updated = sqlx::query!(
        r#"
        UPDATE nodes SET verifier = $3, forms = $5
        WHERE node_id = $1 AND kid = $2 AND NOT EXISTS (SELECT FROM node_streams WHERE node_id = $1)
            AND EXISTS (
                SELECT FROM config_documents
                WHERE region IN ('*', nodes.region) AND kind = 'signing-key' AND key = $2 AND body::jsonb -> 'publicKey' = $4
            )
        RETURNING node_id
        "#,
        node_id,
        new.public_key.kid(),
        new.verifier.to_bytes(),
        Json(&new.public_key) as _,
        Json(&new.forms) as _
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
    /// The key that the node announced with this credential, when it connects with it for the first time: see [`rotation_finish`].
    pub next_kid: Option<String>,
    /// Whether an operator asks for a new credential and key.
    pub rotation_requested: bool,
}

/// The enrolled node whose credential this is. Verifiers are salted, so all are tried: a fraction of a microsecond each.
///
/// # Errors
/// Those of the database.
pub async fn by_credential(
    store: &Store,
    credential: &str,
) -> Result<Option<NodeIdentity>, StoreError> {
    let nodes = sqlx::query!(
        r#"
        SELECT node_id, region, address, verifier, next_verifier, next_kid, rotation_requested_at IS NOT NULL AS "rotation_requested!"
        FROM nodes
        "#
    )
    .fetch_all(store.pool())
    .await?;
    for node in nodes {
        let is_present = verifier_of("nodes", &node.verifier)?.matches(credential);
        let is_next = match &node.next_verifier {
            Some(next) if !is_present => verifier_of("nodes", next)?.matches(credential),
            _ => false,
        };
        if is_present || is_next {
            return Ok(Some(NodeIdentity {
                node_id: node.node_id,
                region: Region(node.region),
                address: node.address,
                next_kid: node.next_kid.filter(|_| is_next),
                rotation_requested: node.rotation_requested && !is_next,
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
