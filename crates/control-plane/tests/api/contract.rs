//! What every request shares: ids, versions, paths, errors, cross-origin pages.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{GROUPS, TestApp};

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn every_answer_carries_its_ids(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let correlation = "5f0c3f62-4c4e-4f1a-9f58-9d1e7ab0a2c1";
    let request = app
        .request(Method::GET, "/subscriptions?api-version=2022-12-01")
        .bearer_auth(&app.token)
        .header("x-ms-correlation-request-id", correlation)
        .header("x-ms-client-request-id", "mine")
        .header("x-ms-return-client-request-id", "true");
    let reply = app.read(request).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-ms-correlation-request-id"), correlation);
    assert_eq!(reply.header("x-ms-client-request-id"), "mine");
    assert_eq!(reply.header("x-ms-request-id").len(), 36);
    assert_ne!(reply.header("x-ms-request-id"), correlation);
    assert_eq!(reply.header("cache-control"), "no-cache");
    let other = app.get("/subscriptions?api-version=2022-12-01").await;
    assert_eq!(other.header("x-ms-client-request-id"), "");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_missing_or_unknown_version_is_refused_with_the_known_ones(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let reply = app.get(&app.group("g")).await;
    assert_eq!(
        (reply.status, reply.code()),
        (400, "MissingApiVersionParameter")
    );
    let reply = app
        .get(&format!("{}?api-version=1999-01-01", app.group("g")))
        .await;
    assert_eq!(
        (reply.status, reply.code()),
        (400, "InvalidApiVersionParameter")
    );
    assert!(
        reply.message().contains("2024-11-01"),
        "{}",
        reply.message()
    );
    let reply = app
        .get(&format!(
            "{}?api-version=2017-03-01",
            app.registry("g", "contoso")
        ))
        .await;
    assert_eq!(
        (reply.status, reply.code()),
        (400, "NoRegisteredProviderFound")
    );
    for version in ["2026-09-01-preview", "2025-11-01", "2023-07-01"] {
        assert!(reply.message().contains(version), "{}", reply.message());
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn paths_are_taken_in_any_case_and_with_stray_slashes(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("MyGroup", "Contoso").await;
    let id = app.registry("MyGroup", "Contoso");
    for path in [
        id.clone(),
        id.to_uppercase(),
        id.to_lowercase(),
        id.replace("/providers/", "//providers//"),
        format!("{id}/"),
    ] {
        let reply = app.get(&format!("{path}?api-version=2025-11-01")).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        assert_eq!(reply.body["id"], id, "{path}");
        assert_eq!(reply.body["name"], "Contoso");
        assert_eq!(
            reply.body["properties"]["loginServer"],
            "contoso.registry.localhost:5443"
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn unknown_paths_and_methods_say_so(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let reply = app.get("/nowhere").await;
    assert_eq!((reply.status, reply.code()), (404, "NotFound"));
    let reply = app
        .get(&format!(
            "{}/providers/Microsoft.Compute/virtualMachines/x?api-version=1",
            app.group("g")
        ))
        .await;
    assert_eq!(
        (reply.status, reply.code()),
        (404, "InvalidResourceNamespace")
    );
    let reply = app
        .get(&format!(
            "{}/replications?api-version=2025-11-01",
            app.registry("g", "contoso")
        ))
        .await;
    assert_eq!((reply.status, reply.code()), (404, "InvalidResourceType"));
    let reply = app
        .send(
            Method::PATCH,
            "/subscriptions?api-version=2022-12-01",
            &app.token,
            Some(json!({})),
        )
        .await;
    assert_eq!((reply.status, reply.code()), (405, "MethodNotAllowed"));
    let reply = app
        .get(&format!(
            "/subscriptions/nonsense/resourcegroups/g?api-version={GROUPS}"
        ))
        .await;
    assert_eq!((reply.status, reply.code()), (400, "InvalidSubscriptionId"));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_overlong_path_and_an_oversized_body_are_refused(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let reply = app.get(&format!("/{}", "a".repeat(10_000))).await;
    assert_eq!((reply.status, reply.code()), (400, "InvalidRequestUri"));
    let path = format!("{}?api-version={GROUPS}", app.group("g"));
    let reply = app
        .put(
            &path,
            json!({ "location": "westus", "tags": { "a": "x".repeat(2_000_000) } }),
        )
        .await;
    assert_eq!(
        (reply.status, reply.code()),
        (413, "RequestContentTooLarge")
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn only_the_allowed_origin_may_read_answers(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let ask = |origin: &'static str| {
        let request = app
            .request(Method::GET, "/subscriptions?api-version=2022-12-01")
            .bearer_auth(&app.token);
        app.read(request.header("origin", origin))
    };
    assert_eq!(
        ask("https://portal.example")
            .await
            .header("access-control-allow-origin"),
        "https://portal.example"
    );
    assert_eq!(
        ask("https://evil.example")
            .await
            .header("access-control-allow-origin"),
        ""
    );
    let preflight = app
        .request(Method::OPTIONS, "/subscriptions")
        .header("origin", "https://portal.example")
        .header("access-control-request-method", "PUT");
    let reply = app.read(preflight).await;
    assert_eq!(reply.status, 204);
    assert!(reply.header("access-control-allow-methods").contains("PUT"));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_foreign_or_damaged_token_is_refused(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let damaged = format!("{}x", app.token);
    for token in ["nonsense", "a.b.c", damaged.as_str()] {
        let reply = app
            .send(
                Method::GET,
                "/subscriptions?api-version=2022-12-01",
                token,
                None,
            )
            .await;
        assert_eq!(
            (reply.status, reply.code()),
            (401, "InvalidAuthenticationToken"),
            "{token}: {}",
            reply.body
        );
    }
}

/// Every reference in a document.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                found.push(reference);
            }
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn every_reference_of_the_openapi_document_resolves(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let document = app.send(Method::GET, "/openapi.json", "", None).await.body;
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 40, "{}", found.len());
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(
            document.pointer(pointer).is_some(),
            "{reference} leads nowhere"
        );
    }
}
