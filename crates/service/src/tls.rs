//! TLS for servers and clients: certificates from PEM files, taken up again when the files change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::ConfigVerifierExt;

use crate::errors::chain;

/// How often the certificate and key files are looked at.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// The certificate of a server.
#[derive(Clone, Debug, clap::Args)]
pub struct TlsArguments {
    /// Certificate chain of the server, PEM, its own certificate first; taken up again when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_certificate: PathBuf,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: PathBuf,
}

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is not a PEM file with {expected}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for in it.
        expected: &'static str,
        /// What the parser said.
        #[source]
        source: pem::Error,
    },
    /// Certificate and key cannot be used together.
    #[error("the certificate {} cannot be used with the key {}", certificate.display(), key.display())]
    Certificate {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// The file of trusted certificates holds one that cannot be trusted.
    #[error("cannot trust the certificates in {}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
    /// The certificates that the system trusts could not be loaded.
    #[error("cannot load the certificates that this system trusts")]
    SystemAuthorities(#[source] rustls::Error),
}

/// A server's TLS configuration for HTTP/2 and HTTP/1.1.
///
/// A task looks at the files every [`RELOAD_INTERVAL`] and takes up a new certificate for new connections; a broken
/// one is logged and the old one stays. Call it inside a tokio runtime, after
/// [`install_crypto_provider`](crate::install_crypto_provider).
///
/// # Errors
/// When the files cannot be read, are not PEM, or do not belong together.
pub fn server_config(arguments: &TlsArguments) -> Result<ServerConfig, TlsError> {
    let files = CertificateFiles::read(arguments)?;
    let resolver = Arc::new(ReloadingCertificate {
        current: RwLock::new(Arc::new(files.certified_key(arguments)?)),
    });
    tokio::spawn(reload(arguments.clone(), files, Arc::downgrade(&resolver)));
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client's TLS configuration that trusts only the authorities in the file, or without one those of the system.
///
/// # Errors
/// When the file cannot be read or holds no usable certificate, or the system's cannot be loaded.
pub fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let Some(path) = ca_file else {
        return ClientConfig::with_platform_verifier().map_err(TlsError::SystemAuthorities);
    };
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(path, &read(path)?)? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Authority {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The bytes of the two files, kept to see whether they changed.
#[derive(PartialEq, Eq)]
struct CertificateFiles {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl CertificateFiles {
    fn read(arguments: &TlsArguments) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(&arguments.tls_certificate)?,
            key: read(&arguments.tls_key)?,
        })
    }

    fn certified_key(&self, arguments: &TlsArguments) -> Result<CertifiedKey, TlsError> {
        let chain = parse_certificates(&arguments.tls_certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|source| TlsError::Pem {
            path: arguments.tls_key.clone(),
            expected: "a private key",
            source,
        })?;
        let provider = CryptoProvider::get_default()
            .expect("install_crypto_provider is called first thing in main");
        // This also checks that the key is the certificate's.
        CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Certificate {
            certificate: arguments.tls_certificate.clone(),
            key: arguments.tls_key.clone(),
            source,
        })
    }
}

#[derive(Debug)]
struct ReloadingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ReloadingCertificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}

/// Looks at the files until nobody uses the certificate any more.
///
/// The files are compared by content: times and sizes can repeat, and both files are small.
async fn reload(
    arguments: TlsArguments,
    mut seen: CertificateFiles,
    resolver: Weak<ReloadingCertificate>,
) {
    let mut complained = false;
    loop {
        tokio::time::sleep(RELOAD_INTERVAL).await;
        let Some(resolver) = resolver.upgrade() else {
            return;
        };
        let files = match CertificateFiles::read(&arguments) {
            Ok(files) => files,
            Err(error) => {
                // Once, until the files can be read again: the next look is in two seconds.
                if !std::mem::replace(&mut complained, true) {
                    log_kept(&error);
                }
                continue;
            }
        };
        complained = false;
        if files == seen {
            continue;
        }
        match files.certified_key(&arguments) {
            Ok(certificate) => {
                *resolver.current.write() = Arc::new(certificate);
                let path = arguments.tls_certificate.display();
                tracing::info!(tls.certificate = %path, "new TLS certificate taken up from {path}");
            }
            Err(error) => log_kept(&error),
        }
        seen = files;
    }
}

fn log_kept(error: &TlsError) {
    let reason = chain(error);
    tracing::error!(error = %reason, "the TLS certificate in use is kept, the new one is broken: {reason}");
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse_certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |source| TlsError::Pem {
        path: path.to_owned(),
        expected: "certificates",
        source,
    };
    let certificates = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(fault)?;
    if certificates.is_empty() {
        return Err(fault(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}
