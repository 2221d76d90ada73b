//! The development authority and the one certificate that both servers use.
//!
//! The authority is kept as long as it is valid, because clients trust it; the certificate is made anew whenever it
//! no longer fits. The authority can vouch for names of this machine only, so trusting it is no risk elsewhere.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PublicKeyData,
};
use service::configuration::write_secret_file;
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use super::error::DevError;
use super::state::StateDirectory;

/// The names that the servers have.
const NAMES: [&str; 5] = [
    "localhost",
    "registry.localhost",
    "*.registry.localhost",
    "127.0.0.1",
    "::1",
];
const AUTHORITY_LIFETIME: Duration = Duration::days(3650);
/// Some clients refuse certificates that are valid for much longer than a year.
const CERTIFICATE_LIFETIME: Duration = Duration::days(365);
/// What has less time left than this is renewed.
const RENEW_BEFORE: Duration = Duration::days(30);
/// Clocks of clients may be behind.
const BACKDATED: Duration = Duration::days(1);

/// Where the certificates are.
#[derive(Clone, Debug)]
pub(crate) struct CertificateFiles {
    pub(crate) authority: PathBuf,
    authority_key: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// What [`ensure`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// All was good.
    None,
    /// A new certificate of the same authority.
    Certificate,
    /// A new authority, which clients must take up, and a certificate of it.
    Authority,
}

impl CertificateFiles {
    pub(crate) fn of(state: &StateDirectory) -> Self {
        Self {
            authority: state.join("ca.pem"),
            authority_key: state.join("ca-key.pem"),
            certificate: state.join("server.pem"),
            key: state.join("server-key.pem"),
        }
    }
}

/// Sees to it that authority and certificate are there and have time left. Run again it changes nothing.
pub(crate) fn ensure(state: &StateDirectory, now: OffsetDateTime) -> Result<Change, DevError> {
    let files = CertificateFiles::of(state);
    let kept = load_authority(state, &files, now)?;
    let renewed = kept.is_none();
    let authority = match kept {
        Some(authority) => authority,
        None => create_authority(&files, now)?,
    };
    if !renewed && certificate_is_good(&files, &authority.certificate, now) {
        return Ok(Change::None);
    }
    create_certificate(&files, &authority, now)?;
    Ok(if renewed {
        Change::Authority
    } else {
        Change::Certificate
    })
}

struct Authority {
    certificate: Pem,
    issuer: Issuer<'static, KeyPair>,
}

/// `None` when there is none yet or it is about to expire.
fn load_authority(
    state: &StateDirectory,
    files: &CertificateFiles,
    now: OffsetDateTime,
) -> Result<Option<Authority>, DevError> {
    match (files.authority.exists(), files.authority_key.exists()) {
        (false, false) => return Ok(None),
        (true, true) => {}
        (true, false) => return Err(state.damaged("ca.pem is there but ca-key.pem is missing")),
        (false, true) => return Err(state.damaged("ca-key.pem is there but ca.pem is missing")),
    }
    let key_text = read(&files.authority_key)?;
    let key = KeyPair::from_pem(&key_text)
        .map_err(|_| state.damaged("ca-key.pem is not a private key in PEM form"))?;
    let text = read(&files.authority)?;
    let not_a_certificate = || state.damaged("ca.pem is not a certificate in PEM form");
    let pem = parse_pem(&text).ok_or_else(not_a_certificate)?;
    let parsed = pem.parse_x509().map_err(|_| not_a_certificate())?;
    if parsed.public_key().raw != key.subject_public_key_info() {
        return Err(state.damaged("ca.pem and ca-key.pem do not belong together"));
    }
    if !has_time_left(&parsed, now) {
        return Ok(None);
    }
    let issuer = Issuer::from_ca_cert_pem(&text, key).map_err(|_| not_a_certificate())?;
    Ok(Some(Authority {
        certificate: pem,
        issuer,
    }))
}

fn create_authority(files: &CertificateFiles, now: OffsetDateTime) -> Result<Authority, DevError> {
    let key = KeyPair::generate().map_err(DevError::Certificate)?;
    let mut params = CertificateParams::default();
    // Authorities of several installations in one trust store must have different names.
    let key_text = key.public_key_raw()[1..5]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let name = format!("Wharfinger development CA {key_text}");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("localhost".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)),
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
                IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
                128,
            )),
        ],
        excluded_subtrees: Vec::new(),
    });
    params.not_before = now - BACKDATED;
    params.not_after = now + AUTHORITY_LIFETIME;
    let certificate = params.self_signed(&key).map_err(DevError::Certificate)?;
    let text = certificate.pem();
    write_secret_file(&files.authority_key, key.serialize_pem().as_bytes())?;
    write_public_file(&files.authority, text.as_bytes())?;
    Ok(Authority {
        certificate: parse_pem(&text).expect("it was encoded one line above"),
        issuer: Issuer::new(params, key),
    })
}

fn create_certificate(
    files: &CertificateFiles,
    authority: &Authority,
    now: OffsetDateTime,
) -> Result<(), DevError> {
    let key = KeyPair::generate().map_err(DevError::Certificate)?;
    let names: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).map_err(DevError::Certificate)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "localhost");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = now - BACKDATED;
    params.not_after = now + CERTIFICATE_LIFETIME;
    let certificate = params
        .signed_by(&key, &authority.issuer)
        .map_err(DevError::Certificate)?;
    write_secret_file(&files.key, key.serialize_pem().as_bytes())?;
    write_public_file(&files.certificate, certificate.pem().as_bytes())
}

/// Whether the certificate is one of the authority's, has our names and its key, and has time left.
fn certificate_is_good(files: &CertificateFiles, authority: &Pem, now: OffsetDateTime) -> bool {
    let (Ok(text), Ok(key_text)) = (read(&files.certificate), read(&files.key)) else {
        return false;
    };
    let (Some(pem), Ok(key)) = (parse_pem(&text), KeyPair::from_pem(&key_text)) else {
        return false;
    };
    let (Ok(certificate), Ok(authority)) = (pem.parse_x509(), authority.parse_x509()) else {
        return false;
    };
    certificate
        .verify_signature(Some(authority.public_key()))
        .is_ok()
        && certificate.public_key().raw == key.subject_public_key_info()
        && has_time_left(&certificate, now)
        && names_of(&certificate) == NAMES.iter().map(|name| (*name).to_owned()).collect()
}

fn has_time_left(certificate: &X509Certificate<'_>, now: OffsetDateTime) -> bool {
    let validity = certificate.validity();
    validity.not_before.to_datetime() <= now
        && now + RENEW_BEFORE < validity.not_after.to_datetime()
}

fn names_of(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return BTreeSet::new();
    };
    let names = extension.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => ip_address(bytes).map(|ip| ip.to_string()),
            _ => None,
        })
        .collect()
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let sixteen = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    four.or(sixteen).ok()
}

fn parse_pem(text: &str) -> Option<Pem> {
    Pem::iter_from_buffer(text.as_bytes()).next()?.ok()
}

fn read(path: &Path) -> Result<String, DevError> {
    // Garbled bytes are for the parsers to refuse.
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(DevError::file("read", path))
}

/// Certificates are for everybody; whoever trusts the authority reads its file.
fn write_public_file(path: &Path, bytes: &[u8]) -> Result<(), DevError> {
    write_secret_file(path, bytes)?;
    fs::set_permissions(path, Permissions::from_mode(0o644))
        .map_err(DevError::file("set the permissions of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-23 12:00 UTC);

    struct Fixture {
        _directory: tempfile::TempDir,
        state: StateDirectory,
        files: CertificateFiles,
    }

    fn fixture() -> Fixture {
        service::install_crypto_provider();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let state = StateDirectory::open(directory.path()).expect("an empty directory");
        let files = CertificateFiles::of(&state);
        Fixture {
            _directory: directory,
            state,
            files,
        }
    }

    #[test]
    fn certificates_are_made_once_and_kept() {
        let fixture = fixture();
        assert_eq!(
            ensure(&fixture.state, NOW).expect("makes"),
            Change::Authority
        );
        let certificate = fs::read(&fixture.files.certificate).expect("read");
        let later = NOW + CERTIFICATE_LIFETIME - RENEW_BEFORE - Duration::days(1);
        assert_eq!(ensure(&fixture.state, later).expect("keeps"), Change::None);
        assert_eq!(
            fs::read(&fixture.files.certificate).expect("read"),
            certificate
        );
    }

    #[test]
    fn a_certificate_near_its_end_is_renewed_and_the_authority_kept() {
        let fixture = fixture();
        ensure(&fixture.state, NOW).expect("makes");
        let authority = fs::read(&fixture.files.authority).expect("read");
        let later = NOW + CERTIFICATE_LIFETIME - RENEW_BEFORE + Duration::days(1);
        assert_eq!(
            ensure(&fixture.state, later).expect("renews"),
            Change::Certificate
        );
        assert_eq!(fs::read(&fixture.files.authority).expect("read"), authority);
        assert_eq!(ensure(&fixture.state, later).expect("keeps"), Change::None);
    }

    #[test]
    fn a_garbled_or_foreign_certificate_is_made_anew() {
        let fixture = fixture();
        let other = self::fixture();
        ensure(&fixture.state, NOW).expect("makes");
        ensure(&other.state, NOW).expect("makes");
        fs::write(&fixture.files.certificate, "garbled").expect("write");
        assert_eq!(
            ensure(&fixture.state, NOW).expect("makes"),
            Change::Certificate
        );
        fs::copy(&other.files.certificate, &fixture.files.certificate).expect("copy");
        fs::copy(&other.files.key, &fixture.files.key).expect("copy");
        assert_eq!(
            ensure(&fixture.state, NOW).expect("makes"),
            Change::Certificate
        );
    }

    #[test]
    fn a_damaged_authority_is_refused_because_clients_trust_it() {
        let fixture = fixture();
        let other = self::fixture();
        ensure(&fixture.state, NOW).expect("makes");
        ensure(&other.state, NOW).expect("makes");
        let refused = |fault: &str| {
            let line = ensure(&fixture.state, NOW)
                .expect_err("damaged")
                .to_string();
            assert!(line.contains(fault), "{line}");
        };
        fs::copy(&other.files.authority_key, &fixture.files.authority_key).expect("copy");
        refused("ca.pem and ca-key.pem do not belong together");
        fs::write(&fixture.files.authority_key, [0xff, 0x00]).expect("write");
        refused("ca-key.pem is not a private key");
        fs::remove_file(&fixture.files.authority_key).expect("remove");
        refused("ca-key.pem is missing");
    }

    #[test]
    fn keys_are_for_their_owner_and_certificates_for_everybody() {
        let fixture = fixture();
        ensure(&fixture.state, NOW).expect("makes");
        let files = &fixture.files;
        for (path, mode) in [
            (&files.authority, 0o644),
            (&files.certificate, 0o644),
            (&files.authority_key, 0o600),
            (&files.key, 0o600),
        ] {
            let found = fs::metadata(path).expect("metadata").permissions().mode();
            assert_eq!(found & 0o777, mode, "{}", path.display());
        }
    }
}
