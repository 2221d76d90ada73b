//! TLS through the public surface: what a client sees of a server whose certificate files change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use service::tls::{TlsArguments, client_config, server_config};

const NAME: &str = "localhost";

struct Files {
    _directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
    ca: PathBuf,
    arguments: TlsArguments,
}

impl Files {
    fn new() -> Self {
        service::install_crypto_provider();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        let own_name = directory.path().to_string_lossy().into_owned();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, own_name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let ca = directory.path().join("ca.pem");
        fs::write(&ca, authority.pem()).expect("write");
        let arguments = TlsArguments {
            tls_certificate: directory.path().join("certificate.pem"),
            tls_key: directory.path().join("key.pem"),
        };
        let files = Self {
            _directory: directory,
            authority,
            ca,
            arguments,
        };
        files.issue();
        files
    }

    /// Writes a fresh certificate with its key and returns the certificate's DER form.
    fn issue(&self) -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![NAME.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.authority).expect("signs");
        fs::write(&self.arguments.tls_key, key.serialize_pem()).expect("write");
        fs::write(&self.arguments.tls_certificate, certificate.pem()).expect("write");
        certificate.der().to_vec()
    }

    /// A client without memory: one that resumes a session sees the certificate of the first.
    fn client(&self) -> Arc<ClientConfig> {
        Arc::new(client_config(Some(&self.ca)).expect("the authority's file"))
    }
}

/// Shakes hands in memory; the result is the certificate that the client saw and trusts.
fn handshake(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> io::Result<Vec<u8>> {
    let name = NAME.try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::clone(client), name).map_err(io::Error::other)?;
    let mut server = ServerConnection::new(Arc::clone(server)).map_err(io::Error::other)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes)?;
        server.read_tls(&mut bytes.as_slice())?;
        server.process_new_packets().map_err(io::Error::other)?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes)?;
        client.read_tls(&mut bytes.as_slice())?;
        client.process_new_packets().map_err(io::Error::other)?;
    }
    let seen = client.peer_certificates().expect("the server has one");
    Ok(seen[0].to_vec())
}

async fn wait_for_certificate(server: &Arc<ServerConfig>, files: &Files, expected: &[u8]) {
    let taken_up = async {
        while handshake(server, &files.client()).expect("shakes hands") != expected {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), taken_up)
        .await
        .expect("the new certificate must be taken up");
}

fn write(path: &Path, content: &str) {
    fs::write(path, content).expect("write");
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_and_a_broken_one_is_not() {
    let files = Files::new();
    let first = files.issue();
    let server = Arc::new(server_config(&files.arguments).expect("good files"));
    let seen_now = || handshake(&server, &files.client()).expect("shakes hands");
    assert_eq!(seen_now(), first);

    let second = files.issue();
    wait_for_certificate(&server, &files, &second).await;

    // Nothing visible tells that the broken file was looked at, so two intervals are given for it.
    write(&files.arguments.tls_certificate, "not a certificate");
    tokio::time::sleep(service::tls::RELOAD_INTERVAL * 2).await;
    assert_eq!(seen_now(), second);

    let third = files.issue();
    wait_for_certificate(&server, &files, &third).await;
}

#[tokio::test]
async fn a_server_offers_http_2_first() {
    let files = Files::new();
    let server = server_config(&files.arguments).expect("good files");
    assert_eq!(
        server.alpn_protocols,
        [b"h2".to_vec(), b"http/1.1".to_vec()]
    );
}

#[tokio::test]
async fn a_client_with_an_authority_file_trusts_nobody_else() {
    let ours = Files::new();
    let others = Files::new();
    let server = Arc::new(server_config(&ours.arguments).expect("good files"));
    assert!(handshake(&server, &ours.client()).is_ok());
    let refused = handshake(&server, &others.client()).expect_err("another authority");
    assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
}

#[tokio::test]
async fn faults_name_the_file() {
    let files = Files::new();
    let key = fs::read_to_string(&files.arguments.tls_key).expect("read");
    let line = |arguments: &TlsArguments| {
        let error = server_config(arguments).expect_err("broken files");
        service::errors::chain(&error)
    };

    files.issue();
    write(&files.arguments.tls_key, &key);
    let mismatch = line(&files.arguments);
    assert!(
        mismatch.contains("cannot be used with the key"),
        "{mismatch}"
    );
    assert!(mismatch.contains("KeyMismatch"), "{mismatch}");

    write(&files.arguments.tls_key, "x");
    let garbled = line(&files.arguments);
    assert!(
        garbled.contains("key.pem is not a PEM file with a private key"),
        "{garbled}"
    );

    write(&files.arguments.tls_certificate, "");
    let empty = line(&files.arguments);
    assert!(
        empty.contains("certificate.pem is not a PEM file with certificates"),
        "{empty}"
    );

    fs::remove_file(&files.arguments.tls_certificate).expect("remove");
    let missing = line(&files.arguments);
    assert!(missing.starts_with("cannot read /"), "{missing}");
    let ca = client_config(Some(&files.arguments.tls_certificate)).expect_err("no such file");
    assert!(service::errors::chain(&ca).ends_with("No such file or directory (os error 2)"));
}
