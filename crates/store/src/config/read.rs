//! Reading the feed: head, checksums and documents always in one snapshot of the database: that of a single statement, or that of a
//! REPEATABLE READ, read-only transaction where it takes several.
//!
//! Nothing else will do, because only the latest state of a document is kept: a query bounded by an older head misses a document that was
//! changed again since, and one that is not bounded does not match the mark.

use std::collections::BTreeMap;

use config_documents::{Checksum, Epoch, Region, Revision, StoredDocument};
use sqlx::types::Json;
use sqlx::{PgExecutor, Postgres, Transaction};
use uuid::Uuid;

use super::epoch::{ATTEMPTS, epoch_begin, over};
use super::{column_of, revision_of};
use crate::{Store, StoreError};

/// How many documents a page of a [`Reading`] has at most.
const PAGE_DOCUMENTS: i64 = 500;

/// A place in the history of configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub epoch: Epoch,
    pub revision: Revision,
}

/// The newest revision, with what documents add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub position: Position,
    /// Tombstones up to here are gone: whoever has less needs a snapshot.
    pub purged_through: Revision,
    checksums: BTreeMap<Region, Checksum>,
}

/// Regions with their checksums in decimal digits, as rows have them.
type Checksums = BTreeMap<String, String>;

impl Head {
    fn of<'a>(
        epoch: Uuid,
        revision: i64,
        purged_through: i64,
        checksums: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, StoreError> {
        let checksums = checksums
            .map(|(region, checksum)| {
                let checksum = checksum.parse().map_err(|_| StoreError::Corrupt {
                    table: "config_regions",
                    reason: format!("the checksum of region '{region}' is not below 2^128"),
                })?;
                Ok((Region(region.to_owned()), Checksum(checksum)))
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(Self {
            position: Position {
                epoch: Epoch(epoch),
                revision: revision_of(revision)?,
            },
            purged_through: revision_of(purged_through)?,
            checksums,
        })
    }

    /// What the live documents of a region and of `*` add up to: all that a node of that region has.
    pub fn checksum(&self, region: &Region) -> Checksum {
        let of = |region: &Region| self.checksums.get(region).copied().unwrap_or_default();
        if region.is_all() {
            of(region)
        } else {
            of(region) + of(&Region::all())
        }
    }
}

/// What happened between two positions.
#[derive(Debug)]
pub struct Batch {
    /// The position that was read from.
    pub from: Position,
    pub head: Head,
    /// The latest state of every document changed after `from`, tombstones too, in the order of revisions. `None` when it is more than
    /// was asked for, or when `from` is of another epoch or older than the tombstones that are kept: to be read page by page ([`Reading`]).
    pub documents: Option<Vec<StoredDocument>>,
}

/// The newest revision and the checksums.
///
/// # Errors
/// [`StoreError::NotInitialised`] without a head, [`StoreError::BeingRestored`] while the database is; otherwise those of the database.
pub async fn head(store: &Store) -> Result<Head, StoreError> {
    head_for(store, None).await
}

/// The head for someone who has `copy`: a new epoch begins when that is above it.
///
/// # Errors
/// Those of [`head`].
pub async fn head_for(store: &Store, copy: Option<Position>) -> Result<Head, StoreError> {
    for _ in 0..ATTEMPTS {
        let (head, is_current) = head_by(store.pool()).await?;
        match over(&head, is_current, copy) {
            None => return Ok(head),
            Some(cause) => epoch_begin(store, head.position.epoch, cause).await?,
        };
    }
    Err(StoreError::BeingRestored)
}

/// What happened after `from`, for all regions, if it is at most `limit` documents. One statement: one round trip.
///
/// # Errors
/// Those of [`head`].
pub async fn read(store: &Store, from: Position, limit: u32) -> Result<Batch, StoreError> {
    for _ in 0..ATTEMPTS {
        let (batch, is_current) = read_once(store, from, limit).await?;
        match over(&batch.head, is_current, Some(from)) {
            None => return Ok(batch),
            Some(cause) => epoch_begin(store, batch.head.position.epoch, cause).await?,
        };
    }
    Err(StoreError::BeingRestored)
}

/// And whether the database is that of the head's epoch.
async fn read_once(store: &Store, from: Position, limit: u32) -> Result<(Batch, bool), StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT
            head.epoch, head.revision AS head_revision, head.purged_through, head.begun_on = config_identity() AS "is_current!",
            (SELECT jsonb_object_agg(region, checksum::text) FROM config_regions) AS "checksums: Json<Checksums>",
            document.region AS "region?", document.kind AS "kind?", document.key AS "key?", document.body,
            document.revision AS "revision?"
        FROM config_head AS head
        LEFT JOIN LATERAL (
            SELECT region, kind, key, body, revision FROM config_documents
            WHERE head.epoch = $1 AND revision > $2 ORDER BY revision, region, kind, key LIMIT $3
        ) AS document ON true
        WHERE head.singleton
        ORDER BY document.revision, document.region, document.kind, document.key
        "#,
        from.epoch.0,
        column_of(from.revision),
        i64::from(limit) + 1
    )
    .fetch_all(store.pool())
    .await?;
    let first = rows.first().ok_or(StoreError::NotInitialised)?;
    let head = Head::of(
        first.epoch,
        first.head_revision,
        first.purged_through,
        first
            .checksums
            .iter()
            .flat_map(|Json(checksums)| checksums)
            .map(|(region, checksum)| (region.as_str(), checksum.as_str())),
    )?;
    let is_current = first.is_current;
    let is_known = head.position.epoch == from.epoch && from.revision >= head.purged_through;
    let documents = (is_known && rows.len() <= limit as usize)
        .then(|| {
            rows.into_iter()
                .filter_map(|row| {
                    // Without any document there is one row, with the head alone.
                    let (region, kind, key) = (row.region?, row.kind?, row.key?);
                    let (body, revision) = (row.body, row.revision?);
                    Some(
                        Row {
                            region,
                            kind,
                            key,
                            body,
                            revision,
                        }
                        .into_document(),
                    )
                })
                .collect::<Result<_, _>>()
        })
        .transpose()?;
    let batch = Batch {
        from,
        head,
        documents,
    };
    Ok((batch, is_current))
}

/// What a node of one region needs to reach the head, page by page, all from one snapshot of the database.
///
/// It holds a connection and a transaction until [`Reading::finish`] or until it is dropped.
pub struct Reading {
    transaction: Transaction<'static, Postgres>,
    head: Head,
    region: Region,
    next: Next,
}

/// Where the next page begins.
enum Next {
    /// Of a snapshot: after this kind and key, in this region.
    Snapshot {
        region: Region,
        kind: String,
        key: String,
    },
    /// Of the changes: after this document.
    Changes {
        revision: i64,
        region: String,
        kind: String,
        key: String,
    },
    End,
}

impl Reading {
    /// Takes the snapshot. `copy` is what the node has; without it, or when it is of another epoch or older than the tombstones that are
    /// kept, the reading is a whole [snapshot](Reading::is_snapshot).
    ///
    /// # Errors
    /// Those of [`head`].
    pub async fn begin(
        store: &Store,
        region: &Region,
        copy: Option<Position>,
    ) -> Result<Self, StoreError> {
        let (transaction, head) = begin(store, copy).await?;
        let next = match copy {
            Some(copy)
                if copy.epoch == head.position.epoch && copy.revision >= head.purged_through =>
            {
                Next::Changes {
                    revision: column_of(copy.revision),
                    // Sorts after every region, so that the first page begins after the whole revision.
                    region: char::MAX.to_string(),
                    kind: String::new(),
                    key: String::new(),
                }
            }
            _ => Next::Snapshot {
                region: Region::all(),
                kind: String::new(),
                key: String::new(),
            },
        };
        Ok(Self {
            transaction,
            head,
            region: region.clone(),
            next,
        })
    }

    /// The head that the pages lead to.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Whether the pages replace what the node has (they hold no tombstones), or bring it up to date.
    pub fn is_snapshot(&self) -> bool {
        matches!(self.next, Next::Snapshot { .. })
    }

    /// The next page; empty at the end.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn next_page(&mut self) -> Result<Vec<StoredDocument>, StoreError> {
        loop {
            let rows = match &self.next {
                Next::End => return Ok(Vec::new()),
                Next::Snapshot { region, kind, key } => {
                    sqlx::query_as!(
                        Row,
                        r#"
                        SELECT region, kind, key, body, revision FROM config_documents
                        WHERE region = $1 AND (kind, key) > ($2, $3) AND NOT deleted
                        ORDER BY kind, key LIMIT $4
                        "#,
                        region.as_str(),
                        kind,
                        key,
                        PAGE_DOCUMENTS
                    )
                    .fetch_all(&mut *self.transaction)
                    .await?
                }
                Next::Changes {
                    revision,
                    region,
                    kind,
                    key,
                } => {
                    sqlx::query_as!(
                        Row,
                        r#"
                        SELECT region, kind, key, body, revision FROM config_documents
                        WHERE revision >= $1 AND region IN ('*', $5)
                            AND (revision, region COLLATE "C", kind, key) > ($1, $2, $3, $4)
                        ORDER BY revision, region COLLATE "C", kind, key LIMIT $6
                        "#,
                        revision,
                        region,
                        kind,
                        key,
                        self.region.as_str(),
                        PAGE_DOCUMENTS
                    )
                    .fetch_all(&mut *self.transaction)
                    .await?
                }
            };
            self.advance(&rows);
            if !rows.is_empty() {
                return rows.into_iter().map(Row::into_document).collect();
            }
        }
    }

    fn advance(&mut self, rows: &[Row]) {
        self.next = match (&self.next, rows.last()) {
            (Next::Snapshot { .. }, Some(last)) => Next::Snapshot {
                region: Region(last.region.clone()),
                kind: last.kind.clone(),
                key: last.key.clone(),
            },
            (Next::Snapshot { region, .. }, None) if region.is_all() && !self.region.is_all() => {
                Next::Snapshot {
                    region: self.region.clone(),
                    kind: String::new(),
                    key: String::new(),
                }
            }
            (Next::Changes { .. }, Some(last)) => Next::Changes {
                revision: last.revision,
                region: last.region.clone(),
                kind: last.kind.clone(),
                key: last.key.clone(),
            },
            _ => Next::End,
        };
    }

    /// Gives the connection back.
    ///
    /// # Errors
    /// Those of the database; what was read is good all the same.
    pub async fn finish(self) -> Result<(), StoreError> {
        self.transaction.commit().await?;
        Ok(())
    }
}

struct Row {
    region: String,
    kind: String,
    key: String,
    body: Option<String>,
    revision: i64,
}

impl Row {
    fn into_document(self) -> Result<StoredDocument, StoreError> {
        Ok(StoredDocument {
            region: Region(self.region),
            kind: self.kind,
            key: self.key,
            body: self.body,
            revision: revision_of(self.revision)?,
        })
    }
}

/// A transaction that sees one moment of the database, with the head of that moment.
async fn begin(
    store: &Store,
    copy: Option<Position>,
) -> Result<(Transaction<'static, Postgres>, Head), StoreError> {
    for _ in 0..ATTEMPTS {
        let mut transaction = store
            .pool()
            .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .await?;
        let (head, is_current) = head_by(&mut *transaction).await?;
        let Some(cause) = over(&head, is_current, copy) else {
            return Ok((transaction, head));
        };
        transaction.rollback().await?;
        epoch_begin(store, head.position.epoch, cause).await?;
    }
    Err(StoreError::BeingRestored)
}

/// The head, and whether the database is that of its epoch.
async fn head_by(executor: impl PgExecutor<'_>) -> Result<(Head, bool), StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT
            epoch, revision, purged_through, begun_on = config_identity() AS "is_current!",
            region AS "region?", checksum::text AS "checksum?"
        FROM config_head LEFT JOIN config_regions ON true WHERE singleton
        "#
    )
    .fetch_all(executor)
    .await?;
    let first = rows.first().ok_or(StoreError::NotInitialised)?;
    let checksums = rows
        .iter()
        .filter_map(|row| Some((row.region.as_deref()?, row.checksum.as_deref()?)));
    let head = Head::of(first.epoch, first.revision, first.purged_through, checksums)?;
    Ok((head, first.is_current))
}
