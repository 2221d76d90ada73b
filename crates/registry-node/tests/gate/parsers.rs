//! What clients send before anyone knows them: any text is read or refused, never more.

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use rbac::registry::{RepositoryPermission, RepositoryPermissions};
use registry_node::gate::{
    Authorization, Form, InvalidForm, InvalidTokenScope, MalformedAuthorization, RequestHost,
    TokenScope, parse_authorization,
};

fn names() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,6}(/[a-z0-9]{1,6}){0,2}"
}

fn rights() -> impl Strategy<Value = RepositoryPermissions> {
    prop::sample::subsequence(RepositoryPermission::ALL.to_vec(), 0..=6)
        .prop_map(RepositoryPermissions::from_iter)
}

proptest! {
    #[test]
    fn a_login_is_read_as_it_was_sent(user in "[^:\\x00]{0,40}", password in "\\PC{0,60}", scheme in "[bB][aA][sS][iI][cC]") {
        let value = format!("{scheme} {}", STANDARD.encode(format!("{user}:{password}")));
        let Ok(Authorization::Basic(login)) = parse_authorization(Some(value.as_bytes())) else {
            panic!("{value}");
        };
        prop_assert_eq!(login.user, user);
        prop_assert_eq!(login.password.expose(), password);
    }

    #[test]
    fn any_header_is_read_or_refused(value in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = parse_authorization(Some(&value));
    }

    #[test]
    fn a_host_is_compared_without_casing(name in "[a-z][a-z0-9-]{0,20}(\\.[a-z]{1,8}){0,3}", port in 1_u16..) {
        let server = format!("{name}:{port}");
        for text in [server.clone(), server.to_uppercase(), name.clone(), format!("{name}.:{port}")] {
            let host = RequestHost::parse(&text).expect("a host");
            prop_assert_eq!(host.host(), &name);
            prop_assert!(host.is_of(&server), "{}", text);
        }
        let other = RequestHost::parse(&format!("{name}:{}", port.wrapping_add(1))).expect("a host");
        prop_assert!(!other.is_of(&server));
        let longer = RequestHost::parse(&format!("x{name}:{port}")).expect("a host");
        prop_assert!(!longer.is_of(&server));
    }

    #[test]
    fn any_host_is_read_or_refused(text in "\\PC{0,60}") {
        if let Some(host) = RequestHost::parse(&text) {
            prop_assert_eq!(host.host().to_ascii_lowercase(), host.host());
            prop_assert!(!host.host().contains(['/', ':', '@', ' ', '"']));
        }
    }

    #[test]
    fn what_is_granted_was_asked_for_and_is_owned(name in names(), asked in rights(), owned in rights(), catalog in any::<bool>()) {
        let actions: Vec<&str> = asked.iter().filter_map(RepositoryPermission::scope_action).collect();
        let mut text = format!("repository:{name}:{}", actions.join(","));
        if catalog {
            text.push_str(" registry:catalog:*");
        }
        let scope = TokenScope::parse([text.as_str()]).expect("a scope");
        let granted = scope.granted(|_, permission| owned.contains(permission), owned.contains(RepositoryPermission::Catalog));
        let name = name.parse().expect("a repository");
        for permission in RepositoryPermission::ALL {
            let is_granted = match permission {
                RepositoryPermission::Catalog => granted.catalog,
                other => granted.rights_in(&name).contains(other),
            };
            let is_asked = match permission {
                RepositoryPermission::Catalog => catalog,
                other => asked.contains(other),
            };
            prop_assert_eq!(is_granted, is_asked && owned.contains(permission));
        }
        prop_assert_eq!(TokenScope::of_access(&granted.to_access()), granted);
    }

    #[test]
    fn any_scope_is_read_or_refused(text in "(repository|registry|artifact-repository|:|,|\\*|pull|/|[a-z]|\\PC){0,20}") {
        if let Ok(scope) = TokenScope::parse([text.as_str()]) {
            let all = scope.granted(|_, _| true, true);
            prop_assert_eq!(TokenScope::of_access(&all.to_access()), all);
        }
    }

    #[test]
    fn a_form_is_read_as_it_was_written_and_only_scopes_may_repeat(pairs in prop::collection::vec(("scope|[a-z_]{1,2}|[a-z_]{3,8}", "\\PC{0,20}"), 0..6)) {
        let text: Vec<String> = pairs
            .iter()
            .map(|(name, value)| {
                let value: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
                format!("{name}={value}")
            })
            .collect();
        let is_known = |index: usize, name: &String| pairs[..index].iter().any(|(known, _)| known == name);
        let mut names = pairs.iter().map(|(name, _)| name).enumerate();
        let repeated = names.find(|(index, name)| *name != "scope" && is_known(*index, name));
        let form = match (Form::parse(text.join("&").as_bytes()), repeated) {
            (Err(error), Some((_, name))) => {
                prop_assert_eq!(error, InvalidForm::Repeated(name.clone()));
                return Ok(());
            }
            (form, _) => form.expect("UTF-8, with nothing twice"),
        };
        prop_assert!(repeated.is_none());
        for (name, _) in &pairs {
            let expected: Vec<&str> = pairs
                .iter()
                .filter(|(known, _)| known == name)
                .map(|(_, value)| value.as_str())
                .collect();
            prop_assert_eq!(form.all(name).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn any_form_is_read_or_refused(text in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(form) = Form::parse(&text) {
            let _ = form.get("username");
        }
    }
}

#[test]
fn faulty_headers_are_told_apart() {
    let fault = |value: &[u8]| parse_authorization(Some(value)).err();
    assert_eq!(fault(b""), Some(MalformedAuthorization::Scheme));
    assert_eq!(fault(b"Basic"), Some(MalformedAuthorization::Scheme));
    assert_eq!(
        fault(b"Negotiate abc"),
        Some(MalformedAuthorization::Scheme)
    );
    assert_eq!(
        fault(b"Basic bm9jb2xvbg=="),
        Some(MalformedAuthorization::Basic)
    );
    assert_eq!(fault(b"Basic /w=="), Some(MalformedAuthorization::Basic));
    assert_eq!(fault(b"Bearer "), Some(MalformedAuthorization::Bearer));
    assert!(matches!(parse_authorization(None), Ok(Authorization::None)));
    let unpadded = parse_authorization(Some(b"basic YTpi"));
    assert!(matches!(unpadded, Ok(Authorization::Basic(_))));
}

#[test]
fn scopes_have_three_parts_and_a_limit() {
    let parse = |text: &str| TokenScope::parse([text]);
    for text in ["x", "repository", "repository:app", ":", "a:b"] {
        assert!(
            matches!(parse(text), Err(InvalidTokenScope::Form(_))),
            "{text}"
        );
    }
    for text in [
        "repository::pull",
        "repository:App:pull",
        "repository:a:b:pull",
    ] {
        assert!(
            matches!(parse(text), Err(InvalidTokenScope::Name { .. })),
            "{text}"
        );
    }
    assert_eq!(parse("plugin:x:pull"), Ok(TokenScope::default()));
    assert_eq!(parse("registry:other:*"), Ok(TokenScope::default()));
    let plugin = parse("repository(plugin):app:pull").expect("a class says nothing");
    assert_eq!(plugin.repositories.len(), 1);
    let many = "repository:a:pull ".repeat(101);
    assert_eq!(parse(&many), Err(InvalidTokenScope::TooMany));
}
