//! Which rows the activity log has, and under which names.

use std::sync::Arc;

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use store::activity::{Attempt, Conclusion, attempted};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::activity_log::in_subscription;
use crate::directory::{APPLICATIONS, PRINCIPALS, application_of, patch, text};
use crate::support::TestApp;

fn spellings(id: &str) -> [String; 3] {
    let id: Uuid = id.parse().unwrap();
    [
        id.simple().to_string(),
        id.braced().to_string(),
        id.urn().to_string(),
    ]
}

/// The ids of what there is to change, and of a federated credential.
struct Objects {
    application: String,
    federated: String,
    principal: String,
    user: String,
    group: String,
}

async fn objects(app: &TestApp) -> Objects {
    let bot = app.create_principal("bot").await;
    let application = application_of(app, &bot).await;
    let federated = app
        .post(
            &format!("{APPLICATIONS}/{application}/federatedIdentityCredentials"),
            json!({ "name": "main", "issuer": "https://token.example", "subject": "x", "audiences": ["y"] }),
        )
        .await;
    let user = app
        .post(
            "/v1.0/users",
            json!({
                "userPrincipalName": "ann@wharf.test", "displayName": "Ann", "mailNickname": "ann", "accountEnabled": true,
                "passwordProfile": { "password": "correct horse battery" },
            }),
        )
        .await;
    let group = app
        .post(
            "/v1.0/groups",
            json!({
                "displayName": "devs", "mailNickname": "devs", "mailEnabled": false, "securityEnabled": true,
                "members@odata.bind": [format!("{}{PRINCIPALS}/{}", app.base, bot.object_id)],
            }),
        )
        .await;
    Objects {
        application,
        federated: text(&federated.body["id"]),
        principal: bot.object_id,
        user: text(&user.body["id"]),
        group: text(&group.body["id"]),
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_id_in_a_path_has_one_spelling_by_which_the_log_finds_all_that_was_done(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let made = objects(&app).await;
    let (application, group) = (&made.application, &made.group);
    let named = |path: &str, id: &str| {
        let paths = spellings(id).map(|spelling| path.replace("{}", &spelling));
        paths.into_iter()
    };
    let renamed = [
        (APPLICATIONS, application, 400),
        ("/v1.0/groups", group, 400),
        ("/v1.0/users", &made.user, 404),
    ];
    for (collection, id, status) in renamed {
        let body = json!({ "displayName": "Mallory" });
        for path in named(&format!("{collection}/{{}}"), id) {
            let reply = patch(&app, &path, &app.token, body.clone()).await;
            assert_eq!(reply.status, status, "{path}: {}", reply.body);
        }
        let path = format!("{collection}/{}", id.to_uppercase());
        let reply = patch(&app, &path, &app.token, body).await;
        assert_eq!(reply.status, 204, "{path}: {}", reply.body);
        let filter = format!(
            "resourceId eq '/providers/Microsoft.Directory/{}/{id}' and status eq 'Succeeded'",
            collection.trim_start_matches("/v1.0/")
        );
        let found = in_subscription(&app, &app.token, &filter).await;
        assert!(
            found.iter().any(|event| event["operationName"]["value"]
                .as_str()
                .unwrap()
                .ends_with("/write")),
            "{found:?}"
        );
    }
    let federated = format!("{APPLICATIONS}/{application}/federatedIdentityCredentials/{{}}");
    let member = format!("/v1.0/groups/{group}/members/{{}}/$ref");
    let owner = format!("{APPLICATIONS}/{application}/owners/{{}}/$ref");
    let role = "/v1.0/directoryRoles/{}/members/00000000-0000-0000-0000-000000000000/$ref";
    for (path, id, status) in [
        (federated.as_str(), &made.federated, 404),
        (&member, &made.principal, 400),
        (&owner, &made.principal, 400),
        (&format!("{PRINCIPALS}/{{}}"), &made.principal, 400),
        (
            role,
            &"62e90394-69f5-4237-9190-012177145e10".to_owned(),
            400,
        ),
    ] {
        for path in named(path, id) {
            let reply = app.delete(&path).await;
            assert_eq!(reply.status, status, "{path}: {}", reply.body);
        }
    }
    for (path, id) in [
        (federated.as_str(), &made.federated),
        (&member, &made.principal),
    ] {
        let reply = app.delete(&path.replace("{}", id)).await;
        assert_eq!(reply.status, 204, "{path}: {}", reply.body);
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn who_owns_an_object_by_another_spelling_owns_nothing(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let bot = app.create_principal("bot").await;
    let body = json!({ "displayName": "own" });
    let created = app
        .send(Method::POST, APPLICATIONS, &bot.token, Some(body.clone()))
        .await;
    let id = text(&created.body["id"]);
    for spelling in spellings(&id) {
        let path = format!("{APPLICATIONS}/{spelling}");
        let reply = patch(&app, &path, &bot.token, body.clone()).await;
        assert_eq!(reply.status, 403, "{path}: {}", reply.body);
    }
    let path = format!("{APPLICATIONS}/{id}");
    assert_eq!(patch(&app, &path, &bot.token, body).await.status, 204);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_role_definition_is_deleted_by_one_spelling_of_its_id(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let id = Uuid::new_v4().to_string();
    let at = |id: &str| {
        format!(
            "{}/providers/Microsoft.Authorization/roleDefinitions/{id}?api-version=2022-04-01",
            app.subscription()
        )
    };
    let body = json!({ "properties": {
        "roleName": "Puller", "assignableScopes": [app.subscription()],
        "permissions": [{ "actions": ["Microsoft.ContainerRegistry/registries/pull/read"] }] } });
    assert_eq!(app.put(&at(&id), body).await.status, 201);
    for spelling in spellings(&id) {
        for reply in [
            app.delete(&at(&spelling)).await,
            app.get(&at(&spelling)).await,
        ] {
            assert_eq!(
                (reply.status, reply.code()),
                (404, "RoleDefinitionDoesNotExist")
            );
        }
    }
    assert_eq!(app.get(&at(&id)).await.status, 200);
    assert_eq!(app.delete(&at(&id.to_uppercase())).await.status, 200);
}

fn failure(message: &str) -> Conclusion {
    Conclusion {
        http_status: Some(404),
        failure: Some(("NotFound".to_owned(), message.to_owned())),
    }
}

/// Begins a transaction on behalf of an attempt, and commits it or does not.
async fn attempt(app: &TestApp, commits: bool) -> Arc<Attempt> {
    let attempt = Arc::new(Attempt::new(
        Uuid::new_v4(),
        OffsetDateTime::now_utc(),
        "Microsoft.Directory/applications/write",
        "/providers/Microsoft.Directory/applications",
    ));
    let work = async {
        let transaction = app.store.begin().await.unwrap();
        if commits {
            transaction.commit().await.unwrap();
        }
    };
    attempted(Arc::clone(&attempt), work).await;
    attempt
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn no_failure_replaces_the_row_of_a_change_that_was_committed(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let row = async |attempt: &Attempt| -> (String, Option<i16>, Option<String>) {
        sqlx::query_as(
            "SELECT status, http_status, properties ->> 'statusMessage' FROM activity_log WHERE event_id = $1",
        )
        .bind(attempt.event_id)
        .fetch_one(&pool)
        .await
        .unwrap()
    };
    let conclude = async |attempt: &Attempt, conclusion: &Conclusion| {
        let concluded = app.store.activity_conclude(attempt, conclusion).await;
        concluded.unwrap();
    };
    let committed = attempt(&app, true).await;
    conclude(&committed, &failure("Gone.")).await;
    assert_eq!(row(&committed).await, ("Succeeded".to_owned(), None, None));
    let answered = Conclusion {
        http_status: Some(201),
        failure: None,
    };
    conclude(&committed, &answered).await;
    assert_eq!(
        row(&committed).await,
        ("Succeeded".to_owned(), Some(201), None)
    );

    let given_up = attempt(&app, false).await;
    // Refusals that share a row may be written again, with how many there were by then.
    for message in ["Once.", "Twice."] {
        conclude(&given_up, &failure(message)).await;
        assert_eq!(
            row(&given_up).await,
            ("Failed".to_owned(), Some(404), Some(message.to_owned()))
        );
    }
    conclude(&given_up, &answered).await;
    assert_eq!(row(&given_up).await.0, "Failed");
}
