//! The `Authorization` header.

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use credentials::Secret;
use zeroize::Zeroizing;

/// Clients that leave out the padding are taken at their word.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a request shows to be let in.
pub enum Authorization {
    /// Nothing.
    None,
    /// A user name and a password.
    Basic(Login),
    /// A token.
    Bearer(Secret),
}

/// A user name and a password.
pub struct Login {
    /// Whoever it claims to be.
    pub user: String,
    /// What proves it.
    pub password: Secret,
}

/// The header cannot be read. Never repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedAuthorization {
    /// Another scheme, or none.
    #[error("the Authorization header must begin with 'Basic ' or 'Bearer '")]
    Scheme,
    /// `Basic` with something else behind it.
    #[error("after 'Basic ' must come base64 of user name, colon and password in UTF-8")]
    Basic,
    /// `Bearer` with something else behind it.
    #[error("after 'Bearer ' must come a token without blanks")]
    Bearer,
}

/// Reads the header's value; `None` stands for a request without the header.
///
/// # Errors
/// See [`MalformedAuthorization`].
pub fn parse(value: Option<&[u8]>) -> Result<Authorization, MalformedAuthorization> {
    let Some(value) = value else {
        return Ok(Authorization::None);
    };
    let (scheme, rest) = value
        .iter()
        .position(|byte| *byte == b' ')
        .map(|at| (&value[..at], value[at..].trim_ascii()))
        .ok_or(MalformedAuthorization::Scheme)?;
    if scheme.eq_ignore_ascii_case(b"basic") {
        return basic(rest)
            .map(Authorization::Basic)
            .ok_or(MalformedAuthorization::Basic);
    }
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return bearer(rest)
            .map(Authorization::Bearer)
            .ok_or(MalformedAuthorization::Bearer);
    }
    Err(MalformedAuthorization::Scheme)
}

fn basic(value: &[u8]) -> Option<Login> {
    let bytes = Zeroizing::new(BASE64.decode(value).ok()?);
    let text = std::str::from_utf8(&bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Login {
        user: user.to_owned(),
        password: Secret::new(password.to_owned()),
    })
}

fn bearer(value: &[u8]) -> Option<Secret> {
    let is_token = !value.is_empty() && value.iter().all(u8::is_ascii_graphic);
    let text = std::str::from_utf8(value).ok().filter(|_| is_token)?;
    Some(Secret::new(text.to_owned()))
}
