//! Epochs: one unbroken history of configuration each, and when a new one begins.
//!
//! A restored dump, a copy, a point-in-time recovery or a promoted replica may lack revisions that nodes have, and goes on to use their
//! numbers for something else. The head remembers which database its epoch was begun on (`config_identity()`); every read of the head and
//! every [`publish`](super::publish) compares. What that cannot show (files put back as they were) is seen when somebody has a revision
//! above the head. Revisions go on counting.

use config_documents::{Epoch, Revision};

use super::Published;
use super::read::{Head, Position};
use crate::{Store, StoreError};

/// How often a read is repeated when it finds that the epoch is over: it is begun anew by the first, and seen by the second.
pub(crate) const ATTEMPTS: usize = 3;

/// Why an epoch is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The database is not the one that it was begun on. What is committed of the epoch is there up to the head's revision: who publishes
    /// compares too, so nothing was added since.
    OtherDatabase,
    /// Somebody has a revision above the head: nobody knows which of the epoch's revisions are still what they were.
    WentBack,
    /// An operator wants it.
    Operator,
}

impl Cause {
    fn is_continuation(self) -> bool {
        match self {
            Self::OtherDatabase | Self::Operator => true,
            Self::WentBack => false,
        }
    }
}

/// Begins a new epoch in the place of `superseded`; the new one's id, or `None` when that is not the epoch any more, as when another
/// control plane was faster, or when the database is still being restored.
///
/// A restore brings primary keys after data, so while one is missing so may be documents or nodes.
///
/// # Errors
/// Those of the database.
pub async fn epoch_begin(
    store: &Store,
    superseded: Epoch,
    cause: Cause,
) -> Result<Option<Epoch>, StoreError> {
    let begun = sqlx::query_scalar!(
        r#"
        UPDATE config_head SET
            epoch = gen_random_uuid(), begun_on = config_identity(), begun_at = clock_timestamp(), begun_revision = revision,
            continues = CASE WHEN $2 THEN epoch END
        WHERE singleton AND epoch = $1 AND 4 = (
            SELECT count(*) FROM pg_constraint
            WHERE contype = 'p' AND conrelid IN (
                'config_head'::regclass, 'config_regions'::regclass, 'config_documents'::regclass, 'nodes'::regclass
            )
        )
        RETURNING epoch
        "#,
        superseded.0,
        cause.is_continuation()
    )
    .fetch_optional(store.pool())
    .await?;
    if let Some(begun) = begun {
        tracing::warn!(
            config.epoch = %begun, config.previous_epoch = %superseded, cause = ?cause,
            "a new epoch of the configuration begins: {}",
            match cause {
                Cause::OtherDatabase =>
                    "the database is another one, or was restored or promoted, since the last one began",
                Cause::WentBack => "a revision is known that the database does not have",
                Cause::Operator => "an operator asked for it",
            }
        );
    }
    Ok(begun.map(Epoch))
}

/// Why a head's epoch is over, if it is, for someone who has `copy`.
pub(super) fn over(head: &Head, is_current: bool, copy: Option<Position>) -> Option<Cause> {
    let head = head.position;
    let is_ahead =
        copy.is_some_and(|copy| copy.epoch == head.epoch && copy.revision > head.revision);
    match (is_current, is_ahead) {
        (false, _) => Some(Cause::OtherDatabase),
        (true, true) => Some(Cause::WentBack),
        (true, false) => None,
    }
}

/// The head's epoch and what it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    pub epoch: Epoch,
    /// The newest revision.
    pub revision: Revision,
    /// The newest revision when the epoch began.
    pub begun_revision: Revision,
    /// The epoch before, if all that it had up to that revision is known to be here.
    pub continues: Option<Epoch>,
}

impl Lineage {
    /// Whether what was published is known to be part of this epoch. Otherwise it may have been lost with the database that it was
    /// committed to.
    pub fn holds(&self, published: &Published) -> bool {
        (self.epoch == published.epoch && published.revision <= self.revision)
            || (self.continues == Some(published.epoch)
                && published.revision <= self.begun_revision)
    }
}
