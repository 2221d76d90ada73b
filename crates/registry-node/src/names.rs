//! The names that clients send: repository, tag, digest, reference. Parsed once at the edge; inside, the type is the proof
//! that a name keeps its grammar and so is safe as part of a key. Nothing here reads or writes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{REPOSITORY_NAME_BYTES_MAXIMUM, TAG_BYTES_MAXIMUM};

/// A name that breaks its grammar: which kind of name, the value, and the rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value} is not valid: {rule}")]
pub struct NameError {
    /// "repository name", "tag", "digest".
    pub kind: &'static str,
    /// The value, shortened and quoted for a person.
    pub value: String,
    /// The rule it breaks, as the end of a sentence.
    pub rule: String,
}

impl NameError {
    fn new(kind: &'static str, value: &str, rule: impl Into<String>) -> Self {
        Self {
            kind,
            value: shown(value),
            rule: rule.into(),
        }
    }
}

/// A value of a request as it may stand in a message: quoted, control characters escaped, at most 100 characters.
#[must_use]
pub fn shown(value: &str) -> String {
    const CHARACTERS_MAXIMUM: usize = 100;
    let mut text: String = value.chars().take(CHARACTERS_MAXIMUM).collect();
    if text.len() < value.len() {
        text.push('…');
    }
    format!("{text:?}")
}

/// The name of a repository inside a registry: lower-case components separated by `/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryName(String);

impl RepositoryName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fault = |rule: &str| Err(NameError::new("repository name", text, rule));
        if text.is_empty() {
            return fault("it is empty");
        }
        if text.len() > REPOSITORY_NAME_BYTES_MAXIMUM {
            return fault(&format!(
                "it has {} bytes and may have {REPOSITORY_NAME_BYTES_MAXIMUM}",
                text.len()
            ));
        }
        if text.split('/').all(is_repository_component) {
            return Ok(Self(text.to_owned()));
        }
        fault(
            "each part between slashes is lower-case letters and digits, joined by '.', '_', '__' or hyphens",
        )
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` of OCI Distribution, "Pulling manifests".
fn is_repository_component(component: &str) -> bool {
    let bytes = component.as_bytes();
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut position = 0;
    loop {
        let start = position;
        while bytes
            .get(position)
            .is_some_and(|byte| is_alphanumeric(*byte))
        {
            position += 1;
        }
        if position == start {
            return false;
        }
        if position == bytes.len() {
            return true;
        }
        let separator_start = position;
        while bytes
            .get(position)
            .is_some_and(|byte| !is_alphanumeric(*byte))
        {
            position += 1;
        }
        let separator = &bytes[separator_start..position];
        let is_separator =
            matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-');
        if !is_separator {
            return false;
        }
    }
}

/// A tag of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

impl Tag {
    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;

    /// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` of OCI Distribution.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let bytes = text.as_bytes();
        let first_is_word = bytes.first().is_some_and(|byte| is_word(*byte));
        let rest_is_right = bytes
            .iter()
            .all(|byte| is_word(*byte) || matches!(byte, b'.' | b'-'));
        if bytes.len() > TAG_BYTES_MAXIMUM || !first_is_word || !rest_is_right {
            return Err(NameError::new(
                "tag",
                text,
                format!(
                    "it is 1 to {TAG_BYTES_MAXIMUM} letters, digits, '_', '.' or '-', and starts with a letter, digit or '_'"
                ),
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// A hash function a digest may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestAlgorithm {
    /// SHA-256, what everybody uses.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl DigestAlgorithm {
    /// The name as it stands before the colon.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Number of hexadecimal digits of its digests.
    #[must_use]
    pub fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl FromStr for DigestAlgorithm {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(NameError::new(
                "digest algorithm",
                text,
                "it is sha256 or sha512",
            )),
        }
    }
}

/// The digest of a blob or manifest: algorithm, colon, lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    algorithm: DigestAlgorithm,
    text: String,
}

impl Digest {
    /// A digest from the bytes that a hash function gave.
    pub(crate) fn from_hash(algorithm: DigestAlgorithm, hash: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(algorithm.as_str().len() + 1 + hash.len() * 2);
        text.push_str(algorithm.as_str());
        text.push(':');
        for byte in hash {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        Self { algorithm, text }
    }

    /// `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash function.
    #[must_use]
    pub fn algorithm(&self) -> DigestAlgorithm {
        self.algorithm
    }

    /// The digits after the colon.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }
}

impl FromStr for Digest {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(NameError::new("digest", text, "it has no ':'"));
        };
        let Ok(algorithm) = algorithm.parse::<DigestAlgorithm>() else {
            return Err(NameError::new(
                "digest",
                text,
                "its algorithm is sha256 or sha512",
            ));
        };
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != algorithm.hex_length() || !hex.bytes().all(is_hex) {
            return Err(NameError::new(
                "digest",
                text,
                format!(
                    "{} and ':' are followed by {} lower-case hexadecimal digits",
                    algorithm.as_str(),
                    algorithm.hex_length()
                ),
            ));
        }
        Ok(Self {
            algorithm,
            text: text.to_owned(),
        })
    }
}

/// What names a manifest: a tag or a digest. A colon tells them apart: no tag has one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reference {
    /// By tag.
    Tag(Tag),
    /// By digest.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') {
            return text.parse().map(Self::Digest);
        }
        text.parse().map(Self::Tag)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(formatter),
            Self::Digest(digest) => digest.fmt(formatter),
        }
    }
}

/// The conversions that a name of text needs for messages and for serde.
macro_rules! text_name {
    ($name:ident, $field:tt) => {
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.$field)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.$field
            }
        }
    };
}

text_name!(RepositoryName, 0);
text_name!(Tag, 0);
text_name!(Digest, text);
