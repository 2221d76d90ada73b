//! What a token is asked for and what it then says: `repository:{name}:{actions}` and
//! `registry:catalog:*`.

use std::str::FromStr;

use rbac::registry::{RepositoryPermission, RepositoryPermissions};
use serde::{Deserialize, Serialize};

use crate::{
    limits::TOKEN_SCOPES_MAXIMUM,
    names::{NameError, RepositoryName, shown},
};

/// What a request for a token asks for, or what a token allows at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenScope {
    /// Each repository once.
    pub repositories: Vec<(RepositoryName, RepositoryPermissions)>,
    /// Whether the list of repositories is asked for.
    pub catalog: bool,
}

/// A scope that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTokenScope {
    /// Not three parts.
    #[error("the scope {0} is not valid: it is a type, a name and actions, separated by ':'")]
    Form(String),
    /// The repository's name breaks its grammar.
    #[error("the scope {scope} is not valid")]
    Name {
        /// The scope, quoted.
        scope: String,
        /// What is wrong with the name.
        #[source]
        source: NameError,
    },
    /// More than anyone needs.
    #[error("more than {TOKEN_SCOPES_MAXIMUM} scopes are asked for at once")]
    TooMany,
}

/// One entry of a token's `access` claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessEntry {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The repository, or `catalog`.
    pub name: String,
    /// What may be done with it.
    pub actions: Vec<String>,
}

impl TokenScope {
    /// Reads the `scope` parameters of a request; each may hold several scopes separated by blanks.
    /// What names nothing that exists here (types, actions) asks for nothing.
    ///
    /// # Errors
    /// See [`InvalidTokenScope`].
    pub fn parse<'a>(
        parameters: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidTokenScope> {
        let mut scope = Self::default();
        let entries = parameters
            .into_iter()
            .flat_map(|parameter| parameter.split(' '))
            .filter(|entry| !entry.is_empty());
        for (number, entry) in entries.enumerate() {
            if number >= TOKEN_SCOPES_MAXIMUM {
                return Err(InvalidTokenScope::TooMany);
            }
            scope.add(entry)?;
        }
        Ok(scope)
    }

    fn add(&mut self, entry: &str) -> Result<(), InvalidTokenScope> {
        let form = || InvalidTokenScope::Form(shown(entry));
        let (kind, rest) = entry.split_once(':').ok_or_else(form)?;
        let (name, actions) = rest.rsplit_once(':').ok_or_else(form)?;
        // A class, as in `repository(plugin)`, says nothing about rights.
        let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
        match kind {
            "repository" | "artifact-repository" => {
                let name =
                    RepositoryName::from_str(name).map_err(|source| InvalidTokenScope::Name {
                        scope: shown(entry),
                        source,
                    })?;
                self.add_repository(name, rights_of(actions.split(',')));
            }
            "registry" if name == "catalog" => {
                self.catalog |= actions.split(',').any(|action| action == "*");
            }
            _ => {}
        }
        Ok(())
    }

    fn add_repository(&mut self, name: RepositoryName, rights: RepositoryPermissions) {
        match self
            .repositories
            .iter_mut()
            .find(|(known, _)| *known == name)
        {
            Some((_, known)) => *known = known.iter().chain(rights.iter()).collect(),
            None => self.repositories.push((name, rights)),
        }
    }

    /// What of this the caller has, by its rights in each repository. Repositories of which nothing remains are left out.
    #[must_use]
    pub fn granted(
        &self,
        permits: impl Fn(&RepositoryName, RepositoryPermission) -> bool,
        may_list: bool,
    ) -> Self {
        let granted = |(name, asked): &(RepositoryName, RepositoryPermissions)| {
            let granted = asked.iter().filter(|permission| permits(name, *permission));
            (name.clone(), granted.collect::<RepositoryPermissions>())
        };
        Self {
            repositories: self
                .repositories
                .iter()
                .map(granted)
                .filter(|(_, granted)| !granted.is_empty())
                .collect(),
            catalog: self.catalog && may_list,
        }
    }

    /// What it allows in a repository.
    pub fn rights_in(&self, repository: &RepositoryName) -> RepositoryPermissions {
        self.repositories
            .iter()
            .find(|(name, _)| name == repository)
            .map_or(RepositoryPermissions::NONE, |(_, rights)| *rights)
    }

    /// As the `access` claim of a token.
    pub fn to_access(&self) -> Vec<AccessEntry> {
        let repositories = self.repositories.iter().map(|(name, rights)| AccessEntry {
            kind: "repository".to_owned(),
            name: name.as_str().to_owned(),
            actions: rights
                .iter()
                .filter_map(RepositoryPermission::scope_action)
                .map(str::to_owned)
                .collect(),
        });
        let catalog = self.catalog.then(|| AccessEntry {
            kind: "registry".to_owned(),
            name: "catalog".to_owned(),
            actions: vec!["*".to_owned()],
        });
        repositories.chain(catalog).collect()
    }

    /// The reverse of [`TokenScope::to_access`]. What cannot be read allows nothing.
    pub fn of_access(access: &[AccessEntry]) -> Self {
        let mut scope = Self::default();
        for entry in access {
            let actions = entry.actions.iter().map(String::as_str);
            match (entry.kind.as_str(), RepositoryName::from_str(&entry.name)) {
                ("registry", _) if entry.name == "catalog" => scope.catalog = true,
                ("repository", Ok(name)) => scope.add_repository(name, rights_of(actions)),
                _ => {}
            }
        }
        scope
    }
}

fn rights_of<'a>(actions: impl Iterator<Item = &'a str>) -> RepositoryPermissions {
    let mut rights = RepositoryPermissions::NONE;
    for action in actions {
        if action == "*" {
            return RepositoryPermissions::whole_repository();
        }
        if let Some(permission) = RepositoryPermission::of_scope_action(action) {
            rights.insert(permission);
        }
    }
    rights
}
