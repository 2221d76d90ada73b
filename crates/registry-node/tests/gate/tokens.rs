//! The token endpoint and the tokens it gives.

use credentials::SigningKey;
use reqwest::Method;
use serde_json::json;
use time::Duration;

use crate::{node::*, support::*};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_says_what_was_asked_for_and_is_allowed() {
    let mut node = Node::start().await;
    let secret = node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let user = app_id(1).to_string();
    let scopes = [
        "repository:team/app:pull,push",
        "repository:other:delete",
        "registry:catalog:*",
        "unknown:x:*",
        "repository:more:*%20repository:team/app:metadata_read",
    ];
    let answer = node.token(&user, &secret, &scopes).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["expires_in"], 4500);
    let claims = claims(answer.body["access_token"].as_str().expect("a token"));
    let server = login_server("contoso", node.port);
    assert_eq!(
        claims["access"],
        json!([
            {"type": "repository", "name": "team/app", "actions": ["pull"]},
            {"type": "repository", "name": "more", "actions": ["pull"]},
        ])
    );
    assert_eq!(claims["aud"], json!(server));
    assert_eq!(claims["sub"], json!(user));
    assert_eq!(
        claims["exp"].as_i64(),
        claims["iat"].as_i64().map(|iat| iat + 4500)
    );
    assert!(!claims.to_string().contains(secret.expose()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_account_gets_everything_it_asks_for() {
    let node = Node::start().await;
    let answer = node
        .token(
            "contoso",
            &node.passwords[0],
            &["repository:app:*", "registry:catalog:*"],
        )
        .await;
    let claims = claims(answer.body["access_token"].as_str().expect("a token"));
    assert_eq!(
        claims["access"],
        json!([
            {"type": "repository", "name": "app",
             "actions": ["pull", "push", "delete", "metadata_read", "metadata_write"]},
            {"type": "registry", "name": "catalog", "actions": ["*"]},
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_allows_no_more_than_it_says() {
    let node = Node::start().await;
    let token = node
        .access_token("contoso", &node.passwords[0], "repository:app:pull,push")
        .await;
    let bearer = async |request: reqwest::RequestBuilder| {
        let answer = send(request.bearer_auth(&token)).await;
        (answer.status, answer.code().to_owned())
    };
    let denied = (401, "DENIED".to_owned());
    assert_eq!(bearer(node.get("/v2/")).await.0, 200);
    assert_eq!(
        bearer(node.post(&hello_path("app")).body("hello")).await.0,
        201
    );
    assert_eq!(
        bearer(node.post(&hello_path("app2")).body("hello")).await,
        denied
    );
    assert_eq!(bearer(node.get("/v2/_catalog")).await, denied);
    let blob = format!("/v2/app/blobs/{SHA256_OF_HELLO}");
    assert_eq!(
        bearer(node.request(Method::DELETE, "contoso", &blob)).await,
        denied
    );
    assert_eq!(bearer(node.get(&blob)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_takes_the_right_to_read_its_source() {
    let node = Node::start().await;
    let admin = node.passwords[0].clone();
    let upload = node.post(&hello_path("source")).body("hello");
    assert_eq!(
        send(upload.basic_auth("contoso", Some(admin.expose())))
            .await
            .status,
        201
    );
    let mount = format!("/v2/target/blobs/uploads/?mount={SHA256_OF_HELLO}&from=source");
    let both = "repository:target:pull,push%20repository:source:pull";
    for (scope, status) in [("repository:target:pull,push", 202), (both, 201)] {
        let token = node.access_token("contoso", &admin, scope).await;
        assert_eq!(
            send(node.post(&mount).bearer_auth(token)).await.status,
            status,
            "{scope}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_with_password_gets_a_token_too() {
    let node = Node::start().await;
    let server = login_server("CONTOSO", node.port).to_uppercase();
    let form = [
        ("grant_type", "password"),
        ("service", server.as_str()),
        ("username", "contoso"),
        ("password", node.passwords[0].expose()),
        ("scope", "repository:app:pull"),
        ("scope", "repository:web:pull"),
    ];
    let answer = send(node.post("/oauth2/token").form(&form)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let claims = claims(answer.body["access_token"].as_str().expect("a token"));
    assert_eq!(claims["access"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_met_are_refused_by_name() {
    let node = Node::start().await;
    let password = node.passwords[0].expose();
    let form = async |pairs: &[(&str, &str)]| {
        let answer = send(node.post("/oauth2/token").form(pairs)).await;
        let message = answer.body["errors"][0]["message"]
            .as_str()
            .unwrap_or_default();
        (answer.status, message.to_owned())
    };
    let login = [("username", "contoso"), ("password", password)];
    let with = |more: &[(&'static str, &'static str)]| [&login[..], more].concat();
    for (pairs, status, part) in [
        (
            with(&[("grant_type", "refresh_token")]),
            400,
            "lacks refresh_token",
        ),
        (
            with(&[("grant_type", "authorization_code")]),
            400,
            "grant_type \"authorization_code\"",
        ),
        (with(&[]), 400, "grant_type"),
        (
            with(&[("grant_type", "password"), ("service", "other")]),
            400,
            "service \"other\"",
        ),
        (
            with(&[("grant_type", "password"), ("scope", "x")]),
            400,
            "scope \"x\"",
        ),
        (
            with(&[("grant_type", "password"), ("scope", "repository:UP:pull")]),
            400,
            "UP",
        ),
        (
            with(&[("grant_type", "password"), ("username", "fabrikam")]),
            400,
            "\"username\" is given more than once",
        ),
        (
            vec![("grant_type", "password")],
            401,
            "authentication required",
        ),
        (
            vec![
                ("grant_type", "password"),
                ("username", ""),
                ("password", ""),
            ],
            401,
            "authentication",
        ),
    ] {
        let (found, message) = form(&pairs).await;
        assert_eq!(found, status, "{message}");
        assert!(message.contains(part), "{message} lacks {part}");
        assert!(!message.contains(password), "{message}");
    }
    let put = send(node.request(Method::PUT, "contoso", "/oauth2/token")).await;
    assert_eq!((put.status, put.header("allow")), (405, "GET, POST"));
    let repeated = send(node.get("/oauth2/token?account=a&account=b")).await;
    assert_eq!((repeated.status, repeated.code()), (400, "UNSUPPORTED"));
    let large = send(node.post("/oauth2/token").body("x".repeat(70_000))).await;
    assert_eq!((large.status, large.code()), (413, "SIZE_INVALID"));
    assert_eq!(
        send(node.get("/oauth2/token")).await.challenge,
        node.challenge("")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_key_is_not_known_signs_nothing_and_takes_passwords() {
    let mut node = Node::start().await;
    let token = node
        .access_token("contoso", &node.passwords[0], "repository:app:pull")
        .await;
    let key = signing_key_document(&node);
    node.feed.delete(&key);
    let answer = node.token("contoso", &node.passwords[0], &[]).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
    assert!(!answer.header("retry-after").is_empty());
    // A withdrawn key takes its tokens with it, remembered or not.
    assert_eq!(send(node.get("/v2/").bearer_auth(&token)).await.status, 401);
    let password = node.passwords[0].expose();
    assert_eq!(
        send(node.get("/v2/").basic_auth("contoso", Some(password)))
            .await
            .status,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_other_nodes_count_and_forged_or_expired_ones_do_not() {
    let mut node = Node::start().await;
    let other = SigningKey::generate("other-node");
    let stranger = SigningKey::generate("other-node");
    node.feed.publish(vec![signing_key(other.public())]);
    let token = node
        .access_token("contoso", &node.passwords[0], "repository:app:pull")
        .await;
    let said = claims(&token);
    let bearer = async |token: &str| send(node.get("/v2/").bearer_auth(token)).await.status;
    assert_eq!(bearer(&other.sign(&said).expect("claims")).await, 200);
    assert_eq!(bearer(&stranger.sign(&said).expect("claims")).await, 401);
    let mut changed = said.clone();
    changed["exp"] = json!(now().unix_timestamp() - 1);
    assert_eq!(bearer(&other.sign(&changed).expect("claims")).await, 401);
    let mut changed = said.clone();
    changed["nbf"] = json!((now() + Duration::minutes(6)).unix_timestamp());
    assert_eq!(bearer(&other.sign(&changed).expect("claims")).await, 401);
    let mut changed = said.clone();
    changed["aud"] = json!("elsewhere");
    assert_eq!(bearer(&other.sign(&changed).expect("claims")).await, 401);
    let mut changed = said;
    changed["credential"]["generation"] = json!(2);
    assert_eq!(bearer(&other.sign(&changed).expect("claims")).await, 401);
    assert_eq!(bearer("not.a.token").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_count_for_registries_that_are_known_where_their_node_is() {
    let mut node = Node::start().await;
    let said = claims(
        &node
            .access_token("contoso", &node.passwords[0], "repository:app:pull")
            .await,
    );
    let far = SigningKey::generate("far-node");
    let token = far.sign(&said).expect("claims");
    let key = |region: Option<&str>| {
        config_documents::Document::SigningKey(config_documents::SigningKey {
            node_id: uuid::Uuid::from_u128(98),
            public_key: far.public(),
            region: region.map(|region| config_documents::Region(region.to_owned())),
        })
    };
    let contoso = node.contoso(&[1, 1]);
    let name = |regions: &[&str], uid: u128| {
        config_documents::Document::RegistryName(config_documents::RegistryName {
            name: "contoso".to_owned(),
            uid: uuid::Uuid::from_u128(uid),
            login_server: contoso.login_server.clone(),
            home_region: region(),
            regions: regions
                .iter()
                .map(|region| config_documents::Region((*region).to_owned()))
                .collect(),
        })
    };
    for (key, name, status) in [
        // Without a region (form 1) it is this one.
        (key(None), name(&[REGION], 1), 200),
        (key(Some(REGION)), name(&[REGION], 1), 200),
        (key(Some("northeurope")), name(&[REGION], 1), 401),
        (
            key(Some("northeurope")),
            name(&[REGION, "northeurope"], 1),
            200,
        ),
        (
            key(Some("northeurope")),
            name(&[REGION, "northeurope"], 2),
            401,
        ),
        (key(Some("eastus")), name(&[REGION, "northeurope"], 1), 401),
    ] {
        node.feed.publish(vec![key, name]);
        let answer = send(node.get("/v2/").bearer_auth(&token)).await;
        assert_eq!(answer.status, status);
    }
}
