//! Who is calling, and what it may do at this moment.

use std::sync::Arc;

use rbac::registry::{RepositoryPermission, RepositoryPermissions};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    login::{self, CredentialId},
    token::VerifiedToken,
};
use crate::{
    config::Configuration,
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
    pub(super) credential: CredentialId,
    /// A token allows this at most; a password does not limit its owner.
    pub(super) token: Option<Arc<VerifiedToken>>,
}

impl Caller {
    /// Every right in the registry, before what a token takes away.
    pub fn rights(&self) -> RepositoryPermissions {
        self.rights_at((self.sources.now)())
    }

    fn rights_at(&self, now: OffsetDateTime) -> RepositoryPermissions {
        if self.configuration.standing().refusal().is_some() {
            return RepositoryPermissions::NONE;
        }
        let index = self.configuration.index();
        let Some(entry) = index.registry(self.registry) else {
            return RepositoryPermissions::NONE;
        };
        if login::is_current(&index, entry, &self.credential, now) {
            login::rights(&index, entry, &self.credential)
        } else {
            RepositoryPermissions::NONE
        }
    }

    /// Whether what the caller came in with still counts.
    pub(super) fn is_current(&self) -> bool {
        let now = (self.sources.now)();
        let index = self.configuration.index();
        index
            .registry(self.registry)
            .is_some_and(|entry| login::is_current(&index, entry, &self.credential, now))
    }

    /// Whether the caller has all of it.
    pub fn has(&self, required: &[RequiredAccess]) -> bool {
        let rights = self.rights();
        required.iter().all(|access| match access {
            RequiredAccess::Base => !rights.is_empty(),
            RequiredAccess::Catalog => {
                rights.contains(RepositoryPermission::Catalog)
                    && self.token.as_ref().is_none_or(|token| token.scope.catalog)
            }
            RequiredAccess::Repository { name, action } => {
                self.bounded(rights, name).contains(permission_of(*action))
            }
        })
    }

    fn bounded(
        &self,
        rights: RepositoryPermissions,
        repository: &RepositoryName,
    ) -> RepositoryPermissions {
        match &self.token {
            Some(token) => rights.intersection(token.scope.rights_in(repository)),
            None => rights,
        }
    }
}

impl oci::Caller for Caller {
    fn may(&self, repository: &RepositoryName, action: RepositoryAction) -> bool {
        self.bounded(self.rights(), repository)
            .contains(permission_of(action))
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
    }
}
