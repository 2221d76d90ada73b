//! The messages of `/config/v1/stream`, one JSON object a WebSocket text frame.
//!
//! Grammar, control plane to node: `(snapshot-begin documents* snapshot-end)? (documents* mark)*`. A snapshot is also closed by the
//! mark that follows it; nothing is visible to requests before that mark. The node answers each mark with `applied`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Checksum, Epoch, Region, Revision};

/// A document as it is stored and sent: latest state only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredDocument {
    pub region: Region,
    pub kind: String,
    pub key: String,
    /// The body's exact text; absent for a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    pub revision: Revision,
}

/// What a node says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum NodeMessage {
    /// First message of a stream.
    Hello {
        node_id: Uuid,
        region: Region,
        /// The newest form of each kind that the node understands.
        forms: BTreeMap<String, u32>,
        /// What the node's copy holds; absent when it holds nothing.
        epoch: Option<Epoch>,
        revision: Revision,
        address: String,
        /// The age of its configuration past which the node refuses requests; absent when it serves without bound.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        staleness_bound_seconds: Option<u32>,
    },
    /// The answer to a mark: all up to `revision` is durable and visible to requests, but for what is rejected.
    Applied {
        /// Goes up by one with each answer on this stream.
        sequence: u64,
        /// The epoch of the revision; an early build leaves it out and means the one that its stream began with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<Epoch>,
        revision: Revision,
        /// Every document that the node holds and cannot understand; what it governs is denied.
        rejected: Vec<Rejected>,
    },
    /// The checksum of a mark did not hold: the node kept its old index and asks for a snapshot.
    SnapshotWanted { reason: String },
    /// Credentials that were used here since the last such message, to the hour; only to control planes that announced form 3 of
    /// [`STREAM_FORM`] (see [`ControlPlaneMessage::Greeting`]).
    Used { credentials: Vec<UsedCredential> },
    /// How much registries store, of those where it changed since the last such message; only to control planes that announced form 4 of
    /// [`STREAM_FORM`].
    Usage { registries: Vec<RegistryUsage> },
}

/// How much a registry stores: what all nodes of its region counted together, so of several reports the latest counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryUsage {
    pub registry_uid: Uuid,
    pub bytes: u64,
    /// When that was so.
    #[serde(with = "time::serde::rfc3339")]
    pub counted_at: OffsetDateTime,
}

/// When a credential was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedCredential {
    pub credential: UsedCredentialId,
    /// The hour's beginning.
    #[serde(with = "time::serde::rfc3339")]
    pub hour: OffsetDateTime,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum UsedCredentialId {
    /// A secret of a service principal.
    Secret { key_id: Uuid },
    /// A password of a registry's admin account.
    AdminPassword {
        registry_uid: Uuid,
        slot: crate::AdminPasswordSlot,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rejected {
    pub region: Region,
    pub kind: String,
    pub key: String,
    pub revision: Revision,
    pub reason: String,
}

/// What the control plane says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ControlPlaneMessage {
    /// The answer to a hello that announces form 3 of [`STREAM_FORM`]: the newest form of the stream that this control plane understands.
    Greeting {
        stream_form: u32,
    },
    /// What follows replaces the node's copy; it never merges.
    SnapshotBegin {
        epoch: Epoch,
    },
    Documents {
        documents: Vec<StoredDocument>,
    },
    SnapshotEnd,
    /// All documents up to `revision` have been sent.
    Mark {
        epoch: Epoch,
        revision: Revision,
        /// The control plane's clock.
        #[serde(with = "time::serde::rfc3339")]
        time: OffsetDateTime,
        /// Over the live documents of the node's region and of `*`.
        checksum: Checksum,
        /// The highest `applied` sequence of this stream that is committed; 0 for none.
        heard: u64,
    },
    /// An operator asks for a new credential and signing key: the node calls `POST /config/v1/rotate`. Said on every stream until it has
    /// happened; only to nodes that announce form 2 of [`STREAM_FORM`].
    Rotate,
    /// This node was removed: it refuses every request from now on. Said before the stream ends, or as the answer to a hello; only to
    /// nodes that announce form 2 of [`STREAM_FORM`].
    Removed,
}

/// The name under which a node announces, beside the forms of documents, which messages of the stream it understands.
/// Form 1: all but `rotate` and `removed`. Form 2: all but `greeting` and `used`. Form 3: all but `usage`.
pub const STREAM_FORM: &str = "stream";
