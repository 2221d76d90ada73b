//! From request line to operation and access.

use actix_web::http::Method;
use proptest::prelude::*;
use registry_node::names::{Digest, Reference, RepositoryName};
use registry_node::oci::{RepositoryAction, RepositoryRoute, RequiredAccess, Route};

fn parse(method: &str, path: &str, query: &str) -> Result<Route, (u16, &'static str)> {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    Route::parse(&method, path, query).map_err(|error| (error.status.as_u16(), error.code.as_str()))
}

fn digest() -> Digest {
    format!("sha256:{}", "a".repeat(64))
        .parse()
        .expect("a digest")
}

proptest! {
    #[test]
    fn a_name_may_have_the_words_that_paths_are_made_of(
        words in proptest::collection::vec("v2|blobs|uploads|manifests|tags|list|referrers|a", 1..5),
        slashes in "/{1,3}",
        tail in "/{0,2}",
    ) {
        let name: RepositoryName = words.join("/").parse().expect("a name");
        let path = format!("/v2{slashes}{}{slashes}manifests/latest{tail}", words.join("/"));
        let reference: Reference = "latest".parse().expect("a tag");
        let expected = RepositoryRoute::ReadManifest(reference);
        prop_assert_eq!(parse("GET", &path, ""), Ok(Route::Repository(name.clone(), expected)));

        let path = format!("/v2{slashes}{}{slashes}tags/list{tail}", words.join("/"));
        let Ok(Route::Repository(found, RepositoryRoute::ListTags(page))) = parse("GET", &path, "n=7&last=b") else {
            return Err(TestCaseError::fail(path));
        };
        prop_assert_eq!(found, name);
        prop_assert_eq!((page.limit, page.after.as_deref()), (7, Some("b")));
    }

    #[test]
    fn any_request_line_is_understood_or_refused(
        method in "GET|HEAD|PUT|POST|PATCH|DELETE|OPTIONS|BREW",
        path in "(/(v2|blobs|uploads|manifests|tags|list|_catalog|referrers|a|%2F|%ff|%|\\.\\.|sha256:ab|\\PC)){0,7}",
        query in "((digest|mount|from|n|last|digest-algorithm)=?(%2|%ff|1|a|sha256:a)?&?){0,4}",
    ) {
        if let Err((status, _)) = parse(&method, &path, &query) {
            prop_assert!((400..500).contains(&status));
        }
    }

    #[test]
    fn escapes_mean_what_they_stand_for(tag in "[a-z]{1,8}") {
        let escaped: String = tag.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let path = format!("/v2/team%2Fapp/manifests/{escaped}");
        let name: RepositoryName = "team/app".parse().expect("a name");
        let reference: Reference = tag.parse().expect("a tag");
        prop_assert_eq!(
            parse("HEAD", &path, ""),
            Ok(Route::Repository(name, RepositoryRoute::ReadManifest(reference)))
        );
    }
}

#[test]
fn what_is_not_understood_has_its_own_refusal() {
    let long = format!("/v2/{}/tags/list", "a".repeat(1_000_000));
    let upload = "/v2/a/blobs/uploads/00000000-0000-0000-0000-000000000000";
    let cases = [
        ("GET", long.as_str(), "", 414, "UNSUPPORTED"),
        ("GET", "/v2/a/tags/list", long.as_str(), 414, "UNSUPPORTED"),
        ("GET", "/acr/v1/_catalog", "", 404, "OPERATION_UNKNOWN"),
        ("GET", "/v2/a", "", 404, "OPERATION_UNKNOWN"),
        ("GET", "/v2/tags/list", "", 404, "OPERATION_UNKNOWN"),
        ("GET", "/v2/A/tags/list", "", 400, "NAME_INVALID"),
        ("GET", "/v2/a/../b/tags/list", "", 400, "NAME_INVALID"),
        ("GET", "/v2/a//b/tags/list", "", 400, "NAME_INVALID"),
        ("GET", "/v2/%ff/tags/list", "", 400, "NAME_INVALID"),
        (
            "GET",
            "/v2/a/tags/list",
            "n=-1",
            400,
            "PAGINATION_NUMBER_INVALID",
        ),
        ("POST", "/v2/a/tags/list", "", 405, "UNSUPPORTED"),
        ("GET", "/v2/a/manifests/.b", "", 404, "MANIFEST_UNKNOWN"),
        ("PUT", "/v2/a/manifests/.b", "", 400, "MANIFEST_INVALID"),
        ("GET", "/v2/a/manifests/sha256:b", "", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/blobs/sha1:b", "", 400, "DIGEST_INVALID"),
        (
            "GET",
            "/v2/a/blobs/uploads/b",
            "",
            404,
            "BLOB_UPLOAD_UNKNOWN",
        ),
        ("PUT", upload, "", 400, "DIGEST_INVALID"),
        (
            "POST",
            "/v2/a/blobs/uploads/",
            "digest-algorithm=md5",
            400,
            "DIGEST_INVALID",
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/",
            "mount=x&from=b",
            400,
            "DIGEST_INVALID",
        ),
    ];
    for (method, path, query, status, code) in cases {
        let shown: String = path.chars().take(60).collect();
        assert_eq!(
            parse(method, path, query),
            Err((status, code)),
            "{method} {shown}"
        );
    }
}

#[test]
fn a_refused_method_names_those_that_are_possible() {
    let error = Route::parse(&Method::PATCH, "/v2/a/manifests/b", "").expect_err("no PATCH");
    let allow = error.headers.iter().find(|(name, _)| name == "allow");
    assert_eq!(allow.expect("Allow").1, "GET, HEAD, PUT, DELETE");
}

#[test]
fn an_operation_names_the_access_it_takes() {
    use RepositoryAction::{Delete, Pull, Push};
    let blob = format!("/v2/a/blobs/{}", digest());
    let upload = "/v2/a/blobs/uploads/00000000-0000-0000-0000-000000000000";
    let finish = format!("digest={}", digest());
    let cases: [(&str, &str, &str, &[RepositoryAction]); 10] = [
        ("GET", "/v2/a/tags/list", "", &[Pull]),
        ("HEAD", "/v2/a/manifests/b", "", &[Pull]),
        ("PUT", "/v2/a/manifests/b", "", &[Pull, Push]),
        ("DELETE", "/v2/a/manifests/b", "", &[Delete]),
        ("GET", &blob, "", &[Pull]),
        ("DELETE", &blob, "", &[Delete]),
        ("POST", "/v2/a/blobs/uploads/", "", &[Pull, Push]),
        ("PATCH", upload, "", &[Pull, Push]),
        ("PUT", upload, &finish, &[Pull, Push]),
        ("GET", upload, "", &[Pull, Push]),
    ];
    for (method, path, query, actions) in cases {
        let name: RepositoryName = "a".parse().expect("a name");
        let expected: Vec<RequiredAccess> = actions
            .iter()
            .map(|action| RequiredAccess::Repository {
                name: name.clone(),
                action: *action,
            })
            .collect();
        let route = parse(method, path, query).expect("an operation");
        assert_eq!(route.required_access(), expected, "{method} {path}");
    }
    let access = |path| {
        parse("GET", path, "")
            .expect("an operation")
            .required_access()
    };
    assert_eq!(access("/v2/"), [RequiredAccess::Base]);
    assert_eq!(access("/v2"), [RequiredAccess::Base]);
    assert_eq!(access("/v2/_catalog"), [RequiredAccess::Catalog]);
}
