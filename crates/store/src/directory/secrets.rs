//! Secrets of applications and of service principals. Only verifiers are kept.

use credentials::{PasswordVerifier, Verifier};
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::principals::publish_application;
use super::{applications, service_principals};
use crate::config::Published;
use crate::{Store, StoreError, Transaction, activity};

/// What may be shown of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Secret {
    pub key_id: Uuid,
    pub display_name: Option<String>,
    /// Its first characters, by which a person tells it from others.
    pub hint: String,
    #[serde(with = "time::serde::rfc3339")]
    pub starts_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// To the hour; `None` when never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
}

/// A secret to be kept, by its verifier.
#[derive(Debug, Clone)]
pub struct NewSecret {
    pub key_id: Uuid,
    pub display_name: Option<String>,
    pub hint: String,
    pub starts_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    pub verifier: SecretVerifier,
}

/// What is kept of a secret.
#[derive(Debug, Clone)]
pub enum SecretVerifier {
    /// Of one that was generated.
    Generated(Verifier),
    /// Of one that the caller chose.
    Chosen(PasswordVerifier),
}

/// The object that shows a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretOwner {
    Application(Uuid),
    ServicePrincipal(Uuid),
}

impl SecretOwner {
    pub fn object_id(self) -> Uuid {
        match self {
            Self::Application(object_id) | Self::ServicePrincipal(object_id) => object_id,
        }
    }
}

/// How many secrets an application and its service principal may have together.
#[derive(Debug, Clone, Copy)]
pub struct SecretLimits {
    /// Of both kinds.
    pub all: i64,
    /// That somebody chose.
    pub chosen: i64,
}

/// What came of adding a secret.
#[derive(Debug, PartialEq, Eq)]
pub enum SecretAddition {
    /// With what was published; nothing while the application has no service principal.
    Added(Option<Published>),
    OwnerNotFound,
    /// The application and its service principal have as many secrets as they may.
    TooMany,
    /// As many of those that somebody chose.
    TooManyChosen,
}

/// What came of removing a secret.
#[derive(Debug, PartialEq, Eq)]
pub enum SecretRemoval {
    /// With what was published; nothing while the application has no service principal.
    Removed(Option<Published>),
    OwnerNotFound,
    /// The owner shows no secret with that key id.
    SecretNotFound,
}

impl Store {
    /// Adds a secret to an object, unless the application and its service principal have as many as they may.
    pub async fn secret_add(
        &self,
        owner: SecretOwner,
        secret: &NewSecret,
        limits: SecretLimits,
    ) -> Result<SecretAddition, StoreError> {
        activity::detail("keyId", secret.key_id.to_string());
        let mut transaction = self.begin().await?;
        let Some(app_id) = lock_application_of(&mut transaction, owner).await? else {
            return Ok(SecretAddition::OwnerNotFound);
        };
        let known = sqlx::query!(
            r#"SELECT count(*) AS "all!", count(chosen_verifier) AS "chosen!" FROM application_secrets WHERE app_id = $1"#,
            app_id
        )
        .fetch_one(&mut *transaction)
        .await?;
        if known.all >= limits.all {
            return Ok(SecretAddition::TooMany);
        }
        if matches!(secret.verifier, SecretVerifier::Chosen(_)) && known.chosen >= limits.chosen {
            return Ok(SecretAddition::TooManyChosen);
        }
        insert(&mut transaction, app_id, owner.object_id(), secret).await?;
        let published = publish_application(&mut transaction, app_id).await?;
        transaction.commit().await?;
        Ok(SecretAddition::Added(published))
    }

    /// How many secrets an object's application and its service principal have; `None` when the object is not there.
    pub async fn secret_count(&self, owner: SecretOwner) -> Result<Option<i64>, StoreError> {
        let count = sqlx::query_scalar!(
            r#"SELECT (SELECT count(*) FROM application_secrets s WHERE s.app_id = a.app_id) AS "count!"
               FROM applications a LEFT JOIN service_principals p ON p.app_id = a.app_id
               WHERE CASE WHEN $2 THEN p.object_id ELSE a.object_id END = $1"#,
            owner.object_id(),
            matches!(owner, SecretOwner::ServicePrincipal(_))
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(count)
    }

    /// Removes a secret from the object that shows it.
    pub async fn secret_remove(
        &self,
        owner: SecretOwner,
        key_id: Uuid,
    ) -> Result<SecretRemoval, StoreError> {
        activity::detail("keyId", key_id.to_string());
        let mut transaction = self.begin().await?;
        let Some(app_id) = lock_application_of(&mut transaction, owner).await? else {
            return Ok(SecretRemoval::OwnerNotFound);
        };
        let removed = sqlx::query!(
            "DELETE FROM application_secrets WHERE key_id = $1 AND owner_id = $2",
            key_id,
            owner.object_id()
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if removed == 0 {
            return Ok(SecretRemoval::SecretNotFound);
        }
        let published = publish_application(&mut transaction, app_id).await?;
        transaction.commit().await?;
        Ok(SecretRemoval::Removed(published))
    }
}

/// Writes a secret's row.
pub(super) async fn insert(
    transaction: &mut Transaction,
    app_id: Uuid,
    owner_id: Uuid,
    secret: &NewSecret,
) -> Result<(), StoreError> {
    let (generated, chosen) = match &secret.verifier {
        SecretVerifier::Generated(verifier) => (Some(verifier.to_bytes()), None),
        SecretVerifier::Chosen(verifier) => (None, Some(verifier.as_str())),
    };
    sqlx::query!(
        "INSERT INTO application_secrets (key_id, app_id, owner_id, display_name, hint, starts_at, expires_at, verifier, chosen_verifier)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        secret.key_id,
        app_id,
        owner_id,
        secret.display_name,
        secret.hint,
        secret.starts_at,
        secret.expires_at,
        generated,
        chosen
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

pub(super) async fn lock_application_of(
    transaction: &mut Transaction,
    owner: SecretOwner,
) -> Result<Option<Uuid>, StoreError> {
    match owner {
        SecretOwner::Application(object_id) => applications::lock(transaction, object_id).await,
        SecretOwner::ServicePrincipal(object_id) => {
            service_principals::lock(transaction, object_id).await
        }
    }
}
