//! The decision itself.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

use uuid::Uuid;

use crate::{Action, Condition, RoleDefinition, Scope, scope::key_contains};

/// Up to this many members a walk through the list is faster than a hash.
const LISTED_MAXIMUM: usize = 16;

/// A principal and every group that it is in, directly or through other groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closure {
    members: Vec<Uuid>,
    /// The same ids, once there are more than [`LISTED_MAXIMUM`].
    index: HashSet<Uuid, BuildHasherDefault<IdHasher>>,
}

impl Closure {
    /// The principal first, then its groups in no particular order; none twice.
    pub fn iter(&self) -> impl Iterator<Item = Uuid> {
        self.members.iter().copied()
    }

    /// Whether a role assigned to this id counts for the principal.
    pub fn contains(&self, id: Uuid) -> bool {
        if self.index.is_empty() {
            self.members.contains(&id)
        } else {
            self.index.contains(&id)
        }
    }

    fn insert(&mut self, id: Uuid) {
        let is_new = if self.index.is_empty() {
            !self.members.contains(&id)
        } else {
            self.index.insert(id)
        };
        if !is_new {
            return;
        }
        self.members.push(id);
        if self.index.is_empty() && self.members.len() > LISTED_MAXIMUM {
            self.index.extend(&self.members);
        }
    }
}

/// For ids, which are random already; somebody in a thousand groups pays for each of them with every request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            // An odd number without a pattern, so that ids which are not random are spread too.
            self.0 = (self.0.rotate_left(23) ^ u64::from_le_bytes(word))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}

/// Follows memberships from `start`: `direct_groups` names the groups that a principal or group is a
/// direct member of. Groups that contain each other are met once.
pub fn closure<I: IntoIterator<Item = Uuid>>(
    start: Uuid,
    mut direct_groups: impl FnMut(Uuid) -> I,
) -> Closure {
    let mut closure = Closure {
        members: vec![start],
        index: HashSet::default(),
    };
    let mut next = 0;
    while let Some(&member) = closure.members.get(next) {
        next += 1;
        let groups = direct_groups(member).into_iter();
        let most = groups.size_hint().1.unwrap_or(0);
        if most > LISTED_MAXIMUM {
            closure.index.reserve(most);
            closure.members.reserve(most);
        }
        for group in groups {
            closure.insert(group);
        }
    }
    closure
}

/// A role assignment that may count for a decision. It is checked again there, so whoever collects
/// candidates may bring too many, never too few.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// The canonical key of the assignment's scope ([`Scope::key`]).
    pub scope_key: &'a str,
    /// Whom the role is assigned to.
    pub principal_id: Uuid,
    /// The role.
    pub role: &'a RoleDefinition,
    /// What restricts its data actions.
    pub condition: Option<&'a Condition>,
}

impl Candidate<'_> {
    fn applies(&self, caller: &Closure, scope: &Scope) -> bool {
        key_contains(self.scope_key, scope.key()) && caller.contains(self.principal_id)
    }
}

/// Whether the caller may do `action` at `scope`: the union of its roles at that scope and above
/// it, each role less its own exceptions. Nothing is allowed that no role allows. Conditions speak of data actions only, so they
/// restrict nothing here.
pub fn decide<'a>(
    candidates: impl IntoIterator<Item = Candidate<'a>>,
    caller: &Closure,
    scope: &Scope,
    action: &Action,
) -> bool {
    permits(applicable(candidates, caller, scope), action)
}

/// The same for a data action, on a repository where the action is about one. An assignment whose condition does not hold for it is
/// passed over.
pub fn decide_data<'a>(
    candidates: impl IntoIterator<Item = Candidate<'a>>,
    caller: &Closure,
    scope: &Scope,
    action: &Action,
    repository: Option<&str>,
) -> bool {
    let holding = candidates.into_iter().filter(|candidate| {
        candidate
            .condition
            .is_none_or(|condition| condition.holds(action, repository))
    });
    permits_data(applicable(holding, caller, scope), action)
}

fn applicable<'a>(
    candidates: impl IntoIterator<Item = Candidate<'a>>,
    caller: &Closure,
    scope: &Scope,
) -> impl Iterator<Item = &'a RoleDefinition> {
    candidates
        .into_iter()
        .filter(|candidate| candidate.applies(caller, scope))
        .map(|candidate| candidate.role)
}

/// Whether any of these roles, which all apply, allows the action.
pub fn permits<'a>(
    assigned: impl IntoIterator<Item = &'a RoleDefinition>,
    action: &Action,
) -> bool {
    assigned.into_iter().any(|role| role.permits(action))
}

/// The same for a data action.
pub fn permits_data<'a>(
    assigned: impl IntoIterator<Item = &'a RoleDefinition>,
    action: &Action,
) -> bool {
    assigned.into_iter().any(|role| role.permits_data(action))
}
