//! The keys that sign access tokens of the control plane, the private part sealed.

use time::OffsetDateTime;

use crate::{Store, StoreError};

/// A key as it is stored. Its public part comes from the private one, so nobody who can only write rows can slip in a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInKey {
    pub kid: String,
    pub sealed_private: Vec<u8>,
    /// It signs from then on; it is shown to verifiers before.
    pub not_before: OffsetDateTime,
    /// It no longer signs from then on; tokens that it signed are good until they expire.
    pub retired_at: Option<OffsetDateTime>,
}

impl Store {
    /// Keys that are in use, will be, or were retired after `retired_since`, in the order of their first use.
    pub async fn sign_in_key_list(
        &self,
        retired_since: OffsetDateTime,
    ) -> Result<Vec<SignInKey>, StoreError> {
        let rows = sqlx::query_as!(
            SignInKey,
            "SELECT kid, sealed_private, not_before, retired_at FROM sign_in_keys
             WHERE retired_at IS NULL OR retired_at > $1 ORDER BY not_before, kid",
            retired_since
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows)
    }

    /// Adds a key unless there is one that is not retired; whether it was added. Of several callers at once one succeeds.
    pub async fn sign_in_key_create_if_none(&self, key: &SignInKey) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        // Whoever waits here sees, in the statement after, what the one before committed.
        sqlx::query!("SELECT singleton FROM installation FOR UPDATE")
            .fetch_optional(&mut *transaction)
            .await?
            .ok_or(StoreError::NotInitialised)?;
        let added = sqlx::query!(
            "INSERT INTO sign_in_keys (kid, sealed_private, not_before, retired_at)
             SELECT $1, $2, $3, $4 WHERE NOT EXISTS (SELECT 1 FROM sign_in_keys WHERE retired_at IS NULL)",
            key.kid,
            key.sealed_private,
            key.not_before,
            key.retired_at
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(added == 1)
    }
}
