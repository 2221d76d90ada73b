//! Decisions in random worlds against a slow and obvious definition of the same: groups in groups, roles with exceptions, scopes above,
//! beside and below, conditions.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rbac::{
    Action, ActionPattern, Candidate, Condition, Permission, RoleDefinition, RoleKind, Scope,
    closure, decide, decide_data,
};
use uuid::Uuid;

const REPOSITORIES: &str = "Microsoft.ContainerRegistry/registries/repositories";

/// What is asked for: actions of both kinds, some of them about a repository.
const ACTIONS: [&str; 7] = [
    "Microsoft.ContainerRegistry/registries/repositories/content/read",
    "Microsoft.ContainerRegistry/registries/repositories/content/write",
    "Microsoft.ContainerRegistry/registries/repositories/metadata/read",
    "Microsoft.ContainerRegistry/registries/catalog/read",
    "Microsoft.ContainerRegistry/registries/pull/read",
    "microsoft.containerregistry/REGISTRIES/push/write",
    "Microsoft.Authorization/roleAssignments/write",
];

const PATTERNS: [&str; 8] = [
    "*",
    "*/read",
    "*/write",
    "Microsoft.ContainerRegistry/*",
    "microsoft.containerregistry/registries/repositories/content/*",
    "Microsoft.ContainerRegistry/registries/repositories/content/read",
    "Microsoft.ContainerRegistry/registries/catalog/read",
    "Microsoft.Authorization/*/Write",
];

const SCOPES: [&str; 7] = [
    "/",
    "/subscriptions/s",
    "/subscriptions/S2",
    "/subscriptions/s/resourceGroups/g",
    "/subscriptions/s/resourceGroups/g/providers/ns/registries/r",
    "/subscriptions/s/resourceGroups/g/providers/ns/registries/R2",
    "/subscriptions/s/resourceGroups/g/providers/ns/registries/r/tokens/t",
];

const NAMES: [&str; 4] = ["app", "apple", "app/web", "other"];

#[derive(Clone, Debug)]
struct Role {
    actions: [Vec<&'static str>; 4],
}

#[derive(Clone, Debug)]
struct Restriction {
    actions: Vec<&'static str>,
    names: Vec<(bool, &'static str)>,
}

#[derive(Clone, Debug)]
struct Assigned {
    holder: u128,
    scope: &'static str,
    role: usize,
    restriction: Option<Restriction>,
}

#[derive(Clone, Debug)]
struct World {
    memberships: Vec<(u128, u128)>,
    roles: Vec<Role>,
    assigned: Vec<Assigned>,
}

fn worlds() -> impl Strategy<Value = World> {
    let patterns = || prop::collection::vec(prop::sample::select(&PATTERNS[..]), 0..3);
    let role =
        [patterns(), patterns(), patterns(), patterns()].prop_map(|actions| Role { actions });
    let restriction = (
        prop::sample::subsequence(vec!["content/read", "Content/*", "metadata/read"], 1..=3),
        prop::collection::vec(
            (
                any::<bool>(),
                prop::sample::select(vec!["app", "App/", "apple", "OTHER"]),
            ),
            1..3,
        ),
    )
        .prop_map(|(actions, names)| Restriction { actions, names });
    let assigned = (
        0_u128..8,
        prop::sample::select(&SCOPES[..]),
        0_usize..4,
        prop::option::of(restriction),
    )
        .prop_map(|(holder, scope, role, restriction)| Assigned {
            holder,
            scope,
            role,
            restriction,
        });
    (
        prop::collection::vec((0_u128..8, 0_u128..8), 0..14),
        prop::collection::vec(role, 4),
        prop::collection::vec(assigned, 0..8),
    )
        .prop_map(|(memberships, roles, assigned)| World {
            memberships,
            roles,
            assigned,
        })
}

impl Role {
    fn definition(&self, number: usize) -> RoleDefinition {
        let patterns = |at: usize| {
            self.actions[at]
                .iter()
                .map(|text| ActionPattern::parse(text).expect("a pattern"))
                .collect()
        };
        RoleDefinition {
            id: Uuid::from_u128(number as u128),
            role_name: format!("role {number}"),
            description: String::new(),
            kind: RoleKind::Custom,
            permissions: vec![Permission {
                actions: patterns(0),
                not_actions: patterns(1),
                data_actions: patterns(2),
                not_data_actions: patterns(3),
            }],
            assignable_scopes: vec![Scope::root()],
        }
    }

    fn allows(&self, action: &str, is_data: bool) -> bool {
        let any = |at: usize| {
            self.actions[at]
                .iter()
                .any(|pattern| matches(pattern, action))
        };
        let first = if is_data { 2 } else { 0 };
        any(first) && !any(first + 1)
    }
}

impl Restriction {
    fn condition(&self) -> Condition {
        let guard: Vec<String> = self
            .actions
            .iter()
            .map(|action| format!("!(ActionMatches{{'{REPOSITORIES}/{action}'}})"))
            .collect();
        let names: Vec<String> = self
            .names
            .iter()
            .map(|(is_prefix, name)| {
                let operator = if *is_prefix {
                    "StringStartsWithIgnoreCase"
                } else {
                    "StringEqualsIgnoreCase"
                };
                format!("@Request[{REPOSITORIES}:name] {operator} '{name}'")
            })
            .collect();
        let text = format!("(({}) OR ({}))", guard.join(" AND "), names.join(" OR "));
        Condition::parse(&text).expect("a condition")
    }

    fn holds(&self, action: &str, repository: Option<&str>) -> bool {
        let is_named = self
            .actions
            .iter()
            .any(|named| matches(&format!("{REPOSITORIES}/{named}"), action));
        !is_named
            || repository.is_some_and(|repository| {
                self.names.iter().any(|(is_prefix, name)| {
                    let (name, repository) = (name.to_lowercase(), repository.to_lowercase());
                    if *is_prefix {
                        repository.starts_with(&name)
                    } else {
                        repository == name
                    }
                })
            })
    }
}

/// `*` stands for any characters: tried one by one.
fn matches(pattern: &str, text: &str) -> bool {
    fn bytes(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|from| bytes(rest, &text[from..])),
            Some((byte, rest)) => text
                .split_first()
                .is_some_and(|(first, others)| first == byte && bytes(rest, others)),
        }
    }
    bytes(
        pattern.to_lowercase().as_bytes(),
        text.to_lowercase().as_bytes(),
    )
}

fn lies_in(inner: &str, outer: &str) -> bool {
    let parts = |text: &str| -> Vec<String> {
        let parts = text.split('/').filter(|part| !part.is_empty());
        parts.map(str::to_lowercase).collect()
    };
    parts(inner).starts_with(&parts(outer))
}

impl World {
    fn is_in(&self, member: u128, group: u128) -> bool {
        let mut reached = BTreeSet::from([member]);
        for _ in 0..8 {
            for (from, to) in &self.memberships {
                if reached.contains(from) {
                    reached.insert(*to);
                }
            }
        }
        reached.contains(&group)
    }

    fn allows(
        &self,
        caller: u128,
        scope: &str,
        action: &str,
        repository: Option<&str>,
        is_data: bool,
    ) -> bool {
        self.assigned.iter().any(|assigned| {
            lies_in(scope, assigned.scope)
                && self.is_in(caller, assigned.holder)
                && self.roles[assigned.role].allows(action, is_data)
                && (!is_data
                    || assigned
                        .restriction
                        .as_ref()
                        .is_none_or(|restriction| restriction.holds(action, repository)))
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decisions_are_what_the_definition_says(world in worlds()) {
        let roles: Vec<RoleDefinition> = world.roles.iter().enumerate().map(|(number, role)| role.definition(number)).collect();
        let conditions: Vec<Option<Condition>> =
            world.assigned.iter().map(|assigned| assigned.restriction.as_ref().map(Restriction::condition)).collect();
        let scopes: Vec<Scope> = world.assigned.iter().map(|assigned| Scope::parse(assigned.scope).expect("a scope")).collect();
        let candidates: Vec<Candidate<'_>> = world
            .assigned
            .iter()
            .enumerate()
            .map(|(number, assigned)| Candidate {
                scope_key: scopes[number].key(),
                principal_id: Uuid::from_u128(assigned.holder),
                role: &roles[assigned.role],
                condition: conditions[number].as_ref(),
            })
            .collect();
        for who in 0..3 {
            let caller = closure(Uuid::from_u128(who), |member| {
                let of_member = world.memberships.iter().filter(move |(from, _)| Uuid::from_u128(*from) == member);
                of_member.map(|(_, to)| Uuid::from_u128(*to)).collect::<Vec<_>>()
            });
            for scope_text in SCOPES {
                let scope = Scope::parse(scope_text).expect("a scope");
                for text in ACTIONS {
                    let action = Action::parse(text).expect("an action");
                    prop_assert_eq!(
                        decide(candidates.iter().copied(), &caller, &scope, &action),
                        world.allows(who, scope_text, text, None, false),
                        "{} {} {}", who, scope_text, text
                    );
                    for repository in NAMES.map(Some).into_iter().chain([None]) {
                        prop_assert_eq!(
                            decide_data(candidates.iter().copied(), &caller, &scope, &action, repository),
                            world.allows(who, scope_text, text, repository, true),
                            "{} {} {} {:?}", who, scope_text, text, repository
                        );
                    }
                }
            }
        }
    }
}
