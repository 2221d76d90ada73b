//! What a principal may do in a registry.

use config_documents::RoleAssignmentMode;
use rbac::{
    Candidate, Closure,
    registry::{RepositoryPermission, RepositoryPermissions},
};
use uuid::Uuid;

use super::{Index, RegistryEntry, assignments};

/// All that decides about a principal in one registry, as the index has it at this moment: which roles it holds there and above, itself or
/// through groups. Collected once, asked as often as needed.
pub struct Access<'a> {
    entry: &'a RegistryEntry,
    caller: Closure,
    candidates: Vec<Candidate<'a>>,
}

impl Index {
    /// What decides about the principal in the registry. Whether the principal is enabled, and who it is, is not asked here.
    pub fn access<'a>(&'a self, entry: &'a RegistryEntry, object_id: Uuid) -> Access<'a> {
        let caller = self.closure(object_id);
        let candidates = self.candidates(entry, &caller);
        Access {
            entry,
            caller,
            candidates,
        }
    }

    fn closure(&self, object_id: Uuid) -> Closure {
        rbac::closure(object_id, |id| {
            // Whatever is reached is a group; only the start can be a principal.
            let of_group = || self.groups.get(&id).map(|group| &group.groups);
            let direct = if id == object_id {
                let of_principal = self.principals.get(&id).map(|principal| &principal.groups);
                of_principal.or_else(of_group)
            } else {
                of_group()
            };
            direct.map_or(&[][..], Vec::as_slice).iter().copied()
        })
    }

    /// The assignments that may count: those of the caller and its groups at the registry's scope and above it. A condition speaks of data
    /// actions, which do not count in the older mode: what it was to restrict is not given there at all.
    fn candidates<'a>(&'a self, entry: &'a RegistryEntry, caller: &Closure) -> Vec<Candidate<'a>> {
        let takes_conditions =
            entry.registry.role_assignment_mode == RoleAssignmentMode::AbacRepositoryPermissions;
        let mut candidates = Vec::new();
        for principal_id in caller.iter() {
            let held = self.assignments.held_by(principal_id);
            if held.is_empty() {
                continue;
            }
            let scopes = entry.scope.ancestors_and_self().zip(&entry.scope_numbers);
            for (scope_key, number) in scopes {
                let at_scope = assignments::held_at(held, *number);
                let counting = at_scope
                    .iter()
                    .filter(|held| takes_conditions || held.condition.is_none());
                candidates.extend(counting.filter_map(|held| {
                    Some(Candidate {
                        scope_key,
                        principal_id,
                        role: self.role_definitions.get(&held.role_definition_id)?,
                        condition: held.condition.as_deref(),
                    })
                }));
            }
        }
        candidates
    }
}

impl Access<'_> {
    /// Whether the principal has a right in this repository. A right that is not about one repository, as that to list them, is asked for
    /// with `None`.
    pub fn permits(&self, permission: RepositoryPermission, repository: Option<&str>) -> bool {
        self.decide(self.candidates.iter().copied(), permission, repository)
    }

    /// Every right that the principal has in this repository, and that to list them all.
    pub fn rights(&self, repository: &str) -> RepositoryPermissions {
        RepositoryPermission::ALL
            .into_iter()
            .filter(|permission| self.permits(*permission, Some(repository)))
            .collect()
    }

    /// Whether the principal has any right in any repository, or that to list them.
    pub fn is_any(&self) -> bool {
        // Each condition holds for some repository.
        let anywhere = || {
            self.candidates.iter().map(|candidate| Candidate {
                condition: None,
                ..*candidate
            })
        };
        RepositoryPermission::ALL
            .into_iter()
            .any(|permission| self.decide(anywhere(), permission, None))
    }

    fn decide<'c>(
        &self,
        candidates: impl IntoIterator<Item = Candidate<'c>>,
        permission: RepositoryPermission,
        repository: Option<&str>,
    ) -> bool {
        let (caller, scope) = (&self.caller, &self.entry.scope);
        match self.entry.registry.role_assignment_mode {
            RoleAssignmentMode::LegacyRegistryPermissions => {
                rbac::decide(candidates, caller, scope, permission.management_action())
            }
            RoleAssignmentMode::AbacRepositoryPermissions => rbac::decide_data(
                candidates,
                caller,
                scope,
                permission.data_action(),
                repository,
            ),
        }
    }
}
