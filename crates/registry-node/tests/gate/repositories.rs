//! Rights by repository: registries whose role assignments count per repository, and those where they do not.

use config_documents::{Document, RoleAssignmentMode};
use credentials::{Secret, SecretKind};
use reqwest::{Method, RequestBuilder};

use crate::{node::*, support::*};

const READER: &str = "Container Registry Repository Reader";
const WRITER: &str = "Container Registry Repository Writer";
const CONTRIBUTOR: &str = "Container Registry Repository Contributor";
const LISTER: &str = "Container Registry Repository Catalog Lister";

async fn start(mode: RoleAssignmentMode) -> Node {
    let mut node = Node::start().await;
    for repository in ["backend/api", "frontend", "backend"] {
        let request = node.post(&hello_path(repository)).body("hello");
        let answer = send(request.basic_auth("contoso", Some(node.passwords[0].expose()))).await;
        assert_eq!(answer.status, 201);
    }
    let mut contoso = node.contoso(&[1, 1]);
    contoso.role_assignment_mode = mode;
    node.feed.publish(vec![Document::Registry(contoso)]);
    node
}

/// Somebody with these roles, each restricted to repositories if something is said of them.
struct Somebody {
    user: String,
    secret: Secret,
}

fn add(node: &mut Node, number: u128, roles: &[(&str, Option<&str>)]) -> Somebody {
    let secret = secret(SecretKind::ServicePrincipalSecret);
    let mut documents = vec![Document::Principal(principal(number, &secret, &[]))];
    for (index, (role, comparison)) in roles.iter().enumerate() {
        let id = number * 100 + index as u128;
        let plain = assignment(id, &resource_id("Contoso"), object_id(number), role);
        documents.push(match comparison {
            Some(comparison) => restricted(plain, &["content/*", "metadata/*"], &[comparison]),
            None => plain,
        });
    }
    node.feed.publish(documents);
    Somebody {
        user: app_id(number).to_string(),
        secret,
    }
}

impl Somebody {
    async fn status(&self, request: RequestBuilder) -> u16 {
        let request = request.basic_auth(&self.user, Some(self.secret.expose()));
        send(request).await.status
    }

    /// The statuses of a pull, a push and a deletion in a repository.
    async fn walk(&self, node: &Node, repository: &str) -> [u16; 3] {
        let blob = format!("/v2/{repository}/blobs/{SHA256_OF_HELLO}");
        let manifest = format!("/v2/{repository}/manifests/none");
        let push = node.post(&hello_path(repository)).body("hello");
        [
            self.status(node.get(&blob)).await,
            self.status(push).await,
            self.status(node.request(Method::DELETE, "contoso", &manifest))
                .await,
        ]
    }

    async fn base(&self, node: &Node) -> u16 {
        self.status(node.get("/v2/")).await
    }

    async fn catalog(&self, node: &Node) -> u16 {
        self.status(node.get("/v2/_catalog")).await
    }

    /// What a token allows that is asked for with these scopes.
    async fn granted(&self, node: &Node, scopes: &[&str]) -> Vec<String> {
        let answer = node.token(&self.user, &self.secret, scopes).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let claims = claims(answer.body["access_token"].as_str().expect("a token"));
        let entries = claims["access"].as_array().expect("a list").iter();
        entries
            .map(|entry| {
                let text = |value: &serde_json::Value| value.as_str().unwrap_or("?").to_owned();
                let actions: Vec<String> = entry["actions"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(text)
                    .collect();
                format!("{}:{}", text(&entry["name"]), actions.join(","))
            })
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repository_roles_count_and_the_registrys_own_do_not() {
    let mut node = start(RoleAssignmentMode::AbacRepositoryPermissions).await;
    for (number, role) in ["Owner", "Contributor", "AcrPull", "AcrPush", "AcrDelete"]
        .into_iter()
        .enumerate()
    {
        let somebody = add(&mut node, 10 + number as u128, &[(role, None)]);
        assert_eq!(somebody.base(&node).await, 401, "{role}");
        assert_eq!(somebody.walk(&node, "backend").await, [401; 3], "{role}");
    }
    for (number, role, expected) in [
        (1, READER, [200, 401, 401]),
        (2, WRITER, [200, 201, 401]),
        (3, CONTRIBUTOR, [200, 201, 404]),
        (4, LISTER, [401, 401, 401]),
    ] {
        let somebody = add(&mut node, number, &[(role, None)]);
        assert_eq!(somebody.base(&node).await, 200, "{role}");
        assert_eq!(somebody.walk(&node, "backend").await, expected, "{role}");
        let listed = if role == LISTER { 200 } else { 401 };
        assert_eq!(somebody.catalog(&node).await, listed, "{role}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_right_is_told_of_a_role_that_counts_in_the_registrys_mode() {
    for (mode, needed, of_no_use) in [
        (
            RoleAssignmentMode::AbacRepositoryPermissions,
            &[READER, WRITER][..],
            "AcrPush",
        ),
        (
            RoleAssignmentMode::LegacyRegistryPermissions,
            &["AcrPull"][..],
            WRITER,
        ),
    ] {
        let mut node = start(mode).await;
        let somebody = add(&mut node, 1, &[(of_no_use, None)]);
        let request = node.get("/v2/");
        let answer = send(request.basic_auth(&somebody.user, Some(somebody.secret.expose()))).await;
        assert_eq!((answer.status, answer.code()), (401, "DENIED"));
        let (_, advice) = answer.message().split_once("it needs ").expect("advice");
        let (advice, not_counting) = advice.split_once(';').unwrap_or((advice, ""));
        assert!(needed.iter().all(|role| advice.contains(role)), "{advice}");
        assert!(!advice.contains(of_no_use), "{advice}");
        let is_explained = mode == RoleAssignmentMode::AbacRepositoryPermissions;
        assert_eq!(not_counting.contains(of_no_use), is_explained);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_registry_of_the_older_mode_neither_repository_roles_nor_conditional_assignments_count()
 {
    let mut node = start(RoleAssignmentMode::LegacyRegistryPermissions).await;
    let writer = add(&mut node, 1, &[(WRITER, None)]);
    assert_eq!(writer.base(&node).await, 401);
    let only = Some("StringEqualsIgnoreCase 'frontend'");
    let puller = add(&mut node, 2, &[("AcrPull", only)]);
    assert_eq!(puller.base(&node).await, 401);
    let puller = add(&mut node, 3, &[("AcrPull", None)]);
    assert_eq!(puller.walk(&node, "backend").await, [200, 401, 401]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_restricts_requests_and_tokens_to_its_repositories() {
    let mut node = start(RoleAssignmentMode::AbacRepositoryPermissions).await;
    let roles = [
        (READER, Some("StringEqualsIgnoreCase 'Frontend'")),
        (WRITER, Some("StringStartsWithIgnoreCase 'backend/'")),
        (LISTER, None),
    ];
    let somebody = add(&mut node, 1, &roles);
    assert_eq!(somebody.base(&node).await, 200);
    assert_eq!(somebody.catalog(&node).await, 200);
    assert_eq!(somebody.walk(&node, "frontend").await, [200, 401, 401]);
    assert_eq!(somebody.walk(&node, "backend/api").await, [200, 201, 401]);
    assert_eq!(somebody.walk(&node, "backend").await, [401; 3]);
    assert_eq!(somebody.walk(&node, "backend-api").await, [401; 3]);
    let scopes = [
        "repository:frontend:pull,push,metadata_read",
        "repository:backend/api:*",
        "repository:backend:pull",
        "registry:catalog:*",
    ];
    assert_eq!(
        somebody.granted(&node, &scopes).await,
        [
            "frontend:pull,metadata_read",
            "backend/api:pull,push,metadata_read,metadata_write",
            "catalog:*"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_takes_the_right_to_read_its_source() {
    let mut node = start(RoleAssignmentMode::AbacRepositoryPermissions).await;
    let roles = [
        (READER, Some("StringEqualsIgnoreCase 'frontend'")),
        (WRITER, Some("StringEqualsIgnoreCase 'target'")),
    ];
    let somebody = add(&mut node, 1, &roles);
    let mount = |from: &str| {
        let path = format!("/v2/target/blobs/uploads/?mount={SHA256_OF_HELLO}&from={from}");
        node.post(&path)
    };
    // Without the right to read it the mount becomes an upload.
    assert_eq!(somebody.status(mount("backend")).await, 202);
    assert_eq!(somebody.status(mount("frontend")).await, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_loses_what_a_condition_takes_away() {
    let mut node = start(RoleAssignmentMode::AbacRepositoryPermissions).await;
    let somebody = add(&mut node, 1, &[(READER, None)]);
    let token = node
        .access_token(&somebody.user, &somebody.secret, "repository:backend:pull")
        .await;
    let blob = format!("/v2/backend/blobs/{SHA256_OF_HELLO}");
    let pull = || node.get(&blob).bearer_auth(&token);
    assert_eq!(send(pull()).await.status, 200);
    let plain = assignment(100, &resource_id("Contoso"), object_id(1), READER);
    let only = ["StringEqualsIgnoreCase 'frontend'"];
    let narrowed = restricted(plain, &["content/read"], &only);
    node.feed.publish(vec![narrowed]);
    let pull = || node.get(&blob).bearer_auth(&token);
    assert_eq!(send(pull()).await.status, 401);
    // And the registry's mode takes away or gives at once as well.
    let legacy = node.contoso(&[1, 1]);
    node.feed.publish(vec![Document::Registry(legacy)]);
    assert_eq!(somebody.base(&node).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_is_not_understood_takes_its_assignment_away() {
    let mut node = start(RoleAssignmentMode::AbacRepositoryPermissions).await;
    let somebody = add(&mut node, 1, &[(READER, None)]);
    assert_eq!(somebody.base(&node).await, 200);
    let plain = assignment(100, &resource_id("Contoso"), object_id(1), READER);
    let document = restricted(
        plain,
        &["content/read"],
        &["StringEqualsIgnoreCase 'backend'"],
    );
    let mut stored = node.feed.stored(&document);
    stored.body = stored
        .body
        .map(|body| body.replace("StringEqualsIgnoreCase", "StringLike"));
    node.feed.revision += 1;
    stored.revision = config_documents::Revision(node.feed.revision);
    node.feed.send_stored(vec![stored]);
    node.feed.mark();
    assert_eq!(somebody.base(&node).await, 401);
}
