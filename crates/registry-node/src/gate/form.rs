//! Parameters of the token endpoint: `application/x-www-form-urlencoded`, in a query or a body.

use std::collections::HashSet;

use percent_encoding::percent_decode;

use crate::names::shown;

/// The one parameter that may be given more than once.
const SCOPE: &str = "scope";

/// Parameters in the order they came, each but scopes at most once.
pub struct Form(Vec<(String, String)>);

/// Why a query or a body is no such form. Never repeats a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidForm {
    /// A name or value.
    #[error("it is not UTF-8 text")]
    Encoding,
    /// What counts would be anybody's guess (RFC 6749, 3.2).
    #[error("the parameter {} is given more than once", shown(.0))]
    Repeated(String),
}

impl Form {
    /// Reads `name=value&name=value`.
    ///
    /// # Errors
    /// See [`InvalidForm`].
    pub fn parse(text: &[u8]) -> Result<Self, InvalidForm> {
        let parameters = text
            .split(|byte| *byte == b'&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let mut parts = pair.splitn(2, |byte| *byte == b'=');
                let name = decode(parts.next().unwrap_or_default())?;
                let value = decode(parts.next().unwrap_or_default())?;
                Some((name, value))
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(InvalidForm::Encoding)?;
        let mut known = HashSet::new();
        let mut names = parameters.iter().map(|(name, _)| name);
        match names.find(|name| *name != SCOPE && !known.insert(*name)) {
            Some(repeated) => Err(InvalidForm::Repeated(repeated.clone())),
            None => Ok(Self(parameters)),
        }
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

fn decode(text: &[u8]) -> Option<String> {
    let with_blanks: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    String::from_utf8(percent_decode(&with_blanks).collect()).ok()
}
