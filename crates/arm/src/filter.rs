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
    "The filter '{filter}' is not supported at '{rest}'. Supported are: property eq 'value', property ge 'value', property le 'value', startswith(property,'value'), collection/any(x:x eq 'value') and function('argument'), joined by 'and'.{}",
    if *ends_a_value_early { " An apostrophe inside a value is doubled." } else { "" }
)]
pub struct InvalidFilter {
    pub filter: String,
    pub rest: String,
    /// What was not understood stands right after a closing quote, which was perhaps meant as an apostrophe.
    pub ends_a_value_early: bool,
}

impl Filter {
    /// Parses a decoded `$filter`.
    pub fn parse(text: &str) -> Result<Self, InvalidFilter> {
        let whole = text.trim();
        let mut parser = Parser { rest: whole };
        let mut terms = Vec::new();
        let refused = |shown: &str, stopped_at: &str| InvalidFilter {
            filter: shorten(text),
            rest: shorten(shown),
            ends_a_value_early: whole
                .strip_suffix(stopped_at)
                .is_some_and(|understood| understood.ends_with('\''))
                && !stopped_at.is_empty()
                && !stopped_at.starts_with(BLANKS)
                && !is_after_a_value(stopped_at),
        };
        loop {
            let before = parser.rest;
            let Some(term) = parser.term() else {
                return Err(refused(before, parser.rest));
            };
            terms.push(term);
            parser.blank();
            if parser.rest.is_empty() {
                return Ok(Self(terms));
            }
            if !parser.keyword("and") {
                return Err(refused(parser.rest, parser.rest));
            }
        }
    }

    /// Parses a decoded `$filter` of a client that may not double the quotes inside a value: the Azure CLI writes `name eq 'o'neil'`. One such
    /// comparison alone is understood; whatever parses strictly means what it means there.
    pub fn parse_leniently(text: &str) -> Result<Self, InvalidFilter> {
        Self::parse(text).or_else(|error| {
            undoubled_comparison(text)
                .map(|term| Self(vec![term]))
                .ok_or(error)
        })
    }
}

/// A comparison of a property with all that stands between the first quote and the last.
fn undoubled_comparison(text: &str) -> Option<Term> {
    let mut parser = Parser { rest: text.trim() };
    let property = parser.identifier()?.to_ascii_lowercase();
    if !parser.keyword("eq") {
        return None;
    }
    let value = parser.rest.strip_prefix('\'')?.strip_suffix('\'')?;
    let goes_on = value
        .match_indices('\'')
        .any(|(at, quote)| is_after_a_value(&value[at + quote.len()..]));
    (!goes_on).then(|| Term::Equals {
        property,
        value: value.to_owned(),
    })
}

/// Whether a text reads like what stands after a value in a longer filter, supported or not.
fn is_after_a_value(text: &str) -> bool {
    const OPERATORS: [&str; 10] = ["and", "or", "eq", "ne", "gt", "ge", "lt", "le", "in", "has"];
    let mut parser = Parser { rest: text };
    parser.blank();
    parser.rest.starts_with([')', ','])
        || OPERATORS
            .into_iter()
            .any(|operator| parser.keyword(operator))
}

fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}

/// Some clients send '+' for a blank, and it survives decoding of a path-style query.
const BLANKS: [char; 3] = [' ', '+', '\t'];

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn blank(&mut self) {
        self.rest = self.rest.trim_start_matches(BLANKS);
    }

    fn keyword(&mut self, word: &str) -> bool {
        self.blank();
        let found = self
            .rest
            .get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
            && self.rest[word.len()..].starts_with(BLANKS);
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

    #[test]
    fn one_comparison_may_have_quotes_that_are_not_doubled() {
        let parse = |text| Filter::parse_leniently(text).map(|filter| filter.0);
        for (text, value) in [
            ("name eq 'o'neil@example.com'", "o'neil@example.com"),
            ("name eq 'o''", "o'"),
            ("name eq 'rock 'n' roll' ", "rock 'n' roll"),
        ] {
            assert!(Filter::parse(text).is_err(), "{text}");
            assert_eq!(parse(text), Ok(vec![equals("name", value)]));
        }
        for text in [
            "name eq 'a' or name eq 'b'",
            "name eq 'a' and name ne 'b'",
            "name eq 'a'and name ne 'b'",
            "name eq 'a') or (name eq 'b'",
            "name ne 'o'neil'",
            "name eq 'o'neil",
            "name eq '",
            "startswith(name,'o'neil')",
        ] {
            assert_eq!(parse(text), Filter::parse(text).map(|filter| filter.0));
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn who_did_not_double_an_apostrophe_is_told_to() {
        let message = |text| Filter::parse(text).unwrap_err().to_string();
        for (text, hints) in [
            ("a eq 'miles.o'brien@b' and c eq 'd'", true),
            ("c eq 'd' and a ge 'o'neil'", true),
            ("startswith(a,'o'neil')", true),
            ("a/any(x:x eq 'o'neil')", true),
            ("a eq 'b' or c eq 'd'", false),
            ("a eq 'b'or c eq 'd'", false),
            ("a eq 'b')", false),
            ("a ne 'b'", false),
            ("a eq 'open", false),
        ] {
            let hint = " An apostrophe inside a value is doubled.";
            assert_eq!(message(text).ends_with(hint), hints, "{text}");
        }
    }

    /// A strict term of any of the forms, with any value.
    fn a_term() -> impl Strategy<Value = String> {
        ("\\PC{0,12}", 0..5_usize).prop_map(|(value, form)| {
            let value = value.replace('\'', "''");
            match form {
                0 => format!("a eq '{value}'"),
                1 => format!("a le '{value}'"),
                2 => format!("startswith(a,'{value}')"),
                3 => format!("a/any(x:x eq '{value}')"),
                _ => format!("a('{value}')"),
            }
        })
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,80}") {
            let _ = Filter::parse(&text);
            let _ = Filter::parse_leniently(&text);
        }

        #[test]
        fn what_parses_strictly_means_the_same_leniently(terms in proptest::collection::vec(a_term(), 1..4)) {
            let text = terms.join(" and ");
            let strict = Filter::parse(&text);
            prop_assert!(strict.is_ok());
            prop_assert_eq!(Filter::parse_leniently(&text), strict);
        }

        #[test]
        fn what_goes_on_after_a_comparison_is_never_taken_into_its_value(
            value in "[a-z' ]{0,12}",
            term in a_term(),
            joint in "(and|or|AND) not |(or|OR) ",
        ) {
            let text = format!("a eq '{}' {joint}{term}", value.replace('\'', "''"));
            prop_assert!(Filter::parse_leniently(&text).is_err());
        }

        #[test]
        fn names_with_quotes_survive_without_doubling(name in "[a-z]{1,5}('[a-z]{1,5}){1,3}@[a-z]{1,8}") {
            let text = format!("name eq '{name}'");
            prop_assert!(Filter::parse(&text).is_err());
            prop_assert_eq!(Filter::parse_leniently(&text), Ok(Filter(vec![equals("name", &name)])));
        }

        #[test]
        fn values_survive_quoting(value in "\\PC{0,40}") {
            let text = format!("displayName eq '{}'", value.replace('\'', "''"));
            prop_assert_eq!(Filter::parse(&text), Ok(Filter(vec![equals("displayname", &value)])));
        }
    }
}
