//! When manifests were last pulled, to the hour. A pull is noted in memory and written later, and of all pulls of a manifest in an hour
//! only the first is; so a node that dies forgets the pulls of its last minute and nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::ContentError;
use super::layout;
use super::record_store::Durability;
use super::records::PullRecord;
use super::{Content, Repository};
use crate::limits::{PULL_TIME_STEP, PULLS_NOTED_MAXIMUM};
use crate::names::{Digest, RepositoryName};

/// Manifests whose pull in this hour is known to be written: what is forgotten is looked up once more.
const REMEMBERED: u64 = 100_000;

/// Pulls that were noted.
#[derive(Clone)]
pub(super) struct Pulls(Arc<Inner>);

struct Inner {
    /// By the key of the record: the hour that was noted last.
    seen: moka::sync::Cache<PulledManifest, OffsetDateTime>,
    unwritten: Mutex<HashMap<PulledManifest, OffsetDateTime>>,
}

/// Which manifest was pulled.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PulledManifest {
    registry: Uuid,
    repository: RepositoryName,
    digest: Digest,
}

impl Pulls {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            seen: moka::sync::Cache::new(REMEMBERED),
            unwritten: Mutex::default(),
        }))
    }

    fn note(&self, manifest: PulledManifest, hour: OffsetDateTime) {
        if self.0.seen.get(&manifest) == Some(hour) {
            return;
        }
        let mut unwritten = self.0.unwritten.lock();
        if unwritten.len() < PULLS_NOTED_MAXIMUM {
            unwritten.insert(manifest.clone(), hour);
            self.0.seen.insert(manifest, hour);
        }
    }
}

impl Repository<'_> {
    /// Notes that a manifest was pulled just now. Nothing is waited for.
    pub fn note_pull(&self, digest: &Digest) {
        let manifest = PulledManifest {
            registry: self.registry,
            repository: self.name.clone(),
            digest: digest.clone(),
        };
        let hour = start_of_step(self.content.now());
        self.content.pulls.note(manifest, hour);
    }

    /// The hour in which a manifest was last pulled, as far as it was written.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn last_pulled(
        &self,
        digest: &Digest,
    ) -> Result<Option<OffsetDateTime>, ContentError> {
        let key = layout::pull(self.registry, self.name, digest);
        let found = self.records().get::<PullRecord>(&key).await;
        Ok(whole(found)?.map(|found| found.value.pulled))
    }
}

/// A record half written at a loss of power is as good as none.
pub(super) fn whole<T>(found: Result<Option<T>, ContentError>) -> Result<Option<T>, ContentError> {
    match found {
        Err(ContentError::DamagedRecord { .. }) => Ok(None),
        other => other,
    }
}

impl Content {
    /// Writes the pulls that were noted. Call it again and again; says how many there were.
    pub async fn write_noted_pulls(&self) -> usize {
        let noted = std::mem::take(&mut *self.pulls.0.unwritten.lock());
        let count = noted.len();
        for (manifest, hour) in noted {
            if let Err(error) = self.write_pull(&manifest, hour).await {
                // The next pull of that manifest notes it again.
                self.pulls.0.seen.invalidate(&manifest);
                tracing::debug!(
                    manifest.digest = %manifest.digest,
                    "when a manifest was pulled was not written: {}",
                    service::errors::chain(&error)
                );
            }
        }
        count
    }

    async fn write_pull(
        &self,
        manifest: &PulledManifest,
        hour: OffsetDateTime,
    ) -> Result<(), ContentError> {
        let key = layout::pull(manifest.registry, &manifest.repository, &manifest.digest);
        let record = PullRecord { pulled: hour };
        let records = &self.records;
        let Some(version) = records.version(&key).await? else {
            records
                .create(&key, &record, &[], Durability::Eventually)
                .await?;
            return Ok(());
        };
        // A damaged record is replaced like an older one. Somebody else's change in between is as new.
        let found = whole(records.get::<PullRecord>(&key).await)?;
        if found.is_none_or(|found| found.value.pulled < hour) {
            records
                .replace(&key, &record, &[], &version, Durability::Eventually)
                .await?;
        }
        Ok(())
    }
}

fn start_of_step(time: OffsetDateTime) -> OffsetDateTime {
    let into_step = time.unix_timestamp().rem_euclid(STEP_SECONDS);
    let seconds = Duration::from_secs(into_step.unsigned_abs());
    time.replace_nanosecond(0).unwrap_or(time) - seconds
}

const STEP_SECONDS: i64 = PULL_TIME_STEP.as_secs() as i64;
