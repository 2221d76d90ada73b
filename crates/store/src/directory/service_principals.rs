//! Service principals: what applications are in role assignments and at sign-in.

use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::certificates::{self, Certificate, CertificateRefusal, CertificateSet};
use super::principals::{self, Indispensable, document_of_application, publish_principal};
use super::secrets::Secret;
use super::{Addressed, Deletion, ObjectQuery, add_owner};
use crate::access::PrincipalKind;
use crate::config::{Change, Published, publish};
use crate::{Store, StoreError, Transaction, activity};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePrincipal {
    pub object_id: Uuid,
    /// The application that it belongs to; its user name.
    pub app_id: Uuid,
    /// Always that of its application.
    pub display_name: String,
    pub enabled: bool,
    pub created_at: OffsetDateTime,
    /// Those that the service principal itself shows; its application may show others.
    pub secrets: Vec<Secret>,
    /// Those that the service principal itself shows.
    pub certificates: Vec<Certificate>,
}

#[derive(Debug, Clone)]
pub struct NewServicePrincipal {
    pub object_id: Uuid,
    pub app_id: Uuid,
    pub enabled: bool,
    pub created_at: OffsetDateTime,
}

/// What came of creating a service principal.
#[derive(Debug, PartialEq, Eq)]
pub enum ServicePrincipalCreation {
    Created(ServicePrincipal, Published),
    ApplicationNotFound,
    /// The application has one.
    Exists,
    /// The directory does not have who was to own it any more.
    OwnerNotFound,
}

/// What is to change of a service principal; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct ServicePrincipalChange {
    /// A disabled one cannot sign in, and its tokens and secrets are refused everywhere.
    pub enabled: Option<bool>,
    pub certificates: Option<CertificateSet>,
}

/// What came of changing a service principal.
#[derive(Debug, PartialEq, Eq)]
pub enum ServicePrincipalUpdate {
    /// With what was published; nothing when it was so already.
    Done(Option<Published>),
    NotFound,
    Indispensable(Indispensable),
    Refused(CertificateRefusal),
}

impl Store {
    /// A page of service principals in the order of their object ids.
    pub async fn service_principal_list(
        &self,
        query: &ObjectQuery,
    ) -> Result<Vec<ServicePrincipal>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT p.object_id, s.app_id, p.display_name, p.enabled, p.created_at,
                 coalesce((SELECT jsonb_agg(jsonb_build_object('key_id', c.key_id, 'display_name', c.display_name,
                     'hint', c.hint, 'starts_at', c.starts_at, 'expires_at', c.expires_at,
                     'last_used_at', c.last_used_at) ORDER BY c.starts_at, c.key_id)
                   FROM application_secrets c WHERE c.owner_id = p.object_id), '[]') AS "secrets!: Json<Vec<Secret>>",
                 coalesce((SELECT jsonb_agg(jsonb_build_object('key_id', c.key_id, 'display_name', c.display_name,
                     'thumbprint', encode(c.thumbprint_sha1, 'hex'), 'starts_at', c.starts_at, 'expires_at', c.expires_at,
                     'last_used_at', c.last_used_at) ORDER BY c.starts_at, c.key_id)
                   FROM application_certificates c WHERE c.owner_id = p.object_id), '[]') AS "certificates!: Json<Vec<Certificate>>"
               FROM principals p JOIN service_principals s ON s.object_id = p.object_id
               WHERE ($1::uuid[] IS NULL OR p.object_id = ANY ($1))
                 AND ($2::uuid IS NULL OR s.app_id = $2)
                 AND ($3::text IS NULL OR p.name_key = $3)
                 AND ($4::text IS NULL OR p.name_key LIKE $4)
                 AND ($5::boolean IS NULL OR p.enabled = $5)
                 AND p.object_id > $6
               ORDER BY p.object_id LIMIT $7"#,
            query.object_ids.as_deref() as Option<&[Uuid]>,
            query.app_id,
            query.name_key(),
            query.name_pattern(),
            query.enabled,
            query.after,
            query.limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| ServicePrincipal {
                object_id: row.object_id,
                app_id: row.app_id,
                display_name: row.display_name,
                enabled: row.enabled,
                created_at: row.created_at,
                secrets: row.secrets.0,
                certificates: row.certificates.0,
            })
            .collect())
    }

    pub async fn service_principal_get(
        &self,
        object_id: Uuid,
    ) -> Result<Option<ServicePrincipal>, StoreError> {
        let found = self
            .service_principal_list(&ObjectQuery::one(object_id))
            .await?;
        Ok(found.into_iter().next())
    }

    /// Creates the service principal of an application; `owner_id` owns it.
    pub async fn service_principal_create(
        &self,
        new: &NewServicePrincipal,
        owner_id: Uuid,
    ) -> Result<ServicePrincipalCreation, StoreError> {
        activity::detail("objectId", new.object_id.to_string());
        activity::detail("appId", new.app_id.to_string());
        activity::enabled(Some(new.enabled));
        let mut transaction = self.begin().await?;
        let display_name = sqlx::query_scalar!(
            "SELECT display_name FROM applications WHERE app_id = $1 FOR NO KEY UPDATE",
            new.app_id
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(display_name) = display_name else {
            return Ok(ServicePrincipalCreation::ApplicationNotFound);
        };
        if document_of_application(&mut transaction, new.app_id)
            .await?
            .is_some()
        {
            return Ok(ServicePrincipalCreation::Exists);
        }
        insert(&mut transaction, new, &display_name).await?;
        if !add_owner(&mut transaction, new.object_id, Addressed::any(owner_id)).await? {
            return Ok(ServicePrincipalCreation::OwnerNotFound);
        }
        let change = document_of_application(&mut transaction, new.app_id).await?;
        let changes: Vec<Change> = change.into_iter().collect();
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        let created = ServicePrincipal {
            object_id: new.object_id,
            app_id: new.app_id,
            display_name,
            enabled: new.enabled,
            created_at: new.created_at,
            secrets: Vec::new(),
            certificates: Vec::new(),
        };
        Ok(ServicePrincipalCreation::Created(created, published))
    }

    /// Changes a service principal.
    pub async fn service_principal_update(
        &self,
        object_id: Uuid,
        change: &ServicePrincipalChange,
    ) -> Result<ServicePrincipalUpdate, StoreError> {
        activity::changed(&[
            ("accountEnabled", change.enabled.is_some()),
            ("keyCredentials", change.certificates.is_some()),
        ]);
        activity::enabled(change.enabled);
        let mut transaction = self.begin().await?;
        let Some(app_id) = lock(&mut transaction, object_id).await? else {
            return Ok(ServicePrincipalUpdate::NotFound);
        };
        let mut must_publish = false;
        if let Some(enabled) = change.enabled {
            match principals::enable(&mut transaction, object_id, enabled).await? {
                Ok(changed) => must_publish = changed,
                Err(reason) => return Ok(ServicePrincipalUpdate::Indispensable(reason)),
            }
        }
        if let Some(wanted) = &change.certificates {
            let replaced =
                certificates::replace(&mut transaction, app_id, object_id, wanted).await?;
            if let Err(refusal) = replaced {
                return Ok(ServicePrincipalUpdate::Refused(refusal));
            }
            must_publish = true;
        }
        let published = if must_publish {
            publish_principal(&mut transaction, object_id).await?
        } else {
            None
        };
        transaction.commit().await?;
        Ok(ServicePrincipalUpdate::Done(published))
    }

    /// Deletes a service principal with its own secrets and its role assignments; its application stays.
    pub async fn service_principal_delete(&self, object_id: Uuid) -> Result<Deletion, StoreError> {
        let mut transaction = self.begin().await?;
        if lock(&mut transaction, object_id).await?.is_none() {
            return Ok(Deletion::NotFound);
        }
        let changes = match delete(&mut transaction, object_id).await? {
            Ok(changes) => changes,
            Err(reason) => return Ok(Deletion::Indispensable(reason)),
        };
        let published = publish(&mut transaction, &changes).await?;
        transaction.commit().await?;
        Ok(Deletion::Deleted(Some(published)))
    }
}

/// Writes a service principal's rows.
pub(super) async fn insert(
    transaction: &mut Transaction,
    new: &NewServicePrincipal,
    display_name: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO principals (object_id, kind, display_name, name_key, enabled, created_at)
         VALUES ($1, 'ServicePrincipal', $2, $3, $4, $5)",
        new.object_id,
        display_name,
        arm::canonical_key(display_name),
        new.enabled,
        new.created_at
    )
    .execute(&mut **transaction)
    .await?;
    sqlx::query!(
        "INSERT INTO service_principals (object_id, app_id) VALUES ($1, $2)",
        new.object_id,
        new.app_id
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Locks the application of a service principal; its app id, if the service principal is there.
pub(super) async fn lock(
    transaction: &mut Transaction,
    object_id: Uuid,
) -> Result<Option<Uuid>, StoreError> {
    sqlx::query!(
        "SELECT app_id FROM applications
         WHERE app_id = (SELECT app_id FROM service_principals WHERE object_id = $1) FOR NO KEY UPDATE",
        object_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    // Read again: the service principal may have gone while the lock was waited for.
    let app_id = sqlx::query_scalar!(
        "SELECT app_id FROM service_principals WHERE object_id = $1",
        object_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(app_id)
}

/// Deletes a service principal, whose application is locked, with its own credentials and its role assignments, and says what to publish;
/// why not when it is indispensable.
pub(super) async fn delete(
    transaction: &mut Transaction,
    object_id: Uuid,
) -> Result<Result<Vec<Change>, Indispensable>, StoreError> {
    let kind = PrincipalKind::ServicePrincipal;
    let changes = match principals::delete(transaction, object_id, kind).await? {
        Ok(changes) => changes,
        Err(reason) => return Ok(Err(reason)),
    };
    sqlx::query!(
        "DELETE FROM application_secrets WHERE owner_id = $1",
        object_id
    )
    .execute(&mut **transaction)
    .await?;
    sqlx::query!(
        "DELETE FROM application_certificates WHERE owner_id = $1",
        object_id
    )
    .execute(&mut **transaction)
    .await?;
    Ok(Ok(changes))
}
