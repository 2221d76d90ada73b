//! Role definitions and role assignments, as they are stored and as they travel to nodes.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Action, ActionPattern, Condition, Scope};

/// What a role allows: actions of the control plane, and data actions of the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Permission {
    /// Allowed in the control plane …
    pub actions: Vec<ActionPattern>,
    /// … except for these.
    pub not_actions: Vec<ActionPattern>,
    /// Allowed in the data plane …
    pub data_actions: Vec<ActionPattern>,
    /// … except for these.
    pub not_data_actions: Vec<ActionPattern>,
}

/// Whether a role came with the service or was made by its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RoleKind {
    /// One of [`crate::built_in_roles`].
    #[serde(rename = "BuiltInRole")]
    BuiltIn,
    /// Made by users.
    #[serde(rename = "CustomRole")]
    Custom,
}

impl RoleKind {
    /// As ARM spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BuiltIn => "BuiltInRole",
            Self::Custom => "CustomRole",
        }
    }
}

/// A named set of permissions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleDefinition {
    /// Its name in URLs; the same everywhere for built-in roles.
    pub id: Uuid,
    /// The name that people read.
    pub role_name: String,
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
    /// Built in or custom.
    pub kind: RoleKind,
    /// What it allows.
    pub permissions: Vec<Permission>,
    /// Where it may be assigned.
    #[serde(default)]
    pub assignable_scopes: Vec<Scope>,
}

/// A principal holds a role at a scope and everything below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleAssignment {
    /// Its name in URLs.
    pub id: Uuid,
    /// Where the role holds.
    pub scope: Scope,
    /// The object id of the principal: a service principal, a user or a group.
    pub principal_id: Uuid,
    /// The [`RoleDefinition::id`].
    pub role_definition_id: Uuid,
    /// Restricts the role's data actions to some repositories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
}

impl RoleDefinition {
    /// Whether this role alone allows an action of the control plane: one of its permissions names
    /// it, and none of its permissions takes it away.
    pub fn permits(&self, action: &Action) -> bool {
        self.any(action, |permission| &permission.actions)
            && !self.any(action, |permission| &permission.not_actions)
    }

    /// The same for a data action.
    pub fn permits_data(&self, action: &Action) -> bool {
        self.any(action, |permission| &permission.data_actions)
            && !self.any(action, |permission| &permission.not_data_actions)
    }

    fn any(&self, action: &Action, patterns: impl Fn(&Permission) -> &Vec<ActionPattern>) -> bool {
        self.permissions
            .iter()
            .flat_map(patterns)
            .any(|pattern| pattern.matches(action))
    }
}
