//! Applications.

use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::certificates::{self, Certificate, CertificateRefusal, CertificateSet, NewCertificate};
use super::principals::publish_application;
use super::secrets::Secret;
use super::{Addressed, Deletion, ObjectQuery, add_owner, remove_owners, service_principals};
use crate::config::{Published, publish};
use crate::{Store, StoreError, Transaction, activity};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    pub object_id: Uuid,
    /// The user name of its service principal.
    pub app_id: Uuid,
    pub display_name: String,
    pub created_at: OffsetDateTime,
    /// Those that the application itself shows; its service principal may show others.
    pub secrets: Vec<Secret>,
    /// Those that the application itself shows.
    pub certificates: Vec<Certificate>,
}

#[derive(Debug, Clone)]
pub struct NewApplication {
    pub object_id: Uuid,
    pub app_id: Uuid,
    pub display_name: String,
    pub certificates: Vec<NewCertificate>,
    pub created_at: OffsetDateTime,
}

impl From<NewApplication> for Application {
    fn from(new: NewApplication) -> Self {
        let mut certificates: Vec<Certificate> =
            new.certificates.into_iter().map(Into::into).collect();
        // As a list has them.
        certificates.sort_by_key(|certificate| (certificate.starts_at, certificate.key_id));
        Self {
            object_id: new.object_id,
            app_id: new.app_id,
            display_name: new.display_name,
            created_at: new.created_at,
            secrets: Vec::new(),
            certificates,
        }
    }
}

/// Who makes an application, and owns it then.
#[derive(Debug, Clone, Copy)]
pub struct Creator {
    pub object_id: Uuid,
    /// How many there may be that were made by its kind: without administering applications. `None` for who does administer them.
    pub quota: Option<i64>,
}

/// What came of creating an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplicationCreation {
    Created,
    /// The directory does not have the creator any more.
    CreatorNotFound,
    /// As many count in the creator's quota as may.
    QuotaExceeded,
}

/// What is to change of an application; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct ApplicationChange {
    /// The service principal has the same name.
    pub display_name: Option<String>,
    pub certificates: Option<CertificateSet>,
}

/// What came of changing an application.
#[derive(Debug, PartialEq, Eq)]
pub enum ApplicationUpdate {
    /// With what was published, if nodes had to know.
    Done(Option<Published>),
    NotFound,
    Refused(CertificateRefusal),
}

impl Store {
    /// A page of applications in the order of their object ids.
    pub async fn application_list(
        &self,
        query: &ObjectQuery,
    ) -> Result<Vec<Application>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT a.object_id, a.app_id, a.display_name, a.created_at,
                 coalesce((SELECT jsonb_agg(jsonb_build_object('key_id', s.key_id, 'display_name', s.display_name,
                     'hint', s.hint, 'starts_at', s.starts_at, 'expires_at', s.expires_at,
                     'last_used_at', s.last_used_at) ORDER BY s.starts_at, s.key_id)
                   FROM application_secrets s WHERE s.owner_id = a.object_id), '[]') AS "secrets!: Json<Vec<Secret>>",
                 coalesce((SELECT jsonb_agg(jsonb_build_object('key_id', c.key_id, 'display_name', c.display_name,
                     'thumbprint', encode(c.thumbprint_sha1, 'hex'), 'starts_at', c.starts_at, 'expires_at', c.expires_at,
                     'last_used_at', c.last_used_at) ORDER BY c.starts_at, c.key_id)
                   FROM application_certificates c WHERE c.owner_id = a.object_id), '[]') AS "certificates!: Json<Vec<Certificate>>"
               FROM applications a
               WHERE ($1::uuid[] IS NULL OR a.object_id = ANY ($1))
                 AND ($2::uuid IS NULL OR a.app_id = $2)
                 AND ($3::text IS NULL OR a.name_key = $3)
                 AND ($4::text IS NULL OR a.name_key LIKE $4)
                 AND a.object_id > $5
               ORDER BY a.object_id LIMIT $6"#,
            query.object_ids.as_deref() as Option<&[Uuid]>,
            query.app_id,
            query.name_key(),
            query.name_pattern(),
            query.after,
            query.limit
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Application {
                object_id: row.object_id,
                app_id: row.app_id,
                display_name: row.display_name,
                created_at: row.created_at,
                secrets: row.secrets.0,
                certificates: row.certificates.0,
            })
            .collect())
    }

    pub async fn application_get(
        &self,
        object_id: Uuid,
    ) -> Result<Option<Application>, StoreError> {
        let found = self.application_list(&ObjectQuery::one(object_id)).await?;
        Ok(found.into_iter().next())
    }

    /// Creates an application that its creator owns. Nodes need not know of it before it has a service principal.
    pub async fn application_create(
        &self,
        application: &NewApplication,
        creator: Creator,
    ) -> Result<ApplicationCreation, StoreError> {
        activity::detail("objectId", application.object_id.to_string());
        activity::detail("appId", application.app_id.to_string());
        certificates::note_added(&application.certificates);
        let mut transaction = self.begin().await?;
        let mut charged_to = None;
        if let Some(quota) = creator.quota {
            let (payer, count) = lock_quota(&mut transaction, creator.object_id).await?;
            if count >= quota {
                return Ok(ApplicationCreation::QuotaExceeded);
            }
            charged_to = Some(payer);
        }
        insert(&mut transaction, application, charged_to).await?;
        if !add_owner(
            &mut transaction,
            application.object_id,
            Addressed::any(creator.object_id),
        )
        .await?
        {
            return Ok(ApplicationCreation::CreatorNotFound);
        }
        transaction.commit().await?;
        Ok(ApplicationCreation::Created)
    }

    /// Changes an application, and its service principal's name with it.
    pub async fn application_update(
        &self,
        object_id: Uuid,
        change: &ApplicationChange,
    ) -> Result<ApplicationUpdate, StoreError> {
        activity::changed(&[
            ("displayName", change.display_name.is_some()),
            ("keyCredentials", change.certificates.is_some()),
        ]);
        let mut transaction = self.begin().await?;
        let Some(app_id) = lock(&mut transaction, object_id).await? else {
            return Ok(ApplicationUpdate::NotFound);
        };
        if let Some(display_name) = &change.display_name {
            rename(&mut transaction, app_id, display_name).await?;
        }
        let mut published = None;
        if let Some(wanted) = &change.certificates {
            let replaced =
                certificates::replace(&mut transaction, app_id, object_id, wanted).await?;
            if let Err(refusal) = replaced {
                return Ok(ApplicationUpdate::Refused(refusal));
            }
            published = publish_application(&mut transaction, app_id).await?;
            if published.is_none() {
                activity::write_details(&mut transaction).await?;
            }
        }
        transaction.commit().await?;
        Ok(ApplicationUpdate::Done(published))
    }

    /// Deletes an application with its service principal, all secrets, and the service principal's role assignments.
    pub async fn application_delete(&self, object_id: Uuid) -> Result<Deletion, StoreError> {
        let mut transaction = self.begin().await?;
        let Some(app_id) = lock(&mut transaction, object_id).await? else {
            return Ok(Deletion::NotFound);
        };
        let service_principal = sqlx::query_scalar!(
            "SELECT object_id FROM service_principals WHERE app_id = $1",
            app_id
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let mut changes = Vec::new();
        if let Some(principal_id) = service_principal {
            match service_principals::delete(&mut transaction, principal_id).await? {
                Ok(deleted) => changes = deleted,
                Err(reason) => return Ok(Deletion::Indispensable(reason)),
            }
        }
        remove_owners(&mut transaction, object_id).await?;
        sqlx::query!("DELETE FROM applications WHERE object_id = $1", object_id)
            .execute(&mut *transaction)
            .await?;
        let published: Option<Published> = if changes.is_empty() {
            None
        } else {
            Some(publish(&mut transaction, &changes).await?)
        };
        transaction.commit().await?;
        Ok(Deletion::Deleted(published))
    }
}

/// In whose quota what a principal makes counts, and how much does already; others who make something in it wait for this transaction.
async fn lock_quota(
    transaction: &mut Transaction,
    creator_id: Uuid,
) -> Result<(Uuid, i64), StoreError> {
    let payer = sqlx::query_scalar!(
        r#"SELECT coalesce((SELECT a.charged_to FROM service_principals s JOIN applications a ON a.app_id = s.app_id
             WHERE s.object_id = $1), $1) AS "payer!""#,
        creator_id
    )
    .fetch_one(&mut **transaction)
    .await?;
    sqlx::query!(
        "SELECT object_id FROM principals WHERE object_id = $1 FOR NO KEY UPDATE",
        payer
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM applications WHERE charged_to = $1"#,
        payer
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok((payer, count))
}

/// Writes an application's row, and those of its certificates.
pub(super) async fn insert(
    transaction: &mut Transaction,
    application: &NewApplication,
    charged_to: Option<Uuid>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO applications (object_id, app_id, display_name, name_key, created_at, charged_to)
         VALUES ($1, $2, $3, $4, $5, $6)",
        application.object_id,
        application.app_id,
        application.display_name,
        arm::canonical_key(&application.display_name),
        application.created_at,
        charged_to
    )
    .execute(&mut **transaction)
    .await?;
    for certificate in &application.certificates {
        certificates::insert(
            transaction,
            application.app_id,
            application.object_id,
            certificate,
        )
        .await?;
    }
    Ok(())
}

/// Renames an application, which is locked, and its service principal.
async fn rename(
    transaction: &mut Transaction,
    app_id: Uuid,
    display_name: &str,
) -> Result<(), StoreError> {
    let name_key = arm::canonical_key(display_name);
    sqlx::query!(
        "UPDATE applications SET display_name = $2, name_key = $3 WHERE app_id = $1",
        app_id,
        display_name,
        name_key
    )
    .execute(&mut **transaction)
    .await?;
    sqlx::query!(
        "UPDATE principals SET display_name = $2, name_key = $3
         WHERE object_id IN (SELECT object_id FROM service_principals WHERE app_id = $1)",
        app_id,
        display_name,
        name_key
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Locks an application against changes of it, its service principal and their secrets; its app id, if it is there.
pub(super) async fn lock(
    transaction: &mut Transaction,
    object_id: Uuid,
) -> Result<Option<Uuid>, StoreError> {
    let app_id = sqlx::query_scalar!(
        "SELECT app_id FROM applications WHERE object_id = $1 FOR NO KEY UPDATE",
        object_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(app_id)
}
