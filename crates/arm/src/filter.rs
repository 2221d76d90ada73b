//! The part of OData's `$filter` that clients of ARM and of the directory send.

/// A conjunction of terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(pub Vec<Term>);

/// One condition. Property and function names are kept in lower case (they compare case-insensitively), values as sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Term {
    /// `property eq 'value'`
    Equals { property: String, value: String },
    /// `property ge 'value'` or `property le 'value'`
    Bound {
        property: String,
        bound: Bound,
        value: String,
    },
    /// `startswith(property,'value')`
    StartsWith { property: String, value: String },
    /// `collection/any(x:x eq 'value')`
    Any { collection: String, value: String },
    /// `function()` or `function('argument')`
    Call {
        function: String,
        argument: Option<String>,
    },
}

/// Which end of a range a term sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    AtLeast,
    AtMost,
}

/// A filter outside the supported grammar.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "The filter '{filter}' is not supported at '{rest}'. Supported are: property eq 'value', property ge 'value', property le 'value', startswith(property,'value'), collection/any(x:x eq 'value') and function('argument'), joined by 'and'."
)]
pub struct InvalidFilter {
    pub filter: String,
    pub rest: String,
}

impl Filter {
    /// Parses a decoded `$filter`.
    pub fn parse(text: &str) -> Result<Self, InvalidFilter> {
        let mut parser = Parser { rest: text.trim() };
        let mut terms = Vec::new();
        loop {
            let before = parser.rest;
            let term = parser.term().ok_or_else(|| InvalidFilter {
                filter: shorten(text),
                rest: shorten(before),
            })?;
            terms.push(term);
            parser.blank();
            if parser.rest.is_empty() {
                return Ok(Self(terms));
            }
            if !parser.keyword("and") {
                return Err(InvalidFilter {
                    filter: shorten(text),
                    rest: shorten(parser.rest),
                });
            }
        }
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn blank(&mut self) {
        // Some clients send '+' for a blank, and it survives decoding of a path-style query.
        self.rest = self.rest.trim_start_matches([' ', '+', '\t']);
    }

    fn keyword(&mut self, word: &str) -> bool {
        self.blank();
        let found = self
            .rest
            .get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
            && self.rest[word.len()..].starts_with([' ', '+', '\t']);
        if found {
            self.rest = &self.rest[word.len()..];
            self.blank();
        }
        found
    }

    fn symbol(&mut self, symbol: char) -> Option<()> {
        self.blank();
        self.rest = self.rest.strip_prefix(symbol)?;
        Some(())
    }

    fn identifier(&mut self) -> Option<&'a str> {
        self.blank();
        let end = self
            .rest
            .find(|character: char| {
                !(character.is_ascii_alphanumeric() || character == '_' || character == '.')
            })
            .unwrap_or(self.rest.len());
        if end == 0 {
            return None;
        }
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(name)
    }

    /// A quoted value (two quotes stand for one) or a bare GUID, number or word.
    fn value(&mut self) -> Option<String> {
        self.blank();
        let Some(mut rest) = self.rest.strip_prefix('\'') else {
            let end = self
                .rest
                .char_indices()
                .find(|&(at, character)| match character {
                    // The offset of a time, not a blank.
                    '+' => !self.rest[at + 1..].starts_with(|next: char| next.is_ascii_digit()),
                    _ => matches!(character, ' ' | ')' | ','),
                })
                .map_or(self.rest.len(), |(at, _)| at);
            let (value, after) = self.rest.split_at(end);
            self.rest = after;
            return (!value.is_empty() && !value.contains(['\'', '('])).then(|| value.to_owned());
        };
        let mut value = String::new();
        loop {
            let end = rest.find('\'')?;
            value.push_str(&rest[..end]);
            rest = &rest[end + 1..];
            match rest.strip_prefix('\'') {
                Some(after) => {
                    value.push('\'');
                    rest = after;
                }
                None => {
                    self.rest = rest;
                    return Some(value);
                }
            }
        }
    }

    fn term(&mut self) -> Option<Term> {
        let name = self.identifier()?.to_ascii_lowercase();
        if self.rest.starts_with('/') {
            return self.any(name);
        }
        if self.rest.starts_with('(') {
            return self.call(name);
        }
        if self.keyword("eq") {
            return Some(Term::Equals {
                property: name,
                value: self.value()?,
            });
        }
        let bound = if self.keyword("ge") {
            Bound::AtLeast
        } else if self.keyword("le") {
            Bound::AtMost
        } else {
            return None;
        };
        Some(Term::Bound {
            property: name,
            bound,
            value: self.value()?,
        })
    }

    fn any(&mut self, collection: String) -> Option<Term> {
        self.symbol('/')?;
        if !self.identifier()?.eq_ignore_ascii_case("any") {
            return None;
        }
        self.symbol('(')?;
        let variable = self.identifier()?;
        self.symbol(':')?;
        if self.identifier()? != variable || !self.keyword("eq") {
            return None;
        }
        let value = self.value()?;
        self.symbol(')')?;
        Some(Term::Any { collection, value })
    }

    fn call(&mut self, function: String) -> Option<Term> {
        self.symbol('(')?;
        self.blank();
        if self.symbol(')').is_some() {
            return Some(Term::Call {
                function,
                argument: None,
            });
        }
        if function == "startswith" {
            let property = self.identifier()?.to_ascii_lowercase();
            self.symbol(',')?;
            let value = self.value()?;
            self.symbol(')')?;
            return Some(Term::StartsWith { property, value });
        }
        let argument = self.value()?;
        self.symbol(')')?;
        Some(Term::Call {
            function,
            argument: Some(argument),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn equals(property: &str, value: &str) -> Term {
        Term::Equals {
            property: property.into(),
            value: value.into(),
        }
    }

    #[test]
    fn what_the_azure_cli_sends_parses() {
        let parse = |text| Filter::parse(text).map(|filter| filter.0);
        assert_eq!(
            parse("displayName eq 'ci-bot'"),
            Ok(vec![equals("displayname", "ci-bot")])
        );
        assert_eq!(
            parse("displayName eq 'devs' and mailNickname eq 'it''s'"),
            Ok(vec![
                equals("displayname", "devs"),
                equals("mailnickname", "it's")
            ])
        );
        assert_eq!(
            parse("startswith(displayName,'ci-bot')"),
            Ok(vec![Term::StartsWith {
                property: "displayname".into(),
                value: "ci-bot".into()
            }])
        );
        assert_eq!(
            parse("servicePrincipalNames/any(c:c eq 'x')"),
            Ok(vec![Term::Any {
                collection: "serviceprincipalnames".into(),
                value: "x".into()
            }])
        );
        assert_eq!(
            parse("atScope()+and+assignedTo('a')"),
            Ok(vec![
                Term::Call {
                    function: "atscope".into(),
                    argument: None
                },
                Term::Call {
                    function: "assignedto".into(),
                    argument: Some("a".into())
                }
            ])
        );
        let bound = |bound, value: &str| Term::Bound {
            property: "eventtimestamp".into(),
            bound,
            value: value.into(),
        };
        assert_eq!(
            parse(
                "eventTimestamp ge 2026-11-23T11:48:54.207542 and eventTimestamp le '2026-11-23T12:00:00+01:00'"
            ),
            Ok(vec![
                bound(Bound::AtLeast, "2026-11-23T11:48:54.207542"),
                bound(Bound::AtMost, "2026-11-23T12:00:00+01:00")
            ])
        );
        // az writes the offset of a time without quotes.
        assert_eq!(
            parse("eventTimestamp ge 2026-11-23T11:48:54+00:00 and a eq 'b'"),
            Ok(vec![
                bound(Bound::AtLeast, "2026-11-23T11:48:54+00:00"),
                equals("a", "b")
            ])
        );
        assert!(parse("displayName eq 'open").is_err());
        assert!(parse("a ne 'b'").is_err());
        assert!(parse("").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,80}") {
            let _ = Filter::parse(&text);
        }

        #[test]
        fn values_survive_quoting(value in "\\PC{0,40}") {
            let text = format!("displayName eq '{}'", value.replace('\'', "''"));
            prop_assert_eq!(Filter::parse(&text), Ok(Filter(vec![equals("displayname", &value)])));
        }
    }
}
