//! People who sign in with user name and password, and their sessions.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{Reply, TestApp};

const TOKEN: &str = "/adfs/oauth2/v2.0/token";
const AZURE_CLI: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";
const NAME: &str = "ann@wharf.test";
const PASSWORD: &str = "correct horse battery staple";

async fn post_form(app: &TestApp, form: &[(&str, &str)]) -> Reply {
    app.read(app.request(Method::POST, TOKEN).form(form)).await
}

/// As the Azure CLI does it.
async fn sign_in(app: &TestApp, name: &str, password: &str) -> Reply {
    let scope = format!("{}/.default offline_access openid profile", app.base);
    let form = [
        ("grant_type", "password"),
        ("client_id", AZURE_CLI),
        ("username", name),
        ("password", password),
        ("scope", &scope),
        ("client_info", "1"),
    ];
    post_form(app, &form).await
}

async fn refresh(app: &TestApp, token: &str) -> Reply {
    let scope = format!("{}/.default offline_access openid profile", app.base);
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", AZURE_CLI),
        ("refresh_token", token),
        ("scope", &scope),
        ("client_info", "1"),
    ];
    post_form(app, &form).await
}

async fn create_ann(app: &TestApp) -> String {
    let body = json!({
        "userPrincipalName": NAME, "displayName": "Ann", "mailNickname": "ann", "accountEnabled": true,
        "passwordProfile": { "password": PASSWORD, "forceChangePasswordNextSignIn": false },
    });
    let reply = app.post("/v1.0/users", body).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    reply.body["id"].as_str().unwrap().to_owned()
}

async fn patch_ann(app: &TestApp, change: Value) {
    let path = format!("/v1.0/users/{NAME}");
    let reply = app
        .send(Method::PATCH, &path, &app.token, Some(change))
        .await;
    assert_eq!(reply.status, 204, "{}", reply.body);
}

fn text(reply: &Reply, name: &str) -> String {
    let value = reply.body[name].as_str();
    value
        .unwrap_or_else(|| panic!("no {name}: {}", reply.body))
        .to_owned()
}

fn number(reply: &Reply) -> u64 {
    reply.body["error_codes"][0].as_u64().unwrap_or_default()
}

/// The claims of a token, its signature aside.
fn claims(token: &str) -> Value {
    let (_, claims) = credentials::read_unverified(token).unwrap();
    claims
}

/// Whether a token is taken.
async fn is_good(app: &TestApp, token: &str) -> bool {
    let reply = app.send(Method::GET, "/v1.0/me", token, None).await;
    assert!(reply.status == 200 || reply.status == 401, "{}", reply.body);
    reply.status == 200
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_person_signs_in_and_the_client_learns_who_it_is(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let object_id = create_ann(&app).await;
    let reply = sign_in(&app, "ANN@wharf.TEST", PASSWORD).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.header("cache-control"), "no-store");
    let access = claims(&text(&reply, "access_token"));
    assert_eq!(access["oid"], json!(object_id));
    assert_eq!(access["appid"], json!(AZURE_CLI));
    assert_eq!(access["upn"], json!(NAME));
    let identity = claims(&text(&reply, "id_token"));
    assert_eq!(identity["aud"], json!(AZURE_CLI));
    assert_eq!(identity["preferred_username"], json!(NAME));
    assert_eq!(identity["tid"], json!(app.tenant_id));
    assert!(text(&reply, "scope").contains("/.default"));
    text(&reply, "client_info");
    assert!(is_good(&app, &text(&reply, "access_token")).await);
    assert!(
        !is_good(&app, &text(&reply, "id_token")).await,
        "an identity is no access token"
    );
    let ann = app.get(&format!("/v1.0/users/{NAME}")).await;
    assert!(
        ann.body["signInActivity"]["lastSignInDateTime"].is_string(),
        "{}",
        ann.body
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn who_is_not_there_and_who_is_wrong_are_not_told_apart(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let wrong = sign_in(&app, NAME, "correct horse battery stable").await;
    let nobody = sign_in(&app, "ben@wharf.test", PASSWORD).await;
    for reply in [&wrong, &nobody] {
        assert_eq!(
            (reply.status, &reply.body["error"], number(reply)),
            (400, &json!("invalid_grant"), 50_126)
        );
    }
    assert_eq!(
        wrong.body["error_description"],
        nobody.body["error_description"]
    );
    patch_ann(&app, json!({ "accountEnabled": false })).await;
    let disabled = sign_in(&app, NAME, PASSWORD).await;
    assert_eq!(number(&disabled), 50_057);
    // MSAL would go on saying so for a minute after the account is enabled.
    assert_eq!(disabled.header("retry-after"), "0");
    assert_eq!(number(&sign_in(&app, NAME, "wrong").await), 50_126);
    let change = json!({
        "accountEnabled": true,
        "passwordProfile": { "password": "another one altogether", "forceChangePasswordNextSignIn": true },
    });
    patch_ann(&app, change).await;
    assert_eq!(
        number(&sign_in(&app, NAME, "another one altogether").await),
        50_055
    );
}

/// Guesses wrong until that is refused unseen, and will be for some seconds more, however slow the machine is; how many were looked at.
async fn until_limited(guess: impl AsyncFn() -> Reply) -> usize {
    const LEFT_SECONDS: u64 = 4;
    let mut looked_at = 0;
    loop {
        let reply = guess().await;
        if reply.status == 400 {
            looked_at += 1;
            assert!(looked_at < 50, "guesses are limited");
            continue;
        }
        assert_eq!(reply.status, 429, "{}", reply.body);
        let wait_seconds: u64 = reply.header("retry-after").parse().unwrap();
        assert!(wait_seconds >= 1);
        if wait_seconds >= LEFT_SECONDS {
            return looked_at;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn guessing_is_refused_unseen_after_a_while_whatever_the_password(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    until_limited(async || sign_in(&app, NAME, "wrong").await).await;
    let right = sign_in(&app, NAME, PASSWORD).await;
    assert_eq!(right.status, 429, "a right one is not even looked at");
    // Others, and what was generated, have their own count.
    app.sign_in(&app.client_id, &app.client_secret).await;
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn only_clients_without_a_secret_sign_people_in(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let scope = format!("{}/.default", app.base);
    let form = [
        ("grant_type", "password"),
        ("client_id", app.client_id.as_str()),
        ("username", NAME),
        ("password", PASSWORD),
        ("scope", &scope),
    ];
    let reply = post_form(&app, &form).await;
    assert_eq!(reply.body["error"], json!("unauthorized_client"));
    let plain = [form[0], ("client_id", AZURE_CLI), form[2], form[3], form[4]];
    let reply = post_form(&app, &plain).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(
        reply.body.get("refresh_token").is_none(),
        "nobody asked for one"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_refresh_token_is_good_once_and_its_second_use_ends_the_session(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let first = text(&sign_in(&app, NAME, PASSWORD).await, "refresh_token");
    let other_session = text(&sign_in(&app, NAME, PASSWORD).await, "refresh_token");
    let second = refresh(&app, &first).await;
    assert_eq!(second.status, 200, "{}", second.body);
    text(&second, "id_token");
    let second = text(&second, "refresh_token");
    assert_ne!(first, second);
    let third = text(&refresh(&app, &second).await, "refresh_token");
    // Within the moment, but what followed was used.
    let replayed = refresh(&app, &first).await;
    assert_eq!(
        (replayed.status, &replayed.body["error"]),
        (400, &json!("invalid_grant"))
    );
    assert!(text(&replayed, "error_description").contains("used before"));
    assert!(!replayed.body.to_string().contains(&first));
    let ended = refresh(&app, &third).await;
    assert_eq!(
        (ended.status, &ended.body["error"]),
        (400, &json!("invalid_grant"))
    );
    assert_eq!(refresh(&app, &other_session).await.status, 200);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn uses_at_once_all_go_on_and_a_later_one_ends_the_session(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let token = text(&sign_in(&app, NAME, PASSWORD).await, "refresh_token");
    let replies = futures_util::future::join_all((0..4).map(|_| refresh(&app, &token))).await;
    for reply in &replies {
        assert_eq!(reply.status, 200, "{}", reply.body);
    }
    let families: i64 = sqlx::query_scalar("SELECT count(DISTINCT family_id) FROM refresh_tokens")
        .fetch_one(app.store.pool())
        .await
        .unwrap();
    assert_eq!(families, 1);
    // After the moment the first one is a replay, though nothing that followed was used.
    sqlx::query("UPDATE refresh_tokens SET used_at = used_at - interval '31 seconds'")
        .execute(app.store.pool())
        .await
        .unwrap();
    let next = text(&replies[0], "refresh_token");
    assert_eq!(refresh(&app, &token).await.status, 400);
    assert_eq!(refresh(&app, &next).await.status, 400);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM refresh_tokens")
        .fetch_one(app.store.pool())
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_came_of_uses_at_once_is_good_each(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let token = text(&sign_in(&app, NAME, PASSWORD).await, "refresh_token");
    let one = text(&refresh(&app, &token).await, "refresh_token");
    let other = text(&refresh(&app, &token).await, "refresh_token");
    assert_eq!(refresh(&app, &one).await.status, 200);
    assert_eq!(refresh(&app, &other).await.status, 200);
    let replayed = refresh(&app, &token).await;
    assert_eq!(
        replayed.body["error"],
        json!("invalid_grant"),
        "one was used"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_a_disabled_person_held_stays_dead(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let session = sign_in(&app, NAME, PASSWORD).await;
    patch_ann(&app, json!({ "accountEnabled": false })).await;
    patch_ann(&app, json!({ "accountEnabled": true })).await;
    assert!(!is_good(&app, &text(&session, "access_token")).await);
    assert_eq!(sign_in(&app, NAME, PASSWORD).await.status, 200);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_session_stops_when_the_password_has_to_be_changed(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let token = text(&sign_in(&app, NAME, PASSWORD).await, "refresh_token");
    let change = json!({ "passwordProfile": { "forceChangePasswordNextSignIn": true } });
    patch_ann(&app, change).await;
    assert_eq!(number(&refresh(&app, &token).await), 50_055);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_session_of_a_disabled_account_names_it(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let token = text(&sign_in(&app, NAME, PASSWORD).await, "refresh_token");
    // Behind the back of the store, which ends sessions when it disables somebody.
    sqlx::query("UPDATE principals SET enabled = false FROM users WHERE users.object_id = principals.object_id")
        .execute(app.store.pool())
        .await
        .unwrap();
    let refused = refresh(&app, &token).await;
    assert_eq!(number(&refused), 50_057);
    let description = text(&refused, "error_description");
    assert!(
        description.ends_with("The account 'ann@wharf.test' is disabled."),
        "{description}"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_session_dies_with_the_password_and_with_the_person(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let session = sign_in(&app, NAME, PASSWORD).await;
    let access = text(&session, "access_token");
    patch_ann(&app, json!({ "accountEnabled": false })).await;
    assert!(!is_good(&app, &access).await);
    let refused = refresh(&app, &text(&session, "refresh_token")).await;
    assert_eq!(refused.body["error"], json!("invalid_grant"));
    patch_ann(&app, json!({ "accountEnabled": true })).await;
    let session = sign_in(&app, NAME, PASSWORD).await;
    let access = text(&session, "access_token");
    assert!(is_good(&app, &access).await);
    let change = json!({ "passwordProfile": { "password": "another one altogether" } });
    patch_ann(&app, change).await;
    assert!(!is_good(&app, &access).await);
    let refused = refresh(&app, &text(&session, "refresh_token")).await;
    assert_eq!(refused.body["error"], json!("invalid_grant"));
    assert_eq!(number(&sign_in(&app, NAME, PASSWORD).await), 50_126);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_refresh_token_of_another_client_or_of_the_past_is_refused_and_forgotten(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let token = text(&sign_in(&app, NAME, PASSWORD).await, "refresh_token");
    let scope = format!("{}/.default", app.base);
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", "1950a258-227b-4e31-a9cf-717495945fc2"),
        ("refresh_token", token.as_str()),
        ("scope", &scope),
    ];
    let refused = post_form(&app, &form).await;
    assert_eq!(number(&refused), 700_005, "{}", refused.body);
    for forged in [
        "x",
        "x.y",
        &format!("{token}0"),
        &token.replace("wfr_", "wfs_"),
    ] {
        let refused = refresh(&app, forged).await;
        assert_eq!(refused.body["error"], json!("invalid_grant"), "{forged}");
    }
    sqlx::query("UPDATE refresh_tokens SET expires_at = now() - interval '1 second'")
        .execute(app.store.pool())
        .await
        .unwrap();
    assert_eq!(number(&refresh(&app, &token).await), 700_082);
    let now = time::OffsetDateTime::now_utc();
    assert_eq!(app.store.refresh_tokens_forget(now).await.unwrap(), 1);
    assert_eq!(app.store.refresh_tokens_forget(now).await.unwrap(), 0);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_session_lasts_no_longer_than_a_session_may(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let first = text(&sign_in(&app, NAME, PASSWORD).await, "refresh_token");
    sqlx::query("UPDATE refresh_tokens SET issued_at = now() - interval '89 days 23 hours'")
        .execute(app.store.pool())
        .await
        .unwrap();
    let second = text(&refresh(&app, &first).await, "refresh_token");
    let left: f64 = sqlx::query_scalar(
        "SELECT extract(epoch FROM max(expires_at) - now())::float8 FROM refresh_tokens WHERE used_at IS NULL",
    )
    .fetch_one(app.store.pool())
    .await
    .unwrap();
    assert!((0.0..=3600.0).contains(&left), "{left}");
    sqlx::query("UPDATE refresh_tokens SET issued_at = issued_at - interval '2 hours'")
        .execute(app.store.pool())
        .await
        .unwrap();
    assert_eq!(number(&refresh(&app, &second).await), 700_082);
}

async fn change_password(app: &TestApp, token: &str, current: &str, new: &str) -> Reply {
    let body = json!({ "currentPassword": current, "newPassword": new });
    let path = "/v1.0/me/changePassword";
    app.send(Method::POST, path, token, Some(body)).await
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_person_changes_the_own_password_and_all_sessions_end(pool: PgPool) {
    const NEW: &str = "incorrect horse battery staple";
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let first = sign_in(&app, NAME, PASSWORD).await;
    let token = first.body["access_token"].as_str().unwrap();
    for (current, new, target) in [
        ("a wrong password", NEW, "currentPassword"),
        (PASSWORD, "short", "newPassword"),
        (PASSWORD, PASSWORD, "newPassword"),
    ] {
        let refused = change_password(&app, token, current, new).await;
        assert_eq!(refused.status, 400, "{target}: {}", refused.body);
    }
    let of_application = change_password(&app, &app.token, PASSWORD, NEW).await;
    assert_eq!(of_application.status, 400, "{}", of_application.body);
    // Whoever has to change it by then, does so here.
    let change = json!({ "passwordProfile": { "forceChangePasswordNextSignIn": true } });
    patch_ann(&app, change).await;
    let changed = change_password(&app, token, PASSWORD, NEW).await;
    assert_eq!(changed.status, 204, "{}", changed.body);
    assert!(!changed.header("x-wharfinger-revision").is_empty());
    assert!(!is_good(&app, token).await);
    let refresh_token = first.body["refresh_token"].as_str().unwrap();
    assert_eq!(refresh(&app, refresh_token).await.status, 400);
    assert_eq!(sign_in(&app, NAME, PASSWORD).await.status, 400);
    assert_eq!(sign_in(&app, NAME, NEW).await.status, 200);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn guessing_at_the_current_password_is_refused_unseen_after_a_while(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    create_ann(&app).await;
    let signed_in = sign_in(&app, NAME, PASSWORD).await;
    let token = signed_in.body["access_token"].as_str().unwrap();
    let change = async |current: &str| {
        change_password(&app, token, current, "another one that is long").await
    };
    let guesses = until_limited(async || change("a wrong password").await).await;
    assert!(guesses >= 10, "{guesses}");
    let right = change(PASSWORD).await;
    assert_eq!(right.status, 429, "{}", right.body);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_failed_sign_in_is_recorded_with_the_account_that_was_tried(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let ann = create_ann(&app).await;
    assert_eq!(sign_in(&app, NAME, "a wrong password").await.status, 400);
    let recorded = async || -> Option<String> {
        sqlx::query_scalar("SELECT properties->>'accountId' FROM activity_log WHERE error_code = 'wrong_password' AND caller_id IS NULL")
            .fetch_optional(&pool)
            .await
            .unwrap()
            .flatten()
    };
    let account = loop {
        match recorded().await {
            Some(account) => break account,
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    assert_eq!(account, ann);
}
