//! What nodes are told about principals, and the guard of the last administrator.

use config_documents::{
    ChosenSecret, Document, Group, Kind, Principal, PrincipalSecret, Region, SignInCredential,
};
use credentials::{PasswordVerifier, Verifier};
use uuid::Uuid;

use super::{remove_owners, service_principals};
use crate::access::PrincipalKind;
use crate::config::{Change, Published, publish};
use crate::role_assignments::{self, owners};
use crate::{StoreError, Transaction};

/// Locks whatever a principal's document is made of: the application of a service principal, the principal's own row for people and groups.
/// Its kind, if it is there.
pub(crate) async fn lock(
    transaction: &mut Transaction,
    object_id: Uuid,
) -> Result<Option<PrincipalKind>, StoreError> {
    if service_principals::lock(transaction, object_id)
        .await?
        .is_some()
    {
        return Ok(Some(PrincipalKind::ServicePrincipal));
    }
    let kind = sqlx::query_scalar!(
        "SELECT kind FROM principals WHERE object_id = $1 AND kind <> 'ServicePrincipal' FOR NO KEY UPDATE",
        object_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    kind.map(|kind| PrincipalKind::read(&kind)).transpose()
}

/// A principal's document, of whatever kind, as this transaction sees its rows; `None` when it is not there. The one place where it is made:
/// whoever changes any of those rows locks them first ([`lock`]) and publishes this.
pub(crate) async fn document(
    transaction: &mut Transaction,
    object_id: Uuid,
) -> Result<Option<Change>, StoreError> {
    let principal = sqlx::query!(
        r#"SELECT p.kind, p.enabled, s.app_id AS "app_id?", u.credential_id AS "credential_id?",
             ARRAY (SELECT m.group_id FROM group_members m WHERE m.member_id = p.object_id ORDER BY m.group_id) AS "groups!"
           FROM principals p
           LEFT JOIN service_principals s ON s.object_id = p.object_id
           LEFT JOIN users u ON u.object_id = p.object_id
           WHERE p.object_id = $1"#,
        object_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(principal) = principal else {
        return Ok(None);
    };
    let document = match PrincipalKind::read(&principal.kind)? {
        PrincipalKind::Group => Document::Group(Group {
            object_id,
            groups: principal.groups,
        }),
        PrincipalKind::User | PrincipalKind::ServicePrincipal => {
            let mut document = Principal {
                object_id,
                app_id: principal.app_id,
                enabled: principal.enabled,
                secrets: Vec::new(),
                chosen_secrets: Vec::new(),
                sign_in_credentials: Vec::new(),
                groups: principal.groups,
            };
            if let Some(app_id) = principal.app_id {
                add_secrets(transaction, app_id, &mut document).await?;
                add_sign_in_credentials(transaction, app_id, &mut document).await?;
            }
            document
                .sign_in_credentials
                .extend(principal.credential_id.map(|key_id| SignInCredential {
                    key_id,
                    expires_at: None,
                }));
            Document::Principal(document)
        }
    };
    Ok(Some(Change::Upsert {
        region: Region::all(),
        document,
    }))
}

async fn add_secrets(
    transaction: &mut Transaction,
    app_id: Uuid,
    document: &mut Principal,
) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        "SELECT key_id, verifier, chosen_verifier, starts_at, expires_at FROM application_secrets WHERE app_id = $1 ORDER BY key_id",
        app_id
    )
    .fetch_all(&mut **transaction)
    .await?;
    for row in rows {
        match (row.verifier, row.chosen_verifier) {
            (Some(verifier), None) => document.secrets.push(PrincipalSecret {
                key_id: row.key_id,
                verifier: read_verifier(&verifier)?,
                starts_at: row.starts_at,
                expires_at: row.expires_at,
            }),
            (_, chosen) => document.chosen_secrets.push(ChosenSecret {
                key_id: row.key_id,
                verifier: read_chosen_verifier(chosen.as_deref().unwrap_or_default())?,
                starts_at: row.starts_at,
                expires_at: row.expires_at,
            }),
        }
    }
    Ok(())
}

/// Certificates and federated credentials, of which nodes need only know that they are there.
async fn add_sign_in_credentials(
    transaction: &mut Transaction,
    app_id: Uuid,
    document: &mut Principal,
) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        r#"SELECT key_id AS "key_id!", expires_at FROM application_certificates WHERE app_id = $1
           UNION ALL
           SELECT credential_id, NULL FROM federated_credentials WHERE app_id = $1
           ORDER BY 1"#,
        app_id
    )
    .fetch_all(&mut **transaction)
    .await?;
    document
        .sign_in_credentials
        .extend(rows.into_iter().map(|row| SignInCredential {
            key_id: row.key_id,
            expires_at: row.expires_at,
        }));
    Ok(())
}

/// The document of an application's service principal as this transaction sees it; `None` while there is no service principal.
pub(crate) async fn document_of_application(
    transaction: &mut Transaction,
    app_id: Uuid,
) -> Result<Option<Change>, StoreError> {
    let object_id = sqlx::query_scalar!(
        "SELECT object_id FROM service_principals WHERE app_id = $1",
        app_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    match object_id {
        Some(object_id) => document(transaction, object_id).await,
        None => Ok(None),
    }
}

/// Tells nodes about a principal that is locked; nothing when it is not there.
pub(crate) async fn publish_principal(
    transaction: &mut Transaction,
    object_id: Uuid,
) -> Result<Option<Published>, StoreError> {
    match document(transaction, object_id).await? {
        Some(change) => Ok(Some(publish(transaction, &[change]).await?)),
        None => Ok(None),
    }
}

/// Tells nodes about the service principal of an application that is locked, if it has one.
pub(crate) async fn publish_application(
    transaction: &mut Transaction,
    app_id: Uuid,
) -> Result<Option<Published>, StoreError> {
    match document_of_application(transaction, app_id).await? {
        Some(change) => Ok(Some(publish(transaction, &[change]).await?)),
        None => Ok(None),
    }
}

/// Deletes a principal, which is locked, with its role assignments, memberships, directory roles and whatever it owns and is owned by, and
/// says what to publish. The documents of a group's members go on naming it: an id that is nobody's counts for nothing, and is never
/// another's. Whatever is refused leaves the transaction to be rolled back.
pub(super) async fn delete(
    transaction: &mut Transaction,
    object_id: Uuid,
    kind: PrincipalKind,
) -> Result<Result<Vec<Change>, Indispensable>, StoreError> {
    // Waits for role assignments and memberships that are being made, and lets no more be made: they hold the row while they are.
    sqlx::query!(
        "SELECT object_id FROM principals WHERE object_id = $1 FOR UPDATE",
        object_id
    )
    .fetch_optional(&mut **transaction)
    .await?;
    if is_last_administrator(transaction, object_id).await? {
        return Ok(Err(Indispensable::LastAdministrator));
    }
    let owned = owners::lock_owned_by(transaction, object_id).await?;
    let mut changes = role_assignments::delete_of_principal(transaction, object_id).await?;
    remove_owners(transaction, object_id).await?;
    sqlx::query!("DELETE FROM principals WHERE object_id = $1", object_id)
        .execute(&mut **transaction)
        .await?;
    if !owners::have_owners(transaction, &owned).await? {
        return Ok(Err(Indispensable::LastOwner));
    }
    changes.push(Change::Delete {
        region: Region::all(),
        kind: match kind {
            PrincipalKind::Group => Kind::Group,
            PrincipalKind::ServicePrincipal | PrincipalKind::User => Kind::Principal,
        },
        key: object_id.to_string(),
    });
    Ok(Ok(changes))
}

/// What keeps a principal from being deleted or disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indispensable {
    /// Nobody who can administer the directory would be left.
    LastAdministrator,
    /// A subscription would be left without an Owner.
    LastOwner,
}

/// Enables or disables a principal that is locked; whether that changed anything. Whatever is refused leaves the transaction to be rolled
/// back.
pub(super) async fn enable(
    transaction: &mut Transaction,
    object_id: Uuid,
    enabled: bool,
) -> Result<Result<bool, Indispensable>, StoreError> {
    let mut owned = Vec::new();
    if !enabled {
        if is_last_administrator(transaction, object_id).await? {
            return Ok(Err(Indispensable::LastAdministrator));
        }
        owned = owners::lock_owned_by(transaction, object_id).await?;
    }
    let changed = sqlx::query!(
        "UPDATE principals SET enabled = $2 WHERE object_id = $1 AND enabled <> $2",
        object_id,
        enabled
    )
    .execute(&mut **transaction)
    .await?
    .rows_affected();
    if !owners::have_owners(transaction, &owned).await? {
        return Ok(Err(Indispensable::LastOwner));
    }
    Ok(Ok(changed > 0))
}

/// Whether nobody who can administer the directory is left without this principal; other such changes wait for this transaction.
pub(super) async fn is_last_administrator(
    transaction: &mut Transaction,
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

/// The verifier of a secret that was chosen, as a column has it.
pub(super) fn read_chosen_verifier(text: &str) -> Result<PasswordVerifier, StoreError> {
    PasswordVerifier::parse(text).map_err(|error| StoreError::Corrupt {
        table: "application_secrets",
        reason: error.to_string(),
    })
}
