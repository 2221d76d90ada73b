//! Certificates of applications and service principals (`keyCredentials`): written as a whole list, in which those that stay have no key.

use arm::ApiError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use store::directory::{Certificate, CertificateRefusal, CertificateSet, NewCertificate};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{Others, optional_display_name, refuse_others};
use super::errors::{bad_request, guid};
use super::times::{parse_time, to_microseconds};
use crate::limits::MAXIMUM_CERTIFICATES;

/// The one type and the one usage that sign in.
const TYPE: &str = "AsymmetricX509Cert";
const USAGE: &str = "Verify";

const PROPERTY: &str = "keyCredentials";

/// A certificate, as everyone may see it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyCredential {
    key_id: Uuid,
    display_name: Option<String>,
    /// The SHA-1 thumbprint, in hexadecimal digits.
    custom_key_identifier: String,
    #[serde(rename = "type")]
    kind: &'static str,
    usage: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    start_date_time: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    end_date_time: OffsetDateTime,
    /// Always null: it is not shown again.
    key: Option<String>,
    /// To the hour; null when it was never used. Not a property of Microsoft Graph's.
    #[serde(with = "time::serde::rfc3339::option")]
    last_used_date_time: Option<OffsetDateTime>,
}

impl From<Certificate> for KeyCredential {
    fn from(certificate: Certificate) -> Self {
        Self {
            key_id: certificate.key_id,
            display_name: certificate.display_name,
            custom_key_identifier: certificate.thumbprint.to_ascii_uppercase(),
            kind: TYPE,
            usage: USAGE,
            start_date_time: certificate.starts_at,
            end_date_time: certificate.expires_at,
            key: None,
            last_used_date_time: certificate.last_used_at,
        }
    }
}

/// A certificate that an object is to have: with a key a new one, without one of those that it has.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyCredentialBody {
    /// Of one that stays. A new one gets an id of its own.
    key_id: Option<String>,
    display_name: Option<String>,
    /// `AsymmetricX509Cert`
    #[serde(rename = "type")]
    kind: Option<String>,
    /// `Verify`
    usage: Option<String>,
    /// When the certificate begins, unless it is given.
    #[schema(format = DateTime)]
    start_date_time: Option<String>,
    /// When the certificate ends, unless it is given.
    #[schema(format = DateTime)]
    end_date_time: Option<String>,
    /// The certificate: DER in base64.
    key: Option<String>,
    /// What clients send back as they read it.
    #[serde(rename = "customKeyIdentifier", default)]
    #[schema(ignore)]
    _custom_key_identifier: Option<String>,
    #[serde(rename = "lastUsedDateTime", default)]
    #[schema(ignore)]
    _last_used_date_time: Option<String>,
    #[serde(rename = "@odata.type", default)]
    #[schema(ignore)]
    _odata_type: Option<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    others: Others,
}

/// The certificates that a list asks for.
pub(super) fn read(
    wanted: Vec<KeyCredentialBody>,
    now: OffsetDateTime,
) -> Result<CertificateSet, ApiError> {
    if wanted.len() > usize::try_from(MAXIMUM_CERTIFICATES).unwrap_or(usize::MAX) {
        return Err(too_many());
    }
    let mut set = CertificateSet {
        maximum: MAXIMUM_CERTIFICATES,
        ..CertificateSet::default()
    };
    for credential in wanted {
        refuse_others(&credential.others, &[])?;
        let is = |value: &Option<String>, known: &str| {
            value
                .as_deref()
                .is_none_or(|value| value.eq_ignore_ascii_case(known))
        };
        if !is(&credential.kind, TYPE) || !is(&credential.usage, USAGE) {
            return Err(fault(format!(
                "a key credential must have the type {TYPE} and the usage {USAGE}; other keys are not supported"
            )));
        }
        match &credential.key {
            Some(key) => set.added.push(new_certificate(key, &credential, now)?),
            None => {
                let key_id = credential.key_id.as_deref().ok_or_else(|| {
                    fault("a key credential needs either a key or the keyId of one that is there")
                })?;
                set.kept.push(guid(key_id, "keyId")?);
            }
        }
    }
    Ok(set)
}

/// The same for an object that is new, and has none that could stay.
pub(super) fn read_new(
    wanted: Vec<KeyCredentialBody>,
    now: OffsetDateTime,
) -> Result<Vec<NewCertificate>, ApiError> {
    let set = read(wanted, now)?;
    match set.kept.first() {
        None => Ok(set.added),
        Some(key_id) => Err(refusal_error(&CertificateRefusal::NotFound(*key_id))),
    }
}

/// Refuses to take away the certificate that the caller is signed in with: its token would die with it.
pub(super) fn check_callers_own(
    shown: &[Certificate],
    wanted: &CertificateSet,
    callers_key: Uuid,
) -> Result<(), ApiError> {
    let shows = shown.iter().any(|known| known.key_id == callers_key);
    if shows && !wanted.kept.contains(&callers_key) {
        return Err(fault(format!(
            "the certificate '{callers_key}' is the one that you are signed in with. Add another first (az: --append), sign in with it, then remove this one"
        )));
    }
    Ok(())
}

pub(super) fn refusal_error(refusal: &CertificateRefusal) -> ApiError {
    match refusal {
        CertificateRefusal::NotFound(key_id) => fault(format!(
            "there is no key credential with the keyId '{key_id}', and no key is given"
        )),
        CertificateRefusal::TooMany => too_many(),
    }
}

fn too_many() -> ApiError {
    fault(format!(
        "an application and its service principal have at most {MAXIMUM_CERTIFICATES} certificates"
    ))
}

fn fault(rule: impl std::fmt::Display) -> ApiError {
    bad_request(format!(
        "Invalid value specified for property '{PROPERTY}': {rule}."
    ))
    .with_target(PROPERTY)
}

fn new_certificate(
    key: &str,
    wanted: &KeyCredentialBody,
    now: OffsetDateTime,
) -> Result<NewCertificate, ApiError> {
    let text: String = key.split_ascii_whitespace().collect();
    // Not shown: it may be the private key.
    let der = STANDARD.decode(&text).map_err(|_| {
        fault("the key is not base64; it must be an X.509 certificate (DER) in base64")
    })?;
    let certificate = credentials::Certificate::parse(&der).map_err(fault)?;
    let (starts_at, ends_at) = (
        to_microseconds(certificate.starts_at),
        to_microseconds(certificate.expires_at),
    );
    let time = |text: &Option<String>, name: &str| {
        text.as_deref()
            .map(|text| parse_time(text, name))
            .transpose()
    };
    let wanted_start = time(&wanted.start_date_time, "startDateTime")?;
    let wanted_end = time(&wanted.end_date_time, "endDateTime")?;
    let outside = wanted_start.is_some_and(|start| start < starts_at)
        || wanted_end.is_some_and(|end| end > ends_at);
    let (start, end) = (
        wanted_start.unwrap_or(starts_at),
        wanted_end.unwrap_or(ends_at),
    );
    if outside || end <= start {
        return Err(fault(format!(
            "from {} to {} is not within the validity of the certificate, which is from {} to {}",
            arm::format_time(start),
            arm::format_time(end),
            arm::format_time(starts_at),
            arm::format_time(ends_at)
        )));
    }
    if end <= now {
        return Err(fault(format!(
            "the certificate ended at {}, which lies in the past",
            arm::format_time(end)
        )));
    }
    Ok(NewCertificate {
        key_id: Uuid::new_v4(),
        display_name: optional_display_name(wanted.display_name.clone())?,
        thumbprint_sha1: certificate.thumbprint_sha1,
        thumbprint_sha256: certificate.thumbprint_sha256,
        certificate: der,
        starts_at: start,
        expires_at: end,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use serde_json::{Value, json};
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-23 12:00:00 UTC);

    /// A certificate with an RSA key of 1024 bits, good until 2126.
    const RSA_1024: &str = "\
        MIIB+DCCAWGgAwIBAgIUS0+I9+d11IeLj+iW1f4QA4zm9X4wDQYJKoZIhvcNAQELBQAwDTELMAkGA1UEAwwCY2kwIBcNMjYxMTMw\
        MDcwNjA0WhgPMjEyNjExMDYwNzA2MDRaMA0xCzAJBgNVBAMMAmNpMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDk0fmMs938\
        1CHTnT446JLHQH85kYVeaLOMxF60mJWpikkozWba3EBLQO4pkvTC2ElHf6CSzDv1ZrduncUGm2hlDcspiEP4iObALSZCEkSH8v4p\
        QtWTMyknQacJCaIr5AHSMHkCOzLurWDjCQ6hmPKrvswYHaHL1O0pRimcfbusQQIDAQABo1MwUTAdBgNVHQ4EFgQU7+FvnNoweugy\
        4bRMQtCV8TMdfF4wHwYDVR0jBBgwFoAU7+FvnNoweugy4bRMQtCV8TMdfF4wDwYDVR0TAQH/BAUwAwEB/zANBgkqhkiG9w0BAQsF\
        AAOBgQAAv7aZlYcXZ9wwlG8P26x2SBv7jXhg9rQluVhusMv2vJupq20+dEH4zTHzTk8bX/ytB2GgW8FKPx5AFNBbpgUli4UGDgpH\
        ca499PF2ZbumizCAs0eeUp7gJ64vbJuc/+vCY5jtrS3G72Bib0CZfNQPyNLQWJ+5ZPha1hVy3ppdbg==";

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["ci".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2026, 11, 1);
        params.not_after = date_time_ymd(2027, 11, 1);
        let key = KeyPair::generate_for(algorithm).expect("a key");
        params
            .self_signed(&key)
            .expect("a certificate")
            .der()
            .to_vec()
    }

    fn check(body: Value) -> Result<CertificateSet, ApiError> {
        let wanted: Vec<KeyCredentialBody> = serde_json::from_value(body).expect("it has the form");
        read(wanted, NOW)
    }

    #[test]
    fn a_list_keeps_adds_and_reads_line_breaks() {
        let kept = Uuid::from_u128(7);
        let der = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        let text = STANDARD.encode(&der);
        let (first, rest) = text.split_at(64);
        let set = check(json!([
            { "keyId": kept, "key": null, "customKeyIdentifier": "AB", "lastUsedDateTime": null, "type": TYPE, "usage": USAGE },
            { "@odata.type": "#microsoft.graph.keyCredential", "displayName": null, "key": format!("{first}\n{rest}\n"),
              "startDateTime": "2026-11-23T12:00:00Z", "endDateTime": "2027-10-01T00:00:00Z", "type": TYPE, "usage": USAGE,
              "keyId": Uuid::from_u128(8) },
        ]))
        .expect("good");
        assert_eq!(set.kept, [kept]);
        let added = &set.added[0];
        assert_eq!(added.certificate, der);
        assert_ne!(added.key_id, Uuid::from_u128(8), "ids are never used twice");
        assert_eq!(added.starts_at, NOW);
        assert_eq!(added.expires_at, datetime!(2027-10-01 00:00 UTC));
        let whole = check(json!([{ "key": text }])).expect("good");
        assert_eq!(whole.added[0].starts_at, datetime!(2026-11-01 00:00 UTC));
        assert_eq!(whole.added[0].expires_at, datetime!(2027-11-01 00:00 UTC));
        assert_eq!(whole.added[0].thumbprint_sha1, added.thumbprint_sha1);
    }

    #[test]
    fn what_could_not_sign_in_is_refused() {
        let good = STANDARD.encode(certificate(&rcgen::PKCS_ECDSA_P256_SHA256));
        let other_curve = STANDARD.encode(certificate(&rcgen::PKCS_ECDSA_P384_SHA384));
        let mut long = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        long.push(0);
        for refused in [
            json!([{ "key": "no base64!" }]),
            json!([{ "key": STANDARD.encode(b"no certificate") }]),
            json!([{ "key": STANDARD.encode(long) }]),
            json!([{ "key": other_curve }]),
            json!([{ "key": good, "type": "Symmetric" }]),
            json!([{ "key": good, "usage": "Sign" }]),
            json!([{ "key": good, "endDateTime": "2028-01-01T00:00:00Z" }]),
            json!([{ "key": good, "startDateTime": "2026-10-01T00:00:00Z" }]),
            json!([{ "key": good, "endDateTime": "2026-11-22T00:00:00Z" }]),
            json!([{ "displayName": "neither key nor keyId" }]),
        ] {
            let error = check(refused.clone()).expect_err(&refused.to_string());
            assert_eq!(error.target.as_deref(), Some(PROPERTY), "{}", error.message);
        }
    }

    #[test]
    fn a_key_that_is_not_supported_is_refused_by_what_it_lacks() {
        let other_curve = STANDARD.encode(certificate(&rcgen::PKCS_ECDSA_P384_SHA384));
        for (key, rule) in [
            (other_curve.as_str(), "must be P-256"),
            (RSA_1024, "has 1024 bits"),
        ] {
            let error = check(json!([{ "key": key }])).expect_err(rule);
            assert!(error.message.contains(rule), "{}", error.message);
        }
        let rsa = STANDARD.encode(certificate(&rcgen::PKCS_RSA_SHA256));
        assert!(check(json!([{ "key": rsa }])).is_ok());
    }

    #[test]
    fn the_callers_own_certificate_stays() {
        let own = Uuid::from_u128(7);
        let shown = [Certificate {
            key_id: own,
            display_name: None,
            thumbprint: "ab".to_owned(),
            starts_at: NOW,
            expires_at: NOW,
            last_used_at: None,
        }];
        let keeping = CertificateSet {
            kept: vec![own],
            ..CertificateSet::default()
        };
        assert!(check_callers_own(&shown, &keeping, own).is_ok());
        assert!(check_callers_own(&shown, &CertificateSet::default(), own).is_err());
        assert!(check_callers_own(&shown, &CertificateSet::default(), Uuid::nil()).is_ok());
    }

    proptest! {
        #[test]
        fn any_key_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let body = json!([{ "key": STANDARD.encode(bytes) }]);
            prop_assert!(check(body).is_err());
        }
    }
}
