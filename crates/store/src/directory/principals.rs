//! What nodes are told about a principal, and the guard of the last administrator.

use config_documents::{Document, Principal, PrincipalSecret, Region};
use credentials::Verifier;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::StoreError;
use crate::config::Change;

/// The document of an application's service principal as this transaction sees it; `None` while there is no service principal.
pub(super) async fn document_of_application(
    transaction: &mut Transaction<'_, Postgres>,
    app_id: Uuid,
) -> Result<Option<Change>, StoreError> {
    let principal = sqlx::query!(
        "SELECT p.object_id, p.enabled FROM service_principals s JOIN principals p ON p.object_id = s.object_id
         WHERE s.app_id = $1",
        app_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(principal) = principal else {
        return Ok(None);
    };
    let rows = sqlx::query!(
        "SELECT key_id, verifier, starts_at, expires_at FROM application_secrets WHERE app_id = $1 ORDER BY key_id",
        app_id
    )
    .fetch_all(&mut **transaction)
    .await?;
    let mut secrets = Vec::with_capacity(rows.len());
    for row in rows {
        secrets.push(PrincipalSecret {
            key_id: row.key_id,
            verifier: read_verifier(&row.verifier)?,
            starts_at: row.starts_at,
            expires_at: row.expires_at,
        });
    }
    Ok(Some(Change::Upsert {
        region: Region::all(),
        document: Document::Principal(Principal {
            object_id: principal.object_id,
            app_id: Some(app_id),
            enabled: principal.enabled,
            secrets,
            chosen_secrets: Vec::new(),
            sign_in_credentials: Vec::new(),
            groups: Vec::new(),
        }),
    }))
}

/// Whether nobody who can administer the directory is left without this principal; other such changes wait for this transaction.
pub(super) async fn is_last_administrator(
    transaction: &mut Transaction<'_, Postgres>,
    principal_id: Uuid,
) -> Result<bool, StoreError> {
    // The lock is a statement of its own: the next one then sees what was committed while this one waited.
    let administrators = sqlx::query_scalar!(
        "SELECT principal_id FROM directory_role_members WHERE role = 'administrator' ORDER BY principal_id FOR UPDATE"
    )
    .fetch_all(&mut **transaction)
    .await?;
    if !administrators.contains(&principal_id) {
        return Ok(false);
    }
    let others = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM directory_role_members d JOIN principals p ON p.object_id = d.principal_id
             WHERE d.role = 'administrator' AND p.enabled AND p.object_id <> $1) AS "others!""#,
        principal_id
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(!others)
}

/// A verifier as a column has it.
pub(super) fn read_verifier(bytes: &[u8]) -> Result<Verifier, StoreError> {
    Verifier::from_bytes(bytes).map_err(|error| StoreError::Corrupt {
        table: "application_secrets",
        reason: error.to_string(),
    })
}
