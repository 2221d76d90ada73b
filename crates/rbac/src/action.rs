//! Actions (`Microsoft.ContainerRegistry/registries/read`) and the patterns that roles name them by.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What a caller wants to do. Made once per operation; compares case-insensitively.
#[derive(Clone)]
pub struct Action {
    text: Box<str>,
    key: Box<str>,
}

/// The text is not the name of an action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an action: one needs visible ASCII characters without '*'")]
pub struct InvalidAction(pub String);

impl Action {
    /// Parses the full name of an action.
    ///
    /// # Errors
    /// [`InvalidAction`] if it is empty, or has blanks, `*` or characters outside ASCII.
    pub fn parse(text: &str) -> Result<Self, InvalidAction> {
        if is_visible(text) && !text.contains('*') {
            Ok(Self {
                text: text.into(),
                key: text.to_ascii_lowercase().into(),
            })
        } else {
            Err(InvalidAction(text.chars().take(200).collect()))
        }
    }

    /// An action named in our own source text.
    ///
    /// # Panics
    /// If the text is no action, which the first test that meets it shows.
    pub fn named(text: &'static str) -> Self {
        Self::parse(text).expect("actions in the source text are well-formed")
    }

    /// The name in the casing it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Action {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Action {}

impl std::hash::Hash for Action {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Action({})", self.text)
    }
}

/// A pattern over actions: `*` stands for any characters, `/` among them; casing does not matter.
#[derive(Clone)]
pub struct ActionPattern {
    text: Box<str>,
    form: Form,
}

/// A pattern made ready for matching, in lower case.
#[derive(Clone)]
enum Form {
    Anything,
    Exactly(Box<str>),
    /// What stands before the first `*`, between two, and after the last.
    Wild {
        start: Box<str>,
        middle: Box<[Box<str>]>,
        end: Box<str>,
    },
}

/// The text is not a pattern over actions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a pattern of actions: one needs visible ASCII characters")]
pub struct InvalidActionPattern(pub String);

impl ActionPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`InvalidActionPattern`] if it is empty, or has blanks or characters outside ASCII.
    pub fn parse(text: &str) -> Result<Self, InvalidActionPattern> {
        if !is_visible(text) {
            return Err(InvalidActionPattern(text.chars().take(200).collect()));
        }
        let key = text.to_ascii_lowercase();
        let form = match (key.split_once('*'), key.rsplit_once('*')) {
            (Some((start, _)), Some((_, end))) => {
                let inner = key
                    .get(start.len() + 1..key.len() - end.len() - 1)
                    .unwrap_or_default();
                let middle: Box<[Box<str>]> = inner
                    .split('*')
                    .filter(|part| !part.is_empty())
                    .map(Into::into)
                    .collect();
                if start.is_empty() && end.is_empty() && middle.is_empty() {
                    Form::Anything
                } else {
                    Form::Wild {
                        start: start.into(),
                        middle,
                        end: end.into(),
                    }
                }
            }
            _ => Form::Exactly(key.into()),
        };
        Ok(Self {
            text: text.into(),
            form,
        })
    }

    /// The pattern in the casing it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the action is one that the pattern names.
    pub fn matches(&self, action: &Action) -> bool {
        match &self.form {
            Form::Anything => true,
            Form::Exactly(key) => *key == action.key,
            Form::Wild { start, middle, end } => matches_wild(start, middle, end, &action.key),
        }
    }
}

/// Taking each middle part at its first occurrence leaves the most for those behind it, so no
/// other choice could match where this one fails.
fn matches_wild(start: &str, middle: &[Box<str>], end: &str, key: &str) -> bool {
    let Some(mut rest) = key
        .strip_prefix(start)
        .and_then(|rest| rest.strip_suffix(end))
    else {
        return false;
    };
    for part in middle {
        match rest.find(part.as_ref()) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl PartialEq for ActionPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text.eq_ignore_ascii_case(&other.text)
    }
}

impl Eq for ActionPattern {}

impl fmt::Debug for ActionPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ActionPattern({})", self.text)
    }
}

impl Serialize for ActionPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ActionPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}
