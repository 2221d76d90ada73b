//! The directory as `az ad` speaks to it, and its rights.

use config_documents::Document;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::{Principal, READER, Reply, TestApp};

pub(crate) const APPLICATIONS: &str = "/v1.0/applications";
pub(crate) const PRINCIPALS: &str = "/v1.0/servicePrincipals";

pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

/// The object id of a principal's application.
pub(crate) async fn application_of(app: &TestApp, principal: &Principal) -> String {
    let path = format!("{APPLICATIONS}?$filter=appId eq '{}'", principal.app_id);
    text(&app.get(&path).await.body["value"][0]["id"])
}

pub(crate) async fn patch(app: &TestApp, path: &str, token: &str, body: Value) -> Reply {
    app.send(Method::PATCH, path, token, Some(body)).await
}

/// Whether a secret opens the door at the token endpoint.
pub(crate) async fn can_sign_in(app: &TestApp, app_id: &str, secret: &str) -> bool {
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", app_id),
        ("client_secret", secret),
        ("scope", &format!("{}/.default", app.base)),
    ];
    let request = app
        .request(Method::POST, "/adfs/oauth2/v2.0/token")
        .form(&form);
    app.read(request).await.status == 200
}

/// The bodies of the live documents of a kind, by key.
pub(crate) async fn documents(pool: &PgPool, kind: &str) -> Vec<(String, String)> {
    sqlx::query_as(
        "SELECT key, body FROM config_documents WHERE kind = $1 AND NOT deleted ORDER BY key",
    )
    .bind(kind)
    .fetch_all(pool)
    .await
    .unwrap()
}

/// What nodes know of a principal.
pub(crate) async fn principal_document(
    pool: &PgPool,
    object_id: &str,
) -> Option<config_documents::Principal> {
    let documents = documents(pool, "principal").await;
    let (key, body) = documents.iter().find(|(key, _)| key == object_id)?;
    match Document::parse("principal", key, body) {
        Ok(Document::Principal(principal)) => Some(principal),
        _ => panic!("the document of {object_id} is no principal"),
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn create_for_rbac_works_as_the_azure_cli_does_it_and_again(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    for path in [
        format!("{PRINCIPALS}?$filter=displayName%20eq%20'ci-bot'"),
        format!("{APPLICATIONS}?$filter=startswith(displayName,'ci-bot')"),
    ] {
        let reply = app.get(&path).await;
        assert_eq!((reply.status, &reply.body["value"]), (200, &json!([])));
    }
    let body = json!({ "displayName": "ci-bot", "keyCredentials": [] });
    let application = app.post(APPLICATIONS, body).await;
    assert_eq!(application.status, 201);
    let (object_id, app_id) = (
        text(&application.body["id"]),
        text(&application.body["appId"]),
    );
    let password = app
        .post(
            &format!("{APPLICATIONS}/{object_id}/addPassword"),
            json!({ "passwordCredential": {
                "displayName": "rbac",
                "startDateTime": "2026-11-23T17:43:23Z",
                "endDateTime": "2127-11-23T17:43:23Z",
            }}),
        )
        .await;
    assert_eq!(password.status, 200);
    assert_eq!(password.body["displayName"], "rbac");
    assert_eq!(password.body["endDateTime"], "2127-11-23T17:43:23Z");
    assert_eq!(password.header("cache-control"), "no-store");
    let secret = text(&password.body["secretText"]);
    assert!(secret.starts_with(&text(&password.body["hint"])));
    let principal = app
        .post(
            PRINCIPALS,
            json!({ "appId": app_id, "accountEnabled": true }),
        )
        .await;
    assert_eq!(principal.status, 201);
    assert_eq!(principal.body["servicePrincipalNames"], json!([app_id]));
    assert!(!principal.header("x-wharfinger-revision").is_empty());
    assert!(can_sign_in(&app, &app_id, &secret).await);

    // The same name again: found, renamed, its passwords replaced.
    let reply = app
        .get(&format!(
            "{APPLICATIONS}?$filter=startswith(displayName,'CI-')"
        ))
        .await;
    assert_eq!(reply.body["value"][0]["id"], json!(object_id));
    let path = format!("{APPLICATIONS}/{object_id}");
    assert_eq!(
        patch(&app, &path, &app.token, json!({ "displayName": "CI-bot" }))
            .await
            .status,
        204
    );
    let shown = app.get(&path).await;
    assert_eq!(shown.body["displayName"], "CI-bot");
    assert_eq!(shown.body["keyCredentials"], json!([]));
    let credential = &shown.body["passwordCredentials"][0];
    assert_eq!(credential["secretText"], Value::Null);
    let removal = json!({ "keyId": credential["keyId"] });
    let removed = app
        .post(&format!("{path}/removePassword"), removal.clone())
        .await;
    assert_eq!(removed.status, 204);
    assert!(!can_sign_in(&app, &app_id, &secret).await);
    let again = app.post(&format!("{path}/removePassword"), removal).await;
    assert_eq!((again.status, again.code()), (400, "Request_BadRequest"));
    let added = app.post(&format!("{path}/addPassword"), json!({})).await;
    assert!(can_sign_in(&app, &app_id, &text(&added.body["secretText"])).await);
    let id = text(&principal.body["id"]);
    let shown = app.get(&format!("{PRINCIPALS}/{id}")).await;
    assert_eq!(
        shown.body["displayName"], "CI-bot",
        "it has the name of its application"
    );
    assert_eq!(shown.body["passwordCredentials"], json!([]));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn secrets_of_both_objects_sign_in_and_each_object_shows_its_own(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let bot = app.create_principal("bot").await;
    let path = format!("{PRINCIPALS}/{}", bot.object_id);
    // As `az ad sp credential reset --append` without a body would send it.
    let request = app
        .request(Method::POST, &format!("{path}/addPassword"))
        .bearer_auth(&app.token);
    let added = app.read(request).await;
    assert_eq!(added.status, 200, "{}", added.body);
    assert!(can_sign_in(&app, &bot.app_id, &bot.secret).await);
    assert!(can_sign_in(&app, &bot.app_id, &text(&added.body["secretText"])).await);
    let shown = app.get(&path).await;
    let shown = shown.body["passwordCredentials"].as_array().unwrap();
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0]["keyId"], added.body["keyId"]);
    let document = principal_document(&pool, &bot.object_id).await.unwrap();
    assert_eq!(document.secrets.len(), 2);
    assert!(
        document
            .secrets
            .iter()
            .any(|secret| secret.verifier.matches(&bot.secret))
    );
    // The key of one object is unknown at the other.
    let application = application_of(&app, &bot).await;
    let removal = json!({ "keyId": added.body["keyId"] });
    let path = format!("{APPLICATIONS}/{application}/removePassword");
    assert_eq!(app.post(&path, removal).await.status, 400);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn only_owners_and_administrators_change_an_object(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let (alice, mallory) = (
        app.create_principal("alice").await,
        app.create_principal("mallory").await,
    );
    let send = |token: &str, method: Method, path: String, body: Option<Value>| {
        let (app, token) = (&app, token.to_owned());
        async move { app.send(method, &path, &token, body).await }
    };
    let created = send(
        &alice.token,
        Method::POST,
        APPLICATIONS.into(),
        Some(json!({ "displayName": "tool" })),
    )
    .await;
    assert_eq!(created.status, 201);
    let application = format!("{APPLICATIONS}/{}", text(&created.body["id"]));
    let body = json!({ "appId": created.body["appId"] });
    let refused = send(
        &mallory.token,
        Method::POST,
        PRINCIPALS.into(),
        Some(body.clone()),
    )
    .await;
    assert_eq!(
        (refused.status, refused.code()),
        (403, "Authorization_RequestDenied")
    );
    let created = send(
        &alice.token,
        Method::POST,
        PRINCIPALS.into(),
        Some(body.clone()),
    )
    .await;
    assert_eq!(created.status, 201);
    let principal = format!("{PRINCIPALS}/{}", text(&created.body["id"]));
    let twice = send(&alice.token, Method::POST, PRINCIPALS.into(), Some(body)).await;
    assert_eq!(
        (twice.status, twice.code()),
        (409, "Request_MultipleObjectsWithSameKeyValue")
    );

    let changes = |key: &Value| {
        vec![
            (
                Method::POST,
                format!("{application}/addPassword"),
                json!({}),
                200,
            ),
            (
                Method::POST,
                format!("{principal}/addPassword"),
                json!({}),
                200,
            ),
            (
                Method::POST,
                format!("{application}/removePassword"),
                json!({ "keyId": key }),
                204,
            ),
            (
                Method::PATCH,
                application.clone(),
                json!({ "displayName": "renamed" }),
                204,
            ),
            (
                Method::PATCH,
                principal.clone(),
                json!({ "accountEnabled": false }),
                204,
            ),
            (Method::DELETE, principal.clone(), Value::Null, 204),
            (Method::DELETE, application.clone(), Value::Null, 204),
        ]
    };
    let added = send(
        &alice.token,
        Method::POST,
        format!("{application}/addPassword"),
        Some(json!({})),
    )
    .await;
    let key = &added.body["keyId"];
    for (method, path, body, _) in changes(key) {
        let reply = send(&mallory.token, method.clone(), path.clone(), Some(body)).await;
        assert_eq!(
            (reply.status, reply.code()),
            (403, "Authorization_RequestDenied"),
            "{method} {path}"
        );
    }
    // Reading is everybody's.
    assert_eq!(
        send(&mallory.token, Method::GET, principal.clone(), None)
            .await
            .status,
        200
    );
    for (method, path, body, status) in changes(key) {
        let reply = send(&alice.token, method.clone(), path.clone(), Some(body)).await;
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.body);
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_principal_does_not_own_itself_nor_what_an_administrator_made_for_it(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let bot = app.create_principal("bot").await;
    let path = format!("{PRINCIPALS}/{}/addPassword", bot.object_id);
    let reply = app
        .send(Method::POST, &path, &bot.token, Some(json!({})))
        .await;
    assert_eq!(reply.status, 403);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn tokens_die_with_their_secret_and_with_their_principal(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let bot = app.create_principal("bot").await;
    let principal = format!("{PRINCIPALS}/{}", bot.object_id);
    let me = || async {
        app.send(Method::GET, &principal, &bot.token, None)
            .await
            .status
    };
    assert_eq!(me().await, 200);
    let disabled = patch(
        &app,
        &principal,
        &app.token,
        json!({ "accountEnabled": false }),
    )
    .await;
    assert_eq!(disabled.status, 204);
    assert!(!disabled.header("x-wharfinger-revision").is_empty());
    assert_eq!(me().await, 401);
    assert!(!can_sign_in(&app, &bot.app_id, &bot.secret).await);
    assert_eq!(
        patch(
            &app,
            &principal,
            &app.token,
            json!({ "accountEnabled": true })
        )
        .await
        .status,
        204
    );
    assert_eq!(me().await, 200);
    let path = format!("{APPLICATIONS}/{}", application_of(&app, &bot).await);
    let key = app.get(&path).await.body["passwordCredentials"][0]["keyId"].clone();
    assert_eq!(
        app.post(&format!("{path}/removePassword"), json!({ "keyId": key }))
            .await
            .status,
        204
    );
    assert_eq!(me().await, 401);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn deleting_a_principal_deletes_its_assignments_and_tells_nodes(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    for by_application in [false, true] {
        let bot = app.create_principal("bot").await;
        let keeper = app.create_principal("keeper").await;
        app.assign(&app.subscription(), READER, &bot).await;
        let kept = app.assign(&app.subscription(), READER, &keeper).await;
        let before = documents(&pool, "role-assignment").await.len();
        let application = application_of(&app, &bot).await;
        let path = if by_application {
            format!("{APPLICATIONS}/{application}")
        } else {
            format!("{PRINCIPALS}/{}", bot.object_id)
        };
        let deleted = app.delete(&path).await;
        assert_eq!(deleted.status, 204);
        assert!(!deleted.header("x-wharfinger-revision").is_empty());
        assert!(principal_document(&pool, &bot.object_id).await.is_none());
        assert!(principal_document(&pool, &keeper.object_id).await.is_some());
        let assignments = documents(&pool, "role-assignment").await;
        assert_eq!(assignments.len(), before - 1);
        let name = kept.rsplit('/').next().unwrap();
        assert!(assignments.iter().any(|(key, _)| key == name));
        assert_eq!(app.delete(&path).await.status, 404);
        let reply = app.send(Method::GET, PRINCIPALS, &bot.token, None).await;
        assert_eq!(reply.status, 401);
        assert!(!can_sign_in(&app, &bot.app_id, &bot.secret).await);
        let application = app.get(&format!("{APPLICATIONS}/{application}")).await;
        if by_application {
            assert_eq!(
                (application.status, application.code()),
                (404, "Request_ResourceNotFound")
            );
        } else {
            // The application stays, with its secrets, and can have a service principal again: one without rights.
            let again = app.post(PRINCIPALS, json!({ "appId": bot.app_id })).await;
            assert_eq!(again.status, 201);
            assert_ne!(again.body["id"], json!(bot.object_id));
            let document = principal_document(&pool, &text(&again.body["id"]))
                .await
                .unwrap();
            assert_eq!(document.secrets.len(), 1);
            let token = app.sign_in(&bot.app_id, &bot.secret).await;
            let path = format!("{}?api-version=2022-12-01", app.subscription());
            assert_eq!(app.send(Method::GET, &path, &token, None).await.status, 403);
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn nobody_locks_everybody_out(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let found = app
        .get(&format!(
            "{PRINCIPALS}?$filter=appId eq '{}'",
            app.client_id
        ))
        .await;
    let principal = format!("{PRINCIPALS}/{}", text(&found.body["value"][0]["id"]));
    let found = app
        .get(&format!(
            "{APPLICATIONS}?$filter=appId eq '{}'",
            app.client_id
        ))
        .await;
    let application = format!("{APPLICATIONS}/{}", text(&found.body["value"][0]["id"]));
    let key = &found.body["value"][0]["passwordCredentials"][0]["keyId"];
    let removed = app
        .post(
            &format!("{application}/removePassword"),
            json!({ "keyId": key }),
        )
        .await;
    for reply in [
        app.delete(&principal).await,
        app.delete(&application).await,
        patch(
            &app,
            &principal,
            &app.token,
            json!({ "accountEnabled": false }),
        )
        .await,
        removed,
    ] {
        assert_eq!(
            (reply.status, reply.code()),
            (400, "Request_BadRequest"),
            "{}",
            reply.body
        );
    }
    assert_eq!(app.get(&principal).await.status, 200);

    // With a second administrator either may go, but not both, also at once.
    let second = app.create_principal("second").await;
    sqlx::query("INSERT INTO directory_role_members VALUES ('administrator', $1)")
        .bind(Uuid::parse_str(&second.object_id).unwrap())
        .execute(&pool)
        .await
        .unwrap();
    let other = format!("{PRINCIPALS}/{}", second.object_id);
    let (first, second) = tokio::join!(
        app.send(Method::DELETE, &principal, &second.token, None),
        app.send(Method::DELETE, &other, &app.token, None)
    );
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses[0], 204);
    assert!(matches!(statuses[1], 400 | 401), "{statuses:?}");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM directory_role_members")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(left, 1);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn nodes_learn_of_all_secrets_however_they_interleave(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let created = app
        .post(APPLICATIONS, json!({ "displayName": "busy" }))
        .await;
    let path = format!("{APPLICATIONS}/{}/addPassword", text(&created.body["id"]));
    let body = json!({ "appId": created.body["appId"] });
    let additions = futures_util::future::join_all((0..8).map(|_| app.post(&path, json!({}))));
    let (principal, added) = tokio::join!(app.post(PRINCIPALS, body), additions);
    assert_eq!(principal.status, 201);
    let mut keys: Vec<String> = added
        .iter()
        .map(|reply| text(&reply.body["keyId"]))
        .collect();
    keys.sort();
    let document = principal_document(&pool, &text(&principal.body["id"]))
        .await
        .unwrap();
    let known: Vec<String> = document
        .secrets
        .iter()
        .map(|secret| secret.key_id.to_string())
        .collect();
    assert_eq!(known, keys);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn secrets_are_bounded_in_number(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let created = app
        .post(APPLICATIONS, json!({ "displayName": "hoarder" }))
        .await;
    let path = format!("{APPLICATIONS}/{}/addPassword", text(&created.body["id"]));
    for _ in 0..control_plane::sign_in::SECRET_LIMITS.all {
        assert_eq!(app.post(&path, json!({})).await.status, 200);
    }
    let reply = app.post(&path, json!({})).await;
    assert_eq!((reply.status, reply.code()), (400, "Request_BadRequest"));
    assert!(reply.message().contains("100"));
}
