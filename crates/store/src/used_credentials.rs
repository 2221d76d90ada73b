//! When credentials were last used, to the hour, as nodes tell: nobody can rotate a secret safely without knowing.
//!
//! Written often and lost without harm: it never touches the head of the configuration, and is not waited for on disk.

use config_documents::{UsedCredential, UsedCredentialId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Store, StoreError};

/// Remembers that credentials were used. What is not there any more, or was used later, stays as it is.
///
/// # Errors
/// Those of the database; nothing is remembered then.
pub async fn used_credentials_record(
    store: &Store,
    used: &[UsedCredential],
) -> Result<(), StoreError> {
    let mut secrets: (Vec<Uuid>, Vec<OffsetDateTime>) = Default::default();
    let mut passwords: (Vec<Uuid>, Vec<String>, Vec<OffsetDateTime>) = Default::default();
    for UsedCredential { credential, hour } in used {
        match credential {
            UsedCredentialId::Secret { key_id } => {
                secrets.0.push(*key_id);
                secrets.1.push(*hour);
            }
            UsedCredentialId::AdminPassword { registry_uid, slot } => {
                passwords.0.push(*registry_uid);
                passwords.1.push(slot.as_str().to_owned());
                passwords.2.push(*hour);
            }
        }
    }
    let mut transaction = store
        .pool()
        .begin_with("BEGIN; SET LOCAL synchronous_commit = off")
        .await?;
    // Rows that somebody changes at this moment are passed over: nobody waits for this, and the next use says it again.
    sqlx::query!(
        r#"
        WITH input AS (
            SELECT key_id, max(hour) AS hour FROM UNNEST($1::uuid[], $2::timestamptz[]) AS input (key_id, hour) GROUP BY key_id
        ),
        stale AS (
            SELECT secret.key_id, input.hour FROM input JOIN application_secrets AS secret USING (key_id)
            WHERE secret.last_used_at IS NULL OR secret.last_used_at < input.hour
            FOR UPDATE OF secret SKIP LOCKED
        )
        UPDATE application_secrets AS secret SET last_used_at = stale.hour FROM stale WHERE secret.key_id = stale.key_id
        "#,
        &secrets.0,
        &secrets.1,
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        r#"
        WITH input AS (
            SELECT registry_uid, slot, max(hour) AS hour
            FROM UNNEST($1::uuid[], $2::text[], $3::timestamptz[]) AS input (registry_uid, slot, hour)
            GROUP BY registry_uid, slot
        ),
        stale AS (
            SELECT password.registry_uid, password.slot, input.hour
            FROM input JOIN registry_passwords AS password USING (registry_uid, slot)
            WHERE password.last_used_at IS NULL OR password.last_used_at < input.hour
            FOR UPDATE OF password SKIP LOCKED
        )
        UPDATE registry_passwords AS password SET last_used_at = stale.hour
        FROM stale WHERE password.registry_uid = stale.registry_uid AND password.slot = stale.slot
        "#,
        &passwords.0,
        &passwords.1,
        &passwords.2,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}
