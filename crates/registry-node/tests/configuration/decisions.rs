//! What an index says of rights, against all its documents decided one by one.

use std::collections::{BTreeMap, BTreeSet};

use config_documents::{Document, Revision, RoleAssignmentMode, StoredDocument};
use proptest::prelude::*;
use rbac::{
    ActionPattern, Candidate, Permission, RoleDefinition, RoleKind, Scope,
    registry::RepositoryPermission,
};
use registry_node::config::Index;
use uuid::Uuid;

use crate::support::*;

const REPOSITORIES: [&str; 4] = ["app", "apple", "app/web", "Other"];

/// A small world: principals 0 to 3 and groups 4 to 9, each by its number.
#[derive(Clone, Debug)]
struct World {
    memberships: BTreeSet<(u128, u128)>,
    roles: Vec<RoleDefinition>,
    assignments: Vec<Document>,
    is_abac: bool,
}

fn roles_of_users() -> impl Strategy<Value = Vec<RoleDefinition>> {
    let pattern = prop::sample::select(vec![
        "*",
        "*/read",
        "Microsoft.ContainerRegistry/registries/pull/read",
        "Microsoft.ContainerRegistry/registries/*/write",
        "Microsoft.ContainerRegistry/registries/repositories/*",
        "Microsoft.ContainerRegistry/registries/repositories/content/read",
        "Microsoft.ContainerRegistry/registries/catalog/read",
    ]);
    let patterns = move || {
        prop::collection::vec(pattern.clone(), 0..3).prop_map(|texts| {
            texts
                .iter()
                .map(|text| ActionPattern::parse(text).expect("a pattern"))
                .collect::<Vec<_>>()
        })
    };
    let role = (patterns(), patterns(), patterns(), patterns()).prop_map(
        |(actions, not_actions, data_actions, not_data_actions)| Permission {
            actions,
            not_actions,
            data_actions,
            not_data_actions,
        },
    );
    prop::collection::vec(role, 1..4).prop_map(|permissions| {
        permissions
            .into_iter()
            .enumerate()
            .map(|(number, permission)| RoleDefinition {
                id: Uuid::from_u128(0x701e + number as u128),
                role_name: format!("Role {number}"),
                description: String::new(),
                kind: RoleKind::Custom,
                permissions: vec![permission],
                assignable_scopes: vec![Scope::root()],
            })
            .collect()
    })
}

fn assignments() -> impl Strategy<Value = Vec<Document>> {
    let scope = prop::sample::select(vec![
        "/".to_owned(),
        SUBSCRIPTION.to_owned(),
        format!("{SUBSCRIPTION}/resourceGroups/team"),
        resource_id("CONTOSO"),
        resource_id("Contoso2"),
        format!("{}/tokens/t", resource_id("Contoso")),
    ]);
    let comparison = prop::sample::select(vec![
        "StringEqualsIgnoreCase 'APP'",
        "StringStartsWithIgnoreCase 'app'",
        "StringStartsWithIgnoreCase 'app/'",
        "StringEqualsIgnoreCase 'other'",
    ]);
    let condition = proptest::option::of((
        prop::sample::subsequence(vec!["content/read", "content/*", "metadata/read"], 1..3),
        prop::collection::vec(comparison, 1..3),
    ));
    let built_in = prop::sample::select(vec![
        Some("Owner"),
        Some("Reader"),
        Some("AcrPush"),
        Some("Container Registry Repository Writer"),
        Some("Container Registry Repository Catalog Lister"),
        None,
        None,
        None,
    ]);
    prop::collection::vec((0_u128..10, scope, built_in, 0_u128..4, condition), 0..8).prop_map(
        |entries| {
            entries
                .into_iter()
                .enumerate()
                .map(|(id, (holder, scope, built_in, custom, condition))| {
                    let role = built_in.unwrap_or("Owner");
                    let mut document = assignment(id as u128, &scope, object_id(holder), role);
                    if let (Document::RoleAssignment(assignment), None) = (&mut document, built_in)
                    {
                        // Of some there is no definition.
                        assignment.role_definition_id = Uuid::from_u128(0x701e + custom);
                    }
                    match condition {
                        Some((actions, names)) => restricted(document, &actions, &names),
                        None => document,
                    }
                })
                .collect()
        },
    )
}

fn worlds() -> impl Strategy<Value = World> {
    (
        prop::collection::btree_set((0_u128..10, 4_u128..10), 0..16),
        roles_of_users(),
        assignments(),
        any::<bool>(),
    )
        .prop_map(|(memberships, roles, assignments, is_abac)| World {
            memberships,
            roles,
            assignments,
            is_abac,
        })
}

impl World {
    fn groups_of(&self, member: u128) -> Vec<Uuid> {
        self.memberships
            .iter()
            .filter(|(from, _)| *from == member)
            .map(|(_, to)| object_id(*to))
            .collect()
    }

    fn index(&self) -> Index {
        let mut contoso = registry(1, "Contoso", 5443, &[]);
        if self.is_abac {
            contoso.role_assignment_mode = RoleAssignmentMode::AbacRepositoryPermissions;
        }
        let mut documents = roles();
        documents.push(Document::Registry(contoso));
        documents.extend(self.roles.iter().cloned().map(Document::RoleDefinition));
        for number in 0..4 {
            let nobody = credentials::Secret::new("x".to_owned());
            let groups = self.groups_of(number);
            documents.push(Document::Principal(principal(number, &nobody, &groups)));
        }
        for number in 4..10 {
            documents.push(group(object_id(number), &self.groups_of(number)));
        }
        documents.extend(self.assignments.iter().cloned());
        let mut index = Index::default();
        for document in &documents {
            index.apply(&StoredDocument {
                region: region(),
                kind: document.kind().as_str().to_owned(),
                key: document.key(),
                body: Some(document.body()),
                revision: Revision(1),
            });
        }
        assert_eq!(index.rejected().len(), 0);
        index
    }

    /// Every group that can be reached, by trying until nothing is new.
    fn reached_from(&self, start: u128) -> BTreeSet<u128> {
        let mut reached = BTreeSet::from([start]);
        loop {
            let before = reached.len();
            for (from, to) in &self.memberships {
                if reached.contains(from) {
                    reached.insert(*to);
                }
            }
            if reached.len() == before {
                return reached;
            }
        }
    }

    /// By every assignment there is.
    fn expected(
        &self,
        who: u128,
        permission: RepositoryPermission,
        repository: Option<&str>,
    ) -> bool {
        let roles: BTreeMap<Uuid, &RoleDefinition> = rbac::built_in_roles()
            .iter()
            .chain(&self.roles)
            .map(|role| (role.id, role))
            .collect();
        let reached: Vec<Uuid> = self.reached_from(who).into_iter().map(object_id).collect();
        let caller = rbac::closure(object_id(who), |_| reached.clone());
        let candidates = self.assignments.iter().filter_map(|document| {
            let Document::RoleAssignment(assignment) = document else {
                return None;
            };
            Some(Candidate {
                scope_key: assignment.scope.key(),
                principal_id: assignment.principal_id,
                role: roles.get(&assignment.role_definition_id)?,
                condition: assignment.condition.as_ref(),
            })
        });
        let scope = Scope::parse(&resource_id("Contoso")).expect("a scope");
        if self.is_abac {
            rbac::decide_data(
                candidates,
                &caller,
                &scope,
                permission.data_action(),
                repository,
            )
        } else {
            let plain = candidates.filter(|candidate| candidate.condition.is_none());
            rbac::decide(plain, &caller, &scope, permission.management_action())
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn an_index_decides_as_all_documents_together_do(world in worlds()) {
        let index = world.index();
        let entry = index.registry(Uuid::from_u128(1)).expect("a registry");
        for who in 0..4 {
            let access = index.access(entry, object_id(who));
            let mut is_any = false;
            for permission in RepositoryPermission::ALL {
                for repository in REPOSITORIES.map(Some).into_iter().chain([None]) {
                    let expected = world.expected(who, permission, repository);
                    is_any |= expected;
                    prop_assert_eq!(
                        access.permits(permission, repository),
                        expected,
                        "{} {:?} {:?}", who, permission, repository
                    );
                }
            }
            // Each condition of this world holds for one of its repositories.
            prop_assert_eq!(access.is_any(), is_any, "{}", who);
        }
    }
}
