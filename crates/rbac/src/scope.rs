//! Where in the tree of resources a role holds.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A place in the tree: `/`, a subscription, a resource group, or a resource below one of them.
///
/// Keeps the casing it was given for display; compares, hashes and contains by its canonical key.
#[derive(Clone)]
pub struct Scope {
    text: Box<str>,
    key: Box<str>,
}

/// The path is not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{path}' is not a scope: {rule}")]
pub struct InvalidScope {
    /// What was given, cut after 200 characters.
    pub path: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// The fixed words of a scope, in the casing that clients expect to read.
const WORDS: [&str; 3] = ["subscriptions", "resourceGroups", "providers"];

impl Scope {
    /// The scope of the whole installation, `/`.
    pub fn root() -> Self {
        Self::of("/".to_owned())
    }

    /// Parses `/`, `/subscriptions/{id}`, `…/resourceGroups/{name}` and
    /// `…/providers/{namespace}/{type}/{name}[/{type}/{name}]…`. Fixed words are taken in any
    /// casing; double and trailing slashes are passed over.
    ///
    /// # Errors
    /// [`InvalidScope`] with the rule that the path breaks.
    pub fn parse(path: &str) -> Result<Self, InvalidScope> {
        let refuse = |rule| InvalidScope {
            path: path.chars().take(200).collect(),
            rule,
        };
        if !path.starts_with('/') {
            return Err(refuse("it must begin with '/'"));
        }
        if path.chars().any(char::is_control) {
            return Err(refuse("it must not contain control characters"));
        }
        let mut segments: Vec<&str> = arm::split_path(path).collect();
        check_shape(&segments).map_err(refuse)?;
        for segment in segments.iter_mut().step_by(2) {
            if let Some(word) = WORDS.iter().find(|word| word.eq_ignore_ascii_case(segment)) {
                *segment = word;
            }
        }
        Ok(Self::of(format!("/{}", segments.join("/"))))
    }

    fn of(text: String) -> Self {
        Self {
            key: arm::canonical_key(&text).into(),
            text: text.into(),
        }
    }

    /// The canonical key: what is stored beside the scope, and compared.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The path in the casing it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The keys of this scope and of everything that it lies in, from itself up to `/`.
    pub fn ancestors_and_self(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(Some(self.key()), |key| parent(key))
    }

    /// Whether `other` is this scope or lies below it.
    pub fn contains(&self, other: &Self) -> bool {
        key_contains(&self.key, &other.key)
    }
}

/// Whether the scope with the key `outer` is, or has below it, the one with the key `inner`.
pub(crate) fn key_contains(outer: &str, inner: &str) -> bool {
    outer == "/"
        || (!outer.is_empty()
            && inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

fn parent(key: &str) -> Option<&str> {
    if key == "/" {
        return None;
    }
    let shorter = without_last_two_segments(key);
    let shorter = match without_last_two_segments(shorter) {
        // What is left of the first resource below something is `…/providers/{namespace}`.
        above if shorter[above.len()..].starts_with("/providers/") => above,
        _ => shorter,
    };
    Some(if shorter.is_empty() { "/" } else { shorter })
}

fn without_last_two_segments(key: &str) -> &str {
    let cut = |text: &str| text.rfind('/').unwrap_or(0);
    &key[..cut(&key[..cut(key)])]
}

fn check_shape(segments: &[&str]) -> Result<(), &'static str> {
    let is = |at: usize, word: &str| {
        segments
            .get(at)
            .is_some_and(|segment| segment.eq_ignore_ascii_case(word))
    };
    if segments.is_empty() {
        return Ok(());
    }
    if !is(0, "subscriptions") {
        return Err("it must be '/' or begin with /subscriptions/{subscriptionId}");
    }
    if !segments.len().is_multiple_of(2) {
        return Err("a name is missing at its end");
    }
    let mut at = if is(2, "resourceGroups") { 4 } else { 2 };
    while at < segments.len() {
        if !is(at, "providers") {
            return Err("a resource follows as /providers/{namespace}/{type}/{name}");
        }
        // The namespace, then at least one pair of type and name.
        at += 4;
        if at > segments.len() {
            return Err("a resource needs a type and a name");
        }
        while at < segments.len() && !is(at, "providers") {
            at += 2;
        }
    }
    Ok(())
}

impl PartialEq for Scope {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Scope {}

impl Hash for Scope {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Scope({})", self.text)
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}
