//! From request line to operation and access, under `/acr/v1`.

use actix_web::http::Method;
use proptest::prelude::*;
use registry_node::acr::{RepositoryRoute, Route};
use registry_node::content::{Order, Part};
use registry_node::names::RepositoryName;
use registry_node::oci::{RepositoryAction, RequiredAccess};

fn parse(method: &str, path: &str, query: &str) -> Result<Route, (u16, &'static str)> {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    Route::parse(&method, path, query).map_err(|error| (error.status.as_u16(), error.code.as_str()))
}

fn digest() -> String {
    format!("sha256:{}", "a".repeat(64))
}

#[test]
fn each_operation_takes_one_right_in_its_repository() {
    let manifest = format!("/_manifests/{}", digest());
    for (method, path, action) in [
        ("GET", "", RepositoryAction::MetadataRead),
        ("PATCH", "", RepositoryAction::MetadataWrite),
        ("DELETE", "", RepositoryAction::Delete),
        ("GET", "/_tags", RepositoryAction::MetadataRead),
        ("GET", "/_tags/v1", RepositoryAction::MetadataRead),
        ("PATCH", "/_tags/v1", RepositoryAction::MetadataWrite),
        ("DELETE", "/_tags/v1", RepositoryAction::Delete),
        ("GET", "/_manifests", RepositoryAction::MetadataRead),
        ("GET", &manifest, RepositoryAction::MetadataRead),
        ("PATCH", &manifest, RepositoryAction::MetadataWrite),
    ] {
        for name in ["team/app", "team%2Fapp"] {
            let route = parse(method, &format!("/acr/v1/{name}{path}"), "").expect("an operation");
            let expected = RequiredAccess::Repository {
                name: "team/app".parse().expect("a name"),
                action,
            };
            assert_eq!(route.required_access(), [expected], "{method} {path}");
        }
    }
    let route = parse("GET", "/acr/v1/_catalog", "api-version=2021-07-01").expect("an operation");
    assert_eq!(route.required_access(), [RequiredAccess::Catalog]);
}

#[test]
fn listings_say_where_they_begin_and_in_which_order() {
    let part = |query: &str| match parse("GET", "/acr/v1/app/_tags", query) {
        Ok(Route::Repository(_, RepositoryRoute::ListTags { part, .. })) => part,
        other => panic!("{other:?}"),
    };
    let plain = Part {
        order: Order::ByName,
        after: None,
        limit: 100,
    };
    assert_eq!(part(""), plain);
    assert_eq!(part("orderby=&n=&last="), plain);
    assert_eq!(part("orderby=none"), plain);
    let after = part("n=7&last=v1").after;
    assert_eq!(after, Some(("v1".to_owned(), None)));
    let found = part("orderby=timedesc&n=5000&last=1500000000000000000%3Av1");
    assert_eq!((found.order, found.limit), (Order::NewestFirst, 1000));
    let (name, time) = found.after.expect("a position");
    assert_eq!(name, "v1");
    assert_eq!(time.expect("a time").unix_timestamp(), 1_500_000_000);
    let found = part(&format!("orderby=timeasc&last={}", digest()));
    assert_eq!(found.after, Some((digest(), None)));
}

#[test]
fn what_cannot_be_is_refused() {
    for (method, path, query, expected) in [
        ("GET", "/acr/v1", "", (404, "OPERATION_UNKNOWN")),
        ("GET", "/acr/v1/_tags", "", (404, "OPERATION_UNKNOWN")),
        ("GET", "/acr/v1/app/_other", "", (404, "OPERATION_UNKNOWN")),
        ("GET", "/acr/v1/App", "", (400, "NAME_INVALID")),
        ("GET", "/acr/v1/app//web", "", (400, "NAME_INVALID")),
        ("PUT", "/acr/v1/app", "", (405, "UNSUPPORTED")),
        ("POST", "/acr/v1/_catalog", "", (405, "UNSUPPORTED")),
        ("GET", "/acr/v1/app/_tags/a:b", "", (404, "TAG_UNKNOWN")),
        (
            "GET",
            "/acr/v1/app/_manifests/v1",
            "",
            (400, "DIGEST_INVALID"),
        ),
        (
            "GET",
            "/acr/v1/app/_tags",
            "orderby=size",
            (400, "UNSUPPORTED"),
        ),
        (
            "GET",
            "/acr/v1/app/_tags",
            "digest=1",
            (400, "DIGEST_INVALID"),
        ),
        (
            "GET",
            "/acr/v1/app/_tags",
            "n=x",
            (400, "PAGINATION_NUMBER_INVALID"),
        ),
        ("GET", "/acr/v1/_deleted/_catalog", "", (405, "UNSUPPORTED")),
        (
            "GET",
            "/acr/v1/_deleted/app/_tags",
            "",
            (405, "UNSUPPORTED"),
        ),
        ("PUT", "/acr/v1/app/_streaming", "", (405, "UNSUPPORTED")),
    ] {
        assert_eq!(
            parse(method, path, query),
            Err(expected),
            "{method} {path} {query}"
        );
    }
}

proptest! {
    #[test]
    fn any_request_line_is_understood_or_refused(
        method in "GET|PUT|POST|PATCH|DELETE|BREW",
        path in "/acr(/(v1|_tags|_manifests|_catalog|_deleted|a|%2F|%ff|%|\\.\\.|sha256:ab|\\PC)){0,7}",
        query in "((digest|n|last|orderby)=?(%2|%ff|1|1:a|a|timeasc|99999999999999999999999999999:a)?&?){0,4}",
    ) {
        if let Err((status, _)) = parse(&method, &path, &query) {
            prop_assert!((400..500).contains(&status));
        }
    }

    #[test]
    fn a_name_may_have_many_parts(parts in proptest::collection::vec("[a-z]{1,4}", 1..5)) {
        let name: RepositoryName = parts.join("/").parse().expect("a name");
        let path = format!("/acr/v1/{name}/_tags/latest/");
        let expected = RepositoryRoute::ReadTag("latest".parse().expect("a tag"));
        prop_assert_eq!(parse("GET", &path, ""), Ok(Route::Repository(name, expected)));
    }
}
