use std::fmt;

/// A strong entity tag without its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ETag(pub String);

impl fmt::Display for ETag {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "\"{}\"", self.0)
    }
}

/// The conditions of `If-Match` and `If-None-Match` (RPC addendum "ETags", R43).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Precondition {
    if_match: Option<String>,
    if_none_match: Option<String>,
}

/// The condition that did not hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("The condition '{header}: {value}' is not met by the current state of the resource.")]
pub struct PreconditionFailed {
    pub header: &'static str,
    pub value: String,
}

impl Precondition {
    pub fn new(if_match: Option<&str>, if_none_match: Option<&str>) -> Self {
        let clean = |value: Option<&str>| {
            value
                .map(str::trim)
                .filter(|value| !value.is_empty())
                .map(str::to_owned)
        };
        Self {
            if_match: clean(if_match),
            if_none_match: clean(if_none_match),
        }
    }

    /// Whether any condition was sent.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    /// Checks the conditions against the resource's current tag; `None`: the resource does not exist.
    pub fn check(&self, current: Option<&ETag>) -> Result<(), PreconditionFailed> {
        if let Some(value) = &self.if_match
            && !matches(value, current)
        {
            return Err(PreconditionFailed {
                header: "If-Match",
                value: value.clone(),
            });
        }
        if let Some(value) = &self.if_none_match
            && matches(value, current)
        {
            return Err(PreconditionFailed {
                header: "If-None-Match",
                value: value.clone(),
            });
        }
        Ok(())
    }
}

fn matches(value: &str, current: Option<&ETag>) -> bool {
    let Some(current) = current else { return false };
    value.split(',').map(str::trim).any(|candidate| {
        candidate == "*" || candidate.trim_start_matches("W/").trim_matches('"') == current.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_contract_holds() {
        let tag = ETag("1".into());
        let check = |if_match, if_none_match, current| {
            Precondition::new(if_match, if_none_match)
                .check(current)
                .is_ok()
        };
        assert!(check(None, None, None) && check(None, None, Some(&tag)));
        assert!(!check(Some("*"), None, None) && check(Some("*"), None, Some(&tag)));
        assert!(check(Some("\"1\""), None, Some(&tag)) && !check(Some("\"2\""), None, Some(&tag)));
        assert!(check(None, Some("*"), None) && !check(None, Some("*"), Some(&tag)));
    }
}
