//! Sign-in of applications as the Azure CLI and SDKs do it, and its refusals.

use credentials::{PublicKey, SecretKind, SystemRandomness, TokenVerifier, kid_of};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::support::{Reply, TestApp};

const TOKEN: &str = "/adfs/oauth2/v2.0/token";
const REGISTRY_SCOPE: &str = "https://containerregistry.azure.net/.default";

type Form<'a> = Vec<(&'a str, &'a str)>;

fn secret() -> String {
    credentials::generate(SecretKind::ServicePrincipalSecret, &SystemRandomness)
        .expose()
        .to_owned()
}

pub(crate) async fn post_form(app: &TestApp, path: &str, form: &[(&str, &str)]) -> Reply {
    app.read(app.request(Method::POST, path).form(form)).await
}

/// Asks for a token in the way of the Azure CLI.
async fn sign_in(app: &TestApp, client_id: &str, client_secret: &str, scope: &str) -> Reply {
    let form = [
        ("client_id", client_id),
        ("grant_type", "client_credentials"),
        ("client_info", "1"),
        ("client_secret", client_secret),
        ("scope", scope),
        (
            "claims",
            r#"{"access_token":{"xms_cc":{"values":["CP1"]}}}"#,
        ),
    ];
    post_form(app, TOKEN, &form).await
}

pub(crate) fn arm_scope(app: &TestApp) -> String {
    format!("{}/.default", app.base)
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn scopes_and_resources_choose_the_audience(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let base = app.base.clone();
    for scope in [
        format!("{base}/.default"),
        format!("{base}//.default"),
        format!("{base}/.default/"),
    ] {
        let reply = sign_in(&app, &app.client_id, &app.client_secret, &scope).await;
        let token = reply.body["access_token"].as_str().unwrap();
        assert_eq!(
            app.send(Method::GET, "/v1.0/applications", token, None)
                .await
                .status,
            200,
            "{scope}"
        );
    }
    let reply = sign_in(&app, &app.client_id, &app.client_secret, REGISTRY_SCOPE).await;
    let token = reply.body["access_token"].as_str().unwrap();
    let refused = app
        .send(Method::GET, "/v1.0/applications", token, None)
        .await;
    assert_eq!(
        (refused.status, refused.code()),
        (401, "InvalidAuthenticationTokenAudience")
    );
    assert!(refused.header("www-authenticate").starts_with("Bearer "));
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", app.client_id.as_str()),
        ("client_secret", app.client_secret.as_str()),
        ("resource", &format!("{base}/")),
    ];
    assert_eq!(
        post_form(&app, "/adfs/oauth2/token", &form).await.status,
        200
    );
    let reply = sign_in(
        &app,
        &app.client_id,
        &app.client_secret,
        "https://management.azure.com/.default",
    )
    .await;
    assert_eq!(
        (reply.status, &reply.body["error"]),
        (400, &json!("invalid_scope"))
    );
    let description = reply.body["error_description"].as_str().unwrap();
    assert!(
        description.contains("management.azure.com"),
        "{description}"
    );
    assert!(
        description.contains(REGISTRY_SCOPE) && description.contains(&arm_scope(&app)),
        "{description}"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn each_refusal_has_its_error_and_its_number(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let (id, right, scope) = (
        app.client_id.clone(),
        app.client_secret.clone(),
        arm_scope(&app),
    );
    let other_end = if right.ends_with('x') { 'y' } else { 'x' };
    let mistyped = format!("{}{other_end}", &right[..right.len() - 1]);
    let (wrong, unknown) = (secret(), Uuid::new_v4().to_string());
    let cases: Vec<(Form<'_>, u16, &str, u32)> = vec![
        (vec![], 400, "invalid_request", 900_144),
        (
            vec![("grant_type", "device_code")],
            400,
            "unsupported_grant_type",
            70_003,
        ),
        (
            vec![("grant_type", "client_credentials")],
            400,
            "invalid_request",
            900_144,
        ),
        (
            vec![("scope", &scope), ("grant_type", "client_credentials")],
            400,
            "invalid_request",
            900_144,
        ),
        (
            vec![
                ("scope", &scope),
                ("grant_type", "client_credentials"),
                ("client_id", &id),
            ],
            401,
            "invalid_client",
            7_000_216,
        ),
        (
            vec![
                ("scope", &scope),
                ("grant_type", "client_credentials"),
                ("client_id", &id),
                ("client_assertion", "a.b.c"),
            ],
            400,
            "invalid_request",
            900_144,
        ),
    ];
    for (form, status, error, number) in cases {
        let reply = post_form(&app, TOKEN, &form).await;
        assert_eq!(
            (reply.status, &reply.body["error"]),
            (status, &json!(error)),
            "{form:?}"
        );
        assert_eq!(reply.body["error_codes"], json!([number]));
        assert!(
            reply.body["error_description"]
                .as_str()
                .unwrap()
                .starts_with(&format!("AADSTS{number}: "))
        );
    }
    for (client_id, client_secret, status, error, number) in [
        (&id, &wrong, 401, "invalid_client", 7_000_215),
        (&id, &mistyped, 401, "invalid_client", 7_000_215),
        (&unknown, &wrong, 400, "unauthorized_client", 700_016),
        (
            &"ci-bot".to_owned(),
            &wrong,
            400,
            "unauthorized_client",
            700_016,
        ),
    ] {
        let reply = sign_in(&app, client_id, client_secret, &scope).await;
        assert_eq!(
            (reply.status, &reply.body["error"]),
            (status, &json!(error))
        );
        assert_eq!(reply.body["error_codes"], json!([number]), "{}", reply.body);
        assert!(
            !reply.body.to_string().contains(client_secret.as_str()),
            "a secret is never repeated"
        );
        assert_eq!(
            reply.header("www-authenticate").starts_with("Basic "),
            status == 401
        );
    }
    let twice = format!("grant_type=client_credentials&scope={scope}&scope={scope}");
    for (media_type, body) in [
        (
            "application/json",
            json!({ "grant_type": "client_credentials" }).to_string(),
        ),
        ("application/x-www-form-urlencoded", twice),
        (
            "application/x-www-form-urlencoded",
            "grant_type=%FF".to_owned(),
        ),
    ] {
        let request = app
            .request(Method::POST, TOKEN)
            .header("content-type", media_type)
            .body(body);
        let reply = app.read(request).await;
        assert_eq!(
            (reply.status, &reply.body["error"]),
            (400, &json!("invalid_request")),
            "{}",
            reply.body
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_client_may_show_itself_in_the_header_but_not_twice(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let scope = arm_scope(&app);
    let request = |form: &[(&str, &str)], secret: &str| {
        app.request(Method::POST, TOKEN)
            .basic_auth(&app.client_id, Some(secret))
            .form(form)
    };
    let form = [
        ("grant_type", "client_credentials"),
        ("scope", scope.as_str()),
    ];
    assert_eq!(
        app.read(request(&form, &app.client_secret)).await.status,
        200
    );
    let refused = app.read(request(&form, &secret())).await;
    assert_eq!(
        (refused.status, &refused.body["error"]),
        (401, &json!("invalid_client"))
    );
    let twice = [
        form[0],
        form[1],
        ("client_secret", app.client_secret.as_str()),
    ];
    let refused = app.read(request(&twice, &app.client_secret)).await;
    assert_eq!(
        (refused.status, &refused.body["error"]),
        (400, &json!("invalid_request"))
    );
    let bearer = app
        .request(Method::POST, TOKEN)
        .bearer_auth("x")
        .form(&form);
    assert_eq!(app.read(bearer).await.status, 400);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn who_fails_too_often_waits_and_the_owner_does_not(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let scope = arm_scope(&app);
    let mut failures = 0;
    let limited = loop {
        let reply = sign_in(&app, &app.client_id, &secret(), &scope).await;
        if reply.status != 401 {
            break reply;
        }
        failures += 1;
        assert!(failures < 100, "failures are limited");
    };
    assert_eq!(limited.status, 429);
    let wait: u64 = limited.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert!(limited.body["error_description"].is_string());
    let reply = sign_in(&app, &app.client_id, &app.client_secret, &scope).await;
    assert_eq!(
        reply.status, 200,
        "the right secret is accepted at any time"
    );
    // Others from the same address have their own count.
    let bot = app.create_principal("bot").await;
    assert_eq!(
        sign_in(&app, &bot.app_id, &secret(), &scope).await.status,
        401
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_application_signs_in_while_it_has_an_enabled_principal_and_a_secret_in_force(
    pool: PgPool,
) {
    let app = TestApp::spawn(pool).await;
    let scope = arm_scope(&app);
    let created = app
        .post("/v1.0/applications", json!({ "displayName": "bot" }))
        .await;
    let app_id = created.body["appId"].as_str().unwrap().to_owned();
    let path = format!(
        "/v1.0/applications/{}/addPassword",
        created.body["id"].as_str().unwrap()
    );
    let now = OffsetDateTime::now_utc();
    let add = |starts_in: time::Duration| {
        let starts_at = now + starts_in;
        let body = json!({ "passwordCredential": {
            "startDateTime": arm::format_time(starts_at),
            "endDateTime": arm::format_time(starts_at + time::Duration::days(1)),
        }});
        let (app, path) = (&app, &path);
        async move {
            app.post(path, body).await.body["secretText"]
                .as_str()
                .unwrap()
                .to_owned()
        }
    };
    let good = add(time::Duration::minutes(4)).await;
    let early = add(time::Duration::minutes(10)).await;
    let number = async |secret: &str| {
        let reply = sign_in(&app, &app_id, secret, &scope).await;
        reply.body["error_codes"][0]
            .as_u64()
            .unwrap_or(reply.status.into())
    };
    assert_eq!(
        number(&good).await,
        7_000_229,
        "there is no service principal"
    );
    let principal = app
        .post(
            "/v1.0/servicePrincipals",
            json!({ "appId": app_id, "accountEnabled": false }),
        )
        .await;
    assert_eq!(number(&good).await, 7_000_112, "it is disabled");
    let path = format!(
        "/v1.0/servicePrincipals/{}",
        principal.body["id"].as_str().unwrap()
    );
    let body = json!({ "accountEnabled": true });
    assert_eq!(
        app.send(Method::PATCH, &path, &app.token, Some(body))
            .await
            .status,
        204
    );
    assert_eq!(number(&good).await, 200);
    assert_eq!(number(&early).await, 7_000_215, "its time has not come");
    // Behind the back of the store, which counts the revision up with every change.
    for statement in [
        "UPDATE application_secrets SET expires_at = now() - interval '1 second' WHERE app_id = $1::uuid",
        "UPDATE config_head SET revision = revision + 1 WHERE $1::text IS NOT NULL",
    ] {
        sqlx::query(statement)
            .bind(&app_id)
            .execute(app.store.pool())
            .await
            .unwrap();
    }
    assert_eq!(number(&good).await, 7_000_222, "it has expired");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_chosen_secret_signs_in_also_while_others_guess_until_it_is_removed(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let scope = arm_scope(&app);
    let bot = app.create_principal("bot").await;
    let chosen = "a secret that a script brings";
    let path = format!("/v1.0/servicePrincipals/{}", bot.object_id);
    let added = app
        .post(
            &format!("{path}/addPassword"),
            json!({ "passwordCredential": { "secretText": chosen } }),
        )
        .await;
    assert_eq!(added.status, 200, "{}", added.body);
    let key_id = added.body["keyId"].clone();
    let first = sign_in(&app, &bot.app_id, chosen, &scope).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let mut guesses = 0;
    while sign_in(&app, &bot.app_id, "another that somebody guesses", &scope)
        .await
        .status
        == 401
    {
        guesses += 1;
        assert!(guesses < 50, "guesses are limited");
    }
    // Remembered, so it is not checked slowly; and a generated one never waits.
    for secret in [chosen, &bot.secret] {
        let reply = sign_in(&app, &bot.app_id, secret, &scope).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    let shown = app.get(&path).await.body["passwordCredentials"].clone();
    let used = |credential: &Value| credential["lastUsedDateTime"].is_string();
    assert!(shown.as_array().unwrap().iter().any(used), "{shown}");
    let removed = app
        .post(
            &format!("{path}/removePassword"),
            json!({ "keyId": key_id }),
        )
        .await;
    assert_eq!(removed.status, 204, "{}", removed.body);
    let reply = sign_in(&app, &bot.app_id, chosen, &scope).await;
    assert!(reply.status == 401 || reply.status == 429, "{}", reply.body);
    let token = first.body["access_token"].as_str().unwrap();
    let dead = app
        .send(Method::GET, "/v1.0/applications", token, None)
        .await;
    assert_eq!(dead.status, 401);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn forged_and_foreign_tokens_are_refused(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let claims: Value = {
        let keys = app
            .send(Method::GET, "/adfs/discovery/keys", "", None)
            .await;
        let key: PublicKey = serde_json::from_value(keys.body["keys"][0].clone()).unwrap();
        TokenVerifier::new(&key).verify(&app.token).unwrap()
    };
    let forged = credentials::SigningKey::generate(&kid_of(&app.token).unwrap())
        .sign(&claims)
        .unwrap();
    let foreign = credentials::SigningKey::generate("foreign")
        .sign(&claims)
        .unwrap();
    let (head, rest) = app.token.split_once('.').unwrap();
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", rest.split_once('.').unwrap().0);
    let truncated = format!("{head}.{}", rest.split_once('.').unwrap().0);
    for token in [
        forged.as_str(),
        &foreign,
        &unsigned,
        &truncated,
        "x",
        "a.b.c",
    ] {
        let reply = app
            .send(Method::GET, "/v1.0/applications", token, None)
            .await;
        assert_eq!(
            (reply.status, reply.code()),
            (401, "InvalidAuthenticationToken"),
            "{token}"
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn of_many_replicas_that_start_at_once_one_makes_the_key(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    sqlx::query("UPDATE sign_in_keys SET retired_at = now()")
        .execute(&pool)
        .await
        .unwrap();
    let key_ring =
        credentials::KeyRing::parse("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=").unwrap();
    let now = OffsetDateTime::now_utc();
    let starts = (0..8).map(|_| control_plane::sign_in::ensure_key(&app.store, &key_ring, now));
    for outcome in futures_util::future::join_all(starts).await {
        outcome.unwrap();
    }
    let live: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sign_in_keys WHERE retired_at IS NULL")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(live, 1);
    let dump: Vec<Vec<u8>> = sqlx::query_scalar("SELECT sealed_private FROM sign_in_keys")
        .fetch_all(&pool)
        .await
        .unwrap();
    for sealed in dump {
        assert!(
            credentials::SigningKey::from_pkcs8("x", &sealed).is_err(),
            "the private part is sealed"
        );
    }
}
