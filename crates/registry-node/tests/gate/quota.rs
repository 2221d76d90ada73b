//! Pushes to a registry that is full.

use config_documents::{Document, Registry};
use reqwest::{Method, RequestBuilder};

use crate::node::*;

async fn start(quota_bytes: u64) -> Node {
    let mut node = Node::start().await;
    limit(&mut node, Some(quota_bytes));
    node
}

fn limit(node: &mut Node, quota_bytes: Option<u64>) {
    let registry = Registry {
        quota_bytes,
        ..node.contoso(&[1, 1])
    };
    node.feed.publish(vec![Document::Registry(registry)]);
}

async fn as_admin(node: &Node, request: RequestBuilder) -> Answer {
    send(request.basic_auth("contoso", Some(node.passwords[0].expose()))).await
}

async fn push_hello(node: &Node) -> Answer {
    as_admin(node, node.post(&hello_path("app")).body("hello")).await
}

fn put_manifest(node: &Node) -> RequestBuilder {
    let index = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    node.request(Method::PUT, "contoso", "/v2/app/manifests/v1")
        .header("content-type", "application/vnd.oci.image.index.v1+json")
        .body(index)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_registry_takes_nothing_more_and_gives_and_deletes_what_it_has() {
    let mut node = start(5).await;
    assert_eq!(push_hello(&node).await.status, 201);
    for request in [
        node.post(&hello_path("app")).body("hello"),
        node.post("/v2/app/blobs/uploads/"),
        put_manifest(&node),
    ] {
        let refused = as_admin(&node, request).await;
        assert_eq!((refused.status, refused.code()), (403, "DENIED"));
        let error = &refused.body["errors"][0];
        let message = error["message"].as_str().expect("text");
        assert!(
            message.contains("Contoso is full: it stores 5 bytes of the 5"),
            "{message}"
        );
        assert_eq!(error["detail"]["quotaBytes"], 5);
    }
    let blob = format!("/v2/app/blobs/{SHA256_OF_HELLO}");
    assert_eq!(as_admin(&node, node.get(&blob)).await.status, 200);
    let delete = node.request(Method::DELETE, "contoso", &blob);
    assert_eq!(as_admin(&node, delete).await.status, 202);
    limit(&mut node, None);
    assert_eq!(as_admin(&node, put_manifest(&node)).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_not_fit_is_refused_before_it_comes() {
    let node = start(4).await;
    assert_eq!(push_hello(&node).await.status, 403);
    assert_eq!(node.received_bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_ends_beyond_the_quota_is_dropped() {
    let node = start(8).await;
    assert_eq!(push_hello(&node).await.status, 201);
    let begun = as_admin(&node, node.post("/v2/app/blobs/uploads/")).await;
    assert_eq!(begun.status, 202);
    let location = begun.header("location").to_owned();
    // Its length is not announced.
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(
        "hello",
    )]));
    let append = node.request(Method::PATCH, "contoso", &location).body(body);
    assert_eq!(as_admin(&node, append).await.status, 202);
    let end = format!("{location}?digest={SHA256_OF_HELLO}");
    let end = node.request(Method::PUT, "contoso", &end);
    let refused = as_admin(&node, end).await;
    assert_eq!((refused.status, refused.code()), (403, "DENIED"));
    let gone = as_admin(&node, node.get(&location)).await;
    assert_eq!(gone.status, 404);
}
