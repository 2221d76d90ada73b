//! Who may do what under `/acr/v1`, by role and by token, in both modes.

use config_documents::{Document, RoleAssignmentMode};
use reqwest::{Method, RequestBuilder};

use crate::{node::*, support::*};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const EMPTY_INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn request(node: &Node, method: Method, path: &str) -> RequestBuilder {
    let request = node.request(method.clone(), "contoso", path);
    match method {
        Method::PATCH => request.body("{}"),
        _ => request,
    }
}

async fn push(node: &Node, repository: &str) {
    let path = format!("/v2/{repository}/manifests/v1");
    let request = node
        .request(Method::PUT, "contoso", &path)
        .header("content-type", INDEX)
        .body(EMPTY_INDEX)
        .basic_auth("contoso", Some(node.passwords[0].expose()));
    assert_eq!(send(request).await.status, 201);
}

/// Operations, one for each right, with the scope that each takes.
fn operations() -> [(Method, &'static str, &'static str); 4] {
    [
        (Method::GET, "/acr/v1/app", "repository:app:metadata_read"),
        (
            Method::PATCH,
            "/acr/v1/app/_tags/v1",
            "repository:app:metadata_write",
        ),
        (
            Method::DELETE,
            "/acr/v1/app/_tags/v1",
            "repository:app:delete",
        ),
        (Method::GET, "/acr/v1/_catalog", "registry:catalog:*"),
    ]
}

/// The statuses of the operations, done with what `sign` adds.
async fn walk(node: &Node, sign: impl Fn(RequestBuilder) -> RequestBuilder) -> [u16; 4] {
    push(node, "app").await;
    let mut statuses = [0; 4];
    for (status, (method, path, _)) in statuses.iter_mut().zip(operations()) {
        *status = send(sign(request(node, method, path))).await.status;
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_gives_what_the_published_table_says_of_attributes() {
    let mut node = Node::start().await;
    let mut number = 0;
    for (mode, roles) in [
        (
            RoleAssignmentMode::LegacyRegistryPermissions,
            [
                ("AcrPull", [401, 401, 401, 401]),
                ("AcrPush", [401, 401, 401, 401]),
                ("AcrDelete", [401, 401, 202, 401]),
                ("Reader", [200, 401, 401, 200]),
                ("Contributor", [200, 200, 202, 200]),
                ("Owner", [200, 200, 202, 200]),
            ]
            .as_slice(),
        ),
        (
            RoleAssignmentMode::AbacRepositoryPermissions,
            [
                ("Owner", [401, 401, 401, 401]),
                ("Container Registry Repository Reader", [200, 401, 401, 401]),
                ("Container Registry Repository Writer", [200, 200, 401, 401]),
                (
                    "Container Registry Repository Contributor",
                    [200, 200, 202, 401],
                ),
                (
                    "Container Registry Repository Catalog Lister",
                    [401, 401, 401, 200],
                ),
            ]
            .as_slice(),
        ),
    ] {
        let mut contoso = node.contoso(&[1, 1]);
        contoso.role_assignment_mode = mode;
        node.feed.publish(vec![Document::Registry(contoso)]);
        for (role, expected) in roles {
            number += 1;
            let secret = node.add_principal(number, &[(&resource_id("Contoso"), role)]);
            let user = app_id(number).to_string();
            let found = walk(&node, |request| {
                request.basic_auth(&user, Some(secret.expose()))
            })
            .await;
            assert_eq!(found, *expected, "{mode:?} {role}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_allows_what_its_scope_names() {
    let node = Node::start().await;
    for (number, (method, path, scope)) in operations().into_iter().enumerate() {
        push(&node, "app").await;
        let challenge = node.challenge(&format!(",scope=\"{scope}\""));
        let answer = send(request(&node, method, path)).await;
        assert_eq!((answer.status, answer.code()), (401, "UNAUTHORIZED"));
        assert_eq!(answer.challenge, challenge);
        // With the scope that the challenge names, as the SDKs ask for it, that operation and no other.
        let token = node
            .access_token("contoso", &node.passwords[0], scope)
            .await;
        let mut expected = [401; 4];
        expected[number] = if number == 2 { 202 } else { 200 };
        let found = walk(&node, |request| request.bearer_auth(&token)).await;
        assert_eq!(found, expected, "{scope}");
    }
    // Several at once, as az asks for them.
    let scope = "repository:app:metadata_write,metadata_read";
    let token = node
        .access_token("contoso", &node.passwords[0], scope)
        .await;
    let found = walk(&node, |request| request.bearer_auth(&token)).await;
    assert_eq!(found, [200, 200, 401, 401]);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_those_of_the_repositories_that_a_condition_names() {
    let mut node = Node::start().await;
    let mut contoso = node.contoso(&[1, 1]);
    contoso.role_assignment_mode = RoleAssignmentMode::AbacRepositoryPermissions;
    node.feed.publish(vec![Document::Registry(contoso)]);
    let secret = secret(credentials::SecretKind::ServicePrincipalSecret);
    let plain = assignment(
        1,
        &resource_id("Contoso"),
        object_id(1),
        "Container Registry Repository Contributor",
    );
    let only = ["StringEqualsIgnoreCase 'app'"];
    node.feed.publish(vec![
        Document::Principal(principal(1, &secret, &[])),
        restricted(plain, &["content/*", "metadata/*"], &only),
    ]);
    for (repository, expected) in [("app", [200, 200, 202]), ("other", [401; 3])] {
        push(&node, repository).await;
        let path = format!("/acr/v1/{repository}");
        for (method, expected) in [Method::GET, Method::PATCH, Method::DELETE]
            .into_iter()
            .zip(expected)
        {
            let request = request(&node, method.clone(), &path);
            let request = request.basic_auth(app_id(1).to_string(), Some(secret.expose()));
            assert_eq!(
                send(request).await.status,
                expected,
                "{method} {repository}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_attributes_and_deletions_are_counted() {
    let node = Node::start().await;
    push(&node, "app").await;
    for (method, path, expected) in [
        (Method::GET, "/acr/v1/app", 200),
        (Method::PATCH, "/acr/v1/app", 200),
        (Method::PATCH, "/acr/v1/app/_tags/v1", 200),
        (Method::PATCH, "/acr/v1/app/_tags/none", 404),
        (Method::DELETE, "/acr/v1/app/_tags/v1", 202),
        (Method::DELETE, "/acr/v1/app", 202),
    ] {
        let request = request(&node, method, path);
        let request = request.basic_auth("contoso", Some(node.passwords[0].expose()));
        assert_eq!(send(request).await.status, expected, "{path}");
    }
    let mut counted = node.counted("wharfinger_registry_content_changes_total");
    counted.sort();
    let expected = [
        ("change-attributes", "done", 2),
        ("change-attributes", "failed", 1),
        ("delete-repository", "done", 1),
        ("delete-tag", "done", 1),
        ("push", "done", 1),
    ];
    let expected = expected.map(|(change, outcome, number)| {
        let labels = format!("change=\"{change}\",outcome=\"{outcome}\"");
        (labels, number)
    });
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(counted, expected);
}
