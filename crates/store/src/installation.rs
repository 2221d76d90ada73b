//! What the installation is: its tenant, its public URL, its regions, and the key that seals its secrets.

use config_documents::Epoch;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::directory::{Bootstrap, bootstrap};
use crate::role_assignments::{RoleAssignment, role_assignment_create};
use crate::subscriptions::{Subscription, subscription_create};
use crate::{Store, StoreError, Transaction, activity, config};

/// The installation's facts, written once by `wharfinger admin init`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    pub tenant_id: Uuid,
    pub tenant_display_name: String,
    /// Without a trailing slash; every URL and every issuer comes from here.
    pub public_url: String,
    /// With a leading dot and, if any, the port.
    pub login_server_suffix: String,
    /// Of the key that seals new secrets.
    pub key_encryption_fingerprint: String,
    /// Of the application with which the installation began.
    pub bootstrap_app_id: Uuid,
}

/// A region where registries can live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    pub name: String,
    pub display_name: String,
}

impl Store {
    /// The installation.
    ///
    /// # Errors
    /// [`StoreError::NotInitialised`] before `wharfinger admin init` has run.
    pub async fn installation(&self) -> Result<Installation, StoreError> {
        self.installation_if_any()
            .await?
            .ok_or(StoreError::NotInitialised)
    }

    /// The installation, if `wharfinger admin init` has run.
    pub async fn installation_if_any(&self) -> Result<Option<Installation>, StoreError> {
        let row = sqlx::query_as!(
            Installation,
            "SELECT tenant_id, tenant_display_name, public_url, login_server_suffix, key_encryption_fingerprint,
               bootstrap_app_id FROM installation"
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(row)
    }

    /// Gives the tenant another name.
    ///
    /// # Errors
    /// [`StoreError::NotInitialised`] without an installation; otherwise those of the database.
    pub async fn tenant_rename(&self, display_name: &str) -> Result<(), StoreError> {
        activity::detail("displayName", display_name);
        let mut transaction = self.begin().await?;
        let changed = sqlx::query!(
            "UPDATE installation SET tenant_display_name = $1",
            display_name
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if changed == 0 {
            return Err(StoreError::NotInitialised);
        }
        transaction.commit().await?;
        Ok(())
    }

    pub async fn region_list(&self) -> Result<Vec<Region>, StoreError> {
        let rows = sqlx::query_as!(
            Region,
            "SELECT name, display_name FROM regions ORDER BY name"
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// Adds a region, or changes its display name.
    pub async fn region_put(&self, region: &Region) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        region_put(&mut transaction, region).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// Everything that an installation begins with.
pub struct Initialisation<'a> {
    pub installation: Installation,
    pub regions: Vec<Region>,
    pub subscription: Subscription,
    pub bootstrap: Bootstrap<'a>,
    /// Makes the bootstrap principal Owner of the subscription.
    pub owner_assignment: RoleAssignment,
    pub epoch: Epoch,
}

impl Store {
    /// Writes what an installation begins with, all or nothing.
    pub async fn initialise(&self, initialisation: &Initialisation<'_>) -> Result<(), StoreError> {
        let now = initialisation.bootstrap.now;
        let mut transaction = self.begin().await?;
        installation_create(&mut transaction, &initialisation.installation, now).await?;
        for region in &initialisation.regions {
            region_put(&mut transaction, region).await?;
        }
        subscription_create(&mut transaction, &initialisation.subscription, now).await?;
        config::initialise(&mut transaction, initialisation.epoch).await?;
        let mut changes = bootstrap(&mut transaction, &initialisation.bootstrap).await?;
        let scope =
            rbac::Scope::parse(&initialisation.owner_assignment.scope).map_err(|error| {
                StoreError::Corrupt {
                    table: "role_assignments",
                    reason: error.to_string(),
                }
            })?;
        changes.push(
            role_assignment_create(&mut transaction, &initialisation.owner_assignment, &scope)
                .await?,
        );
        config::publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The application that the installation began with, by the object that shows its secrets; `None` when it was deleted since.
    pub async fn bootstrap_application(&self) -> Result<Option<BootstrapApplication>, StoreError> {
        let row = sqlx::query_as!(
            BootstrapApplication,
            "SELECT a.object_id, a.app_id FROM applications a JOIN installation i ON i.bootstrap_app_id = a.app_id"
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(row)
    }
}

/// The application that the installation began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootstrapApplication {
    pub object_id: Uuid,
    pub app_id: Uuid,
}

async fn installation_create(
    transaction: &mut Transaction,
    installation: &Installation,
    now: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO installation
           (tenant_id, tenant_display_name, public_url, login_server_suffix, key_encryption_fingerprint,
            bootstrap_app_id, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        installation.tenant_id,
        installation.tenant_display_name,
        installation.public_url,
        installation.login_server_suffix,
        installation.key_encryption_fingerprint,
        installation.bootstrap_app_id,
        now
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn region_put(transaction: &mut Transaction, region: &Region) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO regions (name, display_name) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET display_name = excluded.display_name",
        region.name,
        region.display_name
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
