//! What a decision about access needs, loaded in one statement together with the resource that the path names.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::registries::Registry;
use crate::resource_groups::ResourceGroup;
use crate::{Store, StoreError};

/// The credential behind a token.
#[derive(Debug, Clone, Copy)]
pub struct Credential {
    pub object_id: Uuid,
    /// The secret that the token came from.
    pub key_id: Uuid,
}

/// Where a decision is asked for, as canonical keys.
#[derive(Debug, Clone, Default)]
pub struct ScopeKeys {
    /// The scope itself and all above it, up to `/`.
    pub chain: Vec<String>,
    pub subscription_id: Option<Uuid>,
    pub resource_group: Option<String>,
    /// The name of a registry, when the path goes that deep.
    pub registry: Option<String>,
}

/// Everything that a decision about access needs.
#[derive(Debug, Clone)]
pub struct AccessFacts {
    /// Whether the token's principal is there and enabled, and the token's secret is there and not over.
    pub credential_is_good: bool,
    pub is_directory_administrator: bool,
    /// Assignments that may count: those of the caller at the scope and above it.
    pub assignments: Vec<AssignedRole>,
    /// What the path names, as far as it exists.
    pub subscription_exists: bool,
    pub resource_group: Option<ResourceGroup>,
    pub registry: Option<Registry>,
}

/// A role that a principal has at a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignedRole {
    pub scope_key: String,
    pub principal_id: Uuid,
    pub role_definition_id: Uuid,
}

impl Store {
    /// The facts for one decision, and the resource that it is about.
    pub async fn access_facts(
        &self,
        credential: Credential,
        scope: &ScopeKeys,
        now: OffsetDateTime,
    ) -> Result<AccessFacts, StoreError> {
        let row = sqlx::query!(
            r#"SELECT
                 EXISTS (SELECT 1 FROM principals p
                   JOIN service_principals sp ON sp.object_id = p.object_id
                   JOIN application_secrets c ON c.app_id = sp.app_id
                   WHERE p.object_id = $1 AND p.enabled AND c.key_id = $2 AND c.expires_at > $3) AS "good!",
                 EXISTS (SELECT 1 FROM directory_role_members d
                   WHERE d.principal_id = $1 AND d.role = 'administrator') AS "administrator!",
                 ARRAY (SELECT a.role_definition_id::text || a.scope_key FROM role_assignments a
                   WHERE a.principal_id = $1 AND a.scope_key = ANY ($4)) AS "assignments!",
                 s.subscription_id AS "subscription_id?",
                 g.uid AS "group_uid?", g.name AS "group_name?", g.location AS "group_location?",
                 g.tags AS "group_tags?", g.created_at AS "group_created_at?",
                 r.uid AS "uid?", r.name AS "name?", r.login_server AS "login_server?", r.location AS "location?",
                 r.sku AS "sku?", r.tags AS "tags?", r.admin_user_enabled AS "admin_user_enabled?",
                 r.created_at AS "created_at?", r.created_by AS "created_by?", r.created_by_type AS "created_by_type?",
                 r.last_modified_at AS "last_modified_at?", r.last_modified_by AS "last_modified_by?",
                 r.last_modified_by_type AS "last_modified_by_type?", r.generation AS "generation?"
               FROM (SELECT 1) one
               LEFT JOIN subscriptions s ON s.subscription_id = $5
               LEFT JOIN resource_groups g ON g.subscription_id = s.subscription_id AND g.name_key = $6
               LEFT JOIN registries r ON r.resource_group_uid = g.uid AND r.name_key = $7"#,
            credential.object_id,
            credential.key_id,
            now,
            &scope.chain,
            scope.subscription_id,
            scope.resource_group,
            scope.registry,
        )
        .fetch_one(self.pool())
        .await?;
        let resource_group = match (row.subscription_id, row.group_uid) {
            (Some(subscription_id), Some(uid)) => Some(ResourceGroup {
                uid,
                subscription_id,
                name: row.group_name.unwrap_or_default(),
                location: row.group_location.unwrap_or_default(),
                tags: crate::registries::read_tags(
                    "resource_groups",
                    row.group_tags.unwrap_or_default(),
                )?,
                created_at: row.group_created_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
            }),
            _ => None,
        };
        let registry = match (&resource_group, row.uid) {
            (Some(group), Some(uid)) => Some(Registry {
                uid,
                subscription_id: group.subscription_id,
                resource_group_name: group.name.clone(),
                name: row.name.unwrap_or_default(),
                login_server: row.login_server.unwrap_or_default(),
                location: row.location.unwrap_or_default(),
                sku: row.sku.unwrap_or_default(),
                tags: crate::registries::read_tags("registries", row.tags.unwrap_or_default())?,
                admin_user_enabled: row.admin_user_enabled.unwrap_or_default(),
                system_data: crate::registries::read_system_data(
                    row.created_by.unwrap_or_default(),
                    &row.created_by_type.unwrap_or_default(),
                    row.created_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
                    row.last_modified_by.unwrap_or_default(),
                    &row.last_modified_by_type.unwrap_or_default(),
                    row.last_modified_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
                )?,
                generation: row.generation.unwrap_or_default(),
            }),
            _ => None,
        };
        Ok(AccessFacts {
            credential_is_good: row.good,
            is_directory_administrator: row.administrator,
            assignments: row
                .assignments
                .iter()
                .map(|text| assigned_role(credential.object_id, text))
                .collect::<Result<_, _>>()?,
            subscription_exists: row.subscription_id.is_some(),
            resource_group,
            registry,
        })
    }

    /// Every assignment of a principal, for lists that leave out what it may not read.
    pub async fn access_assignments(
        &self,
        principal_id: Uuid,
    ) -> Result<Vec<AssignedRole>, StoreError> {
        let rows = sqlx::query_as!(
            AssignedRole,
            "SELECT scope_key, principal_id, role_definition_id FROM role_assignments WHERE principal_id = $1",
            principal_id
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }
}

/// Reads a role's id followed by the key of its scope: one column for both, so that one scan gives them.
fn assigned_role(principal_id: Uuid, text: &str) -> Result<AssignedRole, StoreError> {
    let (role, scope_key) = text
        .split_at_checked(uuid::fmt::Hyphenated::LENGTH)
        .unwrap_or((text, ""));
    let role_definition_id = Uuid::try_parse(role).map_err(|error| StoreError::Corrupt {
        table: "role_assignments",
        reason: error.to_string(),
    })?;
    Ok(AssignedRole {
        scope_key: scope_key.to_owned(),
        principal_id,
        role_definition_id,
    })
}
