//! What a client is told whose token is good no more: that a new one may be.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use credentials::SigningKey;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::directory::application_of;
use crate::support::{Principal, Reply, TestApp};

const PATH: &str = "/v1.0/applications";

/// The claims that a refusal asks for, if it does.
fn wanted_claims(refused: &Reply) -> Option<Value> {
    assert_eq!(refused.status, 401, "{}", refused.body);
    let challenge = refused.header("www-authenticate");
    assert!(
        challenge.starts_with("Bearer authorization_uri="),
        "{challenge}"
    );
    let is_stale = challenge.contains(r#"error="insufficient_claims""#);
    assert_ne!(is_stale, challenge.contains(r#"error="invalid_token""#));
    let (_, claims) = challenge.split_once("claims=\"")?;
    let bytes = STANDARD.decode(claims.trim_end_matches('"')).unwrap();
    Some(serde_json::from_slice(&bytes).unwrap())
}

async fn add_secret(app: &TestApp, principal: &Principal) -> String {
    let path = format!("/v1.0/servicePrincipals/{}", principal.object_id);
    let added = app.post(&format!("{path}/addPassword"), json!({})).await;
    assert_eq!(added.status, 200, "{}", added.body);
    added.body["secretText"].as_str().unwrap().to_owned()
}

/// Removes the secrets of the application, not those of its service principal.
async fn remove_first_secrets(app: &TestApp, principal: &Principal) {
    let application = format!("{PATH}/{}", application_of(app, principal).await);
    let shown = app.get(&application).await;
    for secret in shown.body["passwordCredentials"].as_array().unwrap() {
        let path = format!("{application}/removePassword");
        let removed = app.post(&path, json!({ "keyId": secret["keyId"] })).await;
        assert_eq!(removed.status, 204, "{}", removed.body);
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn whoever_signed_in_again_is_told_to_ask_for_a_new_token(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let principal = app.create_principal("rotated").await;
    let new_secret = add_secret(&app, &principal).await;
    remove_first_secrets(&app, &principal).await;
    for path in [PATH, "/subscriptions?api-version=2022-12-01"] {
        let before = OffsetDateTime::now_utc().unix_timestamp();
        let refused = app.send(Method::GET, path, &principal.token, None).await;
        assert_eq!(refused.code(), "InvalidAuthenticationToken");
        assert!(refused.message().contains("Sign in again"));
        let wanted = wanted_claims(&refused).expect("a new token is asked for");
        let not_before = &wanted["access_token"]["nbf"];
        assert_eq!(not_before["essential"], json!(true));
        let value: i64 = not_before["value"].as_str().unwrap().parse().unwrap();
        assert!((before..=before + 60).contains(&value), "{value}");
    }
    // Clients send the claims on, with what they can do.
    let claims = json!({ "access_token": {
        "nbf": { "essential": true, "value": "1795435200" },
        "xms_cc": { "values": ["CP1"] },
    }})
    .to_string();
    let scope = format!("{}/.default", app.base);
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", principal.app_id.as_str()),
        ("client_secret", new_secret.as_str()),
        ("client_info", "1"),
        ("scope", &scope),
        ("claims", &claims),
    ];
    let request = app
        .request(Method::POST, "/adfs/oauth2/v2.0/token")
        .form(&form);
    let signed_in = app.read(request).await;
    assert_eq!(signed_in.status, 200, "{}", signed_in.body);
    let token = signed_in.body["access_token"].as_str().unwrap();
    assert_eq!(app.send(Method::GET, PATH, token, None).await.status, 200);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn whoever_has_a_token_of_a_key_that_is_gone_is_told_so_too_and_others_are_not(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let (_, claims): (_, Value) = credentials::read_unverified(&app.token).unwrap();
    let of_a_former_key = SigningKey::generate("former").sign(&claims).unwrap();
    let refused = app.send(Method::GET, PATH, &of_a_former_key, None).await;
    assert!(wanted_claims(&refused).is_some());
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", app.client_id.as_str()),
        ("client_secret", app.client_secret.as_str()),
        ("scope", "https://containerregistry.azure.net/.default"),
    ];
    let request = app
        .request(Method::POST, "/adfs/oauth2/v2.0/token")
        .form(&form);
    let signed_in = app.read(request).await;
    let of_registries = signed_in.body["access_token"].as_str().unwrap();
    // With these a new one would be no better.
    for token in ["", "a.b.c", of_registries] {
        let refused = app.send(Method::GET, PATH, token, None).await;
        assert_eq!(wanted_claims(&refused), None, "{token}");
    }
}
