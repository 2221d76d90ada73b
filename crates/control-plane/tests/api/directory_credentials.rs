//! Credentials of applications beside generated secrets: certificates, federated credentials, and secrets that the caller chose.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::directory::{APPLICATIONS, PRINCIPALS, application_of, patch, principal_document, text};
use crate::support::TestApp;

/// A certificate as `az` sends it: base64 with line breaks.
pub(crate) fn certificate() -> Value {
    let params = rcgen::CertificateParams::new(vec!["ci".to_owned()]).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let text = STANDARD.encode(params.self_signed(&key).unwrap().der());
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    json!({
        "@odata.type": "#microsoft.graph.keyCredential",
        "displayName": null,
        "key": lines.join("\n"),
        "type": "AsymmetricX509Cert",
        "usage": "Verify",
        "startDateTime": "2026-01-01T00:00:00Z",
        "endDateTime": "2127-01-01T00:00:00Z",
    })
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_new_application_is_shown_as_it_was_made_and_not_read_again(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let rename = async |statement: &'static str| {
        sqlx::query(statement).execute(&pool).await.unwrap();
    };
    // Without it no application can be read.
    rename("ALTER TABLE application_secrets RENAME COLUMN hint TO away").await;
    let body = json!({ "displayName": "ci", "keyCredentials": [certificate(), certificate(), certificate()] });
    let created = app.post(APPLICATIONS, body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    rename("ALTER TABLE application_secrets RENAME COLUMN away TO hint").await;
    let path = format!("{APPLICATIONS}/{}", text(&created.body["id"]));
    assert_eq!(app.get(&path).await.body, created.body);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn certificates_are_created_appended_and_removed_as_the_azure_cli_does(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let body = json!({ "displayName": "ci", "keyCredentials": [certificate()] });
    let created = app.post(APPLICATIONS, body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let first = created.body["keyCredentials"][0].clone();
    assert_eq!(first["key"], Value::Null);
    assert_eq!(
        text(&first["customKeyIdentifier"]).len(),
        40,
        "a SHA-1 thumbprint"
    );
    let body = json!({ "appId": created.body["appId"] });
    let principal = app.post(PRINCIPALS, body).await;
    let object_id = text(&principal.body["id"]);
    let known = || async {
        let document = principal_document(&pool, &object_id).await.unwrap();
        document.sign_in_credentials.len()
    };
    assert_eq!(known().await, 1);
    // With --append: what is there goes back as it was read, beside the new one.
    let application = format!("{APPLICATIONS}/{}", text(&created.body["id"]));
    let both = json!({ "keyCredentials": [first, certificate()] });
    let reply = patch(&app, &application, &app.token, both).await;
    assert_eq!(reply.status, 204, "{}", reply.body);
    assert!(!reply.header("x-wharfinger-revision").is_empty());
    assert_eq!(known().await, 2);
    let shown = app.get(&application).await.body["keyCredentials"].clone();
    let kept: Vec<&Value> = shown
        .as_array()
        .unwrap()
        .iter()
        .filter(|credential| credential["keyId"] != first["keyId"])
        .collect();
    assert_eq!(kept.len(), 1, "{shown}");
    let path = format!("{PRINCIPALS}/{object_id}");
    let own = json!({ "keyCredentials": [certificate()] });
    assert_eq!(patch(&app, &path, &app.token, own).await.status, 204);
    assert_eq!(known().await, 3);
    let one = json!({ "keyCredentials": kept });
    assert_eq!(patch(&app, &application, &app.token, one).await.status, 204);
    assert_eq!(known().await, 2);
    let again = json!({ "keyCredentials": [first] });
    let refused = patch(&app, &application, &app.token, again).await;
    assert_eq!(refused.status, 400);
    assert!(refused.message().contains(&text(&first["keyId"])));
    let none = json!({ "keyCredentials": [] });
    assert_eq!(
        patch(&app, &application, &app.token, none).await.status,
        204
    );
    assert_eq!(known().await, 1);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_certificate_with_dates_outside_its_own_is_refused(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let mut late = certificate();
    late["endDateTime"] = json!("9999-01-01T00:00:00Z");
    let body = json!({ "displayName": "ci", "keyCredentials": [late] });
    let refused = app.post(APPLICATIONS, body).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.message().contains("within the validity"),
        "{}",
        refused.message()
    );
    let found = app
        .get(&format!("{APPLICATIONS}?$filter=displayName eq 'ci'"))
        .await;
    assert_eq!(found.body["value"], json!([]));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn federated_credentials_are_created_found_changed_and_removed(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let bot = app.create_principal("bot").await;
    let application = application_of(&app, &bot).await;
    let path = format!("{APPLICATIONS}/{application}/federatedIdentityCredentials");
    let body = json!({
        "name": "main",
        "issuer": "https://token.example",
        "subject": "repo:org/app:ref:refs/heads/main",
        "audiences": ["api://wharfinger"],
        "description": "pushes of main",
    });
    let created = app.post(&path, body.clone()).await;
    assert_eq!(created.status, 201, "{}", created.body);
    assert!(!created.header("x-wharfinger-revision").is_empty());
    let credentials = || async {
        let document = principal_document(&pool, &bot.object_id).await.unwrap();
        let ids: Vec<String> = document
            .sign_in_credentials
            .iter()
            .map(|credential| credential.key_id.to_string())
            .collect();
        ids
    };
    let id = text(&created.body["id"]);
    assert_eq!(credentials().await, [id.as_str()]);
    // Its own tokens would buy new ones for ever.
    for own in ["", "/adfs"] {
        let mut body = body.clone();
        body["name"] = json!("own");
        body["issuer"] = json!(format!("{}{own}", app.base.replace("http:", "https:")));
        let refused = app.post(&path, body.clone()).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert!(refused.body.to_string().contains("this installation"));
        let change = json!({ "issuer": body["issuer"] });
        let refused = patch(&app, &format!("{path}/main"), &app.token, change).await;
        assert_eq!(refused.status, 400, "{}", refused.body);
    }
    let same_name = app.post(&path, body.clone()).await;
    assert_eq!(same_name.status, 409, "{}", same_name.body);
    let mut same_subject = body.clone();
    same_subject["name"] = json!("other");
    assert_eq!(app.post(&path, same_subject).await.status, 409);
    for one in [format!("{path}/{id}"), format!("{path}/MAIN")] {
        assert_eq!(app.get(&one).await.body["id"], json!(id));
    }
    let listed = app.get(&path).await;
    assert_eq!(listed.body["value"].as_array().unwrap().len(), 1);

    let one = format!("{path}/main");
    let described = patch(&app, &one, &app.token, json!({ "description": "x" })).await;
    assert_eq!(described.status, 204, "{}", described.body);
    assert_eq!(credentials().await, [id.as_str()]);
    let renamed = patch(&app, &one, &app.token, json!({ "name": "other" })).await;
    assert_eq!(renamed.status, 400);
    // What was issued for tokens of the old subject is dead.
    let changed = patch(
        &app,
        &one,
        &app.token,
        json!({ "name": "main", "subject": "repo:org/app:ref:refs/heads/next" }),
    )
    .await;
    assert_eq!(changed.status, 204, "{}", changed.body);
    assert_ne!(credentials().await, [id]);
    assert_eq!(
        app.get(&one).await.body["subject"],
        "repo:org/app:ref:refs/heads/next"
    );
    let removed = app.delete(&one).await;
    assert_eq!(removed.status, 204);
    assert!(credentials().await.is_empty());
    assert_eq!(app.delete(&one).await.status, 404);
    let mallory = app.create_principal("mallory").await;
    let refused = app
        .send(Method::POST, &path, &mallory.token, Some(body))
        .await;
    assert_eq!(refused.status, 403);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_chosen_secret_is_kept_slowly_and_nothing_of_it_is_shown(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let bot = app.create_principal("bot").await;
    let path = format!("{PRINCIPALS}/{}", bot.object_id);
    let chosen = "sixteen letters!";
    let body = json!({ "passwordCredential": { "displayName": "script", "secretText": chosen } });
    let added = app.post(&format!("{path}/addPassword"), body).await;
    assert_eq!(added.status, 200, "{}", added.body);
    assert_eq!(
        (&added.body["secretText"], &added.body["hint"]),
        (&json!(chosen), &json!(""))
    );
    assert!(!added.header("x-wharfinger-revision").is_empty());
    let document = principal_document(&pool, &bot.object_id).await.unwrap();
    assert_eq!(
        (document.secrets.len(), document.chosen_secrets.len()),
        (1, 1)
    );
    assert!(document.chosen_secrets[0].verifier.matches(chosen));
    let shown = app.get(&path).await;
    assert!(!shown.body.to_string().contains(chosen));
    assert_eq!(
        shown.body["passwordCredentials"][0]["displayName"],
        "script"
    );
    assert_eq!(
        shown.body["passwordCredentials"][0]["lastUsedDateTime"],
        Value::Null
    );
    let short = json!({ "passwordCredential": { "secretText": "fifteen letters" } });
    let refused = app.post(&format!("{path}/addPassword"), short).await;
    assert_eq!(refused.status, 400);
    assert!(!refused.body.to_string().contains("fifteen letters"));
    let removal = json!({ "keyId": added.body["keyId"] });
    assert_eq!(
        app.post(&format!("{path}/removePassword"), removal)
            .await
            .status,
        204
    );
    let document = principal_document(&pool, &bot.object_id).await.unwrap();
    assert!(document.chosen_secrets.is_empty());
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn of_chosen_secrets_there_are_few(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let bot = app.create_principal("bot").await;
    let path = format!("{PRINCIPALS}/{}/addPassword", bot.object_id);
    let add = |number: u32| {
        let text = format!("a chosen secret {number}");
        app.post(
            &path,
            json!({ "passwordCredential": { "secretText": text } }),
        )
    };
    for number in 1..=4 {
        let added = add(number).await;
        assert_eq!(added.status, 200, "{}", added.body);
    }
    let refused = add(5).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(refused.body.to_string().contains("have 4 secrets"));
    assert_eq!(
        app.post(&path, json!({})).await.status,
        200,
        "a generated one"
    );
}
