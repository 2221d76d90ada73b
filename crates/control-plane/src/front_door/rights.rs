//! What a caller holds, made ready for decisions.

use std::collections::HashMap;
use std::sync::LazyLock;

use rbac::{Action, Candidate, Closure, RoleDefinition, Scope};
use store::access::{AssignedRole, HeldRoles};
use uuid::Uuid;

static BUILT_IN: LazyLock<HashMap<Uuid, &'static RoleDefinition>> = LazyLock::new(|| {
    rbac::built_in_roles()
        .iter()
        .map(|role| (role.id, role))
        .collect()
});

/// A built-in role by its id.
pub(crate) fn built_in_role(id: Uuid) -> Option<&'static RoleDefinition> {
    BUILT_IN.get(&id).copied()
}

/// The roles of a caller and its groups, by the scopes at which they hold them.
pub(crate) struct Rights {
    caller: Closure,
    by_scope: HashMap<String, Vec<AssignedRole>>,
    custom: HashMap<Uuid, RoleDefinition>,
}

impl Rights {
    pub(crate) fn of(principal_id: Uuid, held: HeldRoles) -> Self {
        // The store followed the memberships: whoever an assignment names is the caller or one of its groups.
        let caller = rbac::closure(principal_id, |member| {
            let groups = held
                .assignments
                .iter()
                .map(|assigned| assigned.principal_id);
            groups
                .take(if member == principal_id {
                    usize::MAX
                } else {
                    0
                })
                .collect::<Vec<_>>()
        });
        let mut by_scope: HashMap<String, Vec<AssignedRole>> = HashMap::new();
        for assigned in held.assignments {
            match by_scope.get_mut(&assigned.scope_key) {
                Some(others) => others.push(assigned),
                None => {
                    by_scope.insert(assigned.scope_key.clone(), vec![assigned]);
                }
            }
        }
        let custom = held.custom.into_iter().map(|role| (role.id, role));
        Self {
            caller,
            by_scope,
            custom: custom.collect(),
        }
    }

    /// Whether the caller may do an action of the control plane at a scope.
    pub(crate) fn allow(&self, scope: &Scope, action: &Action) -> bool {
        rbac::decide(self.candidates(scope), &self.caller, scope, action)
    }

    /// The roles that count at a scope, one for each assignment.
    pub(crate) fn roles_at(&self, scope: &Scope) -> impl Iterator<Item = &RoleDefinition> {
        self.candidates(scope).map(|candidate| candidate.role)
    }

    /// Whether the caller has any role at the scope, above it or below it.
    pub(crate) fn touch(&self, scope: &Scope) -> bool {
        let below = format!("{}/", scope.key().trim_end_matches('/'));
        scope
            .ancestors_and_self()
            .any(|key| self.by_scope.contains_key(key))
            || self.by_scope.keys().any(|key| key.starts_with(&below))
    }

    /// The keys of the scopes at which the caller holds any role.
    pub(crate) fn scope_keys(&self) -> impl Iterator<Item = &str> {
        self.by_scope.keys().map(String::as_str)
    }

    fn candidates(&self, scope: &Scope) -> impl Iterator<Item = Candidate<'_>> {
        let keys: Vec<&Vec<AssignedRole>> = scope
            .ancestors_and_self()
            .filter_map(|key| self.by_scope.get(key))
            .collect();
        keys.into_iter().flatten().filter_map(|assigned| {
            let id = assigned.role_definition_id;
            Some(Candidate {
                scope_key: &assigned.scope_key,
                principal_id: assigned.principal_id,
                role: built_in_role(id).or_else(|| self.custom.get(&id))?,
                // Conditions speak of data actions only: here they restrict nothing.
                condition: None,
            })
        })
    }
}
