//! Who is calling, and what it may do at this moment.

use std::sync::Arc;

use rbac::registry::RepositoryPermission;
use uuid::Uuid;

use super::{
    admission::{CallerKey, Who},
    login::{self, CredentialId, Origin},
    token::VerifiedToken,
    token_scope::TokenScope,
};
use crate::{
    config::{Access, Configuration},
    content::Sources,
    names::RepositoryName,
    oci::{self, RepositoryAction, RequiredAccess},
};

/// Somebody known. Every question is answered from the index as it is then: what was revoked
/// since the request began is gone.
pub struct Caller {
    pub(super) configuration: Arc<Configuration>,
    pub(super) sources: Sources,
    pub(super) registry: Uuid,
    pub(super) name: String,
    pub(super) origin: Origin,
    /// A token allows this at most; a password does not limit its owner.
    pub(super) token: Option<Arc<VerifiedToken>>,
}

/// What the caller may do in the registry, before what a token takes away.
enum Rights<'a> {
    None,
    All,
    /// To read whatever there is, in either mode of role assignments: what everybody may read.
    Anonymous,
    OfRoles(Access<'a>),
}

impl Rights<'_> {
    fn permits(
        &self,
        permission: RepositoryPermission,
        repository: Option<&RepositoryName>,
    ) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Anonymous => matches!(
                permission,
                RepositoryPermission::Pull
                    | RepositoryPermission::MetadataRead
                    | RepositoryPermission::Catalog
            ),
            Self::OfRoles(access) => {
                access.permits(permission, repository.map(RepositoryName::as_str))
            }
        }
    }

    fn is_any(&self) -> bool {
        match self {
            Self::None => false,
            Self::All | Self::Anonymous => true,
            Self::OfRoles(access) => access.is_any(),
        }
    }
}

impl Caller {
    /// Asks one question of the index as it is now.
    fn now<T>(&self, question: impl FnOnce(&Rights<'_>) -> T) -> T {
        if self.configuration.standing().refusal().is_some() {
            return question(&Rights::None);
        }
        let now = (self.sources.now)();
        let index = self.configuration.index();
        let entry = index
            .registry(self.registry)
            .filter(|entry| login::is_current(&index, entry, &self.origin, now));
        question(&match (entry, self.origin.credential) {
            (None, _) => Rights::None,
            (Some(_), CredentialId::Admin { .. }) => Rights::All,
            (Some(_), CredentialId::Anonymous) => Rights::Anonymous,
            (Some(entry), CredentialId::Principal { object_id, .. }) => {
                Rights::OfRoles(index.access(entry, object_id))
            }
        })
    }

    /// For whom its requests count.
    pub(super) fn key(&self) -> CallerKey {
        CallerKey {
            registry: self.registry,
            who: match self.origin.credential {
                CredentialId::Admin { .. } => Who::Admin,
                CredentialId::Principal { object_id, .. } => Who::Principal(object_id),
                CredentialId::Anonymous => Who::Anonymous,
            },
        }
    }

    /// Whether what the caller came in with still counts.
    pub(super) fn is_current(&self) -> bool {
        let now = (self.sources.now)();
        let index = self.configuration.index();
        index
            .registry(self.registry)
            .is_some_and(|entry| login::is_current(&index, entry, &self.origin, now))
    }

    /// Whether the caller has all of it.
    pub fn has(&self, required: &[RequiredAccess]) -> bool {
        self.now(|rights| {
            required.iter().all(|access| match access {
                RequiredAccess::Base => rights.is_any(),
                RequiredAccess::Catalog => self.may_list(rights),
                RequiredAccess::Repository { name, action } => {
                    self.may_in(rights, name, permission_of(*action))
                }
            })
        })
    }

    /// What of this the caller has; `None` if it has no right in the registry at all.
    pub(super) fn granted(&self, asked: &TokenScope) -> Option<TokenScope> {
        self.now(|rights| {
            rights.is_any().then(|| {
                asked.granted(
                    |name, permission| self.may_in(rights, name, permission),
                    self.may_list(rights),
                )
            })
        })
    }

    fn may_list(&self, rights: &Rights<'_>) -> bool {
        self.token.as_ref().is_none_or(|token| token.scope.catalog)
            && rights.permits(RepositoryPermission::Catalog, None)
    }

    fn may_in(
        &self,
        rights: &Rights<'_>,
        repository: &RepositoryName,
        permission: RepositoryPermission,
    ) -> bool {
        self.token
            .as_ref()
            .is_none_or(|token| token.scope.rights_in(repository).contains(permission))
            && rights.permits(permission, Some(repository))
    }
}

impl oci::Caller for Caller {
    fn may(&self, repository: &RepositoryName, action: RepositoryAction) -> bool {
        self.now(|rights| self.may_in(rights, repository, permission_of(action)))
    }

    fn name(&self) -> &str {
        &self.name
    }
}

fn permission_of(action: RepositoryAction) -> RepositoryPermission {
    match action {
        RepositoryAction::Pull => RepositoryPermission::Pull,
        RepositoryAction::Push => RepositoryPermission::Push,
        RepositoryAction::Delete => RepositoryPermission::Delete,
        RepositoryAction::MetadataRead => RepositoryPermission::MetadataRead,
        RepositoryAction::MetadataWrite => RepositoryPermission::MetadataWrite,
    }
}
