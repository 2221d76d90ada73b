//! Every operation of the OpenAPI document, called without a token, by a principal without any role, and with a malformed body: each
//! answers what its declared access promises.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{ASSIGNMENTS, GROUPS, OWNER, TestApp};

/// Operations that anybody may call. This list may only shrink.
const PUBLIC: &[&str] = &[
    "Metadata_Endpoints",
    "OpenApi_Get",
    "SignIn_Authorize",
    "SignIn_Keys",
    "SignIn_OpenIdConfiguration",
    "SignIn_Token",
];

struct Operation {
    id: String,
    method: Method,
    path: String,
    access: String,
    right: String,
    takes_json: bool,
    answers: Vec<u16>,
}

/// The operations of the document, with parameters filled in so that each path names something that could be.
async fn operations(app: &TestApp) -> Vec<Operation> {
    let document = app.send(Method::GET, "/openapi.json", "", None).await;
    assert_eq!(document.status, 200);
    let mut operations = Vec::new();
    for (template, item) in document.body["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = Method::from_bytes(method.to_ascii_uppercase().as_bytes()) else {
                continue;
            };
            if operation["operationId"].is_null() {
                continue;
            }
            operations.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method,
                path: fill(app, template, operation),
                access: operation["x-wharfinger-access"]["kind"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                right: operation["x-wharfinger-access"]["right"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
                takes_json: operation["requestBody"]["content"]["application/json"].is_object(),
                answers: operation["responses"]
                    .as_object()
                    .unwrap()
                    .keys()
                    .map(|status| status.parse().unwrap())
                    .collect(),
            });
        }
    }
    operations
}

fn fill(app: &TestApp, template: &str, operation: &Value) -> String {
    let path = template
        .split('/')
        .map(|segment| match segment {
            "{subscriptionId}" => app.subscription_id.to_string(),
            "{resourceGroupName}" => "walk".to_owned(),
            "{registryName}" => "walkregistry".to_owned(),
            "{tenant}" => app.tenant_id.to_string(),
            "{resourceProviderNamespace}" => "Microsoft.ContainerRegistry".to_owned(),
            "{revision}" => "1".to_owned(),
            parameter if parameter.starts_with('{') => {
                "11111111-2222-4333-8444-555555555555".to_owned()
            }
            literal => literal.to_owned(),
        })
        .collect::<Vec<_>>()
        .join("/");
    let version = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|parameter| parameter["name"] == "api-version")
        .and_then(|parameter| parameter["schema"]["enum"][0].as_str());
    match version {
        Some(version) => format!("{path}?api-version={version}"),
        None => path,
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn without_a_token_only_public_operations_answer(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("walk", "walkregistry").await;
    let operations = operations(&app).await;
    assert!(
        operations.len() > 40,
        "the document has {} operations",
        operations.len()
    );
    for operation in operations {
        let public = PUBLIC.iter().any(|start| operation.id.starts_with(start));
        assert_eq!(
            operation.access == "public",
            public,
            "{} is declared '{}'",
            operation.id,
            operation.access
        );
        if public {
            continue;
        }
        let body = operation.takes_json.then(|| json!({}));
        let reply = app
            .send(operation.method.clone(), &operation.path, "", body)
            .await;
        assert!(
            matches!(reply.status, 400 | 401),
            "{}: {} {}",
            operation.id,
            reply.status,
            reply.body
        );
        if operation.access != "node" {
            assert_eq!(reply.status, 401, "{}: {}", operation.id, reply.body);
            assert!(
                reply.header("www-authenticate").starts_with("Bearer "),
                "{}",
                operation.id
            );
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_principal_without_any_role_gets_what_is_declared(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("walk", "walkregistry").await;
    let nobody = app.create_principal("nobody").await;
    for operation in operations(&app).await {
        let body = operation.takes_json.then(|| json!({}));
        let reply = app
            .send(
                operation.method.clone(),
                &operation.path,
                &nobody.token,
                body,
            )
            .await;
        let context = format!(
            "{} ({}): {} {}",
            operation.id, operation.access, reply.status, reply.body
        );
        match operation.access.as_str() {
            "action" => {
                assert_eq!(reply.status, 403, "{context}");
                assert!(
                    operation.method == Method::HEAD || reply.code() == "AuthorizationFailed",
                    "{context}"
                );
            }
            "filteredList" => {
                assert_eq!(reply.status, 200, "{context}");
                assert_eq!(reply.body["value"], json!([]), "{context}");
            }
            "anyPrincipal" => assert!(matches!(reply.status, 200 | 404), "{context}"),
            "directory" => match operation.right.as_str() {
                "Read" => assert!(matches!(reply.status, 200 | 400 | 404), "{context}"),
                "CreateApplication" | "OwnAccount" => assert_eq!(reply.status, 400, "{context}"),
                _ => assert_eq!(reply.status, 403, "{context}"),
            },
            "node" => assert!(matches!(reply.status, 400 | 401), "{context}"),
            "public" => {}
            other => panic!("{} has the unknown access '{other}'", operation.id),
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_malformed_body_is_named_and_never_a_failure_of_ours(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("walk", "walkregistry").await;
    for operation in operations(&app).await {
        if !operation.takes_json || operation.access == "node" {
            continue;
        }
        for body in [
            "",
            "{",
            "[]",
            "null",
            "7",
            "{\"nonsense\": 1}",
            "{\"properties\": {\"nonsense\": 1}}",
            "{\"tags\": 5}",
        ] {
            let request = app
                .request(operation.method.clone(), &operation.path)
                .bearer_auth(&app.token)
                .header("content-type", "application/json")
                .body(body);
            let reply = app.read(request).await;
            assert!(
                matches!(reply.status, 400 | 404),
                "{} with {body:?}: {} {}",
                operation.id,
                reply.status,
                reply.body
            );
            assert!(
                !reply.code().is_empty() && !reply.message().is_empty(),
                "{}: {}",
                operation.id,
                reply.body
            );
        }
        assert!(
            !operation.answers.is_empty(),
            "{} declares no answer",
            operation.id
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_right_lost_while_the_body_comes_is_lost(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let owner = app.create_principal("owner").await;
    let assignment = app.assign(&app.subscription(), OWNER, &owner).await;
    let body = json!({ "location": "westus" }).to_string();
    let path = format!("{}?api-version={GROUPS}", app.group("late"));
    let address = app.base.strip_prefix("http://").unwrap();
    let (early, late) = body.split_at(5);
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{early}",
        owner.token,
        body.len()
    );
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(head.as_bytes()).await.unwrap();
    let revoked = app
        .delete(&format!("{assignment}?api-version={ASSIGNMENTS}"))
        .await;
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    connection.write_all(late.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert_eq!(app.get(&path).await.status, 404);
}
