//! "Content Discovery" of the specification: tags; and the catalog, which it does not have and every client knows.

use serde_json::{Value, json};

use super::super::harness::{OCI_INDEX, Registry};
use super::requirements;

requirements![
    tags_are_listed_in_order,
    a_repository_without_tags_has_an_empty_list,
    the_tags_of_an_unknown_repository_are_404,
    n_bounds_a_page_and_link_leads_on,
    n_of_zero_is_an_empty_page_without_link,
    last_begins_a_page_behind_a_tag,
    a_number_that_is_none_is_400,
    a_page_has_at_most_1000_tags,
    repositories_are_listed_in_order_and_in_pages,
    a_listing_has_a_head,
];

const TAGS: [&str; 6] = ["10", "9", "A", "_x", "latest", "v1.0"];

async fn push_tags(registry: &Registry, repository: &str, tags: &[&str]) {
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    // In another order than they are listed in.
    for tag in tags.iter().rev() {
        registry
            .put_manifest(repository, tag, OCI_INDEX, index)
            .await
            .is(201);
    }
}

/// "Listing Tags": 200, the name, the tags in ASCIIbetical order.
async fn tags_are_listed_in_order(registry: Registry) {
    push_tags(&registry, "team/app", &TAGS).await;
    let listed = registry.get("/v2/team/app/tags/list").await.is(200);
    assert_eq!(listed.json(), json!({"name": "team/app", "tags": TAGS}));
    assert_eq!(listed.header("content-type"), "application/json");
    assert_eq!(listed.header("link"), "");
}

/// "Listing Tags": "The list of tags MAY be empty if there are no tags on the repository."
async fn a_repository_without_tags_has_an_empty_list(registry: Registry) {
    push_tags(&registry, "app", &["v1"]).await;
    registry.delete("/v2/app/manifests/v1").await.is(202);
    let listed = registry.get("/v2/app/tags/list").await.is(200);
    assert_eq!(listed.json(), json!({"name": "app", "tags": []}));
}

/// "Error Codes", `NAME_UNKNOWN`.
async fn the_tags_of_an_unknown_repository_are_404(registry: Registry) {
    push_tags(&registry, "team/app", &["v1"]).await;
    for name in ["nowhere", "team", "team/app/more"] {
        let listed = registry.get(&format!("/v2/{name}/tags/list")).await;
        listed.refused(404, "NAME_UNKNOWN");
    }
}

/// "Listing Tags": `n`; fewer only at the end or with `Link`, which is that of RFC 5988 with `rel="next"`.
async fn n_bounds_a_page_and_link_leads_on(registry: Registry) {
    push_tags(&registry, "app", &TAGS).await;
    for n in 1..=TAGS.len() + 1 {
        let first = format!("/v2/app/tags/list?n={n}");
        let pages = registry.pages(&first, "tags").await;
        assert_eq!(pages.concat(), TAGS.map(Value::from));
        assert_eq!(pages.len(), TAGS.len().div_ceil(n));
        assert!(pages.iter().rev().skip(1).all(|page| page.len() == n));
    }
}

/// "Listing Tags": "When `n` is zero, this endpoint MUST return an empty list, and MUST NOT include a `Link` header."
async fn n_of_zero_is_an_empty_page_without_link(registry: Registry) {
    push_tags(&registry, "app", &TAGS).await;
    for path in ["/v2/app/tags/list?n=0", "/v2/app/tags/list?n=0&last=A"] {
        let listed = registry.get(path).await.is(200);
        assert_eq!(listed.json()["tags"], json!([]));
        assert_eq!(listed.header("link"), "");
    }
}

/// "Listing Tags": `last`, "beginning non-inclusively with `<tagname>`"; it need not be a tag that is there.
async fn last_begins_a_page_behind_a_tag(registry: Registry) {
    push_tags(&registry, "app", &TAGS).await;
    let cases = [
        ("last=A", &TAGS[3..]),
        ("last=a&n=1", &TAGS[4..5]),
        ("last=0", &TAGS),
        ("last=zz", &[]),
        ("last=&n=2", &TAGS[..2]),
        ("last=a%2Fb%21", &TAGS[4..]),
        ("n=2&last=9", &TAGS[2..4]),
    ];
    for (query, expected) in cases {
        let listed = registry.get(&format!("/v2/app/tags/list?{query}")).await;
        assert_eq!(listed.is(200).json()["tags"], json!(expected), "{query}");
    }
}

/// "Endpoints", end-8b; Docker's code `PAGINATION_NUMBER_INVALID`.
async fn a_number_that_is_none_is_400(registry: Registry) {
    push_tags(&registry, "app", &["v1"]).await;
    for n in ["-1", "ten", "1.5", "%2B1", "0x1"] {
        for path in ["/v2/app/tags/list", "/v2/_catalog"] {
            let refused = registry.get(&format!("{path}?n={n}")).await;
            refused.refused(400, "PAGINATION_NUMBER_INVALID");
        }
    }
}

/// "Listing Tags": more than a page has are not refused; `Link` says that there are more.
async fn a_page_has_at_most_1000_tags(registry: Registry) {
    push_tags(&registry, "app", &TAGS).await;
    for n in ["1001", "99999999999999999999999999"] {
        let listed = registry.get(&format!("/v2/app/tags/list?n={n}")).await;
        assert_eq!(listed.is(200).json()["tags"], json!(TAGS));
    }
}

/// `_catalog`, as Docker has it.
async fn repositories_are_listed_in_order_and_in_pages(registry: Registry) {
    let names = ["a", "a-b", "a.b", "a/b", "a/b/c", "a0", "b"];
    for name in names.iter().rev() {
        push_tags(&registry, name, &["v1"]).await;
    }
    let pages = registry.pages("/v2/_catalog", "repositories").await;
    assert_eq!(pages, [names.map(Value::from).to_vec()]);
    for n in 1..9 {
        let first = format!("/v2/_catalog?n={n}");
        let pages = registry.pages(&first, "repositories").await;
        assert!(pages.iter().all(|page| page.len() <= n));
        assert_eq!(pages.concat(), names.map(Value::from));
    }
    let after = registry.get("/v2/_catalog?last=a.a").await.json();
    assert_eq!(after["repositories"], json!(names[2..]));
    let none = registry.get("/v2/_catalog?n=0").await.is(200);
    assert_eq!(none.json()["repositories"], json!([]));
    assert_eq!(none.header("link"), "");
}

/// RFC 9110, 9.3.2.
async fn a_listing_has_a_head(registry: Registry) {
    push_tags(&registry, "app", &TAGS).await;
    for path in ["/v2/app/tags/list?n=1", "/v2/_catalog"] {
        let listed = registry.get(path).await.is(200);
        let head = registry.head(path).await.is(200);
        for header in ["content-length", "content-type", "link"] {
            assert_eq!(head.header(header), listed.header(header));
        }
    }
}
