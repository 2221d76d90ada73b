//! What signing in needs to know about an application or a person, and when a credential was used.

mod remembered;

use std::sync::Arc;

use credentials::PasswordVerifier;
use time::OffsetDateTime;
use uuid::Uuid;

use remembered::Remembered;
pub(crate) use remembered::RememberedApplications;

use super::SecretVerifier;
use super::principals::{read_chosen_verifier, read_verifier};
use crate::head::Head;
use crate::{Store, StoreError};

/// An application that wants to sign in with a secret.
#[derive(Debug, Clone)]
pub struct SignInFacts {
    /// Absent while the application has no service principal.
    pub principal: Option<SignInPrincipal>,
    /// Those of the application and of its service principal; either signs it in.
    pub secrets: Vec<SignInSecret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignInPrincipal {
    pub object_id: Uuid,
    pub enabled: bool,
}

#[derive(Debug, Clone)]
pub struct SignInSecret {
    pub key_id: Uuid,
    pub verifier: SecretVerifier,
    pub starts_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

/// An application that wants to sign in with an assertion.
#[derive(Debug, Clone)]
pub struct AssertionFacts {
    /// Absent while the application has no service principal.
    pub principal: Option<SignInPrincipal>,
    pub certificates: Vec<SignInCertificate>,
    pub federated: Vec<SignInFederated>,
}

#[derive(Debug, Clone)]
pub struct SignInCertificate {
    pub key_id: Uuid,
    /// DER.
    pub certificate: Vec<u8>,
    pub thumbprint_sha1: Vec<u8>,
    pub thumbprint_sha256: Vec<u8>,
    pub starts_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

/// Tokens of an external issuer that sign an application in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInFederated {
    pub credential_id: Uuid,
    pub issuer: String,
    pub subject: String,
    pub audiences: Vec<String>,
}

/// A person who wants to sign in.
#[derive(Debug, Clone)]
pub struct SignInUser {
    pub object_id: Uuid,
    pub user_principal_name: String,
    pub display_name: String,
    pub enabled: bool,
    pub password_verifier: PasswordVerifier,
    /// What tokens name that come from this password.
    pub credential_id: Uuid,
    pub must_change_password: bool,
}

impl Store {
    /// The application with that app id and its secrets; `None` when there is none.
    ///
    /// Most sign in again and again: what was found is remembered, and counts while the head is the one that it was read at.
    pub async fn sign_in_facts(
        &self,
        app_id: Uuid,
    ) -> Result<Option<Arc<SignInFacts>>, StoreError> {
        if let Some(known) = self.remembered_applications.get(app_id)
            && self.head_readings.present(self).await == Some(known.head)
        {
            return Ok(Some(known.facts));
        }
        let Some((head, facts)) = self.sign_in_facts_anew(app_id).await? else {
            return Ok(None);
        };
        let facts = Arc::new(facts);
        if let Some(head) = head.filter(|_| facts.principal.is_some()) {
            let facts = Arc::clone(&facts);
            self.remembered_applications
                .insert(app_id, Remembered { head, facts });
        }
        Ok(Some(facts))
    }

    async fn sign_in_facts_anew(
        &self,
        app_id: Uuid,
    ) -> Result<Option<(Option<Head>, SignInFacts)>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT h.epoch AS "epoch?", h.revision AS "revision?", p.object_id AS "object_id?", p.enabled AS "enabled?",
                 c.key_id AS "key_id?", c.verifier AS "verifier?", c.chosen_verifier AS "chosen_verifier?",
                 c.starts_at AS "starts_at?", c.expires_at AS "expires_at?"
               FROM applications a
               LEFT JOIN service_principals s ON s.app_id = a.app_id
               LEFT JOIN principals p ON p.object_id = s.object_id
               LEFT JOIN application_secrets c ON c.app_id = a.app_id
               LEFT JOIN config_head h ON h.singleton
               WHERE a.app_id = $1"#,
            app_id
        )
        .fetch_all(self.pool())
        .await?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let head = Head::of(first.epoch, first.revision);
        let principal = principal(first.object_id, first.enabled);
        let mut secrets = Vec::with_capacity(rows.len());
        for row in &rows {
            let verifier = match (row.verifier.as_deref(), row.chosen_verifier.as_deref()) {
                (Some(verifier), _) => SecretVerifier::Generated(read_verifier(verifier)?),
                (None, Some(chosen)) => SecretVerifier::Chosen(read_chosen_verifier(chosen)?),
                (None, None) => continue,
            };
            if let (Some(key_id), Some(starts_at), Some(expires_at)) =
                (row.key_id, row.starts_at, row.expires_at)
            {
                secrets.push(SignInSecret {
                    key_id,
                    verifier,
                    starts_at,
                    expires_at,
                });
            }
        }
        Ok(Some((head, SignInFacts { principal, secrets })))
    }

    /// The application with that app id, its certificates and federated credentials; `None` when there is none.
    pub async fn sign_in_assertion_facts(
        &self,
        app_id: Uuid,
    ) -> Result<Option<AssertionFacts>, StoreError> {
        let mut connection = self.pool().acquire().await?;
        let found = sqlx::query!(
            r#"SELECT p.object_id AS "object_id?", p.enabled AS "enabled?"
               FROM applications a
               LEFT JOIN service_principals s ON s.app_id = a.app_id
               LEFT JOIN principals p ON p.object_id = s.object_id
               WHERE a.app_id = $1"#,
            app_id
        )
        .fetch_optional(&mut *connection)
        .await?;
        let Some(found) = found else {
            return Ok(None);
        };
        let certificates = sqlx::query_as!(
            SignInCertificate,
            "SELECT key_id, certificate, thumbprint_sha1, thumbprint_sha256, starts_at, expires_at
             FROM application_certificates WHERE app_id = $1 ORDER BY key_id",
            app_id
        )
        .fetch_all(&mut *connection)
        .await?;
        let federated = sqlx::query_as!(
            SignInFederated,
            "SELECT credential_id, issuer, subject, audiences FROM federated_credentials WHERE app_id = $1
             ORDER BY credential_id",
            app_id
        )
        .fetch_all(&mut *connection)
        .await?;
        Ok(Some(AssertionFacts {
            principal: principal(found.object_id, found.enabled),
            certificates,
            federated,
        }))
    }

    /// The person with that user principal name.
    pub async fn sign_in_user(
        &self,
        user_principal_name: &str,
    ) -> Result<Option<SignInUser>, StoreError> {
        let row = sqlx::query!(
            "SELECT p.object_id, u.user_principal_name, p.display_name, p.enabled, u.password_verifier, u.credential_id,
               u.must_change_password
             FROM users u JOIN principals p ON p.object_id = u.object_id
             WHERE u.user_principal_name_key = $1",
            arm::canonical_key(user_principal_name)
        )
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let password_verifier =
            PasswordVerifier::parse(&row.password_verifier).map_err(|error| {
                StoreError::Corrupt {
                    table: "users",
                    reason: error.to_string(),
                }
            })?;
        Ok(Some(SignInUser {
            object_id: row.object_id,
            user_principal_name: row.user_principal_name,
            display_name: row.display_name,
            enabled: row.enabled,
            password_verifier,
            credential_id: row.credential_id,
            must_change_password: row.must_change_password,
        }))
    }

    /// Remembers when a person signed in last.
    pub async fn sign_in_user_seen(
        &self,
        object_id: Uuid,
        now: OffsetDateTime,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE users SET last_signed_in_at = $2 WHERE object_id IN
               (SELECT object_id FROM users WHERE object_id = $1 FOR UPDATE SKIP LOCKED)",
            object_id,
            now
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }

    /// Remembers, to the hour, when a secret, certificate or federated credential signed in. What somebody is changing meanwhile is left
    /// alone: the next use is soon enough.
    pub async fn sign_in_credential_used(
        &self,
        credential_id: Uuid,
        hour: OffsetDateTime,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "WITH secret AS (
               UPDATE application_secrets SET last_used_at = $2 WHERE key_id IN
                 (SELECT key_id FROM application_secrets WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < $2)
                  FOR UPDATE SKIP LOCKED)
             ), certificate AS (
               UPDATE application_certificates SET last_used_at = $2 WHERE key_id IN
                 (SELECT key_id FROM application_certificates WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < $2)
                  FOR UPDATE SKIP LOCKED)
             )
             UPDATE federated_credentials SET last_used_at = $2 WHERE credential_id IN
               (SELECT credential_id FROM federated_credentials
                WHERE credential_id = $1 AND (last_used_at IS NULL OR last_used_at < $2) FOR UPDATE SKIP LOCKED)",
            credential_id,
            hour
        )
        .execute(self.pool())
        .await?;
        Ok(())
    }
}

fn principal(object_id: Option<Uuid>, enabled: Option<bool>) -> Option<SignInPrincipal> {
    object_id
        .zip(enabled)
        .map(|(object_id, enabled)| SignInPrincipal { object_id, enabled })
}
