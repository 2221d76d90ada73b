//! Finding a principal by what people type.

use uuid::Uuid;

use crate::{Store, StoreError};

/// A user or service principal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPrincipal {
    pub object_id: Uuid,
    /// `User` or `ServicePrincipal`.
    pub kind: String,
}

impl Store {
    /// The user or service principal with that object id, application id or user principal name.
    pub async fn principal_find(&self, text: &str) -> Result<Option<FoundPrincipal>, StoreError> {
        let found = sqlx::query_as!(
            FoundPrincipal,
            "SELECT p.object_id, p.kind FROM principals p
             LEFT JOIN service_principals s ON s.object_id = p.object_id
             LEFT JOIN users u ON u.object_id = p.object_id
             WHERE p.kind <> 'Group' AND (p.object_id = $1 OR s.app_id = $1 OR u.user_principal_name_key = $2)
             LIMIT 1",
            Uuid::try_parse(text).ok(),
            arm::canonical_key(text)
        )
        .fetch_optional(self.pool())
        .await?;
        Ok(found)
    }
}
