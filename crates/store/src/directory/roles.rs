//! Roles of the directory itself, and who holds them. Only people and service principals do, so that whoever is the last administrator is
//! known without following groups.

use uuid::{Uuid, uuid};

use super::principals::is_last_administrator;
use super::{Addressed, hold_individual};
use crate::config::publish;
use crate::{Store, StoreError, Transaction};

/// A role of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryRole {
    /// May do everything in the directory.
    Administrator,
    /// Manages all applications and service principals but those that administer the directory.
    ApplicationAdministrator,
    /// May read, as every principal of the tenant may.
    Reader,
}

impl DirectoryRole {
    pub const ALL: [Self; 3] = [
        Self::Administrator,
        Self::ApplicationAdministrator,
        Self::Reader,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::ApplicationAdministrator => "application-administrator",
            Self::Reader => "reader",
        }
    }

    /// The same in every directory: the id of Microsoft Graph's template of the role.
    pub fn id(self) -> Uuid {
        match self {
            Self::Administrator => uuid!("62e90394-69f5-4237-9190-012177145e10"),
            Self::ApplicationAdministrator => uuid!("9b895d92-2cd3-44c7-9d02-a6ac2d5ea5c3"),
            Self::Reader => uuid!("88d8e3e3-8f55-4a1e-953a-9b9898b8876b"),
        }
    }
}

/// Who has a role, as people know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryRoleMember {
    pub object_id: Uuid,
    /// `User` or `ServicePrincipal`.
    pub kind: String,
    /// A person's user principal name; of anything else the name that is shown.
    pub name: String,
}

/// What came of giving somebody a role.
#[derive(Debug, PartialEq, Eq)]
pub enum RoleAddition {
    Added,
    /// The principal has it already.
    Exists,
    /// The directory has no such user or service principal.
    PrincipalNotFound,
}

/// What came of taking a role from somebody.
#[derive(Debug, PartialEq, Eq)]
pub enum RoleRemoval {
    Removed,
    NotFound,
    /// Nobody who can administer the directory would be left.
    LastAdministrator,
}

impl Store {
    /// Like [`Store::directory_role_member_ids`], with their names.
    pub async fn directory_role_members(
        &self,
        role: DirectoryRole,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<DirectoryRoleMember>, StoreError> {
        let members = sqlx::query_as!(
            DirectoryRoleMember,
            r#"SELECT p.object_id, p.kind, COALESCE(u.user_principal_name, p.display_name) AS "name!"
             FROM directory_role_members m
             JOIN principals p ON p.object_id = m.principal_id
             LEFT JOIN users u ON u.object_id = m.principal_id
             WHERE m.role = $1 AND m.principal_id > $2 ORDER BY m.principal_id LIMIT $3"#,
            role.as_str(),
            after,
            limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(members)
    }

    /// A page of those who have a role, in the order of their ids, starting after `after`.
    pub async fn directory_role_member_ids(
        &self,
        role: DirectoryRole,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<Uuid>, StoreError> {
        let ids = sqlx::query_scalar!(
            "SELECT principal_id FROM directory_role_members WHERE role = $1 AND principal_id > $2 ORDER BY principal_id LIMIT $3",
            role.as_str(),
            after,
            limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(ids)
    }

    pub async fn directory_role_add(
        &self,
        role: DirectoryRole,
        principal: Addressed,
    ) -> Result<RoleAddition, StoreError> {
        let principal_id = principal.object_id;
        crate::activity::detail("memberId", principal_id.to_string());
        crate::activity::detail("role", role.as_str());
        let mut transaction = self.begin().await?;
        if !hold_individual(&mut transaction, principal).await? {
            return Ok(RoleAddition::PrincipalNotFound);
        }
        if !insert(&mut transaction, role, principal_id).await? {
            return Ok(RoleAddition::Exists);
        }
        publish_nothing(&mut transaction).await?;
        transaction.commit().await?;
        Ok(RoleAddition::Added)
    }

    pub async fn directory_role_remove(
        &self,
        role: DirectoryRole,
        principal_id: Uuid,
    ) -> Result<RoleRemoval, StoreError> {
        crate::activity::detail("memberId", principal_id.to_string());
        crate::activity::detail("role", role.as_str());
        let mut transaction = self.begin().await?;
        if role == DirectoryRole::Administrator
            && is_last_administrator(&mut transaction, principal_id).await?
        {
            return Ok(RoleRemoval::LastAdministrator);
        }
        let removed = sqlx::query!(
            "DELETE FROM directory_role_members WHERE role = $1 AND principal_id = $2",
            role.as_str(),
            principal_id
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if removed == 0 {
            return Ok(RoleRemoval::NotFound);
        }
        publish_nothing(&mut transaction).await?;
        transaction.commit().await?;
        Ok(RoleRemoval::Removed)
    }
}

/// Gives a role to a principal that is there; false when it has it already.
pub(super) async fn insert(
    transaction: &mut Transaction,
    role: DirectoryRole,
    principal_id: Uuid,
) -> Result<bool, StoreError> {
    let inserted = sqlx::query!(
        "INSERT INTO directory_role_members (role, principal_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        role.as_str(),
        principal_id
    )
    .execute(&mut **transaction)
    .await?
    .rows_affected();
    Ok(inserted > 0)
}

/// Counts the revision up, by which control planes know that what they remember of callers may not be so any more. Nodes have nothing to learn.
async fn publish_nothing(transaction: &mut Transaction) -> Result<(), StoreError> {
    publish(transaction, &[]).await.map(|_| ())
}
