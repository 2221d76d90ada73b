//! Custom role definitions; built-in ones are part of the service.

use config_documents::{Document, Kind, Region};
use rbac::{Permission, RoleDefinition, RoleKind, Scope};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::{Change, Published, publish};
use crate::{Store, StoreError, Transaction, activity};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomRole {
    pub definition: RoleDefinition,
    pub created_at: OffsetDateTime,
    pub created_by: Option<Uuid>,
    pub updated_at: OffsetDateTime,
    pub updated_by: Option<Uuid>,
}

/// What came of a PUT of a custom role.
#[derive(Debug)]
pub enum RoleDefinitionPut {
    Created(CustomRole, Published),
    /// Nothing is published when it was the same.
    Updated(CustomRole, Option<Published>),
    /// Another custom role has the name.
    NameInUse,
    /// It is assigned at this scope, where it could not be assigned any more.
    AssignedAt(String),
    /// There are as many custom roles as there may be.
    TooMany,
    /// It was made, changed or deleted since it was read.
    Stale,
}

/// What came of deleting a custom role.
#[derive(Debug)]
pub enum RoleDefinitionDeletion {
    Deleted(Box<CustomRole>, Published),
    NotFound,
    /// So many assignments are of it, one of them at this scope.
    InUse {
        count: i64,
        scope: String,
    },
    /// It was changed since it was read.
    Stale,
}

struct Row {
    id: Uuid,
    role_name: String,
    description: String,
    permissions: Json<Vec<Permission>>,
    assignable_scopes: Vec<String>,
    created_at: OffsetDateTime,
    created_by: Option<Uuid>,
    updated_at: OffsetDateTime,
    updated_by: Option<Uuid>,
}

impl Row {
    fn read(self) -> Result<CustomRole, StoreError> {
        let scopes = self.assignable_scopes.iter();
        let assignable_scopes = scopes
            .map(|scope| Scope::parse(scope))
            .collect::<Result<_, _>>()
            .map_err(|error| StoreError::Corrupt {
                table: "role_definitions",
                reason: error.to_string(),
            })?;
        Ok(CustomRole {
            definition: RoleDefinition {
                id: self.id,
                role_name: self.role_name,
                description: self.description,
                kind: RoleKind::Custom,
                permissions: self.permissions.0,
                assignable_scopes,
            },
            created_at: self.created_at,
            created_by: self.created_by,
            updated_at: self.updated_at,
            updated_by: self.updated_by,
        })
    }
}

impl Store {
    /// Every custom role, in the order of their names; there are at most as many as [`Store::role_definition_put`] lets be.
    pub async fn role_definition_list(&self) -> Result<Vec<CustomRole>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT id, role_name, description, permissions AS "permissions: Json<Vec<Permission>>", assignable_scopes,
                 created_at, created_by, updated_at, updated_by
               FROM role_definitions ORDER BY role_name_key"#
        )
        .fetch_all(self.pool())
        .await?;
        rows.into_iter().map(Row::read).collect()
    }

    pub async fn role_definition_get(&self, id: Uuid) -> Result<Option<CustomRole>, StoreError> {
        let row = sqlx::query_as!(
            Row,
            r#"SELECT id, role_name, description, permissions AS "permissions: Json<Vec<Permission>>", assignable_scopes,
                 created_at, created_by, updated_at, updated_by
               FROM role_definitions WHERE id = $1"#,
            id
        )
        .fetch_optional(self.pool())
        .await?;
        row.map(Row::read).transpose()
    }

    /// Creates a custom role, or writes it over the state `before`, by which the caller's rights were judged. No more than `maximum` are
    /// kept. Nodes judge by the new definition when the change is in force.
    pub async fn role_definition_put(
        &self,
        wanted: &CustomRole,
        before: Option<&CustomRole>,
        maximum: i64,
    ) -> Result<RoleDefinitionPut, StoreError> {
        activity::detail("roleName", wanted.definition.role_name.as_str());
        let mut transaction = self.begin().await?;
        let definition = &wanted.definition;
        let present = lock(&mut transaction, definition.id).await?;
        if present.as_ref() != before {
            return Ok(RoleDefinitionPut::Stale);
        }
        if is_name_taken(&mut transaction, definition).await? {
            return Ok(RoleDefinitionPut::NameInUse);
        }
        let Some(present) = present else {
            return insert(transaction, wanted, maximum).await;
        };
        if let Some(scope) = assigned_outside(&mut transaction, definition).await? {
            return Ok(RoleDefinitionPut::AssignedAt(scope));
        }
        if present.definition == *definition && same_text(&present.definition, definition) {
            return Ok(RoleDefinitionPut::Updated(present, None));
        }
        let written = sqlx::query!(
            "UPDATE role_definitions SET role_name = $2, role_name_key = $3, description = $4, permissions = $5,
               assignable_scopes = $6, assignable_scope_keys = $7, updated_at = $8, updated_by = $9
             WHERE id = $1",
            definition.id,
            definition.role_name,
            arm::canonical_key(&definition.role_name),
            definition.description,
            Json(&definition.permissions) as _,
            &scope_texts(definition),
            &scope_keys(definition),
            wanted.updated_at,
            wanted.updated_by
        )
        .execute(&mut *transaction)
        .await;
        match written {
            Ok(_) => {}
            // Another took the name since it was looked for.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                return Ok(RoleDefinitionPut::NameInUse);
            }
            Err(error) => return Err(error.into()),
        }
        let published = publish(&mut transaction, &[document(definition)]).await?;
        transaction.commit().await?;
        let updated = CustomRole {
            created_at: present.created_at,
            created_by: present.created_by,
            ..wanted.clone()
        };
        Ok(RoleDefinitionPut::Updated(updated, Some(published)))
    }

    /// Deletes a custom role in the state `before`, if nobody holds it.
    pub async fn role_definition_delete(
        &self,
        before: &CustomRole,
    ) -> Result<RoleDefinitionDeletion, StoreError> {
        activity::detail("roleName", before.definition.role_name.as_str());
        let mut transaction = self.begin().await?;
        let id = before.definition.id;
        match lock(&mut transaction, id).await? {
            None => return Ok(RoleDefinitionDeletion::NotFound),
            Some(present) if present != *before => return Ok(RoleDefinitionDeletion::Stale),
            Some(_) => {}
        }
        // Whoever assigns the role holds its row meanwhile, so none is being assigned now.
        let assigned = sqlx::query!(
            r#"SELECT count(*) AS "count!", min(scope) AS scope FROM role_assignments WHERE role_definition_id = $1"#,
            id
        )
        .fetch_one(&mut *transaction)
        .await?;
        if let Some(scope) = assigned.scope {
            let count = assigned.count;
            return Ok(RoleDefinitionDeletion::InUse { count, scope });
        }
        sqlx::query!("DELETE FROM role_definitions WHERE id = $1", id)
            .execute(&mut *transaction)
            .await?;
        let change = Change::Delete {
            region: Region::all(),
            kind: Kind::RoleDefinition,
            key: id.to_string(),
        };
        let published = publish(&mut transaction, &[change]).await?;
        transaction.commit().await?;
        Ok(RoleDefinitionDeletion::Deleted(
            Box::new(before.clone()),
            published,
        ))
    }

    /// Whether a scope names something that is there: a subscription, a group of one, or a registry of a group.
    pub async fn scope_exists(
        &self,
        subscription_id: Uuid,
        resource_group_key: Option<&str>,
        registry_key: Option<&str>,
    ) -> Result<bool, StoreError> {
        let exists = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM subscriptions WHERE subscription_id = $1)
                 AND ($2::text IS NULL OR EXISTS (
                   SELECT FROM resource_groups g WHERE g.subscription_id = $1 AND g.name_key = $2 AND ($3::text IS NULL
                     OR EXISTS (SELECT FROM registries r WHERE r.resource_group_uid = g.uid AND r.name_key = $3))))
                 AS "exists!""#,
            subscription_id,
            resource_group_key,
            registry_key
        )
        .fetch_one(self.pool())
        .await?;
        Ok(exists)
    }
}

/// What assigning a role has to know of it: keys of the scopes at which it may be assigned. The row is kept from changing; `None` when it is
/// not there.
pub(crate) async fn assignable_scope_keys(
    transaction: &mut Transaction,
    id: Uuid,
) -> Result<Option<Vec<String>>, StoreError> {
    let keys = sqlx::query_scalar!(
        "SELECT assignable_scope_keys FROM role_definitions WHERE id = $1 FOR SHARE",
        id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(keys)
}

async fn lock(transaction: &mut Transaction, id: Uuid) -> Result<Option<CustomRole>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT id, role_name, description, permissions AS "permissions: Json<Vec<Permission>>", assignable_scopes,
             created_at, created_by, updated_at, updated_by
           FROM role_definitions WHERE id = $1 FOR UPDATE"#,
        id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    row.map(Row::read).transpose()
}

async fn is_name_taken(
    transaction: &mut Transaction,
    definition: &RoleDefinition,
) -> Result<bool, StoreError> {
    let taken = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM role_definitions WHERE role_name_key = $2 AND id <> $1) AS "taken!""#,
        definition.id,
        arm::canonical_key(&definition.role_name)
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(taken)
}

async fn insert(
    mut transaction: Transaction,
    wanted: &CustomRole,
    maximum: i64,
) -> Result<RoleDefinitionPut, StoreError> {
    let definition = &wanted.definition;
    let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM role_definitions"#)
        .fetch_one(&mut *transaction)
        .await?;
    if count >= maximum {
        return Ok(RoleDefinitionPut::TooMany);
    }
    let inserted = sqlx::query!(
        "INSERT INTO role_definitions (id, role_name, role_name_key, description, permissions, assignable_scopes,
           assignable_scope_keys, created_at, created_by, updated_at, updated_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $8, $9)
         ON CONFLICT DO NOTHING",
        definition.id,
        definition.role_name,
        arm::canonical_key(&definition.role_name),
        definition.description,
        Json(&definition.permissions) as _,
        &scope_texts(definition),
        &scope_keys(definition),
        wanted.created_at,
        wanted.created_by
    )
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    if inserted == 0 {
        // Another one of the same id or name came first.
        return Ok(RoleDefinitionPut::Stale);
    }
    let published = publish(&mut transaction, &[document(definition)]).await?;
    transaction.commit().await?;
    Ok(RoleDefinitionPut::Created(wanted.clone(), published))
}

/// A scope at which the role is assigned, and would not be assignable.
async fn assigned_outside(
    transaction: &mut Transaction,
    definition: &RoleDefinition,
) -> Result<Option<String>, StoreError> {
    let scope = sqlx::query_scalar!(
        "SELECT scope FROM role_assignments a
         WHERE role_definition_id = $1 AND NOT EXISTS (
           SELECT FROM unnest($2::text[]) AS assignable (key)
           WHERE a.scope_key = assignable.key OR starts_with(a.scope_key, assignable.key || '/'))
         ORDER BY scope_key LIMIT 1",
        definition.id,
        &scope_keys(definition)
    )
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(scope)
}

fn scope_texts(definition: &RoleDefinition) -> Vec<String> {
    let scopes = definition.assignable_scopes.iter();
    scopes.map(|scope| scope.as_str().to_owned()).collect()
}

fn scope_keys(definition: &RoleDefinition) -> Vec<String> {
    let scopes = definition.assignable_scopes.iter();
    scopes.map(|scope| scope.key().to_owned()).collect()
}

/// Patterns and scopes compare whatever their case; what is shown is kept as typed.
fn same_text(one: &RoleDefinition, other: &RoleDefinition) -> bool {
    let text = |role: &RoleDefinition| serde_json::to_string(role).ok();
    text(one) == text(other)
}

fn document(definition: &RoleDefinition) -> Change {
    Change::Upsert {
        region: Region::all(),
        document: Document::RoleDefinition(definition.clone()),
    }
}
