//! The contract between the planes: what nodes need to know, as documents, and the messages that carry them.
//!
//! Both planes depend on this crate and on nothing else of each other. A document is a normalised fact, never a product of facts.
//! Nothing here holds a plaintext secret: documents carry verifiers.

mod checksum;
mod document;
mod enrolment;
mod stream;

pub use checksum::Checksum;
pub use document::{
    AdminPassword, AdminPasswordSlot, AdminUser, ChosenSecret, Document, Group, Kind,
    MalformedDocument, Node, Principal, PrincipalSecret, Registry, RegistryName, Retention,
    RoleAssignmentMode, SignInCredential, SignInKey, SigningKey, forms,
};
pub use enrolment::{
    JoinAnswer, JoinRequest, MINIMUM_MARK_INTERVAL_MILLISECONDS,
    REGISTRY_REFRESH_TOKEN_LIFETIME_SECONDS, REGISTRY_TOKEN_LIFETIME_SECONDS, RotateRequest,
};
pub use stream::{
    ControlPlaneMessage, NodeMessage, RegistryUsage, Rejected, STREAM_FORM, StoredDocument,
    UsedCredential, UsedCredentialId,
};

use serde::{Deserialize, Serialize};
use std::fmt;

/// A position in the history of configuration within one epoch: dense and in commit order.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// One unbroken history of configuration. Revisions of different epochs do not compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub uuid::Uuid);

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The name of a region, or `*` for documents that every region gets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Region(pub String);

impl Region {
    /// All regions.
    pub fn all() -> Self {
        Self("*".into())
    }

    pub fn is_all(&self) -> bool {
        self.0 == "*"
    }

    /// Whether what is for this region is for the nodes of `region`: it is the same one, or all.
    pub fn includes(&self, region: &Self) -> bool {
        self.is_all() || self == region
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
