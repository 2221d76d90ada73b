//! Input that no honest client sends: refused, never a failure of ours, and never repeated at length.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{ASSIGNMENTS, GROUPS, READER, REGISTRIES, Reply, TestApp};

fn at(path: &str, version: &str) -> String {
    format!("{path}?api-version={version}")
}

fn assert_refused(reply: &Reply, context: &str) {
    assert_eq!(reply.status, 400, "{context}: {}", reply.body);
    assert!(
        reply.message().contains("U+0000") || reply.message().contains("control"),
        "{context}: {}",
        reply.body
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn text_that_postgres_cannot_keep_is_refused(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let principal = app.create_principal("one").await;
    let assignment = format!(
        "{}/providers/Microsoft.Authorization/roleAssignments/{}",
        app.group("g"),
        Uuid::new_v4()
    );
    let bodies = [
        (
            Method::PUT,
            at(&app.group("h"), GROUPS),
            json!({ "location": "westus", "tags": { "a": "\0" } }),
        ),
        (
            Method::PATCH,
            at(&app.group("g"), GROUPS),
            json!({ "tags": { "a": "\0" } }),
        ),
        (
            Method::PUT,
            at(&app.registry("g", "fabrikam"), REGISTRIES),
            json!({ "location": "westus", "sku": { "name": "Basic" }, "tags": { "a": "b\0c" } }),
        ),
        (
            Method::PUT,
            at(&assignment, ASSIGNMENTS),
            json!({ "properties": {
            "roleDefinitionId": READER, "principalId": principal.object_id, "description": "a\0b" } }),
        ),
        (
            Method::POST,
            "/v1.0/applications".to_owned(),
            json!({ "displayName": "a\0b" }),
        ),
    ];
    for (method, path, body) in bodies {
        let reply = app.send(method, &path, &app.token, Some(body)).await;
        assert_refused(&reply, &path);
    }
    let subscription = app.subscription();
    for path in [
        format!("{subscription}/resourcegroups?api-version={GROUPS}&$skiptoken=%00"),
        format!("{subscription}/resources?api-version={GROUPS}&$filter=resourceGroup%20eq%20'%00'"),
        format!(
            "{subscription}/providers/Microsoft.ContainerRegistry/registries?api-version={REGISTRIES}&$skiptoken=a%00"
        ),
        "/v1.0/applications?$filter=displayName%20eq%20'%00'".to_owned(),
        "/v1.0/servicePrincipals?$filter=startswith(displayName,'%00')".to_owned(),
    ] {
        assert_refused(&app.get(&path).await, &path);
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_option_is_given_once(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let registries = format!(
        "{}/providers/Microsoft.ContainerRegistry/registries?api-version={REGISTRIES}",
        app.subscription()
    );
    for (path, code) in [
        (
            format!("{registries}&$top=1&$TOP=2"),
            "InvalidQueryParameterValue",
        ),
        (
            format!("{registries}&$top=1&x=y&%24top=1"),
            "InvalidQueryParameterValue",
        ),
        (
            "/v1.0/applications?$select=id&$select=appId".to_owned(),
            "Request_BadRequest",
        ),
    ] {
        let reply = app.get(&path).await;
        assert_eq!((reply.status, reply.code()), (400, code), "{path}");
        assert!(reply.message().contains("more than once"), "{path}");
    }
    let reply = app
        .get("/adfs/.well-known/openid-configuration?$a=1&$a=1")
        .await;
    assert_eq!(
        (reply.status, &reply.body["error"]),
        (400, &json!("invalid_request"))
    );
    // Others may mean something to whoever stands in between.
    let reply = app.get(&format!("{registries}&x=1&x=2&$top=1")).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_escaped_backslash_before_u0000_is_text_like_any_other(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let body = json!({ "location": "westus", "tags": { "a": "\\u0000" } });
    let reply = app.put(&at(&app.group("g"), GROUPS), body).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    assert_eq!(reply.body["tags"]["a"], "\\u0000");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn errors_stay_short_whatever_was_sent(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("g").await;
    let long = "x".repeat(500_000);
    let many: serde_json::Map<String, Value> =
        (0..20_000).map(|at| (format!("m{at}"), json!(1))).collect();
    let sku = json!({ "name": "Basic" });
    for (path, body) in [
        (at(&app.group("h"), GROUPS), json!({ "location": long })),
        (
            at(&app.group("h"), GROUPS),
            json!({ "location": "westus", long.clone(): 1 }),
        ),
        (
            at(&app.group("h"), GROUPS),
            json!({ "location": "westus", "tags": { long.clone(): "v".repeat(300) } }),
        ),
        (
            at(&app.registry("g", "contoso"), REGISTRIES),
            json!({ "location": "westus", "sku": sku, "properties": many }),
        ),
        (
            at(&app.registry("g", "contoso"), REGISTRIES),
            json!({ "location": "westus", "sku": sku, "properties": { "policies": { long.clone(): 1 } } }),
        ),
    ] {
        let reply = app.put(&path, body).await;
        assert_eq!(reply.status, 400, "{path}");
        let length = reply.body.to_string().len();
        assert!(length < 50_000, "{path}: {length} bytes");
        assert!(!reply.code().is_empty());
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_secret_in_the_wrong_place_is_not_repeated(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_registry("g", "contoso").await;
    let secret = app.client_secret.clone();
    let renew = at(
        &format!("{}/regenerateCredential", app.registry("g", "contoso")),
        REGISTRIES,
    );
    for reply in [
        app.post(&renew, json!({ "name": secret })).await,
        app.post(&renew, json!(secret)).await,
        app.post(&renew, json!({ secret.clone(): 1 })).await,
        app.post("/v1.0/applications", json!(secret)).await,
        app.put(
            &at(&app.registry("g", "fabrikam"), REGISTRIES),
            json!({ "location": secret, "sku": { "name": "Basic" } }),
        )
        .await,
        app.get(&format!(
            "/subscriptions/{secret}/resourcegroups?api-version={GROUPS}"
        ))
        .await,
    ] {
        assert_eq!(reply.status, 400, "{}", reply.body);
        assert!(
            !reply.body.to_string().contains(&secret[..20]),
            "{}",
            reply.body
        );
    }
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", &secret),
        ("client_secret", &secret),
        ("scope", &secret),
    ];
    let request = app
        .request(Method::POST, "/adfs/oauth2/v2.0/token")
        .form(&form);
    let reply = app.read(request).await;
    assert_eq!(reply.body["error"], "invalid_scope");
    assert!(
        !reply.body.to_string().contains(&secret[..20]),
        "{}",
        reply.body
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_subscription_has_one_spelling_but_for_case(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let id = app.subscription_id;
    for spelling in [
        id.simple().to_string(),
        id.braced().to_string(),
        id.urn().to_string(),
        "nonsense".to_owned(),
    ] {
        for rest in [
            format!("resourcegroups?api-version={GROUPS}"),
            "locations?api-version=2022-12-01".to_owned(),
            format!("providers?api-version={GROUPS}"),
            format!("providers/Microsoft.ContainerRegistry/registries?api-version={REGISTRIES}"),
        ] {
            let path = format!("/subscriptions/{spelling}/{rest}");
            let reply = app.get(&path).await;
            assert_eq!(
                (reply.status, reply.code()),
                (400, "InvalidSubscriptionId"),
                "{path}"
            );
            assert_eq!(reply.body["error"]["target"], "subscriptionId");
        }
    }
    let path = format!(
        "/SUBSCRIPTIONS/{}/locations?api-version=2022-12-01",
        id.to_string().to_uppercase()
    );
    assert_eq!(app.get(&path).await.status, 200);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_wrong_method_is_told_the_right_ones(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let path = at(&app.registry("g", "contoso"), REGISTRIES);
    let reply = app.post(&path, json!({})).await;
    assert_eq!((reply.status, reply.code()), (405, "MethodNotAllowed"));
    let mut allowed: Vec<&str> = reply.header("allow").split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "PATCH", "PUT"]);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_body_is_a_json_object_of_known_members(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.put(
        &at(&app.group("g"), GROUPS),
        json!({ "location": "westus" }),
    )
    .await;
    let registry = at(&app.registry("g", "contoso"), REGISTRIES);
    for (body, part) in [
        (
            json!(["westus", null, { "name": "Basic" }, null, null, null, null, null, null]),
            "it must be a JSON object",
        ),
        (json!("westus"), "it must be a JSON object"),
        (
            json!({ "location": "westus", "skew": { "name": "Basic" } }),
            "there is no member `skew` here, expected one of `location`",
        ),
    ] {
        let reply = app.put(&registry, body).await;
        assert_eq!(reply.code(), "InvalidRequestContent", "{}", reply.body);
        assert!(reply.message().contains(part), "{}", reply.body);
    }
    assert_eq!(app.get(&registry).await.status, 404);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_value_in_the_wrong_place_is_not_repeated(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let principal = app.create_principal("one").await;
    let user = |profile: Value| json!({ "userPrincipalName": "a@b.test", "displayName": "A", "accountEnabled": true, "passwordProfile": profile });
    let password = "Tr0ub4dor, expected hunter2";
    let add = format!(
        "/v1.0/servicePrincipals/{}/addPassword",
        principal.object_id
    );
    for (path, body) in [
        ("/v1.0/users", user(json!(password))),
        (
            "/v1.0/users",
            user(json!({ "forceChangePasswordNextSignIn": password })),
        ),
        (&add, json!({ "passwordCredential": password })),
        (
            &add,
            json!({ "passwordCredential": { "secretText": 1_234_567_890_123_456_u64 } }),
        ),
        (
            "/v1.0/applications",
            json!({ "displayName": "a", "keyCredentials": [{ "key": format!("-{password}") }] }),
        ),
    ] {
        let reply = app.post(path, body).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
        for part in ["Tr0ub4dor", "hunter2", "1234567890123456"] {
            assert!(!reply.body.to_string().contains(part), "{}", reply.body);
        }
    }
}
