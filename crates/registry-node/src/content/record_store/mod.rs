//! The one small trait through which all metadata of content goes: records under ordered keys, changed only at a version
//! that was read. What a record means does not belong here, nor do the bytes of blobs.

mod bucket;
mod cached_read;
mod local;
mod probe;
mod tombstone;

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use time::OffsetDateTime;

pub use bucket::BucketRecords;
pub use local::LocalRecords;
pub use probe::{ProbeError, probe};

/// What a store compares to know that a record is still the one that was read. Opaque to everybody else.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(String);

impl Version {
    /// A version out of a store's own words: an operation id, an entity tag.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The store's own words.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A record as read.
#[derive(Debug, Clone)]
pub struct StoredRecord {
    /// All bytes of the record.
    pub bytes: Bytes,
    /// The version to hand to `replace` or `remove`.
    pub version: Version,
}

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRecord {
    /// The whole key.
    pub key: String,
    /// Size of the record in bytes.
    pub size_bytes: u64,
    /// The version, where the store's listing gives it without reading the record: then it is the version that the record had
    /// during the listing.
    pub version: Option<Version>,
    /// When the record was written last, by the store's clock and to its precision, where the listing gives it.
    pub modified: Option<OffsetDateTime>,
}

/// When a change has to survive a loss of power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before the call returns.
    OnReturn,
    /// Some time later; a record half written at a loss of power may be found damaged. For what nobody was promised.
    Eventually,
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
#[error("the record store could not read {key}")]
pub struct ReadError {
    /// The key or prefix.
    pub key: String,
    /// What the store says.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Why a change was not made, or is not known to have been made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The record exists already (create) or is not, or no longer, at the version named (replace, remove).
    #[error("the record is not at the version named")]
    Conflict,
    /// The change was not made, or cannot be made durable; trying again at once would not help.
    #[error("the record store refused a change of {key}")]
    Failed {
        /// The key.
        key: String,
        /// What the store says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The change was made or not: nobody knows before the record is read again.
    #[error("the outcome of a change of {key} is not known")]
    Unknown {
        /// The key.
        key: String,
        /// What the store says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Records under ordered keys. Keys are components of visible ASCII separated by `/`; a record's key is never a proper
/// path prefix of another's.
///
/// Every record begins with [`OPERATION_PREFIX`] and a fresh random operation id, so that two records are never equal and a
/// store whose versions are hashes of the content sees every change.
#[async_trait]
pub trait RecordStore: Send + Sync {
    /// The record, or `None`.
    async fn get(&self, key: &str) -> Result<Option<StoredRecord>, ReadError>;

    /// The version of the record, or `None`: [`Self::get`] without the bytes.
    async fn version(&self, key: &str) -> Result<Option<Version>, ReadError>;

    /// The record at one key and the version at another, in one go where that costs less than two.
    async fn get_and_version(
        &self,
        key: &str,
        other: &str,
    ) -> Result<(Option<StoredRecord>, Option<Version>), ReadError> {
        futures_util::future::try_join(self.get(key), self.version(other)).await
    }

    /// Writes a record that must not exist; a second create is a [`WriteError::Conflict`].
    async fn create(
        &self,
        key: &str,
        bytes: Bytes,
        durability: Durability,
    ) -> Result<Version, WriteError>;

    /// Replaces the record at that version, and no other.
    async fn replace(
        &self,
        key: &str,
        bytes: Bytes,
        version: &Version,
        durability: Durability,
    ) -> Result<Version, WriteError>;

    /// Removes the record at that version, and no other. Of one that is not there any more it may say either.
    async fn remove(
        &self,
        key: &str,
        version: &Version,
        durability: Durability,
    ) -> Result<(), WriteError>;

    /// At most `limit` entries whose keys start with `prefix` (which ends with `/`) and are greater than `after`, in the
    /// order of the keys' bytes.
    async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedRecord>, ReadError>;

    /// Whether what [`Self::remove`] removes leaves nothing behind, so that collection beside pushes gains something. A store that
    /// cannot delete at a version keeps a small tombstone for each removed record, until [`Self::assume_exclusive`] was called.
    fn removes_for_good(&self) -> bool {
        true
    }

    /// The caller vouches that until the end of this process nobody else changes anything in this store. A store that keeps
    /// tombstones then deletes outright: in [`Self::remove`], after comparing, and those that [`Self::list`] meets.
    fn assume_exclusive(&self) {}
}

/// What the keys of the start-up probe begin with.
pub(crate) const PROBE_PREFIX: &str = "_probe/";

/// What every record begins with; the operation id's 36 characters follow.
pub const OPERATION_PREFIX: &[u8] = b"{\"operation\":\"";

/// Length of an operation id as text.
const OPERATION_ID_BYTES: usize = 36;

/// How many bytes of a record hold its operation id.
pub const OPERATION_HEAD_BYTES: usize = OPERATION_PREFIX.len() + OPERATION_ID_BYTES;

/// The operation id at the head of a record, or `None` where there is none (a record damaged by a loss of power).
#[must_use]
pub fn operation_id(record: &[u8]) -> Option<&str> {
    let rest = record.strip_prefix(OPERATION_PREFIX)?;
    let id = rest.get(..OPERATION_ID_BYTES)?;
    std::str::from_utf8(id).ok()
}
