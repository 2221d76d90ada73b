//! Refresh tokens of sign-in. Each is used once and followed by another of its family; one that is used again ends the family, unless it was
//! used a moment ago and what followed was not: processes share a token, and answers get lost.
//!
//! A family's first token has the family's id and stays as long as the family does. Whoever uses one of the family locks that row first, so
//! that a family which ends takes also the token that somebody else is just being given. Before that the person is locked, so that others may
//! too: whoever ends a person's sessions holds that row, and comes before the whole use or after it.

use credentials::{Secret, Verifier};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::{Store, StoreError, Transaction};

/// How many families are forgotten at a time.
const FORGOTTEN_AT_ONCE: i64 = 1000;

/// A token that is issued.
#[derive(Debug, Clone)]
pub struct NewRefreshToken {
    pub token_id: Uuid,
    /// Of the generated secret in it.
    pub verifier: Verifier,
    pub issued_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

/// What bounds the use of a family's tokens.
#[derive(Debug, Clone, Copy)]
pub struct RefreshTokenTerms {
    /// How long a family lasts.
    pub family_lifetime: Duration,
    /// How long a token that was used may be used again while none that followed was.
    pub leeway: Duration,
}

/// What a family is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshTokenFamily {
    pub principal_id: Uuid,
    /// The credential that it came from, with which it dies.
    pub credential_id: Uuid,
    pub client_id: String,
}

/// A person's session that goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub principal_id: Uuid,
    pub credential_id: Uuid,
    pub user_principal_name: String,
    pub display_name: String,
}

/// What came of using a refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefreshTokenUse {
    /// The next one of the family is kept.
    Followed(Session),
    /// There is none like it: never issued, forgotten, or of a family that ended.
    Unknown,
    /// Issued to another client.
    OtherClient,
    Expired,
    /// It was used before: its family has ended.
    Reused {
        principal_id: Uuid,
    },
    /// The password that the family came from was replaced, or its sessions were revoked.
    CredentialGone,
    Disabled {
        user_principal_name: String,
    },
    /// The person was told to change the password.
    PasswordToBeChanged {
        user_principal_name: String,
    },
}

impl Store {
    /// Begins a family with its first token, unless the credential is gone or the person disabled meanwhile; whether it did.
    pub async fn refresh_token_begin(
        &self,
        family: &RefreshTokenFamily,
        first: &NewRefreshToken,
    ) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        // A reset of the password, which ends all sessions, sees this one or comes before it; what it changed is read after it.
        sqlx::query!(
            "SELECT object_id FROM principals WHERE object_id = $1 FOR SHARE",
            family.principal_id
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let inserted = sqlx::query!(
            "INSERT INTO refresh_tokens
               (token_id, family_id, verifier, principal_id, credential_id, client_id, issued_at, expires_at)
             SELECT $1, $1, $2, $3, $4, $5, $6, $7
             FROM users u JOIN principals p ON p.object_id = u.object_id
             WHERE u.object_id = $3 AND u.credential_id = $4 AND p.enabled",
            first.token_id,
            first.verifier.to_bytes(),
            family.principal_id,
            family.credential_id,
            family.client_id,
            first.issued_at,
            first.expires_at
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        transaction.commit().await?;
        Ok(inserted == 1)
    }

    /// Uses a token and keeps the next one of its family, which does not outlive the family.
    pub async fn refresh_token_use(
        &self,
        token_id: Uuid,
        shown: &Secret,
        client_id: &str,
        terms: RefreshTokenTerms,
        next: &NewRefreshToken,
    ) -> Result<RefreshTokenUse, StoreError> {
        let now = next.issued_at;
        let mut transaction = self.begin().await?;
        let Some(begun_at) = lock_family(&mut transaction, token_id).await? else {
            return Ok(RefreshTokenUse::Unknown);
        };
        let found = sqlx::query!(
            r#"SELECT r.family_id, r.verifier, r.credential_id, r.client_id, r.expires_at, r.used_at, p.object_id, p.enabled,
               p.display_name, u.credential_id AS present_credential_id, u.user_principal_name, u.must_change_password,
               EXISTS (SELECT FROM refresh_tokens s
                 WHERE s.family_id = r.family_id AND s.follows = r.token_id AND s.used_at IS NOT NULL) AS "is_follower_used!"
             FROM refresh_tokens r
             JOIN principals p ON p.object_id = r.principal_id
             JOIN users u ON u.object_id = r.principal_id
             WHERE r.token_id = $1"#,
            token_id
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(found) = found else {
            return Ok(RefreshTokenUse::Unknown);
        };
        if !read_verifier(&found.verifier)?.matches(shown.expose()) {
            return Ok(RefreshTokenUse::Unknown);
        }
        if found.client_id != client_id {
            return Ok(RefreshTokenUse::OtherClient);
        }
        let is_reused = found
            .used_at
            .is_some_and(|used_at| found.is_follower_used || now - used_at > terms.leeway);
        if is_reused {
            end_family(&mut transaction, found.family_id).await?;
            transaction.commit().await?;
            return Ok(RefreshTokenUse::Reused {
                principal_id: found.object_id,
            });
        }
        let family_ends_at = begun_at + terms.family_lifetime;
        if found.expires_at <= now || family_ends_at <= now {
            return Ok(RefreshTokenUse::Expired);
        }
        if found.credential_id != found.present_credential_id {
            return Ok(RefreshTokenUse::CredentialGone);
        }
        if !found.enabled {
            return Ok(RefreshTokenUse::Disabled {
                user_principal_name: found.user_principal_name,
            });
        }
        if found.must_change_password {
            return Ok(RefreshTokenUse::PasswordToBeChanged {
                user_principal_name: found.user_principal_name,
            });
        }
        follow(
            &mut transaction,
            token_id,
            next,
            next.expires_at.min(family_ends_at),
        )
        .await?;
        transaction.commit().await?;
        Ok(RefreshTokenUse::Followed(Session {
            principal_id: found.object_id,
            credential_id: found.credential_id,
            user_principal_name: found.user_principal_name,
            display_name: found.display_name,
        }))
    }

    /// Forgets families of which no token is good any more, a thousand at a time; how many tokens that were.
    pub async fn refresh_tokens_forget(&self, now: OffsetDateTime) -> Result<u64, StoreError> {
        let forgotten = sqlx::query!(
            "DELETE FROM refresh_tokens WHERE family_id IN (
               SELECT DISTINCT old.family_id FROM refresh_tokens old
               WHERE old.expires_at < $1 AND NOT EXISTS
                 (SELECT FROM refresh_tokens good WHERE good.family_id = old.family_id AND good.expires_at >= $1)
               LIMIT $2)",
            now,
            FORGOTTEN_AT_ONCE
        )
        .execute(self.pool())
        .await?
        .rows_affected();
        Ok(forgotten)
    }
}

/// Locks a token's family, and before it whose it is, against changes; when it began. `None` when there is no such token.
async fn lock_family(
    transaction: &mut Transaction,
    token_id: Uuid,
) -> Result<Option<OffsetDateTime>, StoreError> {
    sqlx::query!(
        "SELECT object_id FROM principals
         WHERE object_id = (SELECT principal_id FROM refresh_tokens WHERE token_id = $1) FOR SHARE",
        token_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let begun_at = sqlx::query_scalar!(
        "SELECT issued_at FROM refresh_tokens
         WHERE token_id = (SELECT family_id FROM refresh_tokens WHERE token_id = $1) FOR UPDATE",
        token_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    Ok(begun_at)
}

async fn end_family(transaction: &mut Transaction, family_id: Uuid) -> Result<(), StoreError> {
    sqlx::query!("DELETE FROM refresh_tokens WHERE family_id = $1", family_id)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Marks a token as used and keeps the next one.
async fn follow(
    transaction: &mut Transaction,
    token_id: Uuid,
    next: &NewRefreshToken,
    expires_at: OffsetDateTime,
) -> Result<(), StoreError> {
    sqlx::query!(
        "WITH used AS (
           UPDATE refresh_tokens SET used_at = coalesce(used_at, $4) WHERE token_id = $1
           RETURNING family_id, principal_id, credential_id, client_id
         )
         INSERT INTO refresh_tokens
           (token_id, family_id, verifier, principal_id, credential_id, client_id, issued_at, expires_at, follows)
         SELECT $2, family_id, $3, principal_id, credential_id, client_id, $4, $5, $1 FROM used",
        token_id,
        next.token_id,
        next.verifier.to_bytes(),
        next.issued_at,
        expires_at
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn read_verifier(bytes: &[u8]) -> Result<Verifier, StoreError> {
    Verifier::from_bytes(bytes).map_err(|error| StoreError::Corrupt {
        table: "refresh_tokens",
        reason: error.to_string(),
    })
}
