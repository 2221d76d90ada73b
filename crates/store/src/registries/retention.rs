//! The rules by which manifests without a tag are removed (`policies.retentionPolicy`).

use config_documents::Retention;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A registry's rules, kept while they are switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionPolicy {
    pub is_enabled: bool,
    /// Since the manifest was pushed.
    pub days: u32,
    /// Since it was pulled; `None`: pulls do not matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days_since_last_pull: Option<u32>,
    /// How many of each repository stay whatever their age; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_newest: Option<u32>,
    /// `None` while they are as they were at the registry's creation.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::rfc3339::option"
    )]
    pub last_updated_at: Option<OffsetDateTime>,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            is_enabled: false,
            days: 7,
            days_since_last_pull: None,
            keep_newest: None,
            last_updated_at: None,
        }
    }
}

impl RetentionPolicy {
    /// As nodes are told.
    pub(super) fn in_force(&self) -> Option<Retention> {
        self.is_enabled.then_some(Retention {
            days_since_push: Some(self.days),
            days_since_pull: self.days_since_last_pull,
            keep_newest: self.keep_newest,
        })
    }

    /// Whether both say the same, whenever it was said.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let rules = |policy: &Self| Self {
            last_updated_at: None,
            ..*policy
        };
        rules(self) == rules(other)
    }
}
