//! What signing in needs to know about an application.

use credentials::Verifier;
use time::OffsetDateTime;
use uuid::Uuid;

use super::principals::read_verifier;
use crate::{Store, StoreError};

/// An application that wants to sign in.
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
    pub verifier: Verifier,
    pub starts_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

impl Store {
    /// The facts about the application with that app id; `None` when there is none.
    pub async fn sign_in_facts(&self, app_id: Uuid) -> Result<Option<SignInFacts>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT p.object_id AS "object_id?", p.enabled AS "enabled?",
                 c.key_id AS "key_id?", c.verifier AS "verifier?", c.starts_at AS "starts_at?", c.expires_at AS "expires_at?"
               FROM applications a
               LEFT JOIN service_principals s ON s.app_id = a.app_id
               LEFT JOIN principals p ON p.object_id = s.object_id
               LEFT JOIN application_secrets c ON c.app_id = a.app_id
               WHERE a.app_id = $1"#,
            app_id
        )
        .fetch_all(self.pool())
        .await?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let principal = first
            .object_id
            .zip(first.enabled)
            .map(|(object_id, enabled)| SignInPrincipal { object_id, enabled });
        let mut secrets = Vec::with_capacity(rows.len());
        for row in &rows {
            if let (Some(key_id), Some(verifier), Some(starts_at), Some(expires_at)) = (
                row.key_id,
                row.verifier.as_deref(),
                row.starts_at,
                row.expires_at,
            ) {
                secrets.push(SignInSecret {
                    key_id,
                    verifier: read_verifier(verifier)?,
                    starts_at,
                    expires_at,
                });
            }
        }
        Ok(Some(SignInFacts { principal, secrets }))
    }
}
