//! The streams of nodes and how far each node has got, for control planes that it is not connected to.
//!
//! Written often, and never touching the head of the configuration; the clock is Postgres's.

use std::collections::BTreeMap;
use std::time::Duration;

use config_documents::{Epoch, Region, Rejected, Revision};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::{ATTEMPTS, Cause, Lineage, column_of, epoch_begin, revision_of};
use crate::{Store, StoreError};

/// How long a node counts as alive after its last sign of progress.
pub const LEASE: Duration = Duration::from_secs(10);

/// How much longer than its bound and a tenth a node is not taken for fenced: a crash of one backend makes Postgres lose what was not
/// waited for on disk, up to three times `wal_writer_delay` (200 ms unless set; this is enough up to a second), and it does not count as
/// a start of Postgres.
pub const FENCE_MARGIN: Duration = Duration::from_secs(3);

/// What a node said when it opened a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct NewStream {
    pub stream_id: Uuid,
    pub node_id: Uuid,
    /// The head's epoch.
    pub epoch: Epoch,
    /// What its copy holds of that epoch.
    pub revision: Revision,
    /// The newest form of each kind that it understands.
    pub forms: BTreeMap<String, u32>,
    /// The age of its configuration past which it refuses requests.
    pub staleness_bound_seconds: Option<u32>,
}

/// Takes a stream for the newest one of its node and begins its lease; false when the node is not enrolled.
///
/// What the node's copy holds can lower what was known of it (its disk was restored), but never raises it: which documents it cannot
/// understand is only known once it has answered a mark.
///
/// # Errors
/// Those of the database.
pub async fn stream_begin(store: &Store, stream: &NewStream) -> Result<bool, StoreError> {
    let begun = sqlx::query!(
        r#"
        WITH node AS (
            UPDATE nodes SET forms = $5 WHERE node_id = $1 RETURNING node_id
        ),
        progress AS (
            INSERT INTO node_progress AS known (node_id, epoch, revision, rejected)
            SELECT node_id, $3, 0, '[]' FROM node
            ON CONFLICT (node_id, epoch) DO UPDATE SET revision = least(known.revision, $4)
        )
        INSERT INTO node_streams AS known (node_id, stream_id, begun_at, staleness_bound_seconds, applied_at, lease_expires_at)
        SELECT node_id, $2, clock_timestamp(), $6::bigint, NULL::timestamptz, clock_timestamp() + make_interval(secs => $7) FROM node
        ON CONFLICT (node_id) DO UPDATE SET
            stream_id = EXCLUDED.stream_id, begun_at = EXCLUDED.begun_at,
            staleness_bound_seconds = EXCLUDED.staleness_bound_seconds, lease_expires_at = EXCLUDED.lease_expires_at
        "#,
        stream.node_id,
        stream.stream_id,
        stream.epoch.0,
        column_of(stream.revision),
        Json(&stream.forms) as _,
        stream.staleness_bound_seconds.map(i64::from),
        LEASE.as_secs_f64()
    )
    .execute(store.pool())
    .await?;
    Ok(begun.rows_affected() == 1)
}

/// How far a node has got, as it said on a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    pub node_id: Uuid,
    pub stream_id: Uuid,
    pub epoch: Epoch,
    /// All up to here is durable at the node and visible to requests, but for what is rejected.
    pub revision: Revision,
    /// The documents that the node holds and cannot understand; the newest of them when they are many.
    pub rejected: Vec<Rejected>,
}

/// What came of one node's [`Progress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Heard,
    /// The node opened another stream, at another control plane perhaps: what this one brings does not count.
    Superseded,
    /// An operator removed the node.
    Removed,
    /// No such node is enrolled, and none was removed: the database is being restored, or is one from before the node joined. Nobody has
    /// decided that the node may not serve what it has.
    Unknown,
}

/// Writes the progress of many nodes, each at most once, in one statement, and renews their leases; what came of each, in the same order.
/// Not waited for on disk (`synchronous_commit = off`): after a crash of Postgres nodes say it again.
///
/// # Errors
/// Those of the database.
pub async fn progress_write(
    store: &Store,
    progress: &[Progress],
) -> Result<Vec<Written>, StoreError> {
    let mut written = progress_write_once(store, progress).await?;
    // The statement may have waited for the node's removal, and still sees it as enrolled: another one sees what became of it.
    let superseded: Vec<usize> = (0..written.len())
        .filter(|at| written[*at] == Written::Superseded)
        .collect();
    if !superseded.is_empty() {
        let again: Vec<Progress> = superseded.iter().map(|at| progress[*at].clone()).collect();
        for (at, again) in superseded
            .into_iter()
            .zip(progress_write_once(store, &again).await?)
        {
            written[at] = again;
        }
    }
    Ok(written)
}

async fn progress_write_once(
    store: &Store,
    progress: &[Progress],
) -> Result<Vec<Written>, StoreError> {
    let ids: Vec<Uuid> = progress.iter().map(|node| node.node_id).collect();
    let streams: Vec<Uuid> = progress.iter().map(|node| node.stream_id).collect();
    let epochs: Vec<Uuid> = progress.iter().map(|node| node.epoch.0).collect();
    let revisions: Vec<i64> = progress
        .iter()
        .map(|node| column_of(node.revision))
        .collect();
    let rejected: Vec<Json<&[Rejected]>> = progress
        .iter()
        .map(|node| Json(node.rejected.as_slice()))
        .collect();
    let mut transaction = store
        .pool()
        .begin_with("BEGIN; SET LOCAL synchronous_commit = off")
        .await?;
    let rows = sqlx::query!(
        r#"
        WITH input AS (
            SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::jsonb[])
                AS input (node_id, stream_id, epoch, revision, rejected)
        ),
        newest AS (
            UPDATE node_streams AS known
            SET applied_at = clock_timestamp(), lease_expires_at = clock_timestamp() + make_interval(secs => $6)
            FROM input WHERE known.node_id = input.node_id AND known.stream_id = input.stream_id
            RETURNING known.node_id
        ),
        written AS (
            INSERT INTO node_progress (node_id, epoch, revision, rejected)
            SELECT node_id, epoch, revision, rejected FROM input JOIN newest USING (node_id) ORDER BY node_id
            ON CONFLICT (node_id, epoch) DO UPDATE SET revision = EXCLUDED.revision, rejected = EXCLUDED.rejected
        )
        SELECT
            input.node_id AS "node_id!", nodes.node_id IS NOT NULL AS "is_enrolled!", newest.node_id IS NOT NULL AS "is_newest!",
            removed.node_id IS NOT NULL AS "is_removed!"
        FROM input
        LEFT JOIN nodes USING (node_id)
        LEFT JOIN newest USING (node_id)
        LEFT JOIN removed_nodes AS removed USING (node_id)
        "#,
        &ids,
        &streams,
        &epochs,
        &revisions,
        &rejected as _,
        LEASE.as_secs_f64()
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let written: BTreeMap<Uuid, Written> = rows
        .into_iter()
        .map(|row| {
            let written = match (row.is_newest, row.is_enrolled, row.is_removed) {
                (true, _, _) => Written::Heard,
                (false, true, _) => Written::Superseded,
                (false, false, true) => Written::Removed,
                (false, false, false) => Written::Unknown,
            };
            (row.node_id, written)
        })
        .collect();
    let outcome = |node_id| written.get(node_id).copied().unwrap_or(Written::Unknown);
    Ok(ids.iter().map(outcome).collect())
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
    /// The newest form of each kind that it understands, as it last announced it.
    pub forms: BTreeMap<String, u32>,
    /// The age of its configuration past which it refuses requests.
    pub staleness_bound_seconds: Option<i64>,
    /// When it last said that it has applied something; `None` when it never did.
    pub applied_at: Option<OffsetDateTime>,
    /// How long ago that was when this was read.
    pub age: Option<Duration>,
    /// Whether it is certain to refuse requests: its bound, a tenth and [`FENCE_MARGIN`] have passed.
    pub is_fenced: bool,
    /// `None` for a node that never connected.
    pub lease_expires_at: Option<OffsetDateTime>,
    /// How long its lease lasts from the moment of reading; zero when it has ended.
    pub lease_remaining: Duration,
    /// Whether an operator asks for a new credential and key, and the node does not use them yet.
    pub rotation_requested: bool,
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
/// Those of [`survey`].
pub async fn list(store: &Store) -> Result<Vec<NodeState>, StoreError> {
    Ok(survey(store).await?.1)
}

/// The head's epoch and all enrolled nodes, in the order of region and id, from one moment.
///
/// A node is fenced when its bound, a tenth and [`FENCE_MARGIN`] have passed since it last said that it has applied something (before it
/// ever did: since it connected), since the epoch began and since Postgres started: what a crash or a promotion lost of the former was said
/// before the latter.
///
/// The list of a database that is being restored may lack nodes, so it counts only when the database is that of the head's epoch; otherwise
/// a new one begins first.
///
/// # Errors
/// Those of [`head`](crate::config::head).
pub async fn survey(store: &Store) -> Result<(Lineage, Vec<NodeState>), StoreError> {
    for _ in 0..ATTEMPTS {
        let rows = survey_once(store).await?;
        let first = rows.first().ok_or(StoreError::NotInitialised)?;
        if !first.is_current {
            epoch_begin(store, Epoch(first.epoch), Cause::OtherDatabase).await?;
            continue;
        }
        let lineage = Lineage {
            epoch: Epoch(first.epoch),
            revision: revision_of(first.head_revision)?,
            begun_revision: revision_of(first.begun_revision)?,
            continues: first.continues.map(Epoch),
        };
        let nodes = rows
            .into_iter()
            .filter_map(|row| row.into_node().transpose())
            .collect::<Result<_, _>>()?;
        return Ok((lineage, nodes));
    }
    Err(StoreError::BeingRestored)
}

/// One row a node; without any there is one row, with the head alone.
async fn survey_once(store: &Store) -> Result<Vec<Row>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        SELECT
            head.epoch, head.revision AS head_revision, head.begun_revision, head.continues,
            head.begun_on = config_identity() AS "is_current!",
            node.node_id AS "node_id?", node.region AS "region?", node.address AS "address?", node.created_at AS "created_at?",
            node.rotation_requested_at IS NOT NULL AS "rotation_requested!",
            node.forms AS "forms?: Json<BTreeMap<String, u32>>",
            progress.revision AS "revision?", progress.rejected AS "rejected?: Json<Vec<Rejected>>",
            stream.staleness_bound_seconds AS "staleness_bound_seconds?", stream.applied_at AS "applied_at?",
            stream.lease_expires_at AS "lease_expires_at?",
            extract(epoch FROM stream.lease_expires_at - clock_timestamp())::float8 AS "lease_seconds?",
            extract(epoch FROM clock_timestamp() - stream.applied_at)::float8 AS "age_seconds?",
            coalesce(
                greatest(coalesce(stream.applied_at, stream.begun_at), head.begun_at, pg_postmaster_start_time())
                    + make_interval(secs => 1.1 * stream.staleness_bound_seconds + $1::float8) < clock_timestamp(),
                false
            ) AS "is_fenced!"
        FROM config_head AS head
        LEFT JOIN nodes AS node ON true
        LEFT JOIN node_progress AS progress ON progress.node_id = node.node_id AND progress.epoch = head.epoch
        LEFT JOIN node_streams AS stream ON stream.node_id = node.node_id
        WHERE head.singleton
        ORDER BY node.region, node.node_id
        "#,
        FENCE_MARGIN.as_secs_f64()
    )
    .fetch_all(store.pool())
    .await?;
    Ok(rows)
}

struct Row {
    epoch: Uuid,
    head_revision: i64,
    is_current: bool,
    begun_revision: i64,
    continues: Option<Uuid>,
    node_id: Option<Uuid>,
    region: Option<String>,
    address: Option<String>,
    created_at: Option<OffsetDateTime>,
    forms: Option<Json<BTreeMap<String, u32>>>,
    revision: Option<i64>,
    rejected: Option<Json<Vec<Rejected>>>,
    staleness_bound_seconds: Option<i64>,
    applied_at: Option<OffsetDateTime>,
    lease_expires_at: Option<OffsetDateTime>,
    lease_seconds: Option<f64>,
    age_seconds: Option<f64>,
    is_fenced: bool,
    rotation_requested: bool,
}

impl Row {
    /// `None` when there is no node: then the one row has the head alone.
    fn into_node(self) -> Result<Option<NodeState>, StoreError> {
        let (Some(node_id), Some(region), Some(address), Some(enrolled_at)) =
            (self.node_id, self.region, self.address, self.created_at)
        else {
            return Ok(None);
        };
        let progress = match (self.revision, self.rejected) {
            (Some(revision), Some(Json(rejected))) => Some(NodeProgress {
                epoch: Epoch(self.epoch),
                revision: revision_of(revision)?,
                rejected,
            }),
            _ => None,
        };
        let seconds =
            |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
        Ok(Some(NodeState {
            node_id,
            region: Region(region),
            address,
            enrolled_at,
            progress,
            forms: self.forms.map(|Json(forms)| forms).unwrap_or_default(),
            staleness_bound_seconds: self.staleness_bound_seconds,
            applied_at: self.applied_at,
            age: self.age_seconds.map(seconds),
            is_fenced: self.is_fenced,
            lease_expires_at: self.lease_expires_at,
            lease_remaining: seconds(self.lease_seconds.unwrap_or(0.0)),
            rotation_requested: self.rotation_requested,
        }))
    }
}

/// Forgets how far nodes got in epochs that are over.
///
/// # Errors
/// Those of the database.
pub async fn progress_forget(store: &Store) -> Result<u64, StoreError> {
    let forgotten =
        sqlx::query!("DELETE FROM node_progress USING config_head AS head WHERE head.singleton AND node_progress.epoch <> head.epoch")
            .execute(store.pool())
            .await?;
    Ok(forgotten.rows_affected())
}
