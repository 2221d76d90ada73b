//! Scopes, patterns and decisions against slow and obvious definitions of the same things.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rbac::{
    Action, ActionPattern, Candidate, Permission, RoleAssignment, RoleDefinition, RoleKind, Scope,
    closure, decide, decide_data, permits, permits_data,
};
use uuid::Uuid;

/// `*` stands for any characters: tried one by one.
fn naive_match(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|from| naive_match(rest, &text[from..])),
        Some((byte, rest)) => text.split_first().is_some_and(|(first, others)| {
            first.eq_ignore_ascii_case(byte) && naive_match(rest, others)
        }),
    }
}

fn words() -> impl Strategy<Value = String> {
    // Few letters, so that patterns and actions meet often.
    "[aB/]{1,6}"
}

fn patterns() -> impl Strategy<Value = String> {
    "[AbB/*]{1,6}"
}

fn permissions() -> impl Strategy<Value = Permission> {
    let list = || {
        proptest::collection::vec(patterns(), 0..3).prop_map(|texts| {
            texts
                .iter()
                .map(|text| ActionPattern::parse(text).expect("visible"))
                .collect()
        })
    };
    (list(), list(), list(), list()).prop_map(
        |(actions, not_actions, data_actions, not_data_actions)| Permission {
            actions,
            not_actions,
            data_actions,
            not_data_actions,
        },
    )
}

fn roles() -> impl Strategy<Value = RoleDefinition> {
    proptest::collection::vec(permissions(), 0..3).prop_map(|permissions| RoleDefinition {
        id: Uuid::from_u128(1),
        role_name: "role".to_owned(),
        description: String::new(),
        kind: RoleKind::Custom,
        permissions,
        assignable_scopes: vec![Scope::root()],
    })
}

fn naive_permits(role: &RoleDefinition, action: &str) -> bool {
    let any = |texts: Vec<&ActionPattern>| {
        texts
            .iter()
            .any(|pattern| naive_match(pattern.as_str().as_bytes(), action.as_bytes()))
    };
    any(role
        .permissions
        .iter()
        .flat_map(|permission| &permission.actions)
        .collect())
        && !any(role
            .permissions
            .iter()
            .flat_map(|permission| &permission.not_actions)
            .collect())
}

fn naive_permits_data(role: &RoleDefinition, action: &str) -> bool {
    let mut turned = role.clone();
    for permission in &mut turned.permissions {
        permission.actions = permission.data_actions.clone();
        permission.not_actions = permission.not_data_actions.clone();
    }
    naive_permits(&turned, action)
}

fn scopes() -> impl Strategy<Value = String> {
    let name = || "[aB]{1,2}";
    let resource = (name(), proptest::collection::vec((name(), name()), 1..3)).prop_map(
        |(namespace, pairs)| {
            let pairs: String = pairs
                .iter()
                .map(|(kind, name)| format!("/{kind}/{name}"))
                .collect();
            format!("/providers/{namespace}{pairs}")
        },
    );
    prop_oneof![
        Just("/".to_owned()),
        name().prop_map(|id| format!("/subscriptions/{id}")),
        (name(), name())
            .prop_map(|(id, group)| format!("/subscriptions/{id}/resourceGroups/{group}")),
        (
            name(),
            proptest::option::of(name()),
            proptest::collection::vec(resource, 1..3)
        )
            .prop_map(|(id, group, resources)| {
                let group = group
                    .map(|group| format!("/resourceGroups/{group}"))
                    .unwrap_or_default();
                format!("/subscriptions/{id}{group}{}", resources.concat())
            }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn matching_agrees_with_trying_everything(pattern in patterns(), action in words()) {
        let compiled = ActionPattern::parse(&pattern).expect("visible");
        let parsed = Action::parse(&action).expect("visible");
        prop_assert_eq!(compiled.matches(&parsed), naive_match(pattern.as_bytes(), action.as_bytes()));
    }

    #[test]
    fn decisions_agree_with_brute_force(roles in proptest::collection::vec(roles(), 0..4), action in words()) {
        let parsed = Action::parse(&action).expect("visible");
        prop_assert_eq!(
            permits(&roles, &parsed),
            roles.iter().any(|role| naive_permits(role, &action))
        );
        prop_assert_eq!(
            permits_data(&roles, &parsed),
            roles.iter().any(|role| naive_permits_data(role, &action))
        );
    }

    #[test]
    fn any_text_is_a_pattern_and_an_action_or_refused(text in "\\PC{0,20}") {
        let visible = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
        prop_assert_eq!(ActionPattern::parse(&text).is_ok(), visible);
        prop_assert_eq!(Action::parse(&text).is_ok(), visible && !text.contains('*'));
    }

    #[test]
    fn scopes_keep_their_casing_and_compare_without_it(text in scopes()) {
        let scope = Scope::parse(&text).expect("made as a scope");
        prop_assert_eq!(scope.as_str(), &text);
        let shouted = Scope::parse(&text.to_uppercase()).expect("casing does not matter");
        prop_assert_eq!(&scope, &shouted);
        let sloppy = format!("{}//", text.replace('/', "//"));
        prop_assert_eq!(&Scope::parse(&sloppy).expect("slashes do not matter"), &scope);
        let json = serde_json::to_string(&scope).expect("a string");
        let again: Scope = serde_json::from_str(&json).expect("the same string");
        prop_assert_eq!(again.as_str(), &text);
    }

    #[test]
    fn ancestors_are_the_scopes_that_contain(inner in scopes(), outer in scopes()) {
        let (inner, outer) = (
            Scope::parse(&inner).expect("made as a scope"),
            Scope::parse(&outer).expect("made as a scope"),
        );
        let ancestors: Vec<&str> = inner.ancestors_and_self().collect();
        prop_assert_eq!(ancestors.contains(&outer.key()), outer.contains(&inner));
        prop_assert_eq!(ancestors.first(), Some(&inner.key()));
        prop_assert_eq!(ancestors.last(), Some(&"/"));
        for ancestor in ancestors {
            let ancestor = Scope::parse(ancestor).expect("ancestors are scopes");
            prop_assert!(ancestor.contains(&inner));
        }
    }

    #[test]
    fn any_path_is_a_scope_or_refused(text in "(/|subscriptions|resourcegroups|providers|[a-z]|\\PC){0,14}") {
        if let Ok(scope) = Scope::parse(&text) {
            prop_assert_eq!(Scope::parse(scope.as_str()), Ok(scope.clone()));
            prop_assert_eq!(Scope::parse(scope.key()), Ok(scope));
        }
    }

    #[test]
    fn closures_are_what_can_be_reached(edges in proptest::collection::vec((0_u128..40, 0_u128..40), 0..120)) {
        let mut groups: BTreeMap<Uuid, Vec<Uuid>> = BTreeMap::new();
        for (member, group) in edges {
            groups.entry(Uuid::from_u128(member)).or_default().push(Uuid::from_u128(group));
        }
        let start = Uuid::from_u128(0);
        let mut reached = BTreeSet::from([start]);
        loop {
            let more: BTreeSet<Uuid> = reached
                .iter()
                .flat_map(|member| groups.get(member).cloned().unwrap_or_default())
                .chain(reached.iter().copied())
                .collect();
            if more == reached {
                break;
            }
            reached = more;
        }
        let found = closure(start, |member| groups.get(&member).cloned().unwrap_or_default());
        let met: Vec<Uuid> = found.iter().collect();
        prop_assert_eq!(met.len(), reached.len());
        prop_assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), reached);
    }

    #[test]
    fn candidates_of_others_and_elsewhere_do_not_count(
        role in roles(),
        action in words(),
        at in scopes(),
        assigned_at in scopes(),
        holder in 0_u128..4,
    ) {
        let caller = closure(Uuid::from_u128(0), |member| {
            (member == Uuid::from_u128(0)).then(|| Uuid::from_u128(1))
        });
        let (at, assigned_at) = (
            Scope::parse(&at).expect("made as a scope"),
            Scope::parse(&assigned_at).expect("made as a scope"),
        );
        let parsed = Action::parse(&action).expect("visible");
        let candidate = Candidate {
            scope_key: assigned_at.key(),
            principal_id: Uuid::from_u128(holder),
            role: &role,
            condition: None,
        };
        let counts = holder < 2 && assigned_at.contains(&at);
        prop_assert_eq!(
            decide([candidate], &caller, &at, &parsed),
            counts && naive_permits(&role, &action)
        );
        prop_assert_eq!(
            decide_data([candidate], &caller, &at, &parsed, None),
            counts && naive_permits_data(&role, &action)
        );
    }
}

#[test]
fn subtraction_is_per_role_and_the_union_is_over_roles() {
    let contributor = rbac::built_in_roles()
        .iter()
        .find(|role| role.role_name == "Contributor");
    let owner = rbac::built_in_roles()
        .iter()
        .find(|role| role.role_name == "Owner");
    let (contributor, owner) = (contributor.expect("built in"), owner.expect("built in"));
    let action = Action::named("Microsoft.Authorization/roleAssignments/write");
    assert!(!permits([contributor], &action));
    assert!(permits([contributor, owner], &action));
}

#[test]
fn faulty_scopes_are_refused() {
    for path in [
        "",
        "subscriptions/s",
        "/subscriptions",
        "/tenants/t",
        "/subscriptions/s/resourceGroups",
        "/subscriptions/s/registries/r",
        "/subscriptions/s/providers/ns",
        "/subscriptions/s/providers/ns/type",
        "/subscriptions/s/resourceGroups/g/providers/ns",
        "/subscriptions/s/resourceGroups/g/providers/ns/type",
        "/subscriptions/s/resourceGroups/g/providers/ns/type/name/type",
        "/subscriptions/s/resourceGroups/g/x/ns/type/name",
        "/subscriptions/s\n",
    ] {
        assert!(Scope::parse(path).is_err(), "{path}");
    }
}

#[test]
fn definitions_and_assignments_travel_as_json() {
    for role in rbac::built_in_roles() {
        let json = serde_json::to_string(role).expect("plain data");
        assert_eq!(
            &serde_json::from_str::<RoleDefinition>(&json).expect("the same"),
            role
        );
    }
    let text = r#"{"id":"00000000-0000-0000-0000-000000000001","scope":"/subscriptions/S",
        "principalId":"00000000-0000-0000-0000-000000000002",
        "roleDefinitionId":"00000000-0000-0000-0000-000000000003","later":true}"#;
    let assignment: RoleAssignment =
        serde_json::from_str(text).expect("unknown members are passed over");
    assert_eq!(assignment.scope.as_str(), "/subscriptions/S");
}
