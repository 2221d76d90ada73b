//! Certificates with whose keys applications sign assertions. Only the key, the times and the thumbprints count: who issued one does not,
//! since an administrator named this very one.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::foreign_key::{ForeignKey, ForeignKeyError};

/// What counts of a certificate.
#[derive(Debug)]
pub struct Certificate {
    pub starts_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    pub thumbprint_sha1: Vec<u8>,
    pub thumbprint_sha256: Vec<u8>,
    pub key: ForeignKey,
}

/// Why bytes are not a usable certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the bytes are not an X.509 certificate in DER")]
    Malformed,
    #[error("the certificate's times cannot be read")]
    Times,
    #[error(transparent)]
    Key(#[from] ForeignKeyError),
}

impl Certificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
        if !rest.is_empty() {
            return Err(CertificateError::Malformed);
        }
        let time = |timestamp| {
            OffsetDateTime::from_unix_timestamp(timestamp).map_err(|_| CertificateError::Times)
        };
        Ok(Self {
            starts_at: time(certificate.validity.not_before.timestamp())?,
            expires_at: time(certificate.validity.not_after.timestamp())?,
            thumbprint_sha1: digest(&SHA1_FOR_LEGACY_USE_ONLY, der).as_ref().to_vec(),
            thumbprint_sha256: digest(&SHA256, der).as_ref().to_vec(),
            key: ForeignKey::of_public_key_info(&certificate.subject_pki)?,
        })
    }
}
