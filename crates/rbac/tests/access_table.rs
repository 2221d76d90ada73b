//! Every built-in role, assigned at each relation to a registry, against everything that can be done there, in both modes; compared with a
//! committed table.
//!
//! After a change on purpose: `WHARFINGER_UPDATE_TABLES=1 cargo test -p rbac --test access_table`.

use std::{env, fmt::Write, fs, path::Path};

use rbac::{
    Action, Candidate, Closure, Condition, RoleDefinition, Scope, built_in_roles, closure, decide,
    decide_data, registry::RepositoryPermission,
};
use uuid::Uuid;

const ACTIONS: &str = include_str!("actions.txt");

const REGISTRY: &str =
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/contoso";

/// Where a role is assigned, seen from the registry that something is done in. All scopes of one relation must decide alike.
const RELATIONS: [(&str, &[&str]); 4] = [
    (
        "same",
        &[
            REGISTRY,
            "/SUBSCRIPTIONS/S/RESOURCEGROUPS/G/PROVIDERS/MICROSOFT.CONTAINERREGISTRY/REGISTRIES/CONTOSO",
        ],
    ),
    (
        "parent",
        &["/", "/subscriptions/s", "/subscriptions/s/resourceGroups/g"],
    ),
    (
        "child",
        &[
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/contoso/tokens/t",
        ],
    ),
    (
        "other",
        &[
            "/subscriptions/t",
            "/subscriptions/s/resourceGroups/gg",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/contoso2",
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Other/registries/contoso",
        ],
    ),
];

/// What an assignment is restricted to in the table's rows "where its condition holds" and "elsewhere".
const CONDITION: &str = "!(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/*'}) OR \
    @Request[Microsoft.ContainerRegistry/registries/repositories:name] StringEqualsIgnoreCase 'named'";

/// The numbers of the roles for which it is so.
fn roles_that(mut may: impl FnMut(&RoleDefinition) -> bool) -> String {
    let numbers: Vec<String> = built_in_roles()
        .iter()
        .enumerate()
        .filter(|(_, role)| may(role))
        .map(|(number, _)| (number + 1).to_string())
        .collect();
    if numbers.is_empty() {
        "-".to_owned()
    } else {
        numbers.join(" ")
    }
}

/// One line for each relation.
fn rows(text: &mut String, title: &str, decide: impl Fn(&Candidate<'_>, &Closure, &Scope) -> bool) {
    let holder = Uuid::from_u128(1);
    let caller = closure(holder, |_| []);
    let registry = Scope::parse(REGISTRY).expect("a scope");
    for (relation, scopes) in RELATIONS {
        let found: Vec<String> = scopes
            .iter()
            .map(|scope| {
                let scope = Scope::parse(scope).expect("a scope");
                roles_that(|role| {
                    let candidate = Candidate {
                        scope_key: scope.key(),
                        principal_id: holder,
                        role,
                        condition: None,
                    };
                    decide(&candidate, &caller, &registry)
                })
            })
            .collect();
        assert!(
            found.iter().all(|roles| *roles == found[0]),
            "{title}: the scopes of '{relation}' differ: {found:?}"
        );
        writeln!(text, "{title} | {relation} | {}", found[0]).expect("memory");
    }
}

fn table() -> String {
    let mut text = String::new();
    let condition = condition();
    for (number, role) in built_in_roles().iter().enumerate() {
        writeln!(text, "{:>2} {}", number + 1, role.role_name).expect("memory");
    }
    writeln!(text, "\nManagement of the registry, in either mode").expect("memory");
    for line in ACTIONS.lines() {
        let Some(name) = line.strip_prefix("action ") else {
            continue;
        };
        let action = Action::parse(name.trim()).expect("an action");
        if name.contains("/registries/") {
            rows(&mut text, name, |candidate, caller, registry| {
                let restricted = Candidate {
                    condition: Some(&condition),
                    ..*candidate
                };
                let may = decide([*candidate], caller, registry, &action);
                assert_eq!(may, decide([restricted], caller, registry, &action));
                may
            });
        }
    }
    writeln!(text, "\nContent, LegacyRegistryPermissions").expect("memory");
    for permission in RepositoryPermission::ALL {
        let title = format!("{permission:?}");
        rows(&mut text, &title, |candidate, caller, registry| {
            decide(
                [*candidate],
                caller,
                registry,
                permission.management_action(),
            )
        });
    }
    for (title, is_restricted, repository) in [
        ("without a condition", false, "named"),
        ("where the condition holds", true, "named"),
        ("where the condition does not hold", true, "another"),
    ] {
        writeln!(text, "\nContent, AbacRepositoryPermissions, {title}").expect("memory");
        for line in ACTIONS.lines() {
            let Some(name) = line.strip_prefix("data ") else {
                continue;
            };
            let action = Action::parse(name.trim()).expect("an action");
            let repository = name.contains("/repositories/").then_some(repository);
            rows(&mut text, name.trim(), |candidate, caller, registry| {
                let candidate = Candidate {
                    condition: is_restricted.then_some(&condition),
                    ..*candidate
                };
                decide_data([candidate], caller, registry, &action, repository)
            });
        }
    }
    text
}

fn condition() -> Condition {
    Condition::parse(CONDITION).expect("a condition")
}

#[test]
fn built_in_roles_count_where_the_committed_table_says() {
    let table = table();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/access-table.txt");
    if env::var_os("WHARFINGER_UPDATE_TABLES").is_some() {
        fs::write(&path, &table).expect("the table can be written");
    }
    let committed = fs::read_to_string(&path).expect("the table is committed");
    for (number, (expected, found)) in committed.lines().zip(table.lines()).enumerate() {
        assert_eq!(expected, found, "line {}", number + 1);
    }
    assert_eq!(committed.lines().count(), table.lines().count());
}

#[test]
fn every_registry_action_of_a_node_is_in_the_list_of_actions() {
    for permission in RepositoryPermission::ALL {
        for (kind, action) in [
            ("action", permission.management_action()),
            ("data", permission.data_action()),
        ] {
            assert!(
                ACTIONS.lines().any(|line| line
                    .split_once(' ')
                    .is_some_and(|(found, name)| found == kind && name.trim() == action.as_str())),
                "{action}"
            );
        }
    }
}
