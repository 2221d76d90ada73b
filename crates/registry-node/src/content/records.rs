//! Typed records over the record store: one JSON line that begins with a fresh operation id, then, for manifests, raw bytes.
//! Here, and only here, an outcome that is not known is settled by reading again and comparing operation ids.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::error::ContentError;
use super::exclusive::WriteAdmission;
use super::record_store::{
    Durability, ListedRecord, OPERATION_PREFIX, RecordStore, StoredRecord, Version, WriteError,
    operation_id,
};
use super::sources::Sources;
use crate::names::{Digest, DigestAlgorithm, RepositoryName};

/// How often a change whose outcome is not known is settled before the caller is told so.
const SETTLE_ATTEMPTS: usize = 3;

/// How often a change is tried anew after somebody else's change of the same record came first.
pub(crate) const CONFLICT_ATTEMPTS: usize = 64;

/// Attributes of an object that users set, kept as they are by every change of the record.
pub(crate) type Attributes = BTreeMap<String, serde_json::Value>;

/// Whose root this is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FormatRecord {
    pub(crate) layout: u32,
    pub(crate) region: String,
}

/// The registry was deleted: its content may go after a grace period.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeletedRecord {
    /// When the first node of the region learned of it.
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) deleted: OffsetDateTime,
}

/// Some of a blob's bytes, in one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DataPiece {
    /// Key below the root.
    pub(crate) key: String,
    /// Size in bytes.
    pub(crate) size: u64,
    /// Whether the object is this store's to remove.
    pub(crate) owned: bool,
}

/// A blob, or a repository's link to it: the same record in two places, so that a read needs only one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BlobRecord {
    pub(crate) size: u64,
    pub(crate) data: Vec<DataPiece>,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) touched: OffsetDateTime,
}

/// A repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RepositoryRecord {
    /// Its life: another after it was deleted and made again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) id: Option<Uuid>,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) updated: OffsetDateTime,
    #[serde(default)]
    pub(crate) attributes: Attributes,
    /// The repository counts as absent; whoever meets it to push finishes the deletion.
    #[serde(default)]
    pub(crate) deleting: bool,
}

impl RepositoryRecord {
    /// Whether a manifest that was pushed in that life is one of this repository. What a push left behind that a deletion overtook
    /// is not. Records of earlier builds name no life.
    pub(crate) fn has_manifest_of(&self, life: Option<Uuid>) -> bool {
        life.is_none() || life == self.id
    }
}

/// The header of a manifest's record; the manifest's bytes follow it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ManifestRecord {
    pub(crate) media_type: String,
    pub(crate) size: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) touched: OffsetDateTime,
    pub(crate) by: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) subject: Option<Digest>,
    /// The life of the repository in which it was pushed last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) life: Option<Uuid>,
    #[serde(default)]
    pub(crate) attributes: Attributes,
    /// The manifest counts as absent; whoever meets it finishes the deletion.
    #[serde(default)]
    pub(crate) deleting: bool,
}

/// A tag.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TagRecord {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) created: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) updated: OffsetDateTime,
    pub(crate) by: String,
    #[serde(default)]
    pub(crate) attributes: Attributes,
}

/// A hint: its key says all.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HintRecord {}

/// The session of an upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct UploadRecord {
    pub(crate) repository: RepositoryName,
    pub(crate) chunks: Vec<DataPiece>,
    pub(crate) offset: u64,
    pub(crate) algorithm: DigestAlgorithm,
    /// The hash function's state after `offset` bytes, in base64.
    pub(crate) midstate: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) updated: OffsetDateTime,
    pub(crate) principal: String,
    /// Its digest was checked and its bytes may be in use by a blob: it can only be finished.
    #[serde(default)]
    pub(crate) finishing: bool,
}

/// What a registry's content comes to: the sum that the region's nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsageRecord {
    /// Of blobs and manifests.
    pub(crate) bytes: u64,
    /// When all of it was last counted; `None`: never.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    pub(crate) counted: Option<OffsetDateTime>,
    /// When a node last added to it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    pub(crate) changed: Option<OffsetDateTime>,
}

/// Who collects a registry's content, and when somebody last did. It saves work; nothing relies on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LeaseRecord {
    pub(crate) holder: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) until: OffsetDateTime,
    /// When the last pass that ended well began.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub(crate) collected: Option<OffsetDateTime>,
}

/// When a manifest was last pulled, to the hour.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PullRecord {
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) pulled: OffsetDateTime,
}

/// Somebody collects alone: nobody else writes until it is removed or has expired.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExclusiveRecord {
    pub(crate) holder: Uuid,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) since: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub(crate) until: OffsetDateTime,
}

/// A record as read, with the version it was read at.
#[derive(Debug, Clone)]
pub(crate) struct Versioned<T> {
    pub(crate) value: T,
    pub(crate) version: Version,
    /// What follows the header line.
    pub(crate) body: Bytes,
}

/// Typed access to the record store.
#[derive(Clone)]
pub(crate) struct Records {
    store: Arc<dyn RecordStore>,
    sources: Sources,
    /// Asked before every change; the one who collects alone has none.
    admission: Option<Arc<WriteAdmission>>,
}

impl Records {
    pub(crate) fn new(store: Arc<dyn RecordStore>, sources: Sources) -> Self {
        let admission = WriteAdmission::new(Arc::clone(&store), sources.clone());
        Self {
            store,
            sources,
            admission: Some(Arc::new(admission)),
        }
    }

    /// The same for the one who collects alone, whose changes nobody refuses.
    pub(crate) fn without_admission(&self) -> Self {
        Self {
            admission: None,
            ..self.clone()
        }
    }

    async fn admit(&self) -> Result<(), ContentError> {
        match &self.admission {
            Some(admission) => admission.admit().await,
            None => Ok(()),
        }
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<Versioned<T>>, ContentError> {
        match self.store.get(key).await? {
            Some(stored) => decode(key, stored).map(Some),
            None => Ok(None),
        }
    }

    pub(crate) async fn version(&self, key: &str) -> Result<Option<Version>, ContentError> {
        Ok(self.store.version(key).await?)
    }

    /// The record at one key and the version at another.
    pub(crate) async fn get_and_version<T: DeserializeOwned>(
        &self,
        key: &str,
        other: &str,
    ) -> Result<(Option<Versioned<T>>, Option<Version>), ContentError> {
        let (stored, version) = self.store.get_and_version(key, other).await?;
        let stored = stored.map(|stored| decode(key, stored)).transpose()?;
        Ok((stored, version))
    }

    pub(crate) fn removes_for_good(&self) -> bool {
        self.store.removes_for_good()
    }

    pub(crate) fn assume_exclusive(&self) {
        self.store.assume_exclusive();
    }

    pub(crate) async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedRecord>, ContentError> {
        Ok(self.store.list(prefix, after, limit).await?)
    }

    /// Creates a record; `None` if there is one already.
    pub(crate) async fn create<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        body: &[u8],
        durability: Durability,
    ) -> Result<Option<Version>, ContentError> {
        self.admit().await?;
        let bytes = self.encode(value, body);
        let mut was_unknown = false;
        for _ in 0..SETTLE_ATTEMPTS {
            match self.store.create(key, bytes.clone(), durability).await {
                Ok(version) => return Ok(Some(version)),
                Err(WriteError::Conflict) if !was_unknown => return Ok(None),
                Err(WriteError::Conflict) => return self.version_if_ours(key, &bytes).await,
                Err(WriteError::Unknown { .. }) => was_unknown = true,
                Err(error) => return Err(ContentError::Write(error)),
            }
        }
        self.settled_or_unknown(key, &bytes).await.map(Some)
    }

    /// Replaces a record at that version; `None` if it is not at that version any more.
    pub(crate) async fn replace<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        body: &[u8],
        version: &Version,
        durability: Durability,
    ) -> Result<Option<Version>, ContentError> {
        self.admit().await?;
        let bytes = self.encode(value, body);
        let mut was_unknown = false;
        for _ in 0..SETTLE_ATTEMPTS {
            let outcome = self
                .store
                .replace(key, bytes.clone(), version, durability)
                .await;
            match outcome {
                Ok(version) => return Ok(Some(version)),
                Err(WriteError::Conflict) if !was_unknown => return Ok(None),
                Err(WriteError::Conflict) => return self.version_if_ours(key, &bytes).await,
                Err(WriteError::Unknown { .. }) => was_unknown = true,
                Err(error) => return Err(ContentError::Write(error)),
            }
        }
        self.settled_or_unknown(key, &bytes).await.map(Some)
    }

    /// Replaces a record that was read by what was made of it, durable when this returns; `None` if it is not at that version any more.
    pub(crate) async fn rewrite<T: Serialize>(
        &self,
        key: &str,
        found: &Versioned<T>,
    ) -> Result<Option<Version>, ContentError> {
        let Versioned {
            value,
            version,
            body,
        } = found;
        self.replace(key, value, body, version, Durability::OnReturn)
            .await
    }

    /// Removes a record at that version; `false` if it is there at another version. One that is gone counts as removed.
    pub(crate) async fn remove(
        &self,
        key: &str,
        version: &Version,
        durability: Durability,
    ) -> Result<bool, ContentError> {
        self.admit().await?;
        for attempt in 1.. {
            match self.store.remove(key, version, durability).await {
                Ok(()) => return Ok(true),
                Err(WriteError::Conflict) => return Ok(self.store.version(key).await?.is_none()),
                Err(WriteError::Unknown { .. }) if attempt < SETTLE_ATTEMPTS => {}
                Err(error) => return Err(ContentError::Write(error)),
            }
        }
        Ok(false)
    }

    /// After an unknown outcome and a conflict: the record is ours if it has our operation id.
    async fn version_if_ours(
        &self,
        key: &str,
        bytes: &Bytes,
    ) -> Result<Option<Version>, ContentError> {
        let stored = self.store.get(key).await?;
        Ok(stored
            .filter(|stored| operation_id(&stored.bytes) == operation_id(bytes))
            .map(|stored| stored.version))
    }

    /// The last word on a change that stayed unknown: made, or still not known.
    async fn settled_or_unknown(&self, key: &str, bytes: &Bytes) -> Result<Version, ContentError> {
        self.version_if_ours(key, bytes).await?.ok_or_else(|| {
            ContentError::Write(WriteError::Unknown {
                key: key.to_owned(),
                source: "it was tried several times".into(),
            })
        })
    }

    fn encode<T: Serialize>(&self, value: &T, body: &[u8]) -> Bytes {
        let json = serde_json::to_vec(value).expect("records have only text keys");
        let operation = (self.sources.random_id)().to_string();
        let mut bytes = Vec::with_capacity(
            OPERATION_PREFIX.len() + operation.len() + json.len() + body.len() + 4,
        );
        bytes.extend_from_slice(OPERATION_PREFIX);
        bytes.extend_from_slice(operation.as_bytes());
        bytes.push(b'"');
        let members = &json[1..];
        if members != b"}" {
            bytes.push(b',');
        }
        bytes.extend_from_slice(members);
        bytes.push(b'\n');
        bytes.extend_from_slice(body);
        Bytes::from(bytes)
    }
}

pub(crate) fn decode<T: DeserializeOwned>(
    key: &str,
    stored: StoredRecord,
) -> Result<Versioned<T>, ContentError> {
    let damaged = || ContentError::DamagedRecord {
        key: key.to_owned(),
    };
    let end = stored
        .bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .ok_or_else(damaged)?;
    let value = serde_json::from_slice(&stored.bytes[..end]).map_err(|_| damaged())?;
    Ok(Versioned {
        value,
        version: stored.version,
        body: stored.bytes.slice(end + 1..),
    })
}
