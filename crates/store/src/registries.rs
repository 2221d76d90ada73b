//! Registries and the passwords of their admin accounts. In which regions a registry is known is in [`presence`].

mod passwords;
mod presence;
mod retention;
mod row;
mod usage;

use arm::{ResourceId, SystemData, Tags};
use config_documents::{AdminPassword, AdminPasswordSlot, RoleAssignmentMode};
use credentials::Verifier;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::{Published, publish};
use crate::role_assignments::delete_at_and_below;
use crate::{Store, StoreError};

use passwords::{admin_password, new_generation, sealed_password};
pub use presence::RegistryPresence;
pub(crate) use presence::{Presence, deletions};
use presence::{name_change, registry_changes};
pub use retention::RetentionPolicy;
use row::{RegistryRow, created_by_type_text, mode_text};
pub(crate) use row::{read_mode, read_retention, read_system_data, read_tags};
pub use usage::{RegistryUsage, STORAGE_SKUS, StorageLimit, usage_record};
use usage::{StorageLimits, storage_limits};

/// The type of a registry, as ids carry it.
pub const RESOURCE_TYPE: &str = "Microsoft.ContainerRegistry/registries";

#[derive(Debug, Clone, PartialEq)]
pub struct Registry {
    /// Immutable; names the registry's content.
    pub uid: Uuid,
    pub subscription_id: Uuid,
    pub resource_group_name: String,
    pub name: String,
    pub login_server: String,
    pub location: String,
    pub sku: String,
    pub tags: Tags,
    pub admin_user_enabled: bool,
    /// Which rights count for its content.
    pub role_assignment_mode: RoleAssignmentMode,
    pub anonymous_pull_enabled: bool,
    pub retention: RetentionPolicy,
    pub system_data: SystemData,
    /// Goes up with each change; the entity tag.
    pub generation: i64,
}

impl Registry {
    pub fn id(&self) -> ResourceId {
        ResourceId::resource(
            self.subscription_id,
            &self.resource_group_name,
            RESOURCE_TYPE,
            &self.name,
        )
    }

    /// Whether nodes are told the same of both.
    fn is_same_for_nodes(&self, other: &Self) -> bool {
        self.admin_user_enabled == other.admin_user_enabled
            && self.role_assignment_mode == other.role_assignment_mode
            && self.anonymous_pull_enabled == other.anonymous_pull_enabled
            && self.retention.in_force() == other.retention.in_force()
            // By it the quota is found.
            && self.sku == other.sku
    }
}

/// A password of an admin account: sealed for `listCredentials`, and its verifier for nodes.
#[derive(Clone)]
pub struct SealedPassword {
    pub slot: AdminPasswordSlot,
    pub sealed: Vec<u8>,
    pub verifier: Verifier,
    /// To the hour; `None` when it was never used.
    pub last_used_at: Option<OffsetDateTime>,
}

/// What came of creating a registry.
#[derive(Debug)]
pub enum RegistryCreate {
    Created(Published),
    /// Registry names are unique in the installation.
    NameInUse,
    /// The resource group was deleted meanwhile.
    GroupNotFound,
}

/// What came of changing a registry.
#[derive(Debug)]
pub enum RegistryUpdate {
    /// `Published` when nodes had to know.
    Updated(Option<Published>),
    /// The registry is gone, or was changed since it was read.
    Stale,
}

/// What came of renewing a password.
pub enum PasswordRenewal {
    /// Both passwords, sealed.
    Renewed(Vec<SealedPassword>, Published),
    AdminUserDisabled,
    NotFound,
}

/// A registry's name and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryNameOwner {
    pub uid: Uuid,
    pub name: String,
}

impl Store {
    /// Creates a registry with both passwords of its admin account.
    pub async fn registry_create(
        &self,
        registry: &Registry,
        resource_group_uid: Uuid,
        passwords: &[SealedPassword; 2],
    ) -> Result<RegistryCreate, StoreError> {
        let mut transaction = self.begin().await?;
        let system_data = &registry.system_data;
        let row = sqlx::query!(
            r#"WITH parent AS (SELECT uid FROM resource_groups WHERE uid = $2 FOR KEY SHARE),
               -- Locked as by `storage_limits`: who sets one waits, or is waited for.
               allowed AS (SELECT limit_bytes FROM storage_limits WHERE sku = $8 FOR SHARE),
               created AS (
                 INSERT INTO registries (uid, resource_group_uid, subscription_id, name, name_key, login_server,
                   location, sku, tags, admin_user_enabled, role_assignment_mode, anonymous_pull_enabled, retention,
                   created_at, created_by, created_by_type, last_modified_at, last_modified_by, last_modified_by_type, generation)
                 SELECT $1, parent.uid, $3, $4, $5, $6, $7, $8, $9, $10, $17, $18, $19, $11, $12, $13, $11, $12, $13, 1 FROM parent
                 ON CONFLICT (name_key) DO NOTHING RETURNING uid),
               secrets AS (
                 INSERT INTO registry_passwords (registry_uid, slot, sealed, verifier, generation)
                 SELECT created.uid, p.slot, p.sealed, p.verifier, 1
                 FROM created, UNNEST($14::text[], $15::bytea[], $16::bytea[]) AS p (slot, sealed, verifier))
               SELECT EXISTS (SELECT 1 FROM parent) AS "parent!", EXISTS (SELECT 1 FROM created) AS "created!",
                 (SELECT limit_bytes FROM allowed) AS limit_bytes"#,
            registry.uid,
            resource_group_uid,
            registry.subscription_id,
            registry.name,
            arm::canonical_key(&registry.name),
            registry.login_server,
            registry.location,
            registry.sku,
            sqlx::types::Json(&registry.tags) as _,
            registry.admin_user_enabled,
            system_data.created_at,
            system_data.created_by,
            created_by_type_text(system_data.created_by_type),
            &passwords.iter().map(|password| password.slot.as_str().to_owned()).collect::<Vec<_>>(),
            &passwords.iter().map(|password| password.sealed.clone()).collect::<Vec<_>>(),
            &passwords.iter().map(|password| password.verifier.to_bytes()).collect::<Vec<_>>(),
            mode_text(registry.role_assignment_mode),
            registry.anonymous_pull_enabled,
            Json(&registry.retention) as _,
        )
        .fetch_one(&mut *transaction)
        .await?;
        if !row.parent {
            return Ok(RegistryCreate::GroupNotFound);
        }
        if !row.created {
            return Ok(RegistryCreate::NameInUse);
        }
        crate::activity::created();
        let admin_passwords = passwords.iter().map(|password| AdminPassword {
            slot: password.slot,
            generation: 1,
            verifier: password.verifier.clone(),
        });
        let presence = Presence::at_home(registry);
        let limits = StorageLimits::of_one(&registry.sku, row.limit_bytes);
        let mut changes = registry_changes(registry, admin_passwords.collect(), &presence, &limits);
        changes.push(name_change(registry, &presence));
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(RegistryCreate::Created(published))
    }

    /// Writes a registry's new state over that which it had `before`.
    ///
    /// Switching the admin account on begins a new generation of its passwords, so that tokens from before it was off stay dead.
    pub async fn registry_update(
        &self,
        registry: &Registry,
        before: &Registry,
    ) -> Result<RegistryUpdate, StoreError> {
        let mut transaction = self.begin().await?;
        let limits = match registry.is_same_for_nodes(before) {
            true => None,
            false => Some(storage_limits(&mut transaction).await?),
        };
        let system_data = &registry.system_data;
        let changed = sqlx::query!(
            "UPDATE registries SET sku = $3, tags = $4, admin_user_enabled = $5, role_assignment_mode = $6,
               anonymous_pull_enabled = $11, retention = $12,
               last_modified_at = $7, last_modified_by = $8, last_modified_by_type = $9, generation = $2::bigint
             WHERE uid = $1 AND generation = $10 RETURNING location, further_regions",
            registry.uid,
            registry.generation,
            registry.sku,
            sqlx::types::Json(&registry.tags) as _,
            registry.admin_user_enabled,
            mode_text(registry.role_assignment_mode),
            system_data.last_modified_at,
            system_data.last_modified_by,
            created_by_type_text(system_data.last_modified_by_type),
            before.generation,
            registry.anonymous_pull_enabled,
            Json(&registry.retention) as _,
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(changed) = changed else {
            return Ok(RegistryUpdate::Stale);
        };
        let Some(limits) = limits else {
            transaction.commit().await?;
            return Ok(RegistryUpdate::Updated(None));
        };
        let switches_admin_user = registry.admin_user_enabled != before.admin_user_enabled;
        let passwords = sqlx::query!(
            "UPDATE registry_passwords SET generation = CASE WHEN $2 THEN $3 ELSE generation END WHERE registry_uid = $1
             RETURNING slot, verifier, generation",
            registry.uid,
            switches_admin_user && registry.admin_user_enabled,
            new_generation()
        )
        .fetch_all(&mut *transaction)
        .await?;
        let passwords = passwords
            .into_iter()
            .map(|row| admin_password(&row.slot, &row.verifier, row.generation))
            .collect::<Result<Vec<_>, _>>()?;
        let presence = Presence::new(changed.location, changed.further_regions);
        let changes = registry_changes(registry, passwords, &presence, &limits);
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(RegistryUpdate::Updated(Some(published)))
    }

    /// Both passwords of the admin account, sealed; empty when the registry is gone or the account is off.
    pub async fn registry_passwords(&self, uid: Uuid) -> Result<Vec<SealedPassword>, StoreError> {
        sqlx::query!(
            "SELECT p.slot, p.sealed, p.verifier, p.last_used_at FROM registry_passwords p
             JOIN registries r ON r.uid = p.registry_uid
             WHERE p.registry_uid = $1 AND r.admin_user_enabled ORDER BY p.slot",
            uid
        )
        .fetch_all(self.pool())
        .await?
        .into_iter()
        .map(|row| sealed_password(&row.slot, row.sealed, &row.verifier, row.last_used_at))
        .collect()
    }

    /// Puts a new password into a slot.
    pub async fn registry_password_renew(
        &self,
        registry: &Registry,
        password: &SealedPassword,
    ) -> Result<PasswordRenewal, StoreError> {
        let mut transaction = self.begin().await?;
        let limits = storage_limits(&mut transaction).await?;
        // The registry's row is locked, so that renewing and switching the account off do not cross.
        let row = sqlx::query!(
            r#"SELECT sku, admin_user_enabled, role_assignment_mode, anonymous_pull_enabled,
                 retention AS "retention: Json<RetentionPolicy>", location, further_regions FROM registries
               WHERE uid = $1 FOR UPDATE"#,
            registry.uid
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let row = match row {
            None => return Ok(PasswordRenewal::NotFound),
            Some(row) if !row.admin_user_enabled => return Ok(PasswordRenewal::AdminUserDisabled),
            Some(row) => row,
        };
        let presence = Presence::new(row.location, row.further_regions);
        let rows = sqlx::query!(
            r#"WITH renewed AS (
                 UPDATE registry_passwords SET sealed = $3, verifier = $4, generation = $5, last_used_at = NULL
                 WHERE registry_uid = $1 AND slot = $2 RETURNING slot, sealed, verifier, generation, last_used_at)
               SELECT slot AS "slot!", sealed AS "sealed!", verifier AS "verifier!", generation AS "generation!", last_used_at
               FROM (SELECT * FROM renewed UNION ALL
                     SELECT slot, sealed, verifier, generation, last_used_at FROM registry_passwords
                     WHERE registry_uid = $1 AND slot <> $2) both_slots ORDER BY 1"#,
            registry.uid,
            password.slot.as_str(),
            password.sealed,
            password.verifier.to_bytes(),
            new_generation()
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut sealed = Vec::new();
        let mut passwords = Vec::new();
        for row in rows {
            passwords.push(admin_password(&row.slot, &row.verifier, row.generation)?);
            let last_used_at = row.last_used_at;
            sealed.push(sealed_password(
                &row.slot,
                row.sealed,
                &row.verifier,
                last_used_at,
            )?);
        }
        let mut current = registry.clone();
        current.admin_user_enabled = true;
        current.sku = row.sku;
        current.role_assignment_mode = read_mode(&row.role_assignment_mode)?;
        current.anonymous_pull_enabled = row.anonymous_pull_enabled;
        current.retention = read_retention(row.retention);
        let changes = registry_changes(&current, passwords, &presence, &limits);
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(PasswordRenewal::Renewed(sealed, published))
    }

    /// Deletes a registry with all role assignments at it; with `only_unchanged` not if it was changed since it was read. `None` when it
    /// is gone, or was changed.
    pub async fn registry_delete(
        &self,
        registry: &Registry,
        only_unchanged: bool,
    ) -> Result<Option<Published>, StoreError> {
        let mut transaction = self.begin().await?;
        let row = sqlx::query!(
            "DELETE FROM registries WHERE uid = $1 AND (NOT $2 OR generation = $3)
             RETURNING name_key, location, further_regions",
            registry.uid,
            only_unchanged,
            registry.generation
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let presence = Presence::new(row.location, row.further_regions);
        let mut changes = deletions(registry.uid, row.name_key, &presence);
        changes.extend(delete_at_and_below(&mut transaction, registry.id().key()).await?);
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(Some(published))
    }

    /// Who has a registry name, whatever its case.
    pub async fn registry_name_owner(
        &self,
        name: &str,
    ) -> Result<Option<RegistryNameOwner>, StoreError> {
        let row = sqlx::query_as!(
            RegistryNameOwner,
            "SELECT uid, name FROM registries WHERE name_key = $1",
            arm::canonical_key(name)
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(row)
    }

    /// A registry by its group and the key of its name.
    pub async fn registry_get(
        &self,
        resource_group_uid: Uuid,
        name_key: &str,
    ) -> Result<Option<Registry>, StoreError> {
        let row = sqlx::query_as!(
            RegistryRow,
            r#"SELECT r.uid, r.subscription_id, g.name AS group_name, r.name, r.login_server, r.location, r.sku, r.tags,
                 r.admin_user_enabled, r.role_assignment_mode, r.anonymous_pull_enabled,
                 r.retention AS "retention: Json<RetentionPolicy>", r.created_at, r.created_by, r.created_by_type, r.last_modified_at,
                 r.last_modified_by, r.last_modified_by_type, r.generation
               FROM registries r JOIN resource_groups g ON g.uid = r.resource_group_uid
               WHERE g.uid = $1 AND r.name_key = $2"#,
            resource_group_uid,
            name_key
        )
        .fetch_optional(self.pool())
        .await?;
        row.map(RegistryRow::read).transpose()
    }

    /// A page of a subscription's or group's registries in the order of their keys, starting after `after`.
    pub async fn registry_list(
        &self,
        subscription_id: Uuid,
        resource_group_key: Option<&str>,
        after: &str,
        limit: i64,
    ) -> Result<Vec<Registry>, StoreError> {
        sqlx::query_as!(
            RegistryRow,
            r#"SELECT r.uid, r.subscription_id, g.name AS group_name, r.name, r.login_server, r.location, r.sku, r.tags,
                 r.admin_user_enabled, r.role_assignment_mode, r.anonymous_pull_enabled,
                 r.retention AS "retention: Json<RetentionPolicy>", r.created_at, r.created_by, r.created_by_type, r.last_modified_at,
                 r.last_modified_by, r.last_modified_by_type, r.generation
               FROM registries r JOIN resource_groups g ON g.uid = r.resource_group_uid
               WHERE r.subscription_id = $1 AND ($2::text IS NULL OR g.name_key = $2) AND r.name_key > $3
               ORDER BY r.name_key LIMIT $4"#,
            subscription_id,
            resource_group_key,
            after,
            limit
        )
        .fetch_all(self.pool())
        .await?
        .into_iter()
        .map(RegistryRow::read)
        .collect()
    }
}
