//! Who may do what without credentials.

use config_documents::{Document, Registry, RoleAssignmentMode};
use reqwest::Method;
use serde_json::json;

use crate::{node::*, support::*};

/// A node whose registry has a blob and lets everybody pull, or does not.
async fn start(is_open: bool) -> Node {
    let mut node = Node::start().await;
    let push = node.post(&hello_path("app")).body("hello");
    let pushed = send(push.basic_auth("contoso", Some(node.passwords[0].expose()))).await;
    assert_eq!(pushed.status, 201);
    open(&mut node, is_open);
    node
}

fn open(node: &mut Node, is_open: bool) {
    let registry = Registry {
        anonymous_pull_enabled: is_open,
        ..node.contoso(&[1, 1])
    };
    node.feed.publish(vec![Document::Registry(registry)]);
}

fn blob() -> String {
    format!("/v2/app/blobs/{SHA256_OF_HELLO}")
}

/// As docker asks for a token without credentials.
async fn token(node: &Node, scopes: &str) -> Answer {
    let server = login_server("contoso", node.port);
    send(node.get(&format!("/oauth2/token?service={server}{scopes}"))).await
}

async fn must_have_token(node: &Node, scopes: &str) -> String {
    let answer = token(node, scopes).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().expect("a token");
    token.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_registry_is_read_and_nothing_else() {
    let node = start(true).await;
    for path in [blob().as_str(), "/v2/app/tags/list", "/v2/_catalog"] {
        let status = send(node.get(path)).await.status;
        // Nobody has pushed a tag.
        assert!(status == 200 || path.ends_with("tags/list"), "{path}");
        assert_ne!(status, 401, "{path}");
    }
    let head = send(node.request(Method::HEAD, "contoso", &blob())).await;
    assert_eq!(head.status, 200);
    let refused = [
        node.post(&hello_path("app")).body("hello"),
        node.post("/v2/app/blobs/uploads/"),
        node.request(Method::PUT, "contoso", "/v2/app/manifests/v1")
            .body("{}"),
        node.request(Method::DELETE, "contoso", "/v2/app/manifests/v1"),
        node.request(Method::DELETE, "contoso", &blob()),
    ];
    for request in refused {
        let answer = send(request).await;
        assert_eq!((answer.status, answer.code()), (401, "UNAUTHORIZED"));
        assert!(answer.challenge[0].contains("scope=\"repository:app:"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_of_an_open_registry_are_read_and_not_changed() {
    let node = start(true).await;
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let put = node
        .request(Method::PUT, "contoso", "/v2/app/manifests/v1")
        .header("content-type", "application/vnd.oci.image.index.v1+json")
        .basic_auth("contoso", Some(node.passwords[0].expose()))
        .body(manifest);
    assert_eq!(send(put).await.status, 201);
    for path in [
        "/acr/v1/_catalog",
        "/acr/v1/app",
        "/acr/v1/app/_tags",
        "/acr/v1/app/_manifests",
    ] {
        assert_eq!(send(node.get(path)).await.status, 200, "{path}");
    }
    let patch = node
        .request(Method::PATCH, "contoso", "/acr/v1/app/_tags/v1")
        .body(r#"{"writeEnabled":false}"#);
    let delete = node.request(Method::DELETE, "contoso", "/acr/v1/app");
    for request in [patch, delete] {
        let refused = send(request).await;
        assert_eq!((refused.status, refused.code()), (401, "UNAUTHORIZED"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_base_is_challenged_so_that_clients_find_the_token_endpoint() {
    let node = start(true).await;
    let answer = send(node.get("/v2/")).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.challenge, node.challenge(""));
    let token = must_have_token(&node, "").await;
    assert_eq!(send(node.get("/v2/").bearer_auth(token)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_without_credentials_gives_reading_only() {
    let node = start(true).await;
    let scopes = "&scope=repository:app:pull,push,delete,metadata_read,metadata_write&scope=registry:catalog:*";
    let token = must_have_token(&node, scopes).await;
    assert_eq!(
        claims(&token)["access"],
        json!([
            {"type": "repository", "name": "app", "actions": ["pull", "metadata_read"]},
            {"type": "registry", "name": "catalog", "actions": ["*"]},
        ])
    );
    let get = send(node.get(&blob()).bearer_auth(&token)).await;
    assert_eq!(get.status, 200);
    let push = node.post(&hello_path("app")).body("hello");
    let push = send(push.bearer_auth(&token)).await;
    assert_eq!((push.status, push.code()), (401, "DENIED"));
    // It allows what it was asked for, no more.
    let other = must_have_token(&node, "&scope=repository:other:pull").await;
    let get = send(node.get(&blob()).bearer_auth(&other)).await;
    assert_eq!(get.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdks_way_of_asking_without_credentials_is_answered() {
    let node = start(true).await;
    let form = "grant_type=password&username=&password=&scope=repository:app:pull";
    let ask = || {
        node.post("/oauth2/token")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
    };
    assert_eq!(send(ask()).await.status, 200);
    let node = start(false).await;
    let ask = node.post("/oauth2/token").body(form);
    assert_eq!(send(ask).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_closed_again_is_closed_at_once() {
    let mut node = start(true).await;
    let old = must_have_token(&node, "&scope=repository:app:pull").await;
    let bearer = async |node: &Node| send(node.get(&blob()).bearer_auth(&old)).await.status;
    assert_eq!(bearer(&node).await, 200);
    open(&mut node, false);
    assert_eq!(bearer(&node).await, 401);
    let direct = send(node.get(&blob())).await;
    assert_eq!((direct.status, direct.code()), (401, "UNAUTHORIZED"));
    let refused = token(&node, "&scope=repository:app:pull").await;
    assert_eq!((refused.status, refused.code()), (401, "UNAUTHORIZED"));
    // A token from before is no worse than a new one.
    open(&mut node, true);
    assert_eq!(bearer(&node).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_not_taken_for_none() {
    let node = start(true).await;
    let wrong = node.get(&blob()).basic_auth("contoso", Some("wrong"));
    assert_eq!(send(wrong).await.status, 401);
    let wrong = node.get(&blob()).bearer_auth("wrong");
    assert_eq!(send(wrong).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn role_assignments_by_repository_do_not_close_what_is_open() {
    let mut node = start(true).await;
    let registry = Registry {
        role_assignment_mode: RoleAssignmentMode::AbacRepositoryPermissions,
        anonymous_pull_enabled: true,
        ..node.contoso(&[1, 1])
    };
    node.feed.publish(vec![Document::Registry(registry)]);
    assert_eq!(send(node.get(&blob())).await.status, 200);
    let push = node.post(&hello_path("app")).body("hello");
    assert_eq!(send(push).await.status, 401);
    // Whoever has logged in has the rights of its roles.
    let secret = node.add_principal(1, &[(SUBSCRIPTION, "AcrDelete")]);
    let user = app_id(1).to_string();
    let get = node.get(&blob()).basic_auth(user, Some(secret.expose()));
    assert_eq!(send(get).await.status, 401);
}
