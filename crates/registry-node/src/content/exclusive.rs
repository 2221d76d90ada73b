//! Collecting alone: the operator's tool says so in a record, and every node that sees it refuses changes until it is gone.
//!
//! A node does not read that record before each change. It reads it once and may then write for a while
//! ([`WRITE_ADMISSION_LIFETIME`]); the tool waits until every such admission has run out, and every call to the store that began under one
//! has ended ([`EXCLUSIVE_WAIT`]), before it looks at anything. So no change slips through. A tool that dies leaves a record that expires
//! ([`EXCLUSIVE_LIFETIME`]); while it lives it renews the record, and stops by itself when it could not.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Content;
use super::error::ContentError;
use super::layout;
use super::record_store::{Durability, RecordStore, Version};
use super::records::{ExclusiveRecord, Versioned, decode};
use super::sources::Sources;
use crate::limits::{
    EXCLUSIVE_CLOCK_DIFFERENCE, EXCLUSIVE_LIFETIME, EXCLUSIVE_WAIT, WRITE_ADMISSION_LIFETIME,
};

/// Whether changes may be made now, as far as the store said a moment ago.
pub(crate) struct WriteAdmission {
    store: Arc<dyn RecordStore>,
    sources: Sources,
    seen_free: Mutex<Option<Seen>>,
}

/// When the store was asked: by a clock that never jumps, and by one that goes on while the machine sleeps.
#[derive(Clone, Copy)]
struct Seen {
    instant: Instant,
    time: OffsetDateTime,
}

impl WriteAdmission {
    pub(crate) fn new(store: Arc<dyn RecordStore>, sources: Sources) -> Self {
        Self {
            store,
            sources,
            seen_free: Mutex::new(None),
        }
    }

    /// Called before a change is handed to the store.
    ///
    /// # Errors
    /// [`ContentError::CollectedExclusively`], or when the store cannot be read.
    pub(crate) async fn admit(&self) -> Result<(), ContentError> {
        let asked = Seen {
            instant: Instant::now(),
            time: (self.sources.now)(),
        };
        if self.seen_free.lock().is_some_and(|seen| seen.counts(asked)) {
            return Ok(());
        }
        if let Some(stored) = self.store.get(layout::EXCLUSIVE).await? {
            let record: Versioned<ExclusiveRecord> = decode(layout::EXCLUSIVE, stored)?;
            let until = record.value.until;
            if asked.time <= until + EXCLUSIVE_CLOCK_DIFFERENCE {
                return Err(ContentError::CollectedExclusively { until });
            }
        }
        *self.seen_free.lock() = Some(asked);
        Ok(())
    }
}

impl Seen {
    fn counts(self, now: Self) -> bool {
        let passed = now.time - self.time;
        now.instant.duration_since(self.instant) < WRITE_ADMISSION_LIFETIME
            && !passed.is_negative()
            && passed < WRITE_ADMISSION_LIFETIME
    }
}

/// The right to change content while nobody else may.
pub struct Exclusive {
    /// The content, for the one who holds this.
    content: Content,
    record: ExclusiveRecord,
    version: Version,
}

/// Why nobody can collect alone now.
#[derive(Debug, thiserror::Error)]
pub enum ExclusiveError {
    /// Another one does.
    #[error("somebody else has collected alone since {since}, until {until} at least")]
    Held {
        /// Since when.
        since: OffsetDateTime,
        /// When that expires unless it is renewed.
        until: OffsetDateTime,
    },
    /// The record was renewed too late or taken away: others may write again.
    #[error("the right to collect alone was lost; nothing more is removed")]
    Lost,
    /// Whoever started it wants it to end.
    #[error("it was interrupted; what was removed until then was rightly removed")]
    Interrupted,
    /// The store failed.
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl Content {
    /// Makes every node refuse changes, and waits until none is under way any more.
    ///
    /// # Errors
    /// See [`ExclusiveError`].
    pub async fn collect_alone(&self) -> Result<Exclusive, ExclusiveError> {
        let mut content = self.clone();
        content.records = self.records.without_admission();
        let now = content.now();
        let record = ExclusiveRecord {
            holder: content.random_id(),
            since: now,
            until: now + EXCLUSIVE_LIFETIME,
        };
        let version = write_first(&content, &record).await?;
        let mut exclusive = Exclusive {
            content,
            record,
            version,
        };
        sleep(EXCLUSIVE_WAIT).await;
        exclusive.renew().await?;
        exclusive.content.assume_exclusive();
        Ok(exclusive)
    }
}

async fn write_first(
    content: &Content,
    record: &ExclusiveRecord,
) -> Result<Version, ExclusiveError> {
    let records = &content.records;
    let key = layout::EXCLUSIVE;
    let created = records
        .create(key, record, &[], Durability::OnReturn)
        .await?;
    if let Some(version) = created {
        return Ok(version);
    }
    let held = |since, until| ExclusiveError::Held { since, until };
    let Some(other) = records.get::<ExclusiveRecord>(key).await? else {
        return Err(held(record.since, record.since));
    };
    let (since, until) = (other.value.since, other.value.until);
    if record.since <= until + EXCLUSIVE_CLOCK_DIFFERENCE {
        return Err(held(since, until));
    }
    records
        .replace(key, record, &[], &other.version, Durability::OnReturn)
        .await?
        .ok_or_else(|| held(since, until))
}

impl Exclusive {
    /// The content, whose changes are not refused to this one.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// How much longer others refuse to write for certain.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let remaining = self.record.until - self.content.now() - EXCLUSIVE_CLOCK_DIFFERENCE;
        remaining.try_into().unwrap_or(Duration::ZERO)
    }

    /// Prolongs it.
    ///
    /// # Errors
    /// [`ExclusiveError::Lost`], or when the store fails.
    pub async fn renew(&mut self) -> Result<(), ExclusiveError> {
        if self.remaining().is_zero() {
            return Err(ExclusiveError::Lost);
        }
        let record = ExclusiveRecord {
            until: self.content.now() + EXCLUSIVE_LIFETIME,
            ..self.record.clone()
        };
        let replaced = self
            .content
            .records
            .replace(
                layout::EXCLUSIVE,
                &record,
                &[],
                &self.version,
                Durability::OnReturn,
            )
            .await?;
        self.version = replaced.ok_or(ExclusiveError::Lost)?;
        self.record = record;
        Ok(())
    }

    /// Lets the others write again.
    ///
    /// # Errors
    /// When the store fails; then it ends by itself after a while.
    pub async fn end(self) -> Result<(), ExclusiveError> {
        self.content
            .records
            .remove(layout::EXCLUSIVE, &self.version, Durability::OnReturn)
            .await?;
        Ok(())
    }

    /// Runs work that must not go on when others may write again.
    ///
    /// # Errors
    /// [`ExclusiveError::Lost`], or what the work ends with.
    pub async fn run<T, E: From<ExclusiveError>>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut work = std::pin::pin!(work);
        loop {
            let pause = self.remaining() / 2;
            tokio::select! {
                done = &mut work => return done,
                () = sleep(pause) => self.renew().await?,
            }
        }
    }

    /// Who holds it.
    #[must_use]
    pub fn holder(&self) -> Uuid {
        self.record.holder
    }
}
