//! The token endpoint's request: a form, and the client's credentials in it or in the `Authorization` header (RFC 6749, 2.3.1).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use credentials::Secret;
use percent_encoding::percent_decode;

use crate::limits::MAXIMUM_FORM_PARAMETERS;

/// The parameters of a form, each at most once.
pub(super) struct Form(Vec<(String, Secret)>);

/// Why a body is not a form, or a header not the credentials of a client. Never repeats a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidForm {
    #[error("the parameter '{0}' is given more than once")]
    Repeated(String),
    #[error("it has more than {MAXIMUM_FORM_PARAMETERS} parameters")]
    TooMany,
    #[error(
        "the body is not a form of UTF-8 text without zero characters (application/x-www-form-urlencoded)"
    )]
    Encoding,
    #[error(
        "the 'Authorization' header is not 'Basic' with base64 of client id, ':' and client secret"
    )]
    Basic,
}

impl Form {
    /// Reads a body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, InvalidForm> {
        let mut parameters: Vec<(String, Secret)> = Vec::new();
        for pair in body
            .split(|byte| *byte == b'&')
            .filter(|pair| !pair.is_empty())
        {
            // First, because anybody can send a body, and names are compared one by one.
            if parameters.len() == MAXIMUM_FORM_PARAMETERS {
                return Err(InvalidForm::TooMany);
            }
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            let name = decode(parts.next().unwrap_or_default()).ok_or(InvalidForm::Encoding)?;
            let value = decode(parts.next().unwrap_or_default()).ok_or(InvalidForm::Encoding)?;
            if parameters.iter().any(|(known, _)| *known == name) {
                return Err(InvalidForm::Repeated(name.chars().take(40).collect()));
            }
            parameters.push((name, Secret::new(value)));
        }
        Ok(Self(parameters))
    }

    /// A parameter that has a value; without one it counts as left out (RFC 6749, 3.2).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.expose())
            .filter(|value| !value.is_empty())
    }
}

/// Client id and secret of an `Authorization: Basic` header; both are form-encoded inside (RFC 6749, 2.3.1).
pub(super) fn basic(header: &str) -> Result<(String, Secret), InvalidForm> {
    let encoded = header
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .map(|(_, encoded)| encoded.trim())
        .ok_or(InvalidForm::Basic)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| InvalidForm::Basic)?;
    let colon = bytes
        .iter()
        .position(|byte| *byte == b':')
        .ok_or(InvalidForm::Basic)?;
    let client_id = decode(&bytes[..colon]).ok_or(InvalidForm::Basic)?;
    let secret = decode(&bytes[colon + 1..]).ok_or(InvalidForm::Basic)?;
    Ok((client_id, Secret::new(secret)))
}

/// Text; `None` when it is not UTF-8, or has a zero character, which the database takes in no text.
fn decode(bytes: &[u8]) -> Option<String> {
    let blanks: Cow<'_, [u8]> = if bytes.contains(&b'+') {
        let with_blanks = bytes
            .iter()
            .map(|byte| if *byte == b'+' { b' ' } else { *byte });
        with_blanks.collect::<Vec<u8>>().into()
    } else {
        bytes.into()
    };
    percent_decode(&blanks)
        .decode_utf8()
        .ok()
        .filter(|text| !text.contains('\0'))
        .map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    fn encode(text: &str) -> String {
        utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
    }

    #[test]
    fn a_form_is_read() {
        let form = Form::parse(
            b"grant_type=client_credentials&scope=https%3A%2F%2Fa%2F.default+b&empty=&flag",
        )
        .expect("a form");
        assert_eq!(form.get("grant_type"), Some("client_credentials"));
        assert_eq!(form.get("scope"), Some("https://a/.default b"));
        assert_eq!(form.get("empty"), None);
        assert_eq!(form.get("flag"), None);
        assert_eq!(form.get("other"), None);
    }

    #[test]
    fn repeated_and_undecodable_parameters_are_refused() {
        let fault = |body: &[u8]| Form::parse(body).err();
        assert_eq!(
            fault(b"a=1&a=2"),
            Some(InvalidForm::Repeated("a".to_owned()))
        );
        assert_eq!(fault(b"a=%FF"), Some(InvalidForm::Encoding));
        assert_eq!(fault(b"username=%00"), Some(InvalidForm::Encoding));
        assert!(basic("Basic YSUwMDpi").is_err(), "a%00:b");
    }

    #[test]
    fn a_body_full_of_names_is_refused_before_they_are_compared() {
        let names: Vec<String> = (0..262_144).map(|n| format!("{n:x}")).collect();
        let body = names.join("&");
        let begun = std::time::Instant::now();
        assert_eq!(
            Form::parse(body.as_bytes()).err(),
            Some(InvalidForm::TooMany)
        );
        // Comparing each with each takes minutes.
        assert!(begun.elapsed() < std::time::Duration::from_secs(30));
        let most = names[..MAXIMUM_FORM_PARAMETERS].join("&");
        assert!(Form::parse(most.as_bytes()).is_ok());
    }

    #[test]
    fn basic_credentials_are_read_or_refused() {
        let (client_id, secret) = basic("basic YSUzQTE6Yitj").expect("a%3A1:b+c");
        assert_eq!((client_id.as_str(), secret.expose()), ("a:1", "b c"));
        for header in ["Bearer x", "Basic", "Basic ***", "Basic YQ=="] {
            assert!(basic(header).is_err(), "{header}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Form::parse(&body);
        }

        #[test]
        fn any_header_is_read_or_refused(header in "\\PC{0,60}") {
            let _ = basic(&header);
        }

        #[test]
        fn what_was_encoded_is_read(names in proptest::collection::btree_set("\\PC{1,10}", 0..5), value in "\\PC{1,20}") {
            let body: Vec<String> = names.iter().map(|name| format!("{}={}", encode(name), encode(&value))).collect();
            let form = Form::parse(body.join("&").as_bytes()).expect("a form");
            for name in &names {
                prop_assert_eq!(form.get(name), Some(value.as_str()));
            }
        }

        #[test]
        fn basic_credentials_survive_encoding(client_id in "\\PC{0,20}", secret in "\\PC{0,20}") {
            let header = format!("Basic {}", STANDARD.encode(format!("{}:{}", encode(&client_id), encode(&secret))));
            let (read_id, read_secret) = basic(&header).expect("credentials");
            prop_assert_eq!(read_id, client_id);
            prop_assert_eq!(read_secret.expose(), secret);
        }
    }
}
