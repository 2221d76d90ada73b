//! How a registry's columns are read and written.

use arm::{CreatedByType, SystemData, Tags};
use config_documents::RoleAssignmentMode;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Registry, RetentionPolicy};
use crate::StoreError;

/// A row of `registries` with its group's name.
pub(super) struct RegistryRow {
    pub(super) uid: Uuid,
    pub(super) subscription_id: Uuid,
    pub(super) group_name: String,
    pub(super) name: String,
    pub(super) login_server: String,
    pub(super) location: String,
    pub(super) sku: String,
    pub(super) tags: serde_json::Value,
    pub(super) admin_user_enabled: bool,
    pub(super) role_assignment_mode: String,
    pub(super) anonymous_pull_enabled: bool,
    pub(super) retention: Option<Json<RetentionPolicy>>,
    pub(super) created_at: OffsetDateTime,
    pub(super) created_by: String,
    pub(super) created_by_type: String,
    pub(super) last_modified_at: OffsetDateTime,
    pub(super) last_modified_by: String,
    pub(super) last_modified_by_type: String,
    pub(super) generation: i64,
}

impl RegistryRow {
    pub(super) fn read(self) -> Result<Registry, StoreError> {
        Ok(Registry {
            uid: self.uid,
            subscription_id: self.subscription_id,
            resource_group_name: self.group_name,
            name: self.name,
            login_server: self.login_server,
            location: self.location,
            sku: self.sku,
            tags: read_tags("registries", self.tags)?,
            admin_user_enabled: self.admin_user_enabled,
            role_assignment_mode: read_mode(&self.role_assignment_mode)?,
            anonymous_pull_enabled: self.anonymous_pull_enabled,
            retention: read_retention(self.retention),
            system_data: read_system_data(
                self.created_by,
                &self.created_by_type,
                self.created_at,
                self.last_modified_by,
                &self.last_modified_by_type,
                self.last_modified_at,
            )?,
            generation: self.generation,
        })
    }
}

pub(super) fn mode_text(mode: RoleAssignmentMode) -> &'static str {
    match mode {
        RoleAssignmentMode::LegacyRegistryPermissions => "LegacyRegistryPermissions",
        RoleAssignmentMode::AbacRepositoryPermissions => "AbacRepositoryPermissions",
    }
}

pub(crate) fn read_mode(text: &str) -> Result<RoleAssignmentMode, StoreError> {
    match text {
        "LegacyRegistryPermissions" => Ok(RoleAssignmentMode::LegacyRegistryPermissions),
        "AbacRepositoryPermissions" => Ok(RoleAssignmentMode::AbacRepositoryPermissions),
        other => Err(StoreError::Corrupt {
            table: "registries",
            reason: format!("role assignment mode '{other}'"),
        }),
    }
}

/// What a column says; never set, it is off with its defaults.
pub(crate) fn read_retention(column: Option<Json<RetentionPolicy>>) -> RetentionPolicy {
    column.map(|Json(policy)| policy).unwrap_or_default()
}

pub(crate) fn read_tags(table: &'static str, value: serde_json::Value) -> Result<Tags, StoreError> {
    serde_json::from_value(value).map_err(|error| StoreError::Corrupt {
        table,
        reason: error.to_string(),
    })
}

pub(crate) fn read_system_data(
    created_by: String,
    created_by_type: &str,
    created_at: OffsetDateTime,
    last_modified_by: String,
    last_modified_by_type: &str,
    last_modified_at: OffsetDateTime,
) -> Result<SystemData, StoreError> {
    let kind = |text: &str| match text {
        "User" => Ok(CreatedByType::User),
        "Application" => Ok(CreatedByType::Application),
        "ManagedIdentity" => Ok(CreatedByType::ManagedIdentity),
        "Key" => Ok(CreatedByType::Key),
        other => Err(StoreError::Corrupt {
            table: "registries",
            reason: format!("creator type '{other}'"),
        }),
    };
    Ok(SystemData {
        created_by,
        created_by_type: kind(created_by_type)?,
        created_at,
        last_modified_by,
        last_modified_by_type: kind(last_modified_by_type)?,
        last_modified_at,
    })
}

pub(super) fn created_by_type_text(kind: CreatedByType) -> &'static str {
    match kind {
        CreatedByType::User => "User",
        CreatedByType::Application => "Application",
        CreatedByType::ManagedIdentity => "ManagedIdentity",
        CreatedByType::Key => "Key",
    }
}
