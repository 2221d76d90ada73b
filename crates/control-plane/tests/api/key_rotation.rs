//! Keys that sign access tokens: rotated without a break, revoked at once, and known to nodes.

use std::time::Duration;

use config_documents::{Document, SignInKey};
use control_plane::sign_in::{FormerKeys, SignInError, ensure_key, rotate_key};
use credentials::{KeyRing, kid_of};
use reqwest::Method;
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::support::{TestApp, key_ring};

/// What nodes know of keys.
async fn known_to_nodes(pool: &PgPool) -> Vec<SignInKey> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT key, body FROM config_documents WHERE kind = 'sign-in-key' AND region = '*' AND NOT deleted ORDER BY revision",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    rows.iter()
        .map(
            |(key, body)| match Document::parse("sign-in-key", key, body).unwrap() {
                Document::SignInKey(key) => key,
                other => panic!("{other:?}"),
            },
        )
        .collect()
}

async fn shown(app: &TestApp) -> Vec<String> {
    let keys = app
        .send(Method::GET, "/adfs/discovery/keys", "", None)
        .await;
    let keys = keys.body["keys"].as_array().unwrap();
    keys.iter()
        .map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

async fn is_good(app: &TestApp, token: &str) -> bool {
    let reply = app
        .send(Method::GET, "/v1.0/applications", token, None)
        .await;
    reply.status == 200
}

/// Waits until something is so, and fails when that takes far longer than reading the keys again does.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited)
        .await
        .expect("it becomes so");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn nodes_know_the_first_key_and_learn_it_again_when_it_was_lost(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let known = known_to_nodes(&pool).await;
    assert_eq!(known.len(), 1);
    assert_eq!(
        Some(known[0].public_key.kid()),
        kid_of(&app.token).as_deref()
    );
    assert_eq!(known[0].tenant_id, app.tenant_id);
    assert!(known[0].audiences.contains(&app.base));
    assert!(known[0].issuers.contains(&format!("{}/adfs", app.base)));
    assert_eq!(known[0].ends_at, None);
    sqlx::query("UPDATE config_documents SET body = replace(body, 'ES256', 'ES512') WHERE kind = 'sign-in-key'")
        .execute(&pool)
        .await
        .unwrap();
    until(async || {
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM config_documents WHERE kind = 'sign-in-key' AND body LIKE '%ES256%'")
            .fetch_one(&pool)
            .await
            .unwrap();
        rows == 1
    })
    .await;
    assert_eq!(known_to_nodes(&pool).await, known);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_new_key_is_known_before_it_signs_and_the_old_one_after(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let replica = app.replica().await;
    let old = kid_of(&app.token).unwrap();
    let now = OffsetDateTime::now_utc();
    let rotation = rotate_key(&app.store, &key_ring(), FormerKeys::Retire, now)
        .await
        .unwrap();
    assert!(
        rotation.signs_from > now + Duration::from_secs(300),
        "longer than keys may be cached"
    );
    let known = known_to_nodes(&pool).await;
    let end_of = |kid: &str| {
        let key = known.iter().find(|key| key.public_key.kid() == kid);
        key.unwrap_or_else(|| panic!("{kid} is not known")).ends_at
    };
    assert_eq!(end_of(&rotation.kid), None);
    let ends_at = end_of(&old).unwrap();
    assert!((ends_at - rotation.former_end_at).abs() < time::Duration::SECOND);
    for control_plane in [&app, &replica] {
        until(async || shown(control_plane).await.contains(&rotation.kid)).await;
        assert!(shown(control_plane).await.contains(&old));
    }
    let again = app.sign_in(&app.client_id, &app.client_secret).await;
    assert_eq!(
        kid_of(&again).as_deref(),
        Some(old.as_str()),
        "its time has not come"
    );
    // Its time comes.
    sqlx::query("UPDATE sign_in_keys SET not_before = least(not_before, now()), retired_at = CASE WHEN retired_at IS NOT NULL THEN now() END")
        .execute(&pool)
        .await
        .unwrap();
    until(async || {
        let token = app.sign_in(&app.client_id, &app.client_secret).await;
        kid_of(&token).as_deref() == Some(rotation.kid.as_str())
    })
    .await;
    assert!(
        is_good(&app, &app.token).await,
        "nobody has to sign in again"
    );
    assert!(is_good(&app, &again).await);
    // And that of the last token which the old one signed is over.
    sqlx::query("UPDATE sign_in_keys SET retired_at = now() - interval '66 minutes' WHERE retired_at IS NOT NULL")
        .execute(&pool)
        .await
        .unwrap();
    for control_plane in [&app, &replica] {
        until(async || shown(control_plane).await == [rotation.kid.clone()]).await;
    }
    assert!(!is_good(&app, &app.token).await);
    assert_eq!(
        known_to_nodes(&pool).await.len(),
        2,
        "what nodes gave for that token may still be good"
    );
    sqlx::query("UPDATE sign_in_keys SET retired_at = now() - interval '330 minutes' WHERE retired_at IS NOT NULL")
        .execute(&pool)
        .await
        .unwrap();
    until(async || known_to_nodes(&pool).await.len() == 1).await;
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_revoked_key_counts_nowhere_any_more(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let replica = app.replica().await;
    assert!(is_good(&replica, &app.token).await);
    let now = OffsetDateTime::now_utc();
    let rotation = rotate_key(&app.store, &key_ring(), FormerKeys::Revoke, now)
        .await
        .unwrap();
    let known = known_to_nodes(&pool).await;
    assert_eq!(known.len(), 1);
    assert_eq!(known[0].public_key.kid(), rotation.kid);
    for control_plane in [&app, &replica] {
        until(async || !is_good(control_plane, &app.token).await).await;
    }
    let token = app.sign_in(&app.client_id, &app.client_secret).await;
    assert_eq!(kid_of(&token).as_deref(), Some(rotation.kid.as_str()));
    until(async || is_good(&replica, &token).await).await;
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_revocation_arrives_where_the_new_key_cannot_be_opened(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    // The operator's command has a key-encryption key that this control plane has not.
    let newer = KeyRing::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
    sqlx::query("UPDATE installation SET key_encryption_fingerprint = $1")
        .bind(newer.fingerprint())
        .execute(&pool)
        .await
        .unwrap();
    let now = OffsetDateTime::now_utc();
    rotate_key(&app.store, &newer, FormerKeys::Revoke, now)
        .await
        .unwrap();
    until(async || !is_good(&app, &app.token).await).await;
    assert!(shown(&app).await.is_empty(), "nor does it sign");
    let started = ensure_key(&app.store, &key_ring(), now).await;
    assert!(matches!(started, Err(SignInError::Sealed { .. })));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_damaged_key_keeps_no_other_from_being_known_or_forgotten(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let old = kid_of(&app.token).unwrap();
    sqlx::query(
        "INSERT INTO sign_in_keys (kid, sealed_private, not_before) VALUES ('damaged', 'x', now())",
    )
    .execute(&pool)
    .await
    .unwrap();
    let now = OffsetDateTime::now_utc();
    let rotation = rotate_key(&app.store, &key_ring(), FormerKeys::Retire, now)
        .await
        .unwrap();
    until(async || shown(&app).await.contains(&rotation.kid)).await;
    let replica = app.replica().await;
    assert!(is_good(&replica, &app.token).await);
    sqlx::query("DELETE FROM sign_in_keys WHERE kid = $1")
        .bind(&old)
        .execute(&pool)
        .await
        .unwrap();
    for control_plane in [&app, &replica] {
        until(async || !is_good(control_plane, &app.token).await).await;
        assert_eq!(
            shown(control_plane).await,
            std::slice::from_ref(&rotation.kid)
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_key_that_is_damaged_after_it_was_opened_stays_until_it_is_revoked(pool: PgPool) {
    let app = TestApp::spawn(pool.clone()).await;
    let kept = kid_of(&app.token).unwrap();
    sqlx::query("UPDATE sign_in_keys SET sealed_private = 'x'")
        .execute(&pool)
        .await
        .unwrap();
    let now = OffsetDateTime::now_utc();
    let rotation = rotate_key(&app.store, &key_ring(), FormerKeys::Retire, now)
        .await
        .unwrap();
    until(async || shown(&app).await == [kept.clone(), rotation.kid.clone()]).await;
    assert!(is_good(&app, &app.token).await);
    let again = app.sign_in(&app.client_id, &app.client_secret).await;
    assert_eq!(kid_of(&again), Some(kept));
    rotate_key(&app.store, &key_ring(), FormerKeys::Revoke, now)
        .await
        .unwrap();
    until(async || !is_good(&app, &again).await).await;
}
