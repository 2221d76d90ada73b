//! Pushes and deletions are counted, by what became of them.

use credentials::Secret;
use reqwest::{Method, RequestBuilder};

use crate::{node::*, support::*};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn put(node: &Node, reference: &str) -> RequestBuilder {
    let path = format!("/v2/app/manifests/{reference}");
    node.request(Method::PUT, "contoso", &path)
        .header("content-type", INDEX)
        .body(EMPTY_INDEX)
}

fn delete(node: &Node, path: &str) -> RequestBuilder {
    node.request(Method::DELETE, "contoso", path)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_deleted_and_denied_is_counted() {
    let mut node = Node::start().await;
    let puller = node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let admin = node.passwords[0].clone();
    let by_admin = async |request: RequestBuilder| {
        send(request.basic_auth("contoso", Some(admin.expose()))).await
    };
    let by_puller = async |request: RequestBuilder, secret: &Secret| {
        let user = app_id(1).to_string();
        send(request.basic_auth(user, Some(secret.expose())))
            .await
            .status
    };
    let pushed = by_admin(put(&node, "v1")).await;
    assert_eq!(pushed.status, 201, "{}", pushed.body);
    let digest = pushed.header("docker-content-digest").to_owned();
    assert_eq!(by_admin(put(&node, "v2")).await.status, 201);
    let upload = node.post(&hello_path("app")).body("hello");
    assert_eq!(by_admin(upload).await.status, 201);
    assert_eq!(by_puller(put(&node, "v3"), &puller).await, 401);
    assert_eq!(send(put(&node, "v3")).await.status, 401);
    let broken = put(&node, "v4").body("{");
    assert_eq!(by_admin(broken).await.status, 400);
    for path in [
        "/v2/app/manifests/v2".to_owned(),
        format!("/v2/app/manifests/{digest}"),
        format!("/v2/app/blobs/{SHA256_OF_HELLO}"),
    ] {
        assert_eq!(by_puller(delete(&node, &path), &puller).await, 401);
        assert_eq!(by_admin(delete(&node, &path)).await.status, 202);
    }
    // Reading changes nothing.
    assert_eq!(by_admin(node.get("/v2/app/tags/list")).await.status, 200);
    let mut counted = node.counted("wharfinger_registry_content_changes_total");
    counted.sort();
    assert_eq!(
        counted,
        [
            ("change=\"delete-blob\",outcome=\"denied\"".to_owned(), 1),
            ("change=\"delete-blob\",outcome=\"done\"".to_owned(), 1),
            (
                "change=\"delete-manifest\",outcome=\"denied\"".to_owned(),
                1
            ),
            ("change=\"delete-manifest\",outcome=\"done\"".to_owned(), 1),
            ("change=\"delete-tag\",outcome=\"denied\"".to_owned(), 1),
            ("change=\"delete-tag\",outcome=\"done\"".to_owned(), 1),
            ("change=\"push\",outcome=\"denied\"".to_owned(), 2),
            ("change=\"push\",outcome=\"done\"".to_owned(), 2),
            ("change=\"push\",outcome=\"failed\"".to_owned(), 1),
        ]
    );
}
