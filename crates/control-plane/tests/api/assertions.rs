//! Applications that sign in with a certificate, or with a token of an external issuer.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use actix_web::{App as ActixApp, HttpResponse, HttpServer, web};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use control_plane::Settings;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use store::Store;
use time::OffsetDateTime;

use crate::support::{Reply, TestApp, settings};

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const AUDIENCE: &str = "api://AzureADTokenExchange";
const SUBJECT: &str = "repo:contoso/app:ref:refs/heads/main";

/// A key pair with a certificate.
struct Certified {
    key: rcgen::KeyPair,
    certificate: rcgen::Certificate,
}

impl Certified {
    fn new(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { key, certificate }
    }

    fn der(&self) -> &[u8] {
        self.certificate.der()
    }

    fn thumbprint(&self, algorithm: &'static aws_lc_rs::digest::Algorithm) -> String {
        URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(algorithm, self.der()))
    }

    fn encoding_key(&self, algorithm: Algorithm) -> EncodingKey {
        let pem = self.key.serialize_pem();
        match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(),
            _ => EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
        }
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.encoding_key(header.alg)).unwrap()
    }
}

fn seconds_from_now(seconds: i64) -> i64 {
    OffsetDateTime::now_utc().unix_timestamp() + seconds
}

async fn sign_in(app: &TestApp, client_id: &str, assertion: &str) -> Reply {
    let scope = format!("{}/.default", app.base);
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", client_id),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", assertion),
        ("scope", &scope),
    ];
    let request = app.request(Method::POST, "/adfs/oauth2/v2.0/token");
    app.read(request.form(&form)).await
}

fn number(reply: &Reply) -> u64 {
    reply.body["error_codes"][0]
        .as_u64()
        .unwrap_or(reply.status.into())
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

/// An application with a service principal; its object id and its app id.
async fn create_application(app: &TestApp, certificates: &[&Certified]) -> (String, String) {
    let keys: Vec<Value> = certificates
        .iter()
        .map(|certified| {
            json!({
                "key": STANDARD.encode(certified.der()), "type": "AsymmetricX509Cert", "usage": "Verify",
                "startDateTime": "2026-01-01T00:00:00Z", "endDateTime": "2127-01-01T00:00:00Z",
            })
        })
        .collect();
    let body = json!({ "displayName": "ci", "keyCredentials": keys });
    let created = app.post("/v1.0/applications", body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let app_id = text(&created.body["appId"]);
    let body = json!({ "appId": app_id });
    let principal = app.post("/v1.0/servicePrincipals", body).await;
    assert_eq!(principal.status, 201, "{}", principal.body);
    (text(&created.body["id"]), app_id)
}

async fn is_good(app: &TestApp, reply: &Reply) -> bool {
    let token = text(&reply.body["access_token"]);
    let reply = app
        .send(Method::GET, "/v1.0/applications", &token, None)
        .await;
    assert!(reply.status == 200 || reply.status == 401, "{}", reply.body);
    reply.status == 200
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_certificate_signs_in_with_each_algorithm_and_no_longer_when_it_is_removed(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let rsa = Certified::new(&rcgen::PKCS_RSA_SHA256);
    let ec = Certified::new(&rcgen::PKCS_ECDSA_P256_SHA256);
    let (object_id, app_id) = create_application(&app, &[&rsa, &ec]).await;
    let endpoint = format!("{}/adfs/oauth2/v2.0/token", app.base);
    // Fractions of seconds, as the Azure CLI writes them.
    let claims = json!({
        "iss": app_id, "sub": app_id, "aud": endpoint, "jti": "1",
        "iat": 0.5, "exp": seconds_from_now(600) as f64 + 0.25,
    });
    let mut token = None;
    for (certified, algorithm) in [
        (&rsa, Algorithm::RS256),
        (&rsa, Algorithm::PS256),
        (&ec, Algorithm::ES256),
    ] {
        let mut header = Header::new(algorithm);
        header.x5t = Some(certified.thumbprint(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY));
        let mut newer = Header::new(algorithm);
        newer.x5t_s256 = Some(certified.thumbprint(&aws_lc_rs::digest::SHA256));
        for header in [header, newer, Header::new(algorithm)] {
            let reply = sign_in(&app, &app_id, &certified.sign(&header, &claims)).await;
            assert_eq!(reply.status, 200, "{algorithm:?}: {}", reply.body);
            token = Some(reply);
        }
    }
    let token = token.unwrap();
    assert!(is_good(&app, &token).await);
    let used: Option<OffsetDateTime> =
        sqlx::query_scalar("SELECT min(last_used_at) FROM application_certificates")
            .fetch_one(app.store.pool())
            .await
            .unwrap();
    assert!(used.is_some());
    let path = format!("/v1.0/applications/{object_id}");
    let none = json!({ "keyCredentials": [] });
    let reply = app.send(Method::PATCH, &path, &app.token, Some(none)).await;
    assert_eq!(reply.status, 204, "{}", reply.body);
    assert!(!is_good(&app, &token).await, "tokens die with it");
    let assertion = rsa.sign(&Header::new(Algorithm::RS256), &claims);
    assert_eq!(number(&sign_in(&app, &app_id, &assertion).await), 700_027);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_assertion_of_another_time_place_key_or_algorithm_is_refused(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let (rsa, other) = (
        Certified::new(&rcgen::PKCS_RSA_SHA256),
        Certified::new(&rcgen::PKCS_RSA_SHA256),
    );
    let (_, app_id) = create_application(&app, &[&rsa]).await;
    let endpoint = format!("{}/adfs/oauth2/v2.0/token", app.base);
    let good =
        json!({ "iss": app_id, "sub": app_id, "aud": endpoint, "exp": seconds_from_now(600) });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let header = Header::new(Algorithm::RS256);
    let elsewhere = "https://login.microsoftonline.com/common/oauth2/v2.0/token";
    for (name, value, expected) in [
        ("nbf", json!(seconds_from_now(240)), 200),
        ("aud", json!([elsewhere, endpoint]), 200),
        ("aud", json!(elsewhere), 700_023),
        ("aud", json!(app.base), 700_023),
        ("sub", json!(app.client_id), 700_021),
        ("iss", json!(app.client_id), 700_021),
        ("exp", json!(seconds_from_now(-1)), 700_024),
        ("exp", json!(seconds_from_now(25 * 3600)), 700_024),
        ("nbf", json!(seconds_from_now(400)), 700_024),
        ("exp", json!("soon"), 50_027),
        ("exp", Value::Null, 50_027),
    ] {
        let reply = sign_in(
            &app,
            &app_id,
            &rsa.sign(&header, &with(name, value.clone())),
        )
        .await;
        assert_eq!(number(&reply), expected, "{name} {value}: {}", reply.body);
    }
    // Another's key, a signature that was changed, and the certificate taken for a shared secret.
    let foreign = other.sign(&header, &good);
    let signed = rsa.sign(&header, &good);
    let (content, signature) = signed.rsplit_once('.').unwrap();
    let changed = format!("{content}.{}", signature.chars().rev().collect::<String>());
    let mut confused_header = Header::new(Algorithm::HS256);
    confused_header.x5t = Some(rsa.thumbprint(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY));
    let shared = EncodingKey::from_secret(rsa.der());
    let confused = jsonwebtoken::encode(&confused_header, &good, &shared).unwrap();
    for assertion in [&foreign, &changed, &confused] {
        let reply = sign_in(&app, &app_id, assertion).await;
        assert_eq!(
            (reply.status, number(&reply)),
            (401, 700_027),
            "{}",
            reply.body
        );
    }
    let payload = signed.split('.').nth(1).unwrap();
    let unsigned = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
    for assertion in [unsigned.as_str(), "a.b.c", "x", &"x".repeat(20_000)] {
        assert_eq!(number(&sign_in(&app, &app_id, assertion).await), 50_027);
    }
}

/// An external issuer, and how often it was asked for its keys.
struct Issuer {
    url: String,
    key: Certified,
    asked: Arc<AtomicUsize>,
    /// What its discovery document says of it, when it is not its URL.
    says: Arc<Mutex<Option<String>>>,
    handle: actix_web::dev::ServerHandle,
    ca_file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Issuer {
    fn start() -> Self {
        service::install_crypto_provider();
        let tls = Certified::new(&rcgen::PKCS_ECDSA_P256_SHA256);
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, tls.certificate.pem()).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(tls.key.serialize_der()).unwrap();
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![tls.certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let key = Certified::new(&rcgen::PKCS_ECDSA_P256_SHA256);
        let point = key.key.public_key_raw();
        let keys = json!({ "keys": [
            { "kty": "oct", "kid": "shared", "k": "AAAA" },
            { "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "one",
              "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]) },
        ]});
        let asked = Arc::new(AtomicUsize::new(0));
        let says = Arc::new(Mutex::new(None));
        let (own_url, counted, said) = (url.clone(), Arc::clone(&asked), Arc::clone(&says));
        let server = HttpServer::new(move || {
            let (url, keys) = (own_url.clone(), keys.clone());
            let (counted, said) = (Arc::clone(&counted), Arc::clone(&said));
            let discover = move || {
                let issuer = said.lock().unwrap().clone().unwrap_or_else(|| url.clone());
                let document = json!({ "issuer": issuer, "jwks_uri": format!("{url}/keys") });
                async move { HttpResponse::Ok().json(document) }
            };
            let show_keys = move || {
                counted.fetch_add(1, Ordering::SeqCst);
                let keys = keys.clone();
                async move { HttpResponse::Ok().json(keys) }
            };
            ActixApp::new()
                .route("/.well-known/openid-configuration", web::get().to(discover))
                .route("/keys", web::get().to(show_keys))
        })
        .workers(1)
        .disable_signals()
        .listen_rustls_0_23(listener, config)
        .unwrap()
        .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self {
            url,
            key,
            asked,
            says,
            handle,
            ca_file,
            _directory: directory,
        }
    }

    /// Of a control plane that trusts it.
    fn trusted(&self) -> Settings {
        Settings {
            issuer_ca_file: Some(self.ca_file.clone()),
            ..settings()
        }
    }

    fn claims(&self) -> Value {
        json!({ "iss": self.url, "sub": SUBJECT, "aud": AUDIENCE, "exp": seconds_from_now(300) })
    }

    fn token(&self, claims: &Value, kid: &str) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(kid.to_owned());
        self.key.sign(&header, claims)
    }
}

/// An application that trusts the issuer; where its federated credential is, and its app id.
async fn federate(app: &TestApp, issuer: &str) -> (String, String) {
    let (object_id, app_id) = create_application(app, &[]).await;
    let path = format!("/v1.0/applications/{object_id}/federatedIdentityCredentials");
    let body =
        json!({ "name": "main", "issuer": issuer, "subject": SUBJECT, "audiences": [AUDIENCE] });
    let created = app.post(&path, body).await;
    assert_eq!(created.status, 201, "{}", created.body);
    (format!("{path}/{}", text(&created.body["id"])), app_id)
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_token_of_a_trusted_issuer_signs_in_until_the_trust_is_removed(pool: PgPool) {
    let issuer = Issuer::start();
    let app = TestApp::spawn_with(Store::over(pool), issuer.trusted()).await;
    let (credential, app_id) = federate(&app, &issuer.url).await;
    let good = issuer.claims();
    let reply = sign_in(&app, &app_id, &issuer.token(&good, "one")).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert!(is_good(&app, &reply).await);
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for (name, value, expected) in [
        (
            "sub",
            json!("repo:contoso/app:ref:refs/heads/other"),
            700_213,
        ),
        ("sub", json!(SUBJECT.to_uppercase()), 700_213),
        ("aud", json!("api://other"), 700_213),
        ("iss", json!(format!("{}/", issuer.url)), 700_213),
        ("exp", json!(seconds_from_now(-1)), 700_024),
        ("nbf", json!(seconds_from_now(400)), 700_024),
    ] {
        let token = issuer.token(&with(name, value.clone()), "one");
        let reply = sign_in(&app, &app_id, &token).await;
        assert_eq!(number(&reply), expected, "{name} {value}: {}", reply.body);
    }
    // A key that the issuer has not, a name of a key that is not there, a key of the wrong kind, and another algorithm than the key's.
    let stranger = Certified::new(&rcgen::PKCS_ECDSA_P256_SHA256);
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("one".to_owned());
    let forged = stranger.sign(&header, &good);
    let mut confused = Header::new(Algorithm::HS256);
    confused.kid = Some("one".to_owned());
    let shared = EncodingKey::from_secret(issuer.key.key.public_key_raw());
    let confused = jsonwebtoken::encode(&confused, &good, &shared).unwrap();
    for (token, expected) in [
        (forged, 50_027),
        (confused, 50_027),
        (issuer.token(&good, "two"), 50_166),
        (issuer.token(&good, "shared"), 50_166),
    ] {
        let reply = sign_in(&app, &app_id, &token).await;
        assert_eq!(
            (reply.status, number(&reply)),
            (401, expected),
            "{}",
            reply.body
        );
    }
    assert_eq!(
        issuer.asked.load(Ordering::SeqCst),
        1,
        "unknown keys ask no more than once a minute"
    );
    let removed = app.delete(&credential).await;
    assert_eq!(removed.status, 204, "{}", removed.body);
    assert!(!is_good(&app, &reply).await, "tokens die with it");
    let again = sign_in(&app, &app_id, &issuer.token(&good, "one")).await;
    assert_eq!(number(&again), 700_213);
    issuer.handle.stop(false).await;
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn an_issuer_that_lies_or_is_down_or_is_not_trusted_is_named(pool: PgPool) {
    let issuer = Issuer::start();
    let app = TestApp::spawn_with(Store::over(pool), issuer.trusted()).await;
    let (_, app_id) = federate(&app, &issuer.url).await;
    *issuer.says.lock().unwrap() = Some("https://token.actions.githubusercontent.com".to_owned());
    let token = issuer.token(&issuer.claims(), "one");
    let lied = sign_in(&app, &app_id, &token).await;
    assert_eq!((lied.status, number(&lied)), (401, 50_166), "{}", lied.body);
    assert!(text(&lied.body["error_description"]).contains("of another issuer"));
    assert_eq!(issuer.asked.load(Ordering::SeqCst), 0);
    // A control plane that does not know its authority, and one that finds nobody there.
    let stranger = app.replica().await;
    let refused = sign_in_at(&stranger, &app, &app_id, &token).await;
    assert_eq!(
        (refused.status, number(&refused)),
        (400, 50_166),
        "{}",
        refused.body
    );
    assert!(text(&refused.body["error_description"]).contains(&issuer.url));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    issuer.handle.stop(false).await;
    let late = app.replica().await;
    let down = sign_in_at(&late, &app, &app_id, &token).await;
    assert_eq!((down.status, number(&down)), (400, 50_166), "{}", down.body);
}

/// Signs in at one control plane for the installation of another.
async fn sign_in_at(at: &TestApp, of: &TestApp, client_id: &str, assertion: &str) -> Reply {
    let scope = format!("{}/.default", of.base);
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", client_id),
        ("client_assertion_type", JWT_BEARER),
        ("client_assertion", assertion),
        ("scope", &scope),
    ];
    at.read(
        at.request(Method::POST, "/adfs/oauth2/v2.0/token")
            .form(&form),
    )
    .await
}
