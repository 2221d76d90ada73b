//! Tokens of sign-in against refresh tokens of a registry, and those against access tokens.

use config_documents::{Document, Principal, SignInCredential, SignInKey};
use credentials::{Secret, SigningKey};
use registry_node::limits::FAILED_LOGINS_OF_USER_MAXIMUM;
use reqwest::Method;
use serde_json::{Value, json};
use time::Duration;
use uuid::Uuid;

use crate::{log, node::*, support::*};

const TENANT: Uuid = Uuid::from_u128(0x7e4a47);
const ISSUER: &str = "https://wharf.example/adfs";
const CONTROL_PLANE: &str = "https://wharf.example";
const REGISTRIES: &str = "https://containerregistry.azure.net";
const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";

/// A node that knows the key of sign-in.
struct World {
    node: Node,
    sign_in: SigningKey,
}

fn sign_in_key(key: &SigningKey) -> SignInKey {
    SignInKey {
        public_key: key.public(),
        tenant_id: TENANT,
        issuers: vec![
            ISSUER.to_owned(),
            format!("https://wharf.example/{TENANT}/v2.0"),
        ],
        audiences: vec![CONTROL_PLANE.to_owned(), REGISTRIES.to_owned()],
        ends_at: None,
    }
}

/// What sign-in says of the principal with this number and the secret that the test gave it.
fn said(number: u128, audience: &str) -> Value {
    let issued_at = now().unix_timestamp();
    json!({
        "iss": ISSUER, "aud": audience, "sub": object_id(number), "oid": object_id(number),
        "appid": app_id(number), "azp": app_id(number), "tid": TENANT,
        "iat": issued_at, "nbf": issued_at, "exp": issued_at + 3600, "ver": "2.0",
        "jti": Uuid::new_v4(), "cred": Uuid::from_u128(0x5ec0 + number),
    })
}

impl World {
    async fn start() -> Self {
        let mut node = Node::start().await;
        let sign_in = SigningKey::generate("sign-in");
        node.feed
            .publish(vec![Document::SignInKey(sign_in_key(&sign_in))]);
        Self { node, sign_in }
    }

    fn signed(&self, claims: &Value) -> String {
        self.sign_in.sign(claims).expect("claims")
    }

    async fn exchange(&self, pairs: &[(&str, &str)]) -> Answer {
        let server = login_server("contoso", self.node.port);
        let mut form = vec![("service", server.as_str())];
        form.extend_from_slice(pairs);
        send(self.node.post("/oauth2/exchange").form(&form)).await
    }

    async fn exchange_token(&self, token: &str) -> Answer {
        let tenant = TENANT.to_string();
        self.exchange(&[
            ("grant_type", "access_token"),
            ("tenant", &tenant),
            ("access_token", token),
        ])
        .await
    }

    /// A refresh token that must be given.
    async fn refresh_token(&self, number: u128) -> Secret {
        let answer = self
            .exchange_token(&self.signed(&said(number, REGISTRIES)))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let token = answer.body["refresh_token"].as_str().expect("a token");
        Secret::new(token.to_owned())
    }

    async fn access_with(&self, refresh_token: &Secret, scope: &str) -> Answer {
        let server = login_server("contoso", self.node.port);
        let form = [
            ("grant_type", "refresh_token"),
            ("service", server.as_str()),
            ("scope", scope),
            ("refresh_token", refresh_token.expose()),
        ];
        send(self.node.post("/oauth2/token").form(&form)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_sign_in_becomes_a_refresh_token_and_that_an_access_token() {
    let mut world = World::start().await;
    world.node.add_principal(1, &[(SUBSCRIPTION, "AcrPush")]);
    for audience in [CONTROL_PLANE, REGISTRIES] {
        let answer = world
            .exchange_token(&world.signed(&said(1, audience)))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.body.as_object().map(serde_json::Map::len), Some(1));
        assert_eq!(answer.header("cache-control"), "no-store");
        let refresh = answer.body["refresh_token"].as_str().expect("a token");
        let claimed = claims(refresh);
        assert_eq!(claimed["grant_type"], "refresh_token");
        assert_eq!(claimed["sub"], json!(app_id(1)));
        assert_eq!(claimed["tenant"], json!(TENANT));
        assert_eq!(
            claimed["aud"],
            json!(login_server("contoso", world.node.port))
        );
        assert_eq!(
            claimed["exp"].as_i64(),
            claimed["iat"].as_i64().map(|iat| iat + 3 * 3600)
        );
        let answer = world
            .access_with(
                &Secret::new(refresh.to_owned()),
                "repository:app:pull,push,delete",
            )
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let access = answer.body["access_token"].as_str().expect("a token");
        assert_eq!(
            claims(access)["access"],
            json!([{"type": "repository", "name": "app", "actions": ["pull", "push"]}])
        );
        let upload = world.node.post(&hello_path("app")).body("hello");
        assert_eq!(send(upload.bearer_auth(access)).await.status, 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_grants_are_taken_too() {
    let mut world = World::start().await;
    world.node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let token = world.signed(&said(1, CONTROL_PLANE));
    let both = world
        .exchange(&[
            ("grant_type", "access_token_refresh_token"),
            ("access_token", &token),
            ("refresh_token", "what sign-in gave"),
        ])
        .await;
    assert_eq!(both.status, 200, "{}", both.body);
    let first = both.body["refresh_token"].as_str().expect("a token");
    let again = world
        .exchange(&[("grant_type", "refresh_token"), ("refresh_token", first)])
        .await;
    assert_eq!(again.status, 200, "{}", again.body);
    // Nobody stays logged in for good by asking again and again.
    let second = again.body["refresh_token"].as_str().expect("a token");
    assert_ne!(first, second);
    assert_eq!(claims(first)["exp"], claims(second)["exp"]);
    assert_eq!(claims(first)["credential"], claims(second)["credential"]);
    for (pairs, status, part) in [
        (
            vec![("grant_type", "refresh_token"), ("refresh_token", "x.y.z")],
            401,
            "exchange an access token",
        ),
        (
            vec![("grant_type", "refresh_token")],
            400,
            "lacks refresh_token",
        ),
        (
            vec![("grant_type", "access_token")],
            400,
            "lacks access_token",
        ),
        (
            vec![("access_token", token.as_str())],
            400,
            "lacks grant_type",
        ),
        (
            vec![("grant_type", "password"), ("access_token", &token)],
            400,
            "\"password\"",
        ),
        (
            vec![
                ("grant_type", "access_token"),
                ("grant_type", "access_token"),
                ("access_token", &token),
            ],
            400,
            "\"grant_type\" is given more than once",
        ),
        (
            vec![
                ("grant_type", "access_token"),
                ("access_token", &token),
                ("service", "elsewhere"),
            ],
            400,
            "\"service\" is given more than once",
        ),
    ] {
        let answer = world.exchange(&pairs).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.message().contains(part), "{}", answer.body);
    }
    let elsewhere = [
        ("service", "elsewhere"),
        ("grant_type", "access_token"),
        ("access_token", &token),
    ];
    let answer = send(world.node.post("/oauth2/exchange").form(&elsewhere)).await;
    assert_eq!((answer.status, answer.code()), (400, "UNSUPPORTED"));
    let get = send(world.node.get("/oauth2/exchange")).await;
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_for_this_is_refused_by_name() {
    let mut world = World::start().await;
    let secret = world.node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let stranger = SigningKey::generate("sign-in");
    let unknown = SigningKey::generate("unknown");
    let good = said(1, REGISTRIES);
    let with = |name: &str, value: Value| {
        let mut claims = said(1, REGISTRIES);
        claims[name] = value;
        world.signed(&claims)
    };
    let now = now().unix_timestamp();
    let access = world
        .node
        .access_token(&app_id(1).to_string(), &secret, "repository:app:pull")
        .await;
    let unsigned = unsigned(&good);
    let symmetric = symmetric(&good, &world.sign_in);
    for (token, part) in [
        (stranger.sign(&good).expect("claims"), "signature"),
        (
            unknown.sign(&good).expect("claims"),
            "not signed with a key",
        ),
        (with("aud", json!("https://graph.example")), "audience"),
        (with("aud", json!(app_id(1))), "audience"),
        (with("iss", json!("https://evil.example/adfs")), "issuer"),
        (with("tid", json!(Uuid::nil())), "issuer"),
        (with("exp", json!(now)), "expired"),
        (with("nbf", json!(now + 600)), "not valid yet"),
        (with("oid", json!(object_id(7))), "not there any more"),
        (with("cred", json!(Uuid::nil())), "removed or renewed"),
        (with("cred", Value::Null), "claims"),
        // One of another kind, signed with a key of another kind.
        (access, "not signed with a key"),
        (
            world.node.signing_key.sign(&good).expect("claims"),
            "not signed with a key",
        ),
        (unsigned, "cannot be used"),
        (symmetric, "cannot be used"),
        ("no.token.atall".to_owned(), "cannot be used"),
        (secret.expose().to_owned(), "cannot be used"),
    ] {
        let answer = world.exchange_token(&token).await;
        assert_eq!(
            (answer.status, answer.code()),
            (401, "UNAUTHORIZED"),
            "{token}"
        );
        assert!(answer.message().contains(part), "{part}: {}", answer.body);
        assert_eq!(answer.challenge, world.node.challenge(""));
        assert!(!answer.body.to_string().contains(&token));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_exchange_is_in_the_log_with_its_reason_and_not_without_end() {
    const NUMBER: u128 = 0xfa11;
    let often = 3 * FAILED_LOGINS_OF_USER_MAXIMUM as usize;
    log::keep();
    let mut world = World::start().await;
    let secret = world.node.add_principal(NUMBER, &[]);
    for _ in 0..often {
        assert_eq!(world.exchange_token("no.token.atall").await.status, 401);
    }
    let rubbish = log::lines_with("login.failure=\"malformed-token\"").len();
    assert!(0 < rubbish && rubbish < often, "{rubbish}");
    let wrong_audience = world.signed(&said(NUMBER, "https://graph.example"));
    assert_eq!(world.exchange_token(&wrong_audience).await.status, 401);
    let disabled = Principal {
        enabled: false,
        ..principal(NUMBER, &secret, &[])
    };
    world.node.feed.publish(vec![Document::Principal(disabled)]);
    let token = world.signed(&said(NUMBER, REGISTRIES));
    for _ in 0..often {
        assert_eq!(world.exchange_token(&token).await.status, 401);
    }
    let logged = log::lines_with(&app_id(NUMBER).to_string());
    assert!(2 < logged.len() && logged.len() < often, "{logged:?}");
    for (line, failure) in logged.iter().zip(["wrong-audience", "disabled"]) {
        let failure = format!("login.failure=\"{failure}\"");
        assert!(line.contains(" INFO ") && line.contains(&failure), "{line}");
        assert!(line.contains("peer=127.0.0.1"), "{line}");
    }
    assert!(log::lines_with(&token).is_empty());
}

/// `alg: none`.
fn unsigned(claims: &Value) -> String {
    format!(
        "{}.{}.",
        part(&json!({"alg": "none", "typ": "JWT", "kid": "sign-in"})),
        part(claims)
    )
}

/// The public key taken for a shared one.
fn symmetric(claims: &Value, key: &SigningKey) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let signed = format!(
        "{}.{}",
        part(&json!({"alg": "HS256", "typ": "JWT", "kid": "sign-in"})),
        part(claims)
    );
    let shared = serde_json::to_vec(&key.public()).expect("a key");
    let signature = hmac_sha256(&shared, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn part(value: &Value) -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// RFC 2104.
fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    let mut block = [0_u8; 64];
    let short = if key.len() > 64 {
        Sha256::digest(key).to_vec()
    } else {
        key.to_vec()
    };
    block[..short.len()].copy_from_slice(&short);
    let padded = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize()
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_counts_until_it_ends_or_is_withdrawn() {
    let mut world = World::start().await;
    world.node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let token = world.signed(&said(1, REGISTRIES));
    let key = sign_in_key(&world.sign_in);
    for (ends_at, status) in [(Duration::hours(1), 200), (-Duration::seconds(1), 401)] {
        let ending = SignInKey {
            ends_at: Some(now() + ends_at),
            ..key.clone()
        };
        world.node.feed.publish(vec![Document::SignInKey(ending)]);
        assert_eq!(world.exchange_token(&token).await.status, status);
    }
    let key = Document::SignInKey(key);
    world.node.feed.publish(vec![key.clone()]);
    assert_eq!(world.exchange_token(&token).await.status, 200);
    world.node.feed.delete(&key);
    assert_eq!(world.exchange_token(&token).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_right_gets_no_refresh_token() {
    let mut world = World::start().await;
    world.node.add_principal(1, &[]);
    let answer = world
        .exchange_token(&world.signed(&said(1, REGISTRIES)))
        .await;
    assert_eq!((answer.status, answer.code()), (401, "DENIED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_is_a_password_of_the_token_user_and_never_a_bearer() {
    let mut world = World::start().await;
    world.node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let refresh = world.refresh_token(1).await;
    let basic = |request: reqwest::RequestBuilder, password: &Secret| {
        request.basic_auth(TOKEN_USER, Some(password.expose().to_owned()))
    };
    let v2 = basic(world.node.get("/v2/"), &refresh);
    assert_eq!(send(v2).await.status, 200);
    // As docker does it, by GET and by POST.
    let access = world
        .node
        .access_token(TOKEN_USER, &refresh, "repository:app:pull,push")
        .await;
    assert_eq!(claims(&access)["sub"], json!(app_id(1)));
    let form = [
        ("grant_type", "password"),
        ("username", TOKEN_USER),
        ("password", refresh.expose()),
        ("scope", "repository:app:pull"),
    ];
    assert_eq!(
        send(world.node.post("/oauth2/token").form(&form))
            .await
            .status,
        200
    );
    let bearer = send(world.node.get("/v2/").bearer_auth(refresh.expose())).await;
    assert_eq!(bearer.status, 401);
    assert!(
        bearer.message().contains("/oauth2/token"),
        "{}",
        bearer.body
    );
    let upload = world.node.post(&hello_path("app")).body("hello");
    assert_eq!(send(basic(upload, &refresh)).await.code(), "DENIED");
    // Another user's password it is not.
    let other = world
        .node
        .get("/v2/")
        .basic_auth("contoso", Some(refresh.expose()));
    assert_eq!(send(other).await.status, 401);
    let wrong = basic(world.node.get("/v2/"), &Secret::new("x.y.z".to_owned()));
    let wrong = send(wrong).await;
    assert_eq!((wrong.status, wrong.code()), (401, "UNAUTHORIZED"));
    assert!(wrong.message().contains("az acr login"), "{}", wrong.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_as_password_gives_no_more_and_for_no_longer_than_it_has() {
    let mut world = World::start().await;
    world.node.add_principal(1, &[(SUBSCRIPTION, "AcrPush")]);
    let refresh = world.refresh_token(1).await;
    let answer = world.access_with(&refresh, "repository:app:pull").await;
    let access = Secret::new(
        answer.body["access_token"]
            .as_str()
            .expect("a token")
            .to_owned(),
    );
    let same = world
        .node
        .access_token(
            TOKEN_USER,
            &access,
            "repository:app:pull,push%20repository:other:pull%20registry:catalog:*",
        )
        .await;
    let (before, after) = (claims(access.expose()), claims(&same));
    assert_eq!(after["access"], before["access"]);
    assert_eq!(after["exp"], before["exp"]);
    let basic = |request: reqwest::RequestBuilder| {
        request.basic_auth(TOKEN_USER, Some(access.expose().to_owned()))
    };
    let upload = basic(world.node.post(&hello_path("app")).body("hello"));
    assert_eq!(send(upload).await.code(), "DENIED");
    let answer = world.access_with(&access, "repository:app:pull").await;
    assert_eq!(answer.status, 401);
    assert!(
        answer.message().contains("no refresh token"),
        "{}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_dies_with_its_credential_its_principal_and_its_registry() {
    let mut world = World::start().await;
    let secret = world.node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let refresh = world.refresh_token(1).await;
    let status = async |world: &World| {
        world
            .access_with(&refresh, "repository:app:pull")
            .await
            .status
    };
    let alive = principal(1, &secret, &[]);
    for changed in [
        Principal {
            enabled: false,
            ..alive.clone()
        },
        Principal {
            secrets: Vec::new(),
            ..alive.clone()
        },
    ] {
        world
            .node
            .feed
            .publish(vec![Document::Principal(alive.clone())]);
        assert_eq!(status(&world).await, 200);
        world.node.feed.publish(vec![Document::Principal(changed)]);
        assert_eq!(status(&world).await, 401);
    }
    world
        .node
        .feed
        .publish(vec![Document::Principal(alive.clone())]);
    world.node.feed.delete(&Document::Principal(alive.clone()));
    assert_eq!(status(&world).await, 401);
    world.node.feed.publish(vec![Document::Principal(alive)]);
    // The name, given to another registry.
    let mut again = world.node.contoso(&[1, 1]);
    world.node.feed.delete(&Document::Registry(again.clone()));
    again.uid = Uuid::from_u128(77);
    world.node.feed.publish(vec![Document::Registry(again)]);
    let answer = world.access_with(&refresh, "repository:app:pull").await;
    assert_eq!(answer.status, 401);
    assert!(
        answer.message().contains("another registry"),
        "{}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_and_whoever_has_a_certificate_get_in_until_that_is_gone() {
    let mut world = World::start().await;
    let cred = Uuid::from_u128(0xce47);
    let credential = |expires_at| SignInCredential {
        key_id: cred,
        expires_at,
    };
    let person = Principal {
        object_id: object_id(3),
        app_id: None,
        enabled: true,
        secrets: Vec::new(),
        chosen_secrets: Vec::new(),
        sign_in_credentials: vec![credential(None)],
        groups: Vec::new(),
    };
    world.node.feed.publish(vec![
        Document::Principal(person.clone()),
        assignment(9, SUBSCRIPTION, object_id(3), "AcrPull"),
    ]);
    let mut claimed = said(3, REGISTRIES);
    claimed["cred"] = json!(cred);
    claimed["upn"] = json!("ann@wharf.example");
    let token = world.signed(&claimed);
    let answer = world.exchange_token(&token).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let refresh = answer.body["refresh_token"].as_str().expect("a token");
    assert_eq!(claims(refresh)["sub"], "ann@wharf.example");
    let refresh = Secret::new(refresh.to_owned());
    for (credentials, status) in [
        (vec![credential(Some(now() + Duration::minutes(1)))], 200),
        (vec![credential(Some(now() - Duration::seconds(1)))], 401),
        (vec![credential(None)], 200),
        (vec![], 401),
    ] {
        let changed = Principal {
            sign_in_credentials: credentials,
            ..person.clone()
        };
        world.node.feed.publish(vec![Document::Principal(changed)]);
        assert_eq!(world.exchange_token(&token).await.status, status);
        let answer = world.access_with(&refresh, "repository:app:pull").await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_token_dies_with_the_key_that_signed_it() {
    let mut world = World::start().await;
    world.node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let refresh = world.refresh_token(1).await;
    let server = login_server("contoso", world.node.port);
    let again = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh.expose()),
    ];
    let again = world.exchange(&again).await;
    let again = Secret::new(
        again.body["refresh_token"]
            .as_str()
            .expect("one")
            .to_owned(),
    );
    let access = world.access_with(&again, "repository:app:pull").await;
    let access = access.body["access_token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let statuses = async |world: &World| {
        let mut statuses = vec![
            send(world.node.get("/v2/").bearer_auth(&access))
                .await
                .status,
            send(world.node.get("/v2/").basic_auth(TOKEN_USER, Some(&access)))
                .await
                .status,
        ];
        for token in [&refresh, &again] {
            let scope = "repository:app:pull";
            statuses.push(world.access_with(token, scope).await.status);
            let form = [
                ("grant_type", "refresh_token"),
                ("service", &server),
                ("refresh_token", token.expose()),
            ];
            statuses.push(
                send(world.node.post("/oauth2/exchange").form(&form))
                    .await
                    .status,
            );
        }
        statuses
    };
    // A key whose time is over signs no more; what was given for its tokens is good for its own time.
    let mut over = sign_in_key(&world.sign_in);
    over.ends_at = Some(now());
    world
        .node
        .feed
        .publish(vec![Document::SignInKey(over.clone())]);
    assert_eq!(statuses(&world).await, [200; 6]);
    world.node.feed.delete(&Document::SignInKey(over));
    assert_eq!(statuses(&world).await, [401; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_that_may_sign_for_the_registry_may_have_given_it() {
    let mut world = World::start().await;
    world.node.add_principal(1, &[(SUBSCRIPTION, "AcrPull")]);
    let claimed = claims(world.refresh_token(1).await.expose());
    let other = SigningKey::generate("other-node");
    let elsewhere = Secret::new(other.sign(&claimed).expect("claims"));
    let status = async |world: &World| {
        world
            .access_with(&elsewhere, "repository:app:pull")
            .await
            .status
    };
    assert_eq!(status(&world).await, 401);
    world.node.feed.publish(vec![signing_key(other.public())]);
    assert_eq!(status(&world).await, 200);
    let mut old = claimed;
    old["exp"] = json!(now().unix_timestamp());
    let old = Secret::new(other.sign(&old).expect("claims"));
    assert_eq!(
        world.access_with(&old, "repository:app:pull").await.status,
        401
    );
    let put = world
        .node
        .request(Method::PUT, "contoso", "/oauth2/exchange");
    assert_eq!(send(put).await.status, 405);
}
