//! Role assignments.

pub(crate) mod owners;

use config_documents::{Document, Kind, Region};
use rbac::{Condition, Scope};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::access::PrincipalKind;
use crate::config::{Change, Published, publish};
use crate::{Store, StoreError, Transaction, activity, role_definitions};

/// The version of the language that conditions are written in.
pub const CONDITION_VERSION: &str = "2.0";

/// An assignment's resource id: it belongs to its scope.
pub fn resource_id(scope: &str, name: Uuid) -> String {
    let scope = scope.trim_end_matches('/');
    format!("{scope}/providers/Microsoft.Authorization/roleAssignments/{name}")
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleAssignment {
    /// Unique in the tenant.
    pub name: Uuid,
    /// As the caller typed it.
    pub scope: String,
    pub principal_id: Uuid,
    /// The principal's kind.
    pub principal_type: String,
    pub role_definition_id: Uuid,
    pub description: Option<String>,
    /// In the language of [`CONDITION_VERSION`].
    pub condition: Option<String>,
    pub created_at: OffsetDateTime,
    pub created_by: Option<Uuid>,
    pub updated_at: OffsetDateTime,
    pub updated_by: Option<Uuid>,
}

/// An assignment that somebody wants to be.
#[derive(Debug, Clone)]
pub struct NewRoleAssignment {
    pub name: Uuid,
    pub scope: Scope,
    pub scope_row: ScopeRow,
    pub principal_id: Uuid,
    /// What the caller takes the principal for.
    pub principal_kind: Option<PrincipalKind>,
    pub role_definition_id: Uuid,
    /// `None` from callers who cannot say it: an assignment that is there keeps its own.
    pub details: Option<RoleAssignmentDetails>,
    pub now: OffsetDateTime,
    pub caller_id: Uuid,
}

/// What can change of an assignment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleAssignmentDetails {
    pub description: Option<String>,
    pub condition: Option<Condition>,
}

/// What came of a PUT of a role assignment.
#[derive(Debug)]
pub enum RoleAssignmentPut {
    Created(RoleAssignment, Published),
    /// The same assignment was there; its details are the new ones. Published when nodes had to know.
    Existing(RoleAssignment, Option<Published>),
    /// Scope, principal and role are assigned under another name.
    Duplicate(Uuid),
    /// The name belongs to an assignment of another scope, principal or role.
    NameTaken,
    PrincipalNotFound,
    /// The principal is of this kind, not of the one that the caller takes it for.
    OtherPrincipalKind(PrincipalKind),
    RoleNotFound,
    /// The custom role can be assigned elsewhere only.
    RoleNotAssignable,
    /// The resource was deleted meanwhile.
    ScopeNotFound,
}

/// What came of deleting a role assignment.
#[derive(Debug)]
pub enum RoleAssignmentDeletion {
    Deleted(Box<RoleAssignment>, Published),
    NotFound,
    /// Nobody would own the subscription.
    LastOwner,
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
    /// Only those of these principals.
    pub principal_ids: Option<Vec<Uuid>>,
}

impl Store {
    /// Assigns a role, or changes the details of the same assignment.
    pub async fn role_assignment_put(
        &self,
        wanted: &NewRoleAssignment,
    ) -> Result<RoleAssignmentPut, StoreError> {
        let details = wanted.details.as_ref();
        let condition = details.and_then(|details| details.condition.as_ref());
        note(
            wanted.principal_id,
            wanted.role_definition_id,
            condition.map(Condition::as_str),
        );
        // What is in the way may be deleted or made by others before it is looked at; then there is another attempt.
        loop {
            if let Some(outcome) = self.role_assignment_try(wanted).await? {
                return Ok(outcome);
            }
        }
    }

    /// One attempt; `None` when an assignment that was in the way is gone.
    async fn role_assignment_try(
        &self,
        wanted: &NewRoleAssignment,
    ) -> Result<Option<RoleAssignmentPut>, StoreError> {
        let mut transaction = self.begin().await?;
        if !lock_scope(&mut transaction, wanted.scope_row).await? {
            return Ok(Some(RoleAssignmentPut::ScopeNotFound));
        }
        let kind = match check_references(&mut transaction, wanted).await? {
            Ok(kind) => kind,
            Err(refused) => return Ok(Some(refused)),
        };
        let details = wanted.details.clone().unwrap_or_default();
        let assignment = RoleAssignment {
            name: wanted.name,
            scope: wanted.scope.as_str().to_owned(),
            principal_id: wanted.principal_id,
            principal_type: kind.as_str().to_owned(),
            role_definition_id: wanted.role_definition_id,
            description: details.description,
            condition: details
                .condition
                .map(|condition| condition.as_str().to_owned()),
            created_at: wanted.now,
            created_by: Some(wanted.caller_id),
            updated_at: wanted.now,
            updated_by: Some(wanted.caller_id),
        };
        if !insert(&mut transaction, &assignment, &wanted.scope).await? {
            return existing(transaction, wanted, assignment).await;
        }
        crate::activity::created();
        let change = upsert(&assignment, &wanted.scope)?;
        let published = publish(&mut transaction, &[change]).await?;
        transaction.commit().await?;
        Ok(Some(RoleAssignmentPut::Created(assignment, published)))
    }

    /// An assignment by its name at exactly that scope.
    pub async fn role_assignment_get(
        &self,
        scope_key: &str,
        name: Uuid,
    ) -> Result<Option<RoleAssignment>, StoreError> {
        let row = sqlx::query_as!(
            RoleAssignment,
            "SELECT name, scope, principal_id, principal_type, role_definition_id, description, condition,
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
            "SELECT name, scope, principal_id, principal_type, role_definition_id, description, condition,
               created_at, created_by, updated_at, updated_by
             FROM role_assignments
             WHERE (scope_key = ANY ($1) OR ($2 AND scope_key >= $3 AND scope_key < $4))
               AND ($5::uuid[] IS NULL OR principal_id = ANY ($5))
               AND name > $6
             ORDER BY name LIMIT $7",
            &filter.chain,
            filter.below.is_some(),
            from,
            to,
            filter.principal_ids.as_deref() as Option<&[Uuid]>,
            after,
            limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// The kind of a principal, and the groups that it is in, however deep they are nested; `None` when it is not there.
    pub async fn principal_with_groups(
        &self,
        principal_id: Uuid,
    ) -> Result<Option<(PrincipalKind, Vec<Uuid>)>, StoreError> {
        let row = sqlx::query!(
            r#"WITH RECURSIVE member_of (id) AS (
                 SELECT group_id FROM group_members WHERE member_id = $1
                 UNION
                 SELECT above.group_id FROM member_of CROSS JOIN LATERAL (
                   SELECT group_id FROM group_members m WHERE m.member_id = member_of.id OFFSET 0) above)
               SELECT kind, ARRAY (SELECT id FROM member_of) AS "groups!" FROM principals WHERE object_id = $1"#,
            principal_id
        )
        .fetch_optional(self.pool())
        .await?;
        row.map(|row| Ok((PrincipalKind::read(&row.kind)?, row.groups)))
            .transpose()
    }

    /// Deletes an assignment, unless nobody would own the subscription any more.
    pub async fn role_assignment_delete(
        &self,
        scope_key: &str,
        name: Uuid,
    ) -> Result<RoleAssignmentDeletion, StoreError> {
        let mut transaction = self.begin().await?;
        // An assignment's role and scope never change, so they can be looked at without a lock.
        let role = sqlx::query_scalar!(
            "SELECT role_definition_id FROM role_assignments WHERE name = $1 AND scope_key = $2",
            name,
            scope_key
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let subscription: Vec<Uuid> = match role {
            None => return Ok(RoleAssignmentDeletion::NotFound),
            Some(role) if role == owners::OWNER => {
                owners::subscription_of(scope_key).into_iter().collect()
            }
            Some(_) => Vec::new(),
        };
        if !subscription.is_empty() {
            owners::lock(&mut transaction).await?;
        }
        let row = sqlx::query_as!(
            RoleAssignment,
            "DELETE FROM role_assignments WHERE name = $1 AND scope_key = $2
             RETURNING name, scope, principal_id, principal_type, role_definition_id, description, condition,
               created_at, created_by, updated_at, updated_by",
            name,
            scope_key
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else {
            return Ok(RoleAssignmentDeletion::NotFound);
        };
        if !owners::have_owners(&mut transaction, &subscription).await? {
            return Ok(RoleAssignmentDeletion::LastOwner);
        }
        note(
            row.principal_id,
            row.role_definition_id,
            row.condition.as_deref(),
        );
        let published = publish(&mut transaction, &[deletion(name)]).await?;
        transaction.commit().await?;
        Ok(RoleAssignmentDeletion::Deleted(Box::new(row), published))
    }
}

fn note(principal_id: Uuid, role_definition_id: Uuid, condition: Option<&str>) {
    for (name, value) in details(principal_id, role_definition_id, condition) {
        activity::detail(name, value);
    }
}

/// For the activity log: an assignment's name alone says nothing.
fn details(
    principal_id: Uuid,
    role_definition_id: Uuid,
    condition: Option<&str>,
) -> Vec<(&'static str, String)> {
    let mut details = vec![
        ("principalId", principal_id.to_string()),
        ("roleDefinitionId", role_definition_id.to_string()),
    ];
    details.extend(condition.map(|condition| ("condition", condition.to_owned())));
    details
}

/// Writes an assignment whose scope and principal are known to be there, and says what to publish.
pub(crate) async fn role_assignment_create(
    transaction: &mut Transaction,
    assignment: &RoleAssignment,
    scope: &Scope,
) -> Result<Change, StoreError> {
    insert(transaction, assignment, scope).await?;
    upsert(assignment, scope)
}

/// Writes an assignment's row; whether nothing was in its way.
async fn insert(
    transaction: &mut Transaction,
    assignment: &RoleAssignment,
    scope: &Scope,
) -> Result<bool, StoreError> {
    let inserted = sqlx::query!(
        "INSERT INTO role_assignments (name, scope, scope_key, principal_id, principal_type, role_definition_id,
           description, condition, condition_version, created_at, created_by, updated_at, updated_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $10, $11)
         ON CONFLICT DO NOTHING",
        assignment.name,
        assignment.scope,
        scope.key(),
        assignment.principal_id,
        assignment.principal_type,
        assignment.role_definition_id,
        assignment.description,
        assignment.condition,
        assignment.condition.as_ref().map(|_| CONDITION_VERSION),
        assignment.created_at,
        assignment.created_by
    )
    .execute(&mut **transaction)
    .await?
    .rows_affected();
    Ok(inserted > 0)
}

/// What nodes are told of an assignment.
fn upsert(assignment: &RoleAssignment, scope: &Scope) -> Result<Change, StoreError> {
    let condition = assignment
        .condition
        .as_deref()
        .map(Condition::parse)
        .transpose()
        .map_err(|error| StoreError::Corrupt {
            table: "role_assignments",
            reason: error.to_string(),
        })?;
    Ok(Change::Upsert {
        region: Region::all(),
        document: Document::RoleAssignment(rbac::RoleAssignment {
            id: assignment.name,
            scope: scope.clone(),
            principal_id: assignment.principal_id,
            role_definition_id: assignment.role_definition_id,
            condition,
        }),
    })
}

/// The principal's kind, once it and the role are there, and kept from deletion; otherwise why the assignment cannot be.
async fn check_references(
    transaction: &mut Transaction,
    wanted: &NewRoleAssignment,
) -> Result<Result<PrincipalKind, RoleAssignmentPut>, StoreError> {
    let kind = sqlx::query_scalar!(
        "SELECT kind FROM principals WHERE object_id = $1 FOR KEY SHARE",
        wanted.principal_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(kind) = kind else {
        return Ok(Err(RoleAssignmentPut::PrincipalNotFound));
    };
    let kind = PrincipalKind::read(&kind)?;
    if wanted
        .principal_kind
        .is_some_and(|taken_for| taken_for != kind)
    {
        return Ok(Err(RoleAssignmentPut::OtherPrincipalKind(kind)));
    }
    let id = wanted.role_definition_id;
    if rbac::built_in_roles().iter().any(|role| role.id == id) {
        return Ok(Ok(kind));
    }
    let Some(keys) = role_definitions::assignable_scope_keys(transaction, id).await? else {
        return Ok(Err(RoleAssignmentPut::RoleNotFound));
    };
    let is_assignable = wanted
        .scope
        .ancestors_and_self()
        .any(|above| keys.iter().any(|key| key == above));
    Ok(if is_assignable {
        Ok(kind)
    } else {
        Err(RoleAssignmentPut::RoleNotAssignable)
    })
}

/// Deletes all assignments at a scope and below it, and says what to publish. The activity log has no rows of them: that the scope is gone,
/// which it does say, says that nothing is assigned there.
pub(crate) async fn delete_at_and_below(
    transaction: &mut Transaction,
    scope_key: &str,
) -> Result<Vec<Change>, StoreError> {
    let (from, to) = below(scope_key);
    let rows = sqlx::query!(
        // In one order, as all who delete several.
        "WITH doomed AS MATERIALIZED (
           SELECT name FROM role_assignments WHERE scope_key = $1 OR (scope_key >= $2 AND scope_key < $3) ORDER BY name FOR UPDATE)
         DELETE FROM role_assignments a USING doomed WHERE a.name = doomed.name RETURNING a.name",
        scope_key,
        from,
        to
    )
    .fetch_all(&mut **transaction)
    .await?;
    Ok(rows.into_iter().map(|row| deletion(row.name)).collect())
}

/// Deletes all assignments of a principal, and says what to publish. That the principal is gone is shown only to who reads the directory's
/// log, so the log of each assignment's scope says that the assignment is.
pub(crate) async fn delete_of_principal(
    transaction: &mut Transaction,
    principal_id: Uuid,
) -> Result<Vec<Change>, StoreError> {
    let rows = sqlx::query!(
        "WITH doomed AS MATERIALIZED (SELECT name FROM role_assignments WHERE principal_id = $1 ORDER BY name FOR UPDATE)
         DELETE FROM role_assignments a USING doomed WHERE a.name = doomed.name
         RETURNING a.name, a.scope, a.role_definition_id, a.condition",
        principal_id
    )
    .fetch_all(&mut **transaction)
    .await?;
    let deleted: Vec<activity::Deleted> = rows
        .iter()
        .map(|row| activity::Deleted {
            resource_id: resource_id(&row.scope, row.name),
            details: details(
                principal_id,
                row.role_definition_id,
                row.condition.as_deref(),
            ),
        })
        .collect();
    activity::also_deleted(
        transaction,
        "Microsoft.Authorization/roleAssignments/delete",
        &deleted,
    )
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

async fn lock_scope(transaction: &mut Transaction, row: ScopeRow) -> Result<bool, StoreError> {
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

/// What comes of a new assignment that another one is in the way of; `None` when that one is gone.
async fn existing(
    mut transaction: Transaction,
    wanted: &NewRoleAssignment,
    assignment: RoleAssignment,
) -> Result<Option<RoleAssignmentPut>, StoreError> {
    let in_the_way = sqlx::query_as!(
        RoleAssignment,
        "SELECT name, scope, principal_id, principal_type, role_definition_id, description, condition,
           created_at, created_by, updated_at, updated_by
         FROM role_assignments
         WHERE name = $1 OR (scope_key = $2 AND principal_id = $3 AND role_definition_id = $4)
         ORDER BY name FOR UPDATE",
        wanted.name,
        wanted.scope.key(),
        wanted.principal_id,
        wanted.role_definition_id
    )
    .fetch_all(&mut *transaction)
    .await?;
    let is_same = |other: &RoleAssignment| {
        other.principal_id == wanted.principal_id
            && other.role_definition_id == wanted.role_definition_id
            && arm::canonical_key(&other.scope) == wanted.scope.key()
    };
    if let Some(duplicate) = in_the_way
        .iter()
        .find(|other| is_same(other) && other.name != wanted.name)
    {
        return Ok(Some(RoleAssignmentPut::Duplicate(duplicate.name)));
    }
    let Some(present) = in_the_way.into_iter().next() else {
        return Ok(None);
    };
    if !is_same(&present) {
        return Ok(Some(RoleAssignmentPut::NameTaken));
    }
    let is_unchanged =
        present.description == assignment.description && present.condition == assignment.condition;
    if wanted.details.is_none() || is_unchanged {
        return Ok(Some(RoleAssignmentPut::Existing(present, None)));
    }
    sqlx::query!(
        "UPDATE role_assignments SET description = $2, condition = $3, condition_version = $4, updated_at = $5,
           updated_by = $6 WHERE name = $1",
        assignment.name,
        assignment.description,
        assignment.condition,
        assignment.condition.as_ref().map(|_| CONDITION_VERSION),
        assignment.updated_at,
        assignment.updated_by
    )
    .execute(&mut *transaction)
    .await?;
    let published = if present.condition == assignment.condition {
        None
    } else {
        let change = upsert(&assignment, &wanted.scope)?;
        Some(publish(&mut transaction, &[change]).await?)
    };
    transaction.commit().await?;
    let updated = RoleAssignment {
        scope: present.scope,
        created_at: present.created_at,
        created_by: present.created_by,
        ..assignment
    };
    Ok(Some(RoleAssignmentPut::Existing(updated, published)))
}
