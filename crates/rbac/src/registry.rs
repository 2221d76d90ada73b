//! What can be done with a registry's content, and which actions allow it.

use std::sync::LazyLock;

use crate::Action;

/// One right in the data plane of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RepositoryPermission {
    /// Read manifests, blobs, tags and referrers.
    Pull,
    /// Upload and mount blobs, write manifests and tags.
    Push,
    /// Delete manifests, tags and blobs.
    Delete,
    /// Read attributes of repositories, manifests and tags.
    MetadataRead,
    /// Change these attributes.
    MetadataWrite,
    /// List the registry's repositories.
    Catalog,
}

struct Actions {
    management: Action,
    data: Action,
}

/// In the order of [`RepositoryPermission::ALL`].
static ACTIONS: LazyLock<[Actions; 6]> = LazyLock::new(|| {
    [
        ("pull/read", "repositories/content/read"),
        ("push/write", "repositories/content/write"),
        ("artifacts/delete", "repositories/content/delete"),
        ("metadata/read", "repositories/metadata/read"),
        ("metadata/write", "repositories/metadata/write"),
        ("read", "catalog/read"),
    ]
    .map(|(management, data)| Actions {
        management: registry_action(management),
        data: registry_action(data),
    })
});

fn registry_action(name: &str) -> Action {
    Action::parse(&format!("Microsoft.ContainerRegistry/registries/{name}"))
        .expect("the table holds actions only")
}

impl RepositoryPermission {
    /// Every right there is.
    pub const ALL: [Self; 6] = [
        Self::Pull,
        Self::Push,
        Self::Delete,
        Self::MetadataRead,
        Self::MetadataWrite,
        Self::Catalog,
    ];

    /// The control-plane action that grants it where `roleAssignmentMode` is
    /// `LegacyRegistryPermissions`.
    ///
    /// The catalog follows the right to read the registry itself: Owner, Contributor and Reader
    /// list repositories, AcrPull and AcrPush do not.
    pub fn management_action(self) -> &'static Action {
        &ACTIONS[self as usize].management
    }

    /// The data action that grants it where `roleAssignmentMode` is `AbacRepositoryPermissions`.
    pub fn data_action(self) -> &'static Action {
        &ACTIONS[self as usize].data
    }

    /// As it is written in a token's scope; the catalog is a resource of its own there
    /// (`registry:catalog:*`) and has no name among the actions of a repository.
    pub fn scope_action(self) -> Option<&'static str> {
        Some(match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::MetadataRead => "metadata_read",
            Self::MetadataWrite => "metadata_write",
            Self::Catalog => return None,
        })
    }

    /// The reverse of [`RepositoryPermission::scope_action`].
    pub fn of_scope_action(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|permission| permission.scope_action() == Some(name))
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RepositoryPermissions(u8);

impl RepositoryPermissions {
    /// No right.
    pub const NONE: Self = Self(0);

    /// Every right: what the admin account has.
    pub fn all() -> Self {
        RepositoryPermission::ALL.into_iter().collect()
    }

    /// Every right on a single repository: what `*` means in a token's scope.
    pub fn whole_repository() -> Self {
        let mut rights = Self::all();
        rights.remove(RepositoryPermission::Catalog);
        rights
    }

    /// Adds a right.
    pub fn insert(&mut self, permission: RepositoryPermission) {
        self.0 |= 1 << permission as u8;
    }

    /// Takes a right away.
    pub fn remove(&mut self, permission: RepositoryPermission) {
        self.0 &= !(1 << permission as u8);
    }

    /// Whether the right is in the set.
    pub fn contains(self, permission: RepositoryPermission) -> bool {
        self.0 & (1 << permission as u8) != 0
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is no right in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The rights in the set, in the order of [`RepositoryPermission::ALL`].
    pub fn iter(self) -> impl Iterator<Item = RepositoryPermission> {
        RepositoryPermission::ALL
            .into_iter()
            .filter(move |permission| self.contains(*permission))
    }
}

impl FromIterator<RepositoryPermission> for RepositoryPermissions {
    fn from_iter<I: IntoIterator<Item = RepositoryPermission>>(permissions: I) -> Self {
        let mut rights = Self::NONE;
        for permission in permissions {
            rights.insert(permission);
        }
        rights
    }
}
