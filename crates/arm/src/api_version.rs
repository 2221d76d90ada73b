use std::fmt;

/// An API version: `YYYY-MM-DD`, optionally followed by a preview suffix (RPC "resource API reference", R2).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion(String);

/// Text that is not of the form of an API version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{0}' is not an API version: it must read YYYY-MM-DD, optionally followed by -preview, -alpha, -beta, -rc or -privatepreview"
)]
pub struct InvalidApiVersion(pub String);

const SUFFIXES: [&str; 6] = ["", "-preview", "-alpha", "-beta", "-rc", "-privatepreview"];

impl ApiVersion {
    /// Parses a version, ignoring case (R5); it is kept in lower case.
    pub fn parse(text: &str) -> Result<Self, InvalidApiVersion> {
        let lower = text.to_ascii_lowercase();
        let is_date = lower.len() >= 10
            && lower.is_char_boundary(10)
            && lower[..10]
                .bytes()
                .enumerate()
                .all(|(index, byte)| match index {
                    4 | 7 => byte == b'-',
                    _ => byte.is_ascii_digit(),
                });
        if is_date && SUFFIXES.contains(&&lower[10..]) {
            Ok(Self(lower))
        } else {
            Err(InvalidApiVersion(text.chars().take(64).collect()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_preview(&self) -> bool {
        self.0.len() > 10
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_and_previews_are_versions() {
        for text in ["2023-07-01", "2026-09-01-preview", "2026-09-01-PREVIEW"] {
            assert!(ApiVersion::parse(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "2023-7-1",
            "2023-07-01-",
            "2023-07-01preview",
            "latest",
            "2023-07-01 ",
        ] {
            assert!(ApiVersion::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_round_trips(text in "\\PC*") {
            if let Ok(version) = ApiVersion::parse(&text) {
                prop_assert_eq!(version.as_str(), text.to_ascii_lowercase());
            }
        }
    }
}
