//! Certificates of applications and of service principals, by which they sign in with a client assertion.

use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{StoreError, Transaction, activity};

/// What may be shown of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Certificate {
    pub key_id: Uuid,
    pub display_name: Option<String>,
    /// SHA-1 of the certificate, in lower-case hexadecimal digits.
    pub thumbprint: String,
    #[serde(with = "time::serde::rfc3339")]
    pub starts_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    /// To the hour; `None` when never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
}

/// A certificate to be kept.
#[derive(Debug, Clone)]
pub struct NewCertificate {
    pub key_id: Uuid,
    pub display_name: Option<String>,
    /// DER.
    pub certificate: Vec<u8>,
    pub thumbprint_sha1: Vec<u8>,
    pub thumbprint_sha256: Vec<u8>,
    pub starts_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
}

impl From<NewCertificate> for Certificate {
    fn from(new: NewCertificate) -> Self {
        Self {
            key_id: new.key_id,
            display_name: new.display_name,
            thumbprint: new
                .thumbprint_sha1
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            starts_at: new.starts_at,
            expires_at: new.expires_at,
            last_used_at: None,
        }
    }
}

/// The certificates that an object is to show from now on.
#[derive(Debug, Clone, Default)]
pub struct CertificateSet {
    /// Of those that it shows; all others go.
    pub kept: Vec<Uuid>,
    pub added: Vec<NewCertificate>,
    /// How many its application and the service principal may have together.
    pub maximum: i64,
}

/// Why certificates were not replaced.
#[derive(Debug, PartialEq, Eq)]
pub enum CertificateRefusal {
    /// The object shows no certificate with that key id, which was to be kept.
    NotFound(Uuid),
    /// The application and its service principal have as many as they may.
    TooMany,
}

/// Replaces the certificates that an object shows; its application is locked. Whatever is refused leaves the transaction to be rolled back.
pub(super) async fn replace(
    transaction: &mut Transaction,
    app_id: Uuid,
    owner_id: Uuid,
    wanted: &CertificateSet,
) -> Result<Result<(), CertificateRefusal>, StoreError> {
    let known = sqlx::query_scalar!(
        "SELECT key_id FROM application_certificates WHERE owner_id = $1",
        owner_id
    )
    .fetch_all(&mut **transaction)
    .await?;
    if let Some(missing) = wanted.kept.iter().find(|key_id| !known.contains(key_id)) {
        return Ok(Err(CertificateRefusal::NotFound(*missing)));
    }
    note_added(&wanted.added);
    let removed = known.iter().filter(|known| !wanted.kept.contains(known));
    activity::detail_list("removedKeyIds", removed);
    sqlx::query!(
        "DELETE FROM application_certificates WHERE owner_id = $1 AND NOT key_id = ANY ($2)",
        owner_id,
        &wanted.kept
    )
    .execute(&mut **transaction)
    .await?;
    for certificate in &wanted.added {
        insert(transaction, app_id, owner_id, certificate).await?;
    }
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM application_certificates WHERE app_id = $1"#,
        app_id
    )
    .fetch_one(&mut **transaction)
    .await?;
    if count > wanted.maximum {
        return Ok(Err(CertificateRefusal::TooMany));
    }
    Ok(Ok(()))
}

/// For the activity log: by these ids sign-ins name what was shown.
pub(super) fn note_added(certificates: &[NewCertificate]) {
    let ids = certificates.iter().map(|certificate| certificate.key_id);
    activity::detail_list("addedKeyIds", ids);
}

/// Writes a certificate's row.
pub(super) async fn insert(
    transaction: &mut Transaction,
    app_id: Uuid,
    owner_id: Uuid,
    certificate: &NewCertificate,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO application_certificates (key_id, app_id, owner_id, display_name, certificate, thumbprint_sha1, thumbprint_sha256,
           starts_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        certificate.key_id,
        app_id,
        owner_id,
        certificate.display_name,
        certificate.certificate,
        certificate.thumbprint_sha1,
        certificate.thumbprint_sha256,
        certificate.starts_at,
        certificate.expires_at
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
