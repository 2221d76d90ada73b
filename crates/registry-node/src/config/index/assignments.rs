//! Role assignments by principal and scope.

use rbac::{Condition, RoleAssignment};
use uuid::Uuid;

use super::super::sharded_map::ShardedMap;

/// Scopes are numbered, so that each long key is kept once and compared once a decision.
#[derive(Default)]
pub(super) struct Assignments {
    by_id: ShardedMap<Uuid, (u32, Uuid)>,
    scopes: ShardedMap<Box<str>, u32>,
    /// For each number its key and how many assignments and registries use it; numbers without use are free.
    uses: Vec<(Box<str>, u32)>,
    free: Vec<u32>,
    /// Of each principal what it holds, ordered by scope.
    held: ShardedMap<Uuid, Vec<Held>>,
}

pub(super) struct Held {
    scope: u32,
    assignment_id: Uuid,
    pub(super) role_definition_id: Uuid,
    /// Few have one.
    pub(super) condition: Option<Box<Condition>>,
}

/// What is held at exactly this scope.
pub(super) fn held_at(held: &[Held], scope: u32) -> &[Held] {
    let start = held.partition_point(|held| held.scope < scope);
    let rest = &held[start..];
    let length = rest.iter().take_while(|held| held.scope == scope).count();
    &rest[..length]
}

impl Assignments {
    pub(super) fn held_by(&self, principal_id: Uuid) -> &[Held] {
        self.held.get(&principal_id).map_or(&[], Vec::as_slice)
    }

    pub(super) fn insert(&mut self, assignment: RoleAssignment) {
        let scope = self.number_of(assignment.scope.key());
        self.by_id
            .insert(assignment.id, (scope, assignment.principal_id));
        let held = self.held.get_or_default(assignment.principal_id);
        let at = held.partition_point(|held| held.scope <= scope);
        held.insert(
            at,
            Held {
                scope,
                assignment_id: assignment.id,
                role_definition_id: assignment.role_definition_id,
                condition: assignment.condition.map(Box::new),
            },
        );
    }

    pub(super) fn remove(&mut self, id: Uuid) {
        let Some((scope, principal_id)) = self.by_id.remove(&id) else {
            return;
        };
        if let Some(held) = self.held.get_mut(&principal_id) {
            held.retain(|held| held.assignment_id != id);
            if held.is_empty() {
                self.held.remove(&principal_id);
            }
        }
        self.give_back(scope);
    }

    /// One use less of a number that [`Self::number_of`] gave.
    pub(super) fn give_back(&mut self, scope: u32) {
        let (key, uses) = &mut self.uses[scope as usize];
        *uses -= 1;
        if *uses == 0 {
            self.scopes.remove(key.as_ref());
            *key = Box::default();
            self.free.push(scope);
        }
    }

    /// The number of a scope, with one use more.
    pub(super) fn number_of(&mut self, scope_key: &str) -> u32 {
        if let Some(number) = self.scopes.get(scope_key).copied() {
            self.uses[number as usize].1 += 1;
            return number;
        }
        let entry = (Box::from(scope_key), 1);
        let number = match self.free.pop() {
            Some(number) => {
                self.uses[number as usize] = entry;
                number
            }
            None => {
                self.uses.push(entry);
                u32::try_from(self.uses.len() - 1).expect("memory ends before four billion scopes")
            }
        };
        self.scopes.insert(scope_key.into(), number);
        number
    }
}
