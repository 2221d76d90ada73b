//! Every built-in role against every action there is, compared with a committed table.
//!
//! After a change on purpose: `WHARFINGER_UPDATE_TABLES=1 cargo test -p rbac --test role_table`.

use std::{env, fmt::Write, fs, path::Path};

use rbac::{Action, built_in_roles, registry::RepositoryPermission};

const ACTIONS: &str = include_str!("actions.txt");

#[test]
fn built_in_roles_allow_what_the_committed_table_says() {
    let table = table();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/role-table.txt");
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
fn rights_in_a_registry_follow_the_published_table() {
    let rights = |role_name: &str| -> Vec<RepositoryPermission> {
        let role = built_in_roles()
            .iter()
            .find(|role| role.role_name == role_name)
            .expect("a built-in role");
        RepositoryPermission::ALL
            .into_iter()
            .filter(|permission| role.permits(permission.management_action()))
            .collect()
    };
    use RepositoryPermission::{Catalog, Delete, MetadataRead, Pull, Push};
    assert_eq!(rights("Owner"), RepositoryPermission::ALL);
    assert_eq!(rights("Contributor"), RepositoryPermission::ALL);
    assert_eq!(rights("Reader"), [Pull, MetadataRead, Catalog]);
    assert_eq!(rights("AcrPull"), [Pull]);
    assert_eq!(rights("AcrPush"), [Pull, Push]);
    assert_eq!(rights("AcrDelete"), [Delete]);
}

#[test]
fn each_name_in_a_built_in_role_names_an_action_there_is() {
    let actions: Vec<Action> = actions().map(|(_, action)| action).collect();
    for role in built_in_roles() {
        for permission in &role.permissions {
            let patterns = permission.actions.iter().chain(&permission.data_actions);
            for pattern in patterns
                .filter(|pattern| pattern.as_str().starts_with("Microsoft.ContainerRegistry/"))
            {
                assert!(
                    actions.iter().any(|action| pattern.matches(action)),
                    "{}: {}",
                    role.role_name,
                    pattern.as_str()
                );
            }
        }
    }
}

fn actions() -> impl Iterator<Item = (bool, Action)> {
    ACTIONS.lines().map(|line| {
        let (kind, name) = line.split_once(' ').expect("a kind and a name");
        let action = Action::parse(name.trim()).expect("an action");
        (kind == "data", action)
    })
}

fn table() -> String {
    let roles = built_in_roles();
    let mut text = String::new();
    for (number, role) in roles.iter().enumerate() {
        writeln!(text, "{:>2} {} {}", number + 1, role.id, role.role_name).expect("memory");
    }
    for (is_data, action) in actions() {
        let allowed: Vec<String> = roles
            .iter()
            .enumerate()
            .filter(|(_, role)| {
                if is_data {
                    role.permits_data(&action)
                } else {
                    role.permits(&action)
                }
            })
            .map(|(number, _)| (number + 1).to_string())
            .collect();
        let kind = if is_data { "data  " } else { "action" };
        let allowed = if allowed.is_empty() {
            "-".to_owned()
        } else {
            allowed.join(" ")
        };
        writeln!(text, "{kind} {action}: {allowed}").expect("memory");
    }
    text
}
