//! Generated secrets: how they look, and how a mistyped one is told apart without a look-up.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer};
use zeroize::{Zeroize, Zeroizing};

use crate::Randomness;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PREFIX_LENGTH: usize = 4;
/// 256 bits need 43 digits in base 62.
const ENTROPY_BYTES: usize = 32;
const ENTROPY_LENGTH: usize = 43;
/// A CRC-32 needs 6 digits in base 62.
const CHECKSUM_LENGTH: usize = 6;
const SECRET_LENGTH: usize = PREFIX_LENGTH + ENTROPY_LENGTH + CHECKSUM_LENGTH;

/// A string that nobody may see: its memory is wiped, and it can be neither printed nor serialized
/// by accident. Whoever needs the text says so with [`Secret::expose`].
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes possession of a text that is secret from now on.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for the one place that must send or check it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// What a generated secret opens. Each kind has a prefix of its own, so that scanners find leaks
/// and a secret used in the wrong place is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecretKind {
    /// One of the two passwords of a registry's admin account.
    AdminPassword,
    /// A secret of a service principal.
    ServicePrincipalSecret,
    /// What a registry node shows to the control plane.
    NodeCredential,
    /// What lets a new registry node enrol, once.
    JoinToken,
    /// What continues a person's session, once.
    RefreshToken,
}

impl SecretKind {
    /// Every kind there is.
    pub const ALL: [Self; 5] = [
        Self::AdminPassword,
        Self::ServicePrincipalSecret,
        Self::NodeCredential,
        Self::JoinToken,
        Self::RefreshToken,
    ];

    /// The first four characters of a secret of this kind.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::AdminPassword => "wfa_",
            Self::ServicePrincipalSecret => "wfs_",
            Self::NodeCredential => "wfn_",
            Self::JoinToken => "wfj_",
            Self::RefreshToken => "wfr_",
        }
    }
}

impl fmt::Display for SecretKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::AdminPassword => "admin password",
            Self::ServicePrincipalSecret => "service principal secret",
            Self::NodeCredential => "node credential",
            Self::JoinToken => "join token",
            Self::RefreshToken => "refresh token",
        })
    }
}

/// Why a text is not a generated secret. Says nothing about the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedSecret {
    /// It does not begin like any kind of secret.
    #[error("the secret has none of the prefixes of generated secrets")]
    Prefix,
    /// Characters are missing or too many.
    #[error("the secret is not {SECRET_LENGTH} characters long")]
    Length,
    /// A character that no generated secret contains.
    #[error("the secret has a character other than letters and digits after its prefix")]
    Character,
    /// A character was changed: the last six do not fit the others.
    #[error("the secret's last six characters are not the checksum of the others")]
    Checksum,
}

/// Makes a secret of 256 random bits: prefix, 43 digits in base 62, and a checksum of both in 6.
/// Only letters, digits and one underscore, so it needs no quoting in shells, URLs or JSON.
pub fn generate(kind: SecretKind, randomness: &dyn Randomness) -> Secret {
    let mut entropy = Zeroizing::new([0_u8; ENTROPY_BYTES]);
    randomness.fill(entropy.as_mut());
    let mut text = String::with_capacity(SECRET_LENGTH);
    text.push_str(kind.prefix());
    let mut digits = base62_of_bytes(&entropy);
    text.extend(digits.iter().copied().map(char::from));
    digits.zeroize();
    let checksum = checksum_of(text.as_bytes());
    text.extend(checksum.iter().copied().map(char::from));
    Secret::new(text)
}

/// Tells the kind of a generated secret by its prefix, length and checksum.
///
/// # Errors
/// The first rule that the text breaks; a text with one changed character always breaks one.
pub fn recognise(text: &str) -> Result<SecretKind, MalformedSecret> {
    let kind = SecretKind::ALL
        .into_iter()
        .find(|kind| text.starts_with(kind.prefix()))
        .ok_or(MalformedSecret::Prefix)?;
    let bytes = text.as_bytes();
    if bytes.len() != SECRET_LENGTH {
        return Err(MalformedSecret::Length);
    }
    if !bytes[PREFIX_LENGTH..].iter().all(u8::is_ascii_alphanumeric) {
        return Err(MalformedSecret::Character);
    }
    let (body, checksum) = bytes.split_at(SECRET_LENGTH - CHECKSUM_LENGTH);
    if checksum_of(body) != checksum {
        return Err(MalformedSecret::Checksum);
    }
    Ok(kind)
}

/// How many characters after a prefix make a text look like a secret, whole or cut off.
const TELLTALE_LENGTH: usize = 8;

/// A text in which every generated secret, whole or cut off, ends after its prefix: for what is
/// repeated or logged of somebody's input, where a secret may have slipped into the wrong place.
pub fn without_secrets(text: &str) -> Cow<'_, str> {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = split_at_secret(rest) {
        shown.push_str(before);
        shown.push('…');
        rest = after;
    }
    if shown.is_empty() {
        return Cow::Borrowed(text);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// What stands before the first secret of a text, with the secret's prefix, and what comes after it.
fn split_at_secret(text: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    while let Some(found) = text[from..].find("wf") {
        let at = from + found;
        let secret = &text[at..];
        from = at + "wf".len();
        if !SecretKind::ALL
            .into_iter()
            .any(|kind| secret.starts_with(kind.prefix()))
        {
            continue;
        }
        let characters = secret[PREFIX_LENGTH..]
            .bytes()
            .take_while(u8::is_ascii_alphanumeric)
            .count();
        if characters >= TELLTALE_LENGTH {
            let begin = at + PREFIX_LENGTH;
            return Some((&text[..begin], &text[begin + characters..]));
        }
    }
    None
}

fn checksum_of(body: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut rest = crc32fast::hash(body);
    let mut digits = [0_u8; CHECKSUM_LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// The bytes as one large number, written in base 62 with leading zeros: no bit is lost and no
/// random byte has to be thrown away.
fn base62_of_bytes(bytes: &[u8; ENTROPY_BYTES]) -> [u8; ENTROPY_LENGTH] {
    let mut number = Zeroizing::new(*bytes);
    let mut digits = [0_u8; ENTROPY_LENGTH];
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0_u32;
        for byte in number.iter_mut() {
            let value = remainder * 256 + u32::from(*byte);
            *byte = u8::try_from(value / 62).expect("a remainder below 62 leaves a byte");
            remainder = value % 62;
        }
        *digit = ALPHABET[remainder as usize];
    }
    digits
}
