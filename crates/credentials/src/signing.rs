//! Signed tokens: ES256 keys, JSON Web Tokens made with them, and their verification.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        ParsedPublicKey,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, errors::ErrorKind as JwtErrorKind};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

const COORDINATE_LENGTH: usize = 32;

/// How far another clock may be ahead of ours before a token that begins "now" is refused.
/// There is no such tolerance for the end of a token.
pub const NOT_BEFORE_TOLERANCE: Duration = Duration::minutes(5);

/// A private ES256 key with its public part.
pub struct SigningKey {
    pkcs8: Zeroizing<Vec<u8>>,
    /// Made ready once: a library that is given the bytes each time reads them for each token.
    pair: EcdsaKeyPair,
    /// The first part of every token, in base64.
    header: String,
    public: PublicKey,
}

/// The public part of a [`SigningKey`]. Serialized as a JSON Web Key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "JsonWebKey", into = "JsonWebKey")]
pub struct PublicKey {
    kid: String,
    x: [u8; COORDINATE_LENGTH],
    y: [u8; COORDINATE_LENGTH],
}

/// A public key made ready to verify many tokens.
pub struct TokenVerifier {
    decoding_key: DecodingKey,
    validation: Validation,
}

/// Why bytes or a JSON Web Key are not a usable key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The private part is not a P-256 key in PKCS #8 form.
    #[error("the bytes are not a P-256 private key in PKCS #8 form")]
    Private,
    /// Not of the one kind of key that is used here.
    #[error("the key is not of type EC with curve P-256 and algorithm ES256 for signatures")]
    Kind,
    /// The coordinates are not those of a point on the curve.
    #[error("the key's coordinates are not a point of the curve P-256")]
    Point,
}

/// Claims could not be turned into a token.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("the claims cannot be written as JSON")]
    Claims(#[source] serde_json::Error),
    #[error("the signature cannot be made")]
    Signature,
}

/// Why a token is refused. Never repeats the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64 parts with a JSON header.
    #[error("the token is not a JSON Web Token")]
    Malformed,
    /// Signed, or said to be signed, by another algorithm than ES256.
    #[error("the token is not signed with ES256")]
    Algorithm,
    /// Not made with this key, or changed since.
    #[error("the token's signature does not fit")]
    Signature,
    /// Well signed, but the claims are not the expected ones.
    #[error("the token's claims are not the expected ones")]
    Claims,
    /// Its `exp` has come.
    #[error("the token has expired")]
    Expired,
    /// Its `nbf` lies in the future by more than the tolerance.
    #[error("the token is not valid yet")]
    NotYetValid,
}

impl SigningKey {
    /// Makes a new key. `kid` names it in the header of each token.
    pub fn generate(kid: &str) -> Self {
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .expect("a P-256 key can always be generated");
        Self::from_pkcs8(kid, document.as_ref()).expect("a key just generated can be read")
    }

    /// Reads a key as [`SigningKey::pkcs8`] gave it.
    ///
    /// # Errors
    /// [`KeyError::Private`] for anything else.
    pub fn from_pkcs8(kid: &str, pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .map_err(|_| KeyError::Private)?;
        let point = pair.public_key().as_ref();
        let mut public = PublicKey {
            kid: kid.to_owned(),
            x: [0; COORDINATE_LENGTH],
            y: [0; COORDINATE_LENGTH],
        };
        // An uncompressed point: one byte that says so, then both coordinates.
        if point.len() != 1 + 2 * COORDINATE_LENGTH {
            return Err(KeyError::Private);
        }
        public.x.copy_from_slice(&point[1..=COORDINATE_LENGTH]);
        public.y.copy_from_slice(&point[1 + COORDINATE_LENGTH..]);
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some("JWT".to_owned());
        header.kid = Some(kid.to_owned());
        let header = serde_json::to_vec(&header).expect("a header of texts is JSON");
        Ok(Self {
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
            pair,
            header: URL_SAFE_NO_PAD.encode(header),
            public,
        })
    }

    /// The private part, to be sealed or to be kept in a file that only its owner can read.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key's name.
    pub fn kid(&self) -> &str {
        &self.public.kid
    }

    /// What others need to verify tokens signed with this key.
    pub fn public(&self) -> PublicKey {
        self.public.clone()
    }

    /// A token with these claims: header, claims and signature in base64, with dots between (RFC 7515, 7.1).
    ///
    /// # Errors
    /// See [`SignError`].
    pub fn sign<T: Serialize>(&self, claims: &T) -> Result<String, SignError> {
        let claims = serde_json::to_vec(claims).map_err(SignError::Claims)?;
        let mut token = format!("{}.", self.header);
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = self
            .pair
            .sign(&SystemRandom::new(), token.as_bytes())
            .map_err(|_| SignError::Signature)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("SigningKey")
            .field(&self.public.kid)
            .finish()
    }
}

impl PublicKey {
    /// The key's name.
    pub fn kid(&self) -> &str {
        &self.kid
    }
}

impl TokenVerifier {
    /// Prepares a key for verification.
    pub fn new(key: &PublicKey) -> Self {
        let decoding_key = DecodingKey::from_ec_components(
            &URL_SAFE_NO_PAD.encode(key.x),
            &URL_SAFE_NO_PAD.encode(key.y),
        )
        .expect("coordinates were just written in base64");
        let mut validation = Validation::new(Algorithm::ES256);
        // Times and audience are the caller's to check, with its own clock (see `check_times`).
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Self {
            decoding_key,
            validation,
        }
    }

    /// Checks algorithm and signature, and reads the claims. Times, issuer and audience are left to
    /// the caller.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn verify<T: DeserializeOwned>(&self, token: &str) -> Result<T, TokenError> {
        // Apart from the claims' own type, so that a well-signed token of another purpose is told
        // from a broken one.
        let claims: serde_json::Value =
            jsonwebtoken::decode(token, &self.decoding_key, &self.validation)
                .map_err(|error| token_error_of(error.kind()))?
                .claims;
        serde_json::from_value(claims).map_err(|_| TokenError::Claims)
    }
}

pub(crate) fn token_error_of(kind: &JwtErrorKind) -> TokenError {
    match kind {
        JwtErrorKind::InvalidSignature => TokenError::Signature,
        JwtErrorKind::InvalidAlgorithm
        | JwtErrorKind::InvalidAlgorithmName
        | JwtErrorKind::UnsupportedAlgorithm
        | JwtErrorKind::MissingAlgorithm => TokenError::Algorithm,
        _ => TokenError::Malformed,
    }
}

/// The name of the key that a token claims to be signed with; nothing about it is verified.
pub fn kid_of(token: &str) -> Option<String> {
    jsonwebtoken::decode_header(token).ok()?.kid
}

/// Checks a token's times (`nbf` and `exp`, seconds since 1970) against the caller's clock.
///
/// # Errors
/// [`TokenError::Expired`] from the second of `expires_at` on; [`TokenError::NotYetValid`] more
/// than [`NOT_BEFORE_TOLERANCE`] before `not_before`.
pub fn check_times(
    not_before: Option<i64>,
    expires_at: i64,
    now: OffsetDateTime,
) -> Result<(), TokenError> {
    let now = now.unix_timestamp();
    if now >= expires_at {
        return Err(TokenError::Expired);
    }
    let tolerance = NOT_BEFORE_TOLERANCE.whole_seconds();
    if not_before.is_some_and(|not_before| not_before.saturating_sub(tolerance) > now) {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

/// RFC 7517, the members of an elliptic-curve key.
#[derive(Serialize, Deserialize)]
struct JsonWebKey {
    kty: String,
    crv: String,
    x: String,
    y: String,
    kid: String,
    #[serde(default = "default_algorithm")]
    alg: String,
    #[serde(default = "default_use", rename = "use")]
    usage: String,
}

fn default_algorithm() -> String {
    "ES256".to_owned()
}

fn default_use() -> String {
    "sig".to_owned()
}

impl From<PublicKey> for JsonWebKey {
    fn from(key: PublicKey) -> Self {
        Self {
            kty: "EC".to_owned(),
            crv: "P-256".to_owned(),
            x: URL_SAFE_NO_PAD.encode(key.x),
            y: URL_SAFE_NO_PAD.encode(key.y),
            kid: key.kid,
            alg: default_algorithm(),
            usage: default_use(),
        }
    }
}

impl TryFrom<JsonWebKey> for PublicKey {
    type Error = KeyError;

    fn try_from(key: JsonWebKey) -> Result<Self, KeyError> {
        if (
            key.kty.as_str(),
            key.crv.as_str(),
            key.alg.as_str(),
            key.usage.as_str(),
        ) != ("EC", "P-256", "ES256", "sig")
        {
            return Err(KeyError::Kind);
        }
        let (x, y) = (coordinate(&key.x)?, coordinate(&key.y)?);
        let point = [&[4_u8], x.as_slice(), y.as_slice()].concat();
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).map_err(|_| KeyError::Point)?;
        Ok(Self { kid: key.kid, x, y })
    }
}

fn coordinate(text: &str) -> Result<[u8; COORDINATE_LENGTH], KeyError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(KeyError::Point)
}
