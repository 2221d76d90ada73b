//! The config feed's tables: the head, documents and checksums; what is published, and what nodes are sent.
//!
//! Writing is here ([`publish`] ends every transaction that changes what nodes must know); reading is in [`read`] (what happened since a
//! position) and [`Reading`] (a snapshot, or a long way back, page by page).

mod epoch;
mod forms;
mod notify;
mod read;
mod tombstones;

pub(crate) use epoch::ATTEMPTS;
pub use epoch::{Cause, Lineage, epoch_begin};
pub(crate) use forms::{FormMap, Forms};
pub use forms::{Raised, forms_raise};
pub use notify::{Announcer, Listener, OPERATOR, notify};
pub use read::{Batch, Head, Position, Reading, head, head_for, read};
pub use tombstones::{Purged, TOMBSTONE_AGE, tombstones_purge};

use std::collections::BTreeMap;

use config_documents::{Checksum, Document, Epoch, Kind, Region, Revision};
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::{Store, StoreError, Transaction};

/// One change of what nodes know.
pub enum Change {
    /// The document's new state, for one region or for all (`*`). A signing key is for its node's region: the form in use decides whether
    /// others get it too.
    Upsert { region: Region, document: Document },
    /// A signing key is deleted wherever it is.
    Delete {
        region: Region,
        kind: Kind,
        key: String,
    },
}

/// What a transaction published, once it has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub epoch: Epoch,
    pub revision: Revision,
    /// The regions whose nodes must apply it; contains `*` when all must.
    pub regions: Vec<Region>,
}

/// A revision as a column has it.
///
/// # Errors
/// A negative number, which only a damaged row holds.
pub(crate) fn revision_of(column: i64) -> Result<Revision, StoreError> {
    u64::try_from(column)
        .map(Revision)
        .map_err(|_| StoreError::Corrupt {
            table: "config_head",
            reason: format!("the revision {column} is negative"),
        })
}

/// A revision for a column.
///
/// # Panics
/// After 2^63 revisions.
pub(crate) fn column_of(revision: Revision) -> i64 {
    i64::try_from(revision.0).expect("nobody publishes 2^63 times")
}

/// Begins the first epoch, with this build's newest forms; does nothing when there is one. For `admin init`.
///
/// # Errors
/// Those of the database.
pub async fn initialise(transaction: &mut Transaction, epoch: Epoch) -> Result<(), StoreError> {
    sqlx::query!(
        r#"
        INSERT INTO config_head (epoch, revision, purged_through, begun_on, begun_at, begun_revision, forms)
        VALUES ($1, 0, 0, config_identity(), clock_timestamp(), 0, $2)
        ON CONFLICT DO NOTHING
        "#,
        epoch.0,
        Json(&Forms::newest().0) as _
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Publishes changes as one revision; the last thing that a READ COMMITTED transaction does before its commit.
///
/// Two round trips. The first statement takes the head's lock, which is held to the commit: revisions are dense and in commit order; and it
/// begins a new epoch when the database is not the one of the present epoch, so nothing is committed in an epoch that is over. What comes
/// after knows the forms in use. The old rows are read by the second: a statement's snapshot is taken when it begins, so in one statement they would come from before the
/// wait for the lock. Of several changes of one document the last one counts. A document published unchanged is sent again; deleting one
/// that is not there leaves no tombstone. What the form in use cannot say is kept for the day when it is raised (`withheld_documents`); a
/// document that would then allow more than it should is not published, and what was published of it before is deleted. An empty list is a
/// revision that says nothing to nodes: for what only control planes must know.
///
/// # Errors
/// [`StoreError::NotInitialised`] without a head; otherwise those of the database.
pub async fn publish(
    transaction: &mut Transaction,
    changes: &[Change],
) -> Result<Published, StoreError> {
    let head = sqlx::query!(
        r#"
        WITH present AS MATERIALIZED (SELECT config_identity() AS identity)
        UPDATE config_head SET
            revision = revision + 1,
            epoch = CASE WHEN begun_on = present.identity THEN epoch ELSE gen_random_uuid() END,
            begun_on = present.identity,
            begun_at = CASE WHEN begun_on = present.identity THEN begun_at ELSE clock_timestamp() END,
            begun_revision = CASE WHEN begun_on = present.identity THEN begun_revision ELSE revision END,
            continues = CASE WHEN begun_on = present.identity THEN continues ELSE epoch END
        FROM present WHERE singleton
        RETURNING epoch, revision, forms AS "forms: Json<FormMap>"
        "#
    )
    .fetch_optional(&mut **transaction)
    .await?
    .ok_or(StoreError::NotInitialised)?;
    let rows = Rows::of(changes, &Forms(head.forms.0));
    let record = crate::activity::publishing();
    sqlx::query!(
        r#"
        WITH input AS (
            SELECT region, kind, key, body, hash::numeric AS hash, whole
            FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $7::text[])
                AS input (region, kind, key, body, hash, whole)
        ),
        withheld AS (
            INSERT INTO withheld_documents (region, kind, key, body)
            SELECT region, kind, key, whole FROM input WHERE whole IS NOT NULL
            ON CONFLICT (region, kind, key) DO UPDATE SET body = EXCLUDED.body
        ),
        said AS (
            DELETE FROM withheld_documents USING input
            WHERE (withheld_documents.region, withheld_documents.kind, withheld_documents.key) = (input.region, input.kind, input.key)
                AND input.whole IS NULL
        ),
        old AS (
            SELECT region, kind, key, document.hash, document.deleted
            FROM config_documents AS document JOIN input USING (region, kind, key)
        ),
        written AS (
            INSERT INTO config_documents (region, kind, key, body, hash, deleted, revision, deleted_at)
            SELECT region, kind, key, body, input.hash, body IS NULL, $6, CASE WHEN body IS NULL THEN clock_timestamp() END
            FROM input LEFT JOIN old USING (region, kind, key)
            WHERE body IS NOT NULL OR NOT old.deleted
            ON CONFLICT (region, kind, key) DO UPDATE SET
                body = EXCLUDED.body, hash = EXCLUDED.hash, deleted = EXCLUDED.deleted, revision = EXCLUDED.revision,
                deleted_at = EXCLUDED.deleted_at
        ),
        difference AS (
            SELECT region, sum(hash) AS hash
            FROM (SELECT region, hash FROM input UNION ALL SELECT region, -hash FROM old) AS changed
            GROUP BY region
        ),
        recorded AS (
            UPDATE activity_log SET revision = $6, properties = $9, http_status = $10 WHERE event_id = $8
        )
        INSERT INTO config_regions AS known (region, checksum)
        SELECT
            region,
            mod(
                mod(hash, 340282366920938463463374607431768211456) + 340282366920938463463374607431768211456,
                340282366920938463463374607431768211456
            )
        FROM difference
        ON CONFLICT (region) DO UPDATE SET
            checksum = mod(known.checksum + EXCLUDED.checksum, 340282366920938463463374607431768211456)
        "#,
        &rows.regions,
        &rows.kinds,
        &rows.keys,
        &rows.bodies as &[Option<String>],
        &rows.hashes,
        head.revision,
        &rows.wholes as &[Option<String>],
        record.event_id,
        record.properties as _,
        record.http_status,
    )
    .execute(&mut **transaction)
    .await?;
    let mut regions: Vec<Region> = rows.regions.into_iter().map(Region).collect();
    regions.dedup();
    Ok(Published {
        epoch: Epoch(head.epoch),
        revision: revision_of(head.revision)?,
        regions,
    })
}

/// Whatever was published until now, for all nodes: who finds that a change was made before waits for this.
///
/// # Errors
/// [`StoreError::NotInitialised`] without a head; otherwise those of the database.
pub async fn published_so_far(store: &Store) -> Result<Published, StoreError> {
    let head = crate::head::Head::now(store).await?;
    Ok(Published {
        epoch: Epoch(head.epoch),
        revision: revision_of(head.revision)?,
        regions: vec![Region::all()],
    })
}

/// The changes as columns, ordered by region, kind and key; each document once.
#[derive(Default)]
struct Rows {
    regions: Vec<String>,
    kinds: Vec<String>,
    keys: Vec<String>,
    /// `None` for a tombstone.
    bodies: Vec<Option<String>>,
    /// In decimal digits; 0 for a tombstone.
    hashes: Vec<String>,
    /// The body in the newest form, where the form in use leaves something out.
    wholes: Vec<Option<String>>,
}

impl Rows {
    fn of(changes: &[Change], forms: &Forms) -> Self {
        let all = Region::all();
        let mut latest = BTreeMap::new();
        for change in changes {
            match change {
                Change::Upsert { region, document } => {
                    let (kind, key) = (document.kind(), document.key());
                    let form = forms.of(kind);
                    let whole = (!document.is_whole_in_form(form)).then(|| document.body());
                    let state = (document.body_in_form(form), whole);
                    let place = forms.place(region, kind, &all);
                    if place != region {
                        latest.insert((region, kind.as_str(), key.clone()), (None, None));
                    }
                    latest.insert((place, kind.as_str(), key), state);
                }
                Change::Delete { region, kind, key } => {
                    if *kind == Kind::SigningKey {
                        latest.insert((&all, kind.as_str(), key.clone()), (None, None));
                    }
                    latest.insert((region, kind.as_str(), key.clone()), (None, None));
                }
            }
        }
        let mut rows = Self::default();
        for ((region, kind, key), (body, whole)) in latest {
            let hash = body.as_deref().map_or(Checksum::default(), |body| {
                Checksum::of(region.as_str(), kind, &key, body)
            });
            rows.regions.push(region.0.clone());
            rows.kinds.push(kind.to_owned());
            rows.keys.push(key);
            rows.bodies.push(body);
            rows.hashes.push(hash.0.to_string());
            rows.wholes.push(whole);
        }
        rows
    }
}

/// Publishes those built-in roles whose documents differ from this build's; `None` when nodes have them all. For `admin init`, and for a
/// control plane's start, when an upgrade may have changed one.
///
/// # Errors
/// Those of [`publish`].
pub async fn publish_built_in_roles(store: &Store) -> Result<Option<Published>, StoreError> {
    let mut transaction = store.begin().await?;
    let published = publish_built_in_roles_in(&mut transaction).await?;
    transaction.commit().await?;
    Ok(published)
}

/// [`publish_built_in_roles`] within the transaction of something larger; it takes the head's lock.
///
/// # Errors
/// Those of [`publish`].
pub async fn publish_built_in_roles_in(
    transaction: &mut Transaction,
) -> Result<Option<Published>, StoreError> {
    let (known, form) = published_of(transaction, Kind::RoleDefinition).await?;
    let changes: Vec<Change> = rbac::built_in_roles()
        .iter()
        .map(|definition| Document::RoleDefinition(definition.clone()))
        .filter(|document| known.get(&document.key()) != document.body_in_form(form).as_ref())
        .map(|document| Change::Upsert {
            region: Region::all(),
            document,
        })
        .collect();
    if changes.is_empty() {
        return Ok(None);
    }
    publish(transaction, &changes).await.map(Some)
}

/// What every node knows of a kind, by key, and the form in use; 0 while not every node understands such documents.
pub(crate) async fn published_of(
    connection: &mut PgConnection,
    kind: Kind,
) -> Result<(BTreeMap<String, String>, u32), StoreError> {
    let forms = sqlx::query_scalar!(
        r#"SELECT forms AS "forms: Json<FormMap>" FROM config_head WHERE singleton"#
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotInitialised)?;
    let known = sqlx::query!(
        r#"SELECT key, body AS "body!" FROM config_documents WHERE region = '*' AND kind = $1 AND NOT deleted"#,
        kind.as_str()
    )
    .fetch_all(&mut *connection)
    .await?;
    let known = known.into_iter().map(|row| (row.key, row.body)).collect();
    Ok((known, Forms(forms.0).of(kind)))
}
