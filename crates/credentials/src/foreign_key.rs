//! Public keys of others (applications, external issuers), and the verification of tokens that they signed. Which algorithms a key takes
//! follows from the key, never from the token.

use std::ops::RangeInclusive;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::signing::{TokenError, token_error_of};

const RSA_OID: &str = "1.2.840.113549.1.1.1";
const EC_OID: &str = "1.2.840.10045.2.1";
const P256_OID: &str = "1.2.840.10045.3.1.7";
/// The least and the largest modulus with which signatures are verified.
const MODULUS_BITS: RangeInclusive<usize> = 2048..=8192;

/// A public key of somebody else: RSA of 2048 to 8192 bits (RS256 or PS256), or P-256 (ES256).
#[derive(Clone)]
pub struct ForeignKey {
    decoding_key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// Why a key of somebody else is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignKeyError {
    #[error("the key is neither RSA nor of the curve P-256")]
    Kind,
    #[error("the elliptic curve of the key is not supported: it must be P-256")]
    Curve,
    #[error(
        "the RSA key has {0} bits, and must have {min} to {max}",
        min = MODULUS_BITS.start(),
        max = MODULUS_BITS.end()
    )]
    Bits(usize),
    #[error("the key is malformed")]
    Malformed,
    #[error("the key is not for signatures with RS256, PS256 or ES256")]
    Algorithm,
}

/// What a token says of its signature. Nothing of it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedHeader {
    pub kid: Option<String>,
    /// SHA-1 (`x5t`) and SHA-256 (`x5t#S256`) of the certificate.
    pub thumbprint_sha1: Option<Vec<u8>>,
    pub thumbprint_sha256: Option<Vec<u8>>,
}

/// The members of a JSON Web Key that count (RFC 7517, RFC 7518).
#[derive(Deserialize)]
struct JsonWebKey {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl ForeignKey {
    /// The key of a certificate.
    pub(crate) fn of_public_key_info(
        info: &SubjectPublicKeyInfo<'_>,
    ) -> Result<Self, ForeignKeyError> {
        let key = info.subject_public_key.data.as_ref();
        match info.algorithm.algorithm.to_id_string().as_str() {
            RSA_OID => match info.parsed() {
                Ok(PublicKey::RSA(parts)) => Self::of_rsa(key, parts.modulus),
                _ => Err(ForeignKeyError::Malformed),
            },
            EC_OID if !is_p256(info) => Err(ForeignKeyError::Curve),
            EC_OID => Self::of_point(key),
            _ => Err(ForeignKeyError::Kind),
        }
    }

    /// A key of an issuer's set. A key that says its algorithm takes no other one.
    ///
    /// # Errors
    /// See [`ForeignKeyError`]; sets have keys for other things too.
    pub fn of_json_web_key(key: &Value) -> Result<Self, ForeignKeyError> {
        let key = JsonWebKey::deserialize(key).map_err(|_| ForeignKeyError::Malformed)?;
        if key.usage.is_some_and(|usage| usage != "sig") {
            return Err(ForeignKeyError::Algorithm);
        }
        let read = match (key.kty.as_str(), key.crv.as_deref()) {
            ("RSA", _) => {
                let (modulus, exponent) = (part(key.n.as_deref())?, part(key.e.as_deref())?);
                Self::of_rsa_components(&modulus, &exponent)?
            }
            ("EC", Some("P-256")) => {
                let (x, y) = (part(key.x.as_deref())?, part(key.y.as_deref())?);
                Self::of_point(&[&[4_u8], x.as_slice(), y.as_slice()].concat())?
            }
            ("EC", _) => return Err(ForeignKeyError::Curve),
            _ => return Err(ForeignKeyError::Kind),
        };
        match key.alg {
            None => Ok(read),
            Some(alg) => read.pinned_to(&alg),
        }
    }

    fn pinned_to(mut self, name: &str) -> Result<Self, ForeignKeyError> {
        let named = name.parse().map_err(|_| ForeignKeyError::Algorithm)?;
        self.algorithms.retain(|algorithm| *algorithm == named);
        if self.algorithms.is_empty() {
            return Err(ForeignKeyError::Algorithm);
        }
        Ok(self)
    }

    /// A PKCS #1 public key, which has this modulus.
    fn of_rsa(der: &[u8], modulus: &[u8]) -> Result<Self, ForeignKeyError> {
        // Parsing alone takes keys with which no signature is ever verified.
        check_modulus(modulus)?;
        ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der)
            .map_err(|_| ForeignKeyError::Malformed)?;
        Ok(Self::rsa(DecodingKey::from_rsa_der(der)))
    }

    fn of_rsa_components(modulus: &[u8], exponent: &[u8]) -> Result<Self, ForeignKeyError> {
        check_modulus(modulus)?;
        Ok(Self::rsa(DecodingKey::from_rsa_raw_components(
            modulus, exponent,
        )))
    }

    fn rsa(decoding_key: DecodingKey) -> Self {
        Self {
            decoding_key,
            algorithms: vec![Algorithm::RS256, Algorithm::PS256],
        }
    }

    /// An uncompressed point of P-256.
    fn of_point(point: &[u8]) -> Result<Self, ForeignKeyError> {
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .map_err(|_| ForeignKeyError::Malformed)?;
        Ok(Self {
            decoding_key: DecodingKey::from_ec_der(point),
            algorithms: vec![Algorithm::ES256],
        })
    }

    /// Checks algorithm and signature, and reads the claims. Times, issuer and audience are left to the caller.
    ///
    /// # Errors
    /// See [`TokenError`]; [`TokenError::Algorithm`] for one that this key does not take.
    pub fn verify<T: DeserializeOwned>(&self, token: &str) -> Result<T, TokenError> {
        let header =
            jsonwebtoken::decode_header(token).map_err(|error| token_error_of(error.kind()))?;
        if header.crit.is_some() {
            // It says that something must be understood which is not understood here (RFC 7515, 4.1.11).
            return Err(TokenError::Malformed);
        }
        let first = *self
            .algorithms
            .first()
            .expect("a key takes at least one algorithm");
        let mut validation = Validation::new(first);
        validation.algorithms.clone_from(&self.algorithms);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let claims: Value = jsonwebtoken::decode(token, &self.decoding_key, &validation)
            .map_err(|error| token_error_of(error.kind()))?
            .claims;
        serde_json::from_value(claims).map_err(|_| TokenError::Claims)
    }
}

impl std::fmt::Debug for ForeignKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("ForeignKey")
            .field(&self.algorithms)
            .finish()
    }
}

/// Whether an elliptic-curve key says that its curve is P-256 (RFC 5480, 2.1.1).
fn is_p256(info: &SubjectPublicKeyInfo<'_>) -> bool {
    let parameters = info.algorithm.parameters.as_ref();
    parameters
        .and_then(|parameters| parameters.as_oid().ok())
        .is_some_and(|curve| curve.to_id_string() == P256_OID)
}

fn check_modulus(modulus: &[u8]) -> Result<(), ForeignKeyError> {
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let significant = &modulus[zeros..];
    let bits = significant.first().map_or(0, |first| {
        significant.len() * 8 - first.leading_zeros() as usize
    });
    if MODULUS_BITS.contains(&bits) {
        Ok(())
    } else {
        Err(ForeignKeyError::Bits(bits))
    }
}

fn part(text: Option<&str>) -> Result<Vec<u8>, ForeignKeyError> {
    let text = text.ok_or(ForeignKeyError::Malformed)?;
    URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|_| ForeignKeyError::Malformed)
}

/// What a token says of itself, nothing of it verified: to find the key that it has to be verified with.
///
/// # Errors
/// [`TokenError::Malformed`], [`TokenError::Algorithm`] or [`TokenError::Claims`].
pub fn read_unverified<T: DeserializeOwned>(
    token: &str,
) -> Result<(UnverifiedHeader, T), TokenError> {
    let header =
        jsonwebtoken::decode_header(token).map_err(|error| token_error_of(error.kind()))?;
    let claims = token.split('.').nth(1).ok_or(TokenError::Malformed)?;
    let claims = URL_SAFE_NO_PAD
        .decode(claims)
        .map_err(|_| TokenError::Malformed)?;
    let claims: Value = serde_json::from_slice(&claims).map_err(|_| TokenError::Malformed)?;
    let thumbprint = |text: Option<String>| {
        text.and_then(|text| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok())
    };
    Ok((
        UnverifiedHeader {
            kid: header.kid,
            thumbprint_sha1: thumbprint(header.x5t),
            thumbprint_sha256: thumbprint(header.x5t_s256),
        },
        serde_json::from_value(claims).map_err(|_| TokenError::Claims)?,
    ))
}
