//! What a known caller may do, by its roles at this moment.

use config_documents::Document;
use credentials::{Secret, SecretKind};
use reqwest::Method;

use crate::{node::*, support::*};

/// The statuses of a pull, a push, a deletion and a listing, with user name and password.
async fn walk(node: &Node, user: &str, secret: &Secret) -> [u16; 4] {
    let login = async |request: reqwest::RequestBuilder| {
        send(request.basic_auth(user, Some(secret.expose())))
            .await
            .status
    };
    let blob = format!("/v2/app/blobs/{SHA256_OF_HELLO}");
    [
        login(node.get(&blob)).await,
        login(node.post(&hello_path("app")).body("hello")).await,
        login(node.request(Method::DELETE, "contoso", "/v2/app/manifests/none")).await,
        login(node.get("/v2/_catalog")).await,
    ]
}

async fn fill(node: &Node) {
    let request = node.post(&hello_path("app")).body("hello");
    let answer = send(request.basic_auth("contoso", Some(node.passwords[0].expose()))).await;
    assert_eq!(answer.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_gives_what_the_published_table_says() {
    let mut node = Node::start().await;
    fill(&node).await;
    for (number, role, expected) in [
        (1, "AcrPull", [200, 401, 401, 401]),
        (2, "AcrPush", [200, 201, 401, 401]),
        (3, "AcrDelete", [401, 401, 404, 401]),
        (4, "Reader", [200, 401, 401, 200]),
        (5, "Contributor", [200, 201, 404, 200]),
        (6, "Owner", [200, 201, 404, 200]),
    ] {
        let secret = node.add_principal(number, &[(&resource_id("Contoso"), role)]);
        let found = walk(&node, &app_id(number).to_string(), &secret).await;
        assert_eq!(found, expected, "{role}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_push_says_denied_and_which_scope_it_takes() {
    let mut node = Node::start().await;
    let secret = node.add_principal(1, &[(SUBSCRIPTION, "Reader")]);
    let user = app_id(1).to_string();
    let token = node
        .access_token(&user, &secret, "repository:app:pull,push")
        .await;
    let expected =
        node.challenge(",scope=\"repository:app:pull,push\",error=\"insufficient_scope\"");
    let push = || node.post(&hello_path("app")).body("hello");
    for request in [
        push().basic_auth(&user, Some(secret.expose())),
        push().bearer_auth(&token),
    ] {
        let answer = send(request).await;
        assert_eq!((answer.status, answer.code()), (401, "DENIED"));
        assert_eq!(answer.challenge, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_without_any_right_is_refused_at_login() {
    let mut node = Node::start().await;
    let elsewhere = format!("{SUBSCRIPTION}/resourceGroups/Other");
    let secret = node.add_principal(1, &[(&elsewhere, "Owner")]);
    let user = app_id(1).to_string();
    let answer = send(node.get("/v2/").basic_auth(&user, Some(secret.expose()))).await;
    assert_eq!((answer.status, answer.code()), (401, "DENIED"));
    assert_eq!(
        answer.challenge,
        node.challenge(",error=\"insufficient_scope\"")
    );
    let answer = node.token(&user, &secret, &["repository:app:pull"]).await;
    assert_eq!((answer.status, answer.code()), (401, "DENIED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_counts_at_once_and_its_removal_takes_tokens_with_it() {
    let mut node = Node::start().await;
    fill(&node).await;
    let secret = node.add_principal(1, &[]);
    let user = app_id(1).to_string();
    assert_eq!(node.token(&user, &secret, &[]).await.status, 401);
    let scope = resource_id("CONTOSO").replace("/resourceGroups/Team", "/resourcegroups/TEAM");
    let assigned = assignment(1, &scope, object_id(1), "AcrPush");
    node.feed.publish(vec![assigned.clone()]);
    let token = node
        .access_token(&user, &secret, "repository:app:pull,push")
        .await;
    let blob = format!("/v2/app/blobs/{SHA256_OF_HELLO}");
    assert_eq!(send(node.get(&blob).bearer_auth(&token)).await.status, 200);
    node.feed.delete(&assigned);
    let answer = send(node.get(&blob).bearer_auth(&token)).await;
    assert_eq!((answer.status, answer.code()), (401, "DENIED"));
    assert_eq!(send(node.get("/v2/").bearer_auth(&token)).await.status, 401);
    assert_eq!(
        send(node.get("/v2/").basic_auth(&user, Some(secret.expose())))
            .await
            .status,
        401
    );
    // The token allows again what it says as soon as its owner may again.
    node.feed.publish(vec![assigned]);
    assert_eq!(send(node.get(&blob).bearer_auth(&token)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_registry_refuses_the_users_and_tokens_of_the_first() {
    let mut node = Node::start().await;
    let secret = node.add_principal(1, &[(&resource_id("Contoso"), "Owner")]);
    let user = app_id(1).to_string();
    let token = node
        .access_token(&user, &secret, "repository:app:pull")
        .await;
    let admin_token = node
        .access_token("contoso", &node.passwords[0], "repository:app:pull")
        .await;
    let own = crate::support::secret(SecretKind::AdminPassword);
    let fabrikam = registry(2, "Fabrikam", node.port, &[(&own, 1)]);
    node.feed.publish(vec![Document::Registry(fabrikam)]);
    let get = || node.request(Method::GET, "fabrikam", "/v2/");
    let status = async |request: reqwest::RequestBuilder| send(request).await.status;
    assert_eq!(
        status(get().basic_auth("fabrikam", Some(own.expose()))).await,
        200
    );
    assert_eq!(
        status(get().basic_auth("contoso", Some(node.passwords[0].expose()))).await,
        401
    );
    assert_eq!(
        status(get().basic_auth("fabrikam", Some(node.passwords[0].expose()))).await,
        401
    );
    assert_eq!(
        status(get().basic_auth(&user, Some(secret.expose()))).await,
        401
    );
    assert_eq!(status(get().bearer_auth(&token)).await, 401);
    assert_eq!(status(get().bearer_auth(&admin_token)).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_created_again_refuses_the_tokens_of_the_old_registry() {
    let mut node = Node::start().await;
    let token = node
        .access_token("contoso", &node.passwords[0], "repository:app:pull")
        .await;
    let old = node.contoso(&[1, 1]);
    node.feed.delete(&Document::Registry(old.clone()));
    assert_eq!(send(node.get("/v2/").bearer_auth(&token)).await.status, 404);
    let mut new = old;
    new.uid = uuid::Uuid::from_u128(77);
    node.feed.publish(vec![Document::Registry(new)]);
    assert_eq!(send(node.get("/v2/").bearer_auth(&token)).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_lead_nowhere_are_unknown_operations() {
    let node = Node::start().await;
    for path in [
        "/",
        "/v1/",
        "/v2/app/nothing",
        "/acr/v2/app",
        "/acr/v1/_nothing",
    ] {
        let answer = send(node.get(path)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (404, "OPERATION_UNKNOWN"),
            "{path}"
        );
    }
}

/// Sends half of a body, then lets `change` happen, then sends the rest.
async fn in_two_halves(
    node: &mut Node,
    request: reqwest::RequestBuilder,
    body: &'static str,
    change: impl FnOnce(&mut Feed),
) -> Answer {
    let before = node.received_bytes();
    let (sender, halves) = tokio::sync::mpsc::channel::<Result<&str, std::io::Error>>(1);
    let stream = futures_util::stream::unfold(halves, async |mut halves| {
        halves.recv().await.map(|half| (half, halves))
    });
    let answer = tokio::spawn(send(request.body(reqwest::Body::wrap_stream(stream))));
    let (first, second) = body.split_at(body.len() / 2);
    sender.send(Ok(first)).await.expect("the body is wanted");
    let first_is_there = async {
        while node.received_bytes() < before + first.len() as u64 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let limit = std::time::Duration::from_secs(60);
    let waited = tokio::time::timeout(limit, first_is_there).await;
    waited.expect("the first half is let in");
    change(&mut node.feed);
    sender.send(Ok(second)).await.expect("the body is wanted");
    drop(sender);
    answer.await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_withdrawn_while_a_body_comes_stops_the_push() {
    const INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
    let mut node = Node::start().await;
    let secret = node.add_principal(1, &[(SUBSCRIPTION, "AcrPush")]);
    let role = assignment(100, SUBSCRIPTION, object_id(1), "AcrPush");
    let user = app_id(1).to_string();
    let token = node
        .access_token(&user, &secret, "repository:app:pull,push")
        .await;
    let requests = |node: &Node| {
        let put = node
            .request(Method::PUT, "contoso", "/v2/app/manifests/late")
            .header("content-type", "application/vnd.oci.image.index.v1+json");
        let blob = node.post(&hello_path("app"));
        [
            (put.bearer_auth(&token), INDEX),
            (blob.basic_auth(&user, Some(secret.expose())), "hello"),
        ]
    };
    for (request, body) in requests(&node) {
        let answer = in_two_halves(&mut node, request, body, |feed| feed.delete(&role)).await;
        assert_eq!((answer.status, answer.code()), (401, "DENIED"));
        assert_eq!(
            answer.challenge,
            node.challenge(",scope=\"repository:app:pull,push\",error=\"insufficient_scope\"")
        );
        node.feed.publish(vec![role.clone()]);
    }
    for (request, body) in requests(&node) {
        let mut without_secret = principal(1, &secret, &[]);
        without_secret.secrets.clear();
        let withdrawn = vec![Document::Principal(without_secret)];
        let answer = in_two_halves(&mut node, request, body, |feed| feed.publish(withdrawn)).await;
        assert_eq!((answer.status, answer.code()), (401, "UNAUTHORIZED"));
        let back = Document::Principal(principal(1, &secret, &[]));
        node.feed.publish(vec![back]);
    }
    for path in [
        "/v2/app/manifests/late",
        &format!("/v2/app/blobs/{SHA256_OF_HELLO}"),
    ] {
        let request = node.get(path).basic_auth(&user, Some(secret.expose()));
        assert_eq!(send(request).await.status, 404, "{path}");
    }
    for (request, body) in requests(&node) {
        let answer = in_two_halves(&mut node, request, body, |_| {}).await;
        assert_eq!(answer.status, 201);
    }
}
