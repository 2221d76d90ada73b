//! What a caller takes for granted of a tag or a manifest when it asks for a change (RFC 9110, 13.1). For tags it is judged together with
//! the compare-and-swap that makes the change, so of several callers who build on the same state only one is served: clients that
//! keep lists under a tag lose no entry.

use super::error::ContentError;
use crate::names::Digest;

/// Contents, as a caller names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntityTags {
    /// Whatever is there.
    Any,
    /// One of these digests. What is no digest matches nothing.
    These(Vec<String>),
}

impl EntityTags {
    /// Whether the content that is there now, if any, is among them.
    #[must_use]
    pub fn include(&self, current: Option<&Digest>) -> bool {
        current.is_some_and(|current| match self {
            Self::Any => true,
            Self::These(digests) => digests.iter().any(|digest| digest == current.as_str()),
        })
    }
}

/// A change is made only if all of this holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Precondition {
    /// What is there must be among these.
    pub if_match: Option<EntityTags>,
    /// What is there must not be among these.
    pub if_none_match: Option<EntityTags>,
}

impl Precondition {
    /// Whether nothing is asked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    pub(super) fn check(&self, current: Option<&Digest>) -> Result<(), ContentError> {
        let is_wanted = |tags: &EntityTags| tags.include(current);
        let holds = self.if_match.as_ref().is_none_or(is_wanted)
            && !self.if_none_match.as_ref().is_some_and(is_wanted);
        if holds {
            return Ok(());
        }
        Err(ContentError::PreconditionFailed {
            current: current.cloned(),
        })
    }
}
