//! What clients read before they sign in, and the names of the tenant.

use credentials::{PublicKey, TokenVerifier, kid_of};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::sign_in::{arm_scope, post_form};
use crate::support::TestApp;

fn local<'a>(app: &TestApp, url: &'a Value) -> &'a str {
    url.as_str()
        .and_then(|url| url.strip_prefix(app.base.as_str()))
        .unwrap_or_else(|| panic!("{url} is not on the public URL"))
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_cloud_is_registered_and_signed_in_to_with_what_the_server_says(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let object = app
        .send(
            Method::GET,
            "//metadata/endpoints?api-version=2022-09-01",
            "",
            None,
        )
        .await;
    assert_eq!(object.status, 200);
    let authentication = &object.body["authentication"];
    assert_eq!(object.body["resourceManager"], json!(app.base));
    assert_eq!(object.body["microsoftGraphResourceId"], json!(app.base));
    assert_eq!(
        object.body["suffixes"]["acrLoginServer"],
        ".registry.localhost:5443"
    );
    assert!(
        authentication["loginEndpoint"]
            .as_str()
            .unwrap()
            .ends_with("/adfs")
    );
    let list = app
        .send(
            Method::GET,
            "/metadata/endpoints?api-version=2019-05-01",
            "",
            None,
        )
        .await;
    assert_eq!(list.body, json!([object.body]));
    let missing = app.send(Method::GET, "/metadata/endpoints", "", None).await;
    assert_eq!(
        (missing.status, missing.code()),
        (400, "MissingApiVersionParameter")
    );

    let path = format!(
        "{}/.well-known/openid-configuration",
        local(&app, &authentication["loginEndpoint"])
    );
    let discovery = app.send(Method::GET, &path, "", None).await;
    let scope = format!(
        "{}/.default",
        authentication["audiences"][0].as_str().unwrap()
    );
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", app.client_id.as_str()),
        ("client_secret", app.client_secret.as_str()),
        ("scope", scope.as_str()),
    ];
    let token = post_form(&app, local(&app, &discovery.body["token_endpoint"]), &form).await;
    assert_eq!(token.status, 200, "{}", token.body);
    assert_eq!(
        (&token.body["token_type"], &token.body["expires_in"]),
        (&json!("Bearer"), &json!(3600))
    );
    assert_eq!(token.header("cache-control"), "no-store");
    let token = token.body["access_token"].as_str().unwrap();
    for path in [
        "/subscriptions?api-version=2022-12-01",
        "/v1.0/applications",
    ] {
        assert_eq!(
            app.send(Method::GET, path, token, None).await.status,
            200,
            "{path}"
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn every_way_to_name_the_tenant_gives_tokens_that_its_keys_verify(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let tenant = app.tenant_id.to_string();
    for (segment, version) in [
        ("adfs", ""),
        ("ADFS", "/v2.0"),
        (tenant.as_str(), "/v2.0"),
        (tenant.as_str(), ""),
        ("organizations", "/v2.0"),
        ("common", "/v2.0"),
        // The domain, which is the host of the public URL.
        ("127.0.0.1", "/v2.0"),
    ] {
        let path = format!("/{segment}{version}/.well-known/openid-configuration");
        let document = app.send(Method::GET, &path, "", None).await;
        assert_eq!(document.status, 200, "{path}: {}", document.body);
        assert_eq!(
            document.body["grant_types_supported"],
            json!(["client_credentials", "password", "refresh_token"])
        );
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", app.client_id.as_str()),
            ("client_secret", app.client_secret.as_str()),
            ("scope", &arm_scope(&app)),
        ];
        let token = post_form(&app, local(&app, &document.body["token_endpoint"]), &form).await;
        let token = token.body["access_token"].as_str().unwrap().to_owned();
        let keys = app
            .send(
                Method::GET,
                local(&app, &document.body["jwks_uri"]),
                "",
                None,
            )
            .await;
        let kid = kid_of(&token).unwrap();
        let key = keys.body["keys"]
            .as_array()
            .unwrap()
            .iter()
            .find(|key| key["kid"] == json!(kid))
            .unwrap();
        assert!(key["d"].is_null(), "the private part stays here");
        let key: PublicKey = serde_json::from_value(key.clone()).unwrap();
        let claims: Value = TokenVerifier::new(&key).verify(&token).unwrap();
        assert_eq!(claims["iss"], document.body["issuer"]);
        assert_eq!(claims["aud"], json!(app.base));
        assert_eq!(claims["tid"], json!(tenant));
        assert_eq!(claims["appid"], json!(app.client_id));
        assert_eq!(claims["sub"], claims["oid"]);
        assert_eq!(
            claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(),
            3600
        );
        let reply = app
            .send(Method::GET, "/v1.0/applications", &token, None)
            .await;
        assert_eq!(reply.status, 200, "{segment}");
        let authorize = local(&app, &document.body["authorization_endpoint"]);
        let refused = app.send(Method::GET, authorize, "", None).await;
        assert_eq!(
            (refused.status, &refused.body["error"]),
            (400, &json!("unsupported_response_type"))
        );
    }
    for path in [
        "/contoso.example/v2.0/.well-known/openid-configuration",
        "/adfs/contoso.example/v2.0/.well-known/openid-configuration",
        "/11111111-2222-4333-8444-555555555555/discovery/v2.0/keys",
    ] {
        let reply = app.send(Method::GET, path, "", None).await;
        assert_eq!(
            (reply.status, &reply.body["error"]),
            (400, &json!("invalid_tenant"))
        );
        assert!(
            reply.body["error_description"]
                .as_str()
                .unwrap()
                .contains("AADSTS90002")
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_name_of_the_tenant_is_resolved_to_its_id_as_the_azure_cli_asks(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let organization = app.get("/v1.0/organization").await;
    let domain = &organization.body["value"][0]["verifiedDomains"][0]["name"];
    let tenant = app.tenant_id.to_string();
    for name in [domain.as_str().unwrap(), "adfs", "common", tenant.as_str()] {
        let path = format!("/adfs/{name}/v2.0/.well-known/openid-configuration");
        let document = app.send(Method::GET, &path, "", None).await;
        assert_eq!(document.status, 200, "{path}: {}", document.body);
        let issuer = document.body["issuer"].as_str().unwrap();
        assert_eq!(issuer.split('/').nth(3), Some(tenant.as_str()), "{name}");
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn sign_in_with_a_code_ends_with_how_people_sign_in(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let path = "/adfs/.well-known/openid-configuration";
    let document = app.send(Method::GET, path, "", None).await.body;
    let endpoint = local(&app, &document["device_authorization_endpoint"]);
    let scope = format!("{} openid", arm_scope(&app));
    let client = ("client_id", "04b07795-8ddb-461a-bbee-02f9e1bf7b46");
    let begun = post_form(&app, endpoint, &[client, ("scope", &scope)]).await;
    assert_eq!(begun.status, 200, "{}", begun.body);
    assert!(begun.body["message"].is_string() && begun.body["user_code"].is_string());
    let form = [
        client,
        ("grant_type", "urn:ietf:params:oauth:grant-type:device_code"),
        ("device_code", begun.body["device_code"].as_str().unwrap()),
    ];
    let token_endpoint = local(&app, &document["token_endpoint"]);
    let refused = post_form(&app, token_endpoint, &form).await;
    assert_eq!(
        (refused.status, &refused.body["error"]),
        (400, &json!("unsupported_grant_type"))
    );
    let shown = app
        .send(
            Method::GET,
            local(&app, &begun.body["verification_uri"]),
            "",
            None,
        )
        .await;
    for reply in [refused, shown] {
        let description = reply.body["error_description"].as_str().unwrap();
        assert!(description.contains("az login --username"), "{description}");
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn addresses_and_issuers_never_come_from_the_host_header(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    for path in [
        "/adfs/.well-known/openid-configuration",
        "/metadata/endpoints?api-version=2022-09-01",
    ] {
        let request = app
            .request(Method::GET, path)
            .header("host", "evil.example")
            .header("x-forwarded-host", "evil.example");
        let reply = app.read(request).await;
        assert_eq!(reply.status, 200);
        assert!(!reply.body.to_string().contains("evil"), "{}", reply.body);
    }
}
