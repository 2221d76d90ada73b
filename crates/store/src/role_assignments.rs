//! Role assignments.

use config_documents::{Document, Kind, Region};
use rbac::Scope;
use sqlx::{Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::{Change, Published, publish};
use crate::{Store, StoreError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleAssignment {
    /// Unique in the tenant.
    pub name: Uuid,
    /// As the caller typed it.
    pub scope: String,
    pub principal_id: Uuid,
    pub principal_type: String,
    pub role_definition_id: Uuid,
    pub description: Option<String>,
    pub created_at: OffsetDateTime,
    pub created_by: Option<Uuid>,
    pub updated_at: OffsetDateTime,
    pub updated_by: Option<Uuid>,
}

/// What came of a PUT of a role assignment.
#[derive(Debug)]
pub enum RoleAssignmentPut {
    Created(RoleAssignment, Published),
    /// The same assignment was there; its description is the new one.
    Existing(RoleAssignment),
    /// Scope, principal and role are assigned under another name.
    Duplicate(Uuid),
    /// The name belongs to an assignment of another scope, principal or role.
    NameTaken(RoleAssignment),
    PrincipalNotFound,
    /// The resource was deleted meanwhile.
    ScopeNotFound,
}

/// The row that must exist, and be kept from deletion, while something is assigned at it.
#[derive(Debug, Clone, Copy)]
pub enum ScopeRow {
    Subscription(Uuid),
    ResourceGroup(Uuid),
    Registry(Uuid),
}

/// Which assignments a list is asked for.
#[derive(Debug, Clone, Default)]
pub struct RoleAssignmentFilter {
    /// The scope itself and all above it.
    pub chain: Vec<String>,
    /// Also those below this scope.
    pub below: Option<String>,
    pub principal_id: Option<Uuid>,
}

impl Store {
    /// Assigns a role, or changes the description of the same assignment.
    pub async fn role_assignment_put(
        &self,
        wanted: &RoleAssignment,
        scope: &Scope,
        scope_row: ScopeRow,
    ) -> Result<RoleAssignmentPut, StoreError> {
        // What is in the way may be deleted or made by others before it is looked at; then there is another attempt.
        loop {
            if let Some(outcome) = self.role_assignment_try(wanted, scope, scope_row).await? {
                return Ok(outcome);
            }
        }
    }

    /// One attempt; `None` when an assignment that was in the way is gone.
    async fn role_assignment_try(
        &self,
        wanted: &RoleAssignment,
        scope: &Scope,
        scope_row: ScopeRow,
    ) -> Result<Option<RoleAssignmentPut>, StoreError> {
        let mut transaction = self.begin().await?;
        if !lock_scope(&mut transaction, scope_row).await? {
            return Ok(Some(RoleAssignmentPut::ScopeNotFound));
        }
        let principal = sqlx::query!(
            "SELECT object_id FROM principals WHERE object_id = $1 FOR KEY SHARE",
            wanted.principal_id
        )
        .fetch_optional(&mut *transaction)
        .await?;
        if principal.is_none() {
            return Ok(Some(RoleAssignmentPut::PrincipalNotFound));
        }
        let inserted = sqlx::query!(
            "INSERT INTO role_assignments (name, scope, scope_key, principal_id, principal_type, role_definition_id,
               description, created_at, created_by, updated_at, updated_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $8, $9)
             ON CONFLICT DO NOTHING",
            wanted.name,
            wanted.scope,
            scope.key(),
            wanted.principal_id,
            wanted.principal_type,
            wanted.role_definition_id,
            wanted.description,
            wanted.created_at,
            wanted.created_by
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if inserted == 0 {
            let outcome = existing(&mut transaction, wanted, scope).await?;
            transaction.commit().await?;
            return Ok(outcome);
        }
        let document = Document::RoleAssignment(rbac::RoleAssignment {
            id: wanted.name,
            scope: scope.clone(),
            principal_id: wanted.principal_id,
            role_definition_id: wanted.role_definition_id,
            condition: None,
        });
        let published = publish(
            &mut transaction,
            &[Change::Upsert {
                region: Region::all(),
                document,
            }],
        )
        .await?;
        transaction.commit().await?;
        Ok(Some(RoleAssignmentPut::Created(wanted.clone(), published)))
    }

    /// An assignment by its name at exactly that scope.
    pub async fn role_assignment_get(
        &self,
        scope_key: &str,
        name: Uuid,
    ) -> Result<Option<RoleAssignment>, StoreError> {
        let row = sqlx::query_as!(
            RoleAssignment,
            "SELECT name, scope, principal_id, principal_type, role_definition_id, description,
               created_at, created_by, updated_at, updated_by
             FROM role_assignments WHERE name = $1 AND scope_key = $2",
            name,
            scope_key
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(row)
    }

    /// A page of assignments in the order of their names, starting after `after`.
    pub async fn role_assignment_list(
        &self,
        filter: &RoleAssignmentFilter,
        after: Uuid,
        limit: i64,
    ) -> Result<Vec<RoleAssignment>, StoreError> {
        let (from, to) = below(filter.below.as_deref().unwrap_or_default());
        let rows = sqlx::query_as!(
            RoleAssignment,
            "SELECT name, scope, principal_id, principal_type, role_definition_id, description,
               created_at, created_by, updated_at, updated_by
             FROM role_assignments
             WHERE (scope_key = ANY ($1) OR ($2 AND scope_key >= $3 AND scope_key < $4))
               AND ($5::uuid IS NULL OR principal_id = $5)
               AND name > $6
             ORDER BY name LIMIT $7",
            &filter.chain,
            filter.below.is_some(),
            from,
            to,
            filter.principal_id,
            after,
            limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// Deletes an assignment; `None` when it is not there.
    pub async fn role_assignment_delete(
        &self,
        scope_key: &str,
        name: Uuid,
    ) -> Result<Option<(RoleAssignment, Published)>, StoreError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query_as!(
            RoleAssignment,
            "DELETE FROM role_assignments WHERE name = $1 AND scope_key = $2
             RETURNING name, scope, principal_id, principal_type, role_definition_id, description,
               created_at, created_by, updated_at, updated_by",
            name,
            scope_key
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let change = Change::Delete {
            region: Region::all(),
            kind: Kind::RoleAssignment,
            key: name.to_string(),
        };
        let published = publish(&mut transaction, &[change]).await?;
        transaction.commit().await?;
        Ok(Some((row, published)))
    }
}

/// Writes an assignment whose scope and principal are known to be there, and says what to publish.
pub(crate) async fn role_assignment_create(
    transaction: &mut Transaction<'_, Postgres>,
    assignment: &RoleAssignment,
    scope: &Scope,
) -> Result<Change, StoreError> {
    sqlx::query!(
        "INSERT INTO role_assignments (name, scope, scope_key, principal_id, principal_type, role_definition_id,
           description, created_at, created_by, updated_at, updated_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $8, $9)",
        assignment.name,
        assignment.scope,
        scope.key(),
        assignment.principal_id,
        assignment.principal_type,
        assignment.role_definition_id,
        assignment.description,
        assignment.created_at,
        assignment.created_by
    )
    .execute(&mut **transaction)
    .await?;
    Ok(Change::Upsert {
        region: Region::all(),
        document: Document::RoleAssignment(rbac::RoleAssignment {
            id: assignment.name,
            scope: scope.clone(),
            principal_id: assignment.principal_id,
            role_definition_id: assignment.role_definition_id,
            condition: None,
        }),
    })
}

/// Deletes all assignments at a scope and below it, and says what to publish.
pub(crate) async fn delete_at_and_below(
    transaction: &mut Transaction<'_, Postgres>,
    scope_key: &str,
) -> Result<Vec<Change>, StoreError> {
    let (from, to) = below(scope_key);
    let rows = sqlx::query!(
        "DELETE FROM role_assignments
         WHERE scope_key = $1 OR (scope_key >= $2 AND scope_key < $3) RETURNING name",
        scope_key,
        from,
        to
    )
    .fetch_all(&mut **transaction)
    .await?;
    Ok(rows.into_iter().map(|row| deletion(row.name)).collect())
}

/// Deletes all assignments of a principal, and says what to publish.
pub(crate) async fn delete_of_principal(
    transaction: &mut Transaction<'_, Postgres>,
    principal_id: Uuid,
) -> Result<Vec<Change>, StoreError> {
    let rows = sqlx::query!(
        "DELETE FROM role_assignments WHERE principal_id = $1 RETURNING name",
        principal_id
    )
    .fetch_all(&mut **transaction)
    .await?;
    Ok(rows.into_iter().map(|row| deletion(row.name)).collect())
}

fn deletion(name: Uuid) -> Change {
    Change::Delete {
        region: Region::all(),
        kind: Kind::RoleAssignment,
        key: name.to_string(),
    }
}

/// The range of keys below a scope: from `{key}/` up to, not including, `{key}0` ('0' follows '/').
fn below(scope_key: &str) -> (String, String) {
    let base = scope_key.trim_end_matches('/');
    (format!("{base}/"), format!("{base}0"))
}

async fn lock_scope(
    transaction: &mut Transaction<'_, Postgres>,
    row: ScopeRow,
) -> Result<bool, StoreError> {
    let found = match row {
        ScopeRow::Subscription(id) => sqlx::query_scalar!(
            "SELECT subscription_id FROM subscriptions WHERE subscription_id = $1 FOR KEY SHARE",
            id
        )
        .fetch_optional(&mut **transaction)
        .await?,
        ScopeRow::ResourceGroup(uid) => {
            sqlx::query_scalar!(
                "SELECT uid FROM resource_groups WHERE uid = $1 FOR KEY SHARE",
                uid
            )
            .fetch_optional(&mut **transaction)
            .await?
        }
        ScopeRow::Registry(uid) => {
            sqlx::query_scalar!(
                "SELECT uid FROM registries WHERE uid = $1 FOR KEY SHARE",
                uid
            )
            .fetch_optional(&mut **transaction)
            .await?
        }
    };
    Ok(found.is_some())
}

/// The assignment that is in the way of a new one; `None` when it is gone, or is now the same.
async fn existing(
    transaction: &mut Transaction<'_, Postgres>,
    wanted: &RoleAssignment,
    scope: &Scope,
) -> Result<Option<RoleAssignmentPut>, StoreError> {
    let by_name = sqlx::query!(
        "UPDATE role_assignments SET description = $5, updated_at = $6, updated_by = $7
         WHERE name = $1 AND scope_key = $2 AND principal_id = $3 AND role_definition_id = $4
         RETURNING created_at, created_by, scope, principal_type",
        wanted.name,
        scope.key(),
        wanted.principal_id,
        wanted.role_definition_id,
        wanted.description,
        wanted.created_at,
        wanted.created_by
    )
    .fetch_optional(&mut **transaction)
    .await?;
    if let Some(row) = by_name {
        return Ok(Some(RoleAssignmentPut::Existing(RoleAssignment {
            created_at: row.created_at,
            created_by: row.created_by,
            scope: row.scope,
            principal_type: row.principal_type,
            ..wanted.clone()
        })));
    }
    let in_the_way = sqlx::query_as!(
        RoleAssignment,
        "SELECT name, scope, principal_id, principal_type, role_definition_id, description,
           created_at, created_by, updated_at, updated_by
         FROM role_assignments
         WHERE name = $1 OR (scope_key = $2 AND principal_id = $3 AND role_definition_id = $4)",
        wanted.name,
        scope.key(),
        wanted.principal_id,
        wanted.role_definition_id
    )
    .fetch_all(&mut **transaction)
    .await?;
    if let Some(duplicate) = in_the_way.iter().find(|other| other.name != wanted.name) {
        return Ok(Some(RoleAssignmentPut::Duplicate(duplicate.name)));
    }
    // One of the same name may be the very assignment that is wanted, made meanwhile.
    Ok(in_the_way
        .into_iter()
        .find(|other| {
            other.principal_id != wanted.principal_id
                || other.role_definition_id != wanted.role_definition_id
                || arm::canonical_key(&other.scope) != scope.key()
        })
        .map(RoleAssignmentPut::NameTaken))
}
