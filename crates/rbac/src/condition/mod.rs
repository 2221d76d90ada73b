//! Conditions of role assignments: which repositories a role's data actions are restricted to.
//!
//! One form is understood, the one that registries document: some actions are named, and where one of
//! them is asked for, the repository's name must be one of some names or begin with one of some
//! prefixes. Whatever else the language of conditions can say is refused when it is read, so that no
//! assignment ever grants more than its condition says.

mod syntax;

use std::{fmt, sync::LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    Action, ActionPattern, RoleDefinition, limits::CONDITION_LENGTH_MAXIMUM,
    registry::RepositoryPermission,
};
use syntax::Expression;

/// The only attribute that a condition can ask for.
const REPOSITORY_NAME: &str = "Microsoft.ContainerRegistry/registries/repositories:name";

/// What begins the names of actions on a repository. Others (the catalog, the registry itself) take no condition.
const REPOSITORY_ACTIONS: &str = "Microsoft.ContainerRegistry/registries/repositories/";

/// The actions on a repository that there are.
static KNOWN_ACTIONS: LazyLock<Vec<Action>> = LazyLock::new(|| {
    let nouns = ["content", "metadata"];
    let verbs = ["read", "write", "delete"];
    nouns
        .into_iter()
        .flat_map(|noun| {
            verbs.map(|verb| {
                Action::parse(&format!("{REPOSITORY_ACTIONS}{noun}/{verb}"))
                    .expect("two words without blanks")
            })
        })
        .collect()
});

/// A condition of a role assignment, read and understood.
#[derive(Clone)]
pub struct Condition {
    text: Box<str>,
    /// Only these data actions are restricted.
    actions: Box<[ActionPattern]>,
    /// Where one of these holds, they are allowed all the same.
    names: Box<[NameTest]>,
}

/// What a repository's name is compared with, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NameTest {
    Equals(Box<str>),
    StartsWith(Box<str>),
}

/// The text is not a condition that this build understands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the condition cannot be used: {problem}. The form that is supported: ((!(ActionMatches{{'{REPOSITORY_ACTIONS}content/read'}}) AND \
     !(ActionMatches{{'…'}})) OR (@Request[{REPOSITORY_NAME}] StringEqualsIgnoreCase 'name' OR @Request[{REPOSITORY_NAME}] \
     StringStartsWithIgnoreCase 'prefix/'))"
)]
pub struct InvalidCondition {
    /// What is wrong, and where.
    pub problem: String,
}

impl InvalidCondition {
    fn new(problem: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
        }
    }
}

impl Condition {
    /// Reads a condition in the language of version 2.0.
    ///
    /// # Errors
    /// [`InvalidCondition`] for what is malformed, and for what is well-formed and not of the form that is understood.
    pub fn parse(text: &str) -> Result<Self, InvalidCondition> {
        if text.len() > CONDITION_LENGTH_MAXIMUM {
            return Err(InvalidCondition::new(format!(
                "it has {} bytes, and {CONDITION_LENGTH_MAXIMUM} are the most",
                text.len()
            )));
        }
        let alternatives = match syntax::parse(text)? {
            Expression::Any(alternatives) => alternatives,
            one => vec![one],
        };
        let mut actions = None;
        let mut names = Vec::new();
        for alternative in alternatives {
            match alternative {
                Expression::Compare {
                    attribute,
                    operator,
                    value,
                } => names.push(NameTest::read(&attribute, &operator, &value)?),
                guard if actions.is_none() => actions = Some(restricted_actions(guard)?),
                _ => {
                    return Err(InvalidCondition::new(
                        "it says more than once which actions it is about; join them by AND",
                    ));
                }
            }
        }
        let Some(actions) = actions else {
            return Err(InvalidCondition::new(
                "it does not say which actions it is about: it takes !(ActionMatches{'…'})",
            ));
        };
        if names.is_empty() {
            return Err(InvalidCondition::new(
                "it names no repository: it takes OR and a comparison of the repository's name",
            ));
        }
        Ok(Self {
            text: text.into(),
            actions: actions.into(),
            names: names.into(),
        })
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the assignment counts for a data action on a repository. Of an action that is not about one repository (`None`, as the
    /// catalog is) it is unknown which ones it would reach, so a condition that names it does not hold.
    pub fn holds(&self, action: &Action, repository: Option<&str>) -> bool {
        if !self.speaks_of(action) {
            return true;
        }
        repository.is_some_and(|name| self.names.iter().any(|test| test.holds(name)))
    }

    /// Whether it restricts anything that a role allows: a condition that speaks of nothing in the role would be there for show only.
    pub fn restricts(&self, role: &RoleDefinition) -> bool {
        RepositoryPermission::ALL
            .into_iter()
            .map(RepositoryPermission::data_action)
            .any(|action| self.speaks_of(action) && role.permits_data(action))
    }

    fn speaks_of(&self, action: &Action) -> bool {
        self.actions.iter().any(|pattern| pattern.matches(action))
    }
}

impl NameTest {
    fn read(attribute: &str, operator: &str, value: &str) -> Result<Self, InvalidCondition> {
        if !attribute.eq_ignore_ascii_case(REPOSITORY_NAME) {
            return Err(InvalidCondition::new(format!(
                "it asks for the attribute '{attribute}', and only @Request[{REPOSITORY_NAME}] is supported"
            )));
        }
        let is_of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        if value.is_empty() || !value.bytes().all(is_of_a_name) {
            return Err(InvalidCondition::new(format!(
                "'{value}' is compared with a repository's name, and names have letters, digits and . _ - / only"
            )));
        }
        let value = value.to_ascii_lowercase().into();
        if operator.eq_ignore_ascii_case("StringEqualsIgnoreCase") {
            Ok(Self::Equals(value))
        } else if operator.eq_ignore_ascii_case("StringStartsWithIgnoreCase") {
            Ok(Self::StartsWith(value))
        } else {
            Err(InvalidCondition::new(format!(
                "the operator '{operator}' is not supported; StringEqualsIgnoreCase and StringStartsWithIgnoreCase are"
            )))
        }
    }

    fn holds(&self, name: &str) -> bool {
        match self {
            Self::Equals(value) => name.eq_ignore_ascii_case(value),
            Self::StartsWith(value) => name
                .get(..value.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(value)),
        }
    }
}

/// The actions in `!(ActionMatches{'…'}) AND !(ActionMatches{'…'})`.
fn restricted_actions(guard: Expression) -> Result<Vec<ActionPattern>, InvalidCondition> {
    let parts = match guard {
        Expression::All(parts) => parts,
        one => vec![one],
    };
    parts
        .into_iter()
        .map(|part| match part {
            Expression::Not(inner) => match *inner {
                Expression::ActionMatches(name) => repository_action(&name),
                _ => Err(InvalidCondition::new(
                    "it negates something else than ActionMatches",
                )),
            },
            Expression::ActionMatches(name) => Err(InvalidCondition::new(format!(
                "ActionMatches{{'{name}'}} stands there without !"
            ))),
            _ => Err(InvalidCondition::new(
                "AND joins something else than !(ActionMatches{'…'})",
            )),
        })
        .collect()
}

fn repository_action(name: &str) -> Result<ActionPattern, InvalidCondition> {
    let is_about_a_repository = name
        .get(..REPOSITORY_ACTIONS.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(REPOSITORY_ACTIONS));
    ActionPattern::parse(name)
        .ok()
        .filter(|pattern| {
            is_about_a_repository && KNOWN_ACTIONS.iter().any(|action| pattern.matches(action))
        })
        .ok_or_else(|| {
            InvalidCondition::new(format!(
                "'{name}' is no action on a repository; those are {REPOSITORY_ACTIONS}{{content,metadata}}/{{read,write,delete}}"
            ))
        })
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Condition {}

impl fmt::Debug for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Condition({})", self.text)
    }
}

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}
