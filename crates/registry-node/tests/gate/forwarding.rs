//! Two nodes of different regions, each with its own configuration and content: what one hands on to the other.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use actix_web::dev::ServerHandle;
use config_documents::{
    Document, Node as NodeDocument, Region, RegistryName, SigningKey as SigningKeyDocument,
};
use credentials::{Secret, SecretKind, SigningKey};
use registry_node::{
    config::Identities,
    content::{Content, OpenOptions, Sources},
    gate::{Forwarding, Gate, GateServer, LoadLimits},
    metrics::NodeMetrics,
};
use reqwest::{Body, Certificate, Client, Method, RequestBuilder, header::HOST};
use serde_json::json;
use service::{metrics::Metrics, tls::TlsArguments};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use crate::{node::*, support::*};

const HERE: &str = "westus";
const THERE: &str = "northeurope";
const REGISTRY: u128 = 1;
const FORWARDED: &str = "x-wharfinger-forwarded";

/// A node of one region.
struct Site {
    region: &'static str,
    number: u128,
    feed: Feed,
    key: SigningKey,
    address: SocketAddr,
    metrics: Metrics,
    handle: ServerHandle,
    _directory: TempDir,
}

/// The certificate that all nodes have, and which they trust.
struct Trust {
    directory: TempDir,
    tls: TlsArguments,
}

impl Trust {
    fn new() -> Self {
        service::install_crypto_provider();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let certified =
            rcgen::generate_simple_self_signed(["contoso.registry.localhost".to_owned()])
                .expect("a certificate can be made");
        let tls = TlsArguments {
            tls_certificate: directory.path().join("certificate.pem"),
            tls_key: directory.path().join("key.pem"),
        };
        std::fs::write(&tls.tls_certificate, certified.cert.pem()).expect("write");
        std::fs::write(&tls.tls_key, certified.signing_key.serialize_pem()).expect("write");
        Self { directory, tls }
    }

    fn client(&self, address: SocketAddr) -> reqwest::ClientBuilder {
        let pem = std::fs::read(self.directory.path().join("certificate.pem")).expect("read");
        Client::builder()
            .tls_certs_only([Certificate::from_pem(&pem).expect("PEM")])
            .resolve("contoso.registry.localhost", address)
    }
}

impl Site {
    /// With the certificate of `shown`, trusting that of `trusted`.
    async fn start(region: &'static str, number: u128, shown: &Trust, trusted: &Trust) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let feed = Feed::with(directory.path(), roles());
        let options = OpenOptions {
            region: region.to_owned(),
            single_node: true,
        };
        let root = directory.path().join("content");
        let content = Content::open(&root, options, Sources::of_the_system())
            .await
            .expect("an empty directory");
        let kid = format!("key-{number}");
        let key = SigningKey::generate(&kid);
        let same_key = SigningKey::from_pkcs8(&kid, key.pkcs8()).expect("a key");
        let identities = Identities::in_memory(
            Uuid::from_u128(number),
            Region(region.to_owned()),
            secret(SecretKind::NodeCredential),
            same_key,
        );
        let peers = service::tls::client_config(Some(&trusted.tls.tls_certificate)).expect("PEM");
        let metrics = Metrics::new("test");
        let gate = Gate::new(
            Arc::clone(&feed.configuration),
            content,
            Arc::new(identities),
            NodeMetrics::new(&metrics),
            Sources::of_the_system(),
            Forwarding::new(Region(region.to_owned()), peers),
            LoadLimits::default(),
        );
        let tls = service::tls::server_config(&shown.tls).expect("a certificate with its key");
        let listen = ["127.0.0.1:0".parse().expect("an address")];
        let server = GateServer::open(Arc::new(gate), &listen, &tls, Duration::ZERO);
        let server = server.expect("a free port");
        let address = server.addresses()[0];
        let handle = server.handle();
        tokio::spawn(server.serve());
        Self {
            region,
            number,
            feed,
            key,
            address,
            metrics,
            handle,
            _directory: directory,
        }
    }

    /// What the other regions' nodes are told about it.
    fn documents(&self) -> Vec<Document> {
        let region = Region(self.region.to_owned());
        vec![
            node_at(self.number, self.region, &self.address.to_string()),
            Document::SigningKey(SigningKeyDocument {
                node_id: Uuid::from_u128(self.number),
                public_key: self.key.public(),
                region: Some(region),
            }),
        ]
    }

    fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.encode().expect("text");
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0, |number| number.trim().parse().expect("a number"))
    }

    fn forwarded(&self, outcome: &str) -> u64 {
        self.metric(&format!(
            "wharfinger_registry_forwarded_requests_total{{region=\"{THERE}\",outcome=\"{outcome}\"}}"
        ))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The answer does not matter: the process ends with the test.
        drop(self.handle.stop(false));
    }
}

fn node_at(number: u128, region: &str, address: &str) -> Document {
    Document::Node(NodeDocument {
        node_id: Uuid::from_u128(number),
        region: Region(region.to_owned()),
        address: address.to_owned(),
    })
}

/// A registry whose home is there, and a client that knows the node here.
struct Scene {
    trust: Trust,
    here: Site,
    there: Site,
    password: Secret,
    client: Client,
}

impl Scene {
    async fn start() -> Self {
        Self::start_trusting(None).await
    }

    async fn start_trusting(trusted: Option<&Trust>) -> Self {
        let trust = Trust::new();
        let here = Site::start(HERE, 1, &trust, trusted.unwrap_or(&trust)).await;
        let there = Site::start(THERE, 2, &trust, &trust).await;
        let client = trust.client(here.address).build().expect("a client");
        let mut scene = Self {
            trust,
            here,
            there,
            password: secret(SecretKind::AdminPassword),
            client,
        };
        let mut documents = scene.here.documents();
        documents.extend(scene.there.documents());
        documents.push(scene.name(&[THERE]));
        scene.here.feed.publish(documents.clone());
        documents.push(scene.registry());
        scene.there.feed.publish(documents);
        scene
    }

    fn registry(&self) -> Document {
        let port = self.here.address.port();
        let mut registry = registry(REGISTRY, "contoso", port, &[(&self.password, 1)]);
        registry.home_region = Region(THERE.to_owned());
        Document::Registry(registry)
    }

    fn login_server(&self) -> String {
        login_server("contoso", self.here.address.port())
    }

    fn name(&self, regions: &[&str]) -> Document {
        Document::RegistryName(RegistryName {
            name: "contoso".to_owned(),
            uid: Uuid::from_u128(REGISTRY),
            login_server: self.login_server(),
            home_region: Region(THERE.to_owned()),
            regions: regions
                .iter()
                .map(|region| Region((*region).to_owned()))
                .collect(),
        })
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_by(&self.client, method, path)
            .basic_auth("contoso", Some(self.password.expose()))
    }

    fn request_by(&self, client: &Client, method: Method, path: &str) -> RequestBuilder {
        client.request(method, format!("https://{}{path}", self.login_server()))
    }

    /// A client with an address of its own, which speaks HTTP/1.1 to the site.
    fn client_at(&self, address: [u8; 4], site: &Site) -> Client {
        self.trust
            .client(site.address)
            .local_address(IpAddr::from(address))
            .http1_only()
            .build()
            .expect("a client")
    }

    /// The status of a login with a wrong password.
    async fn fails(&self, client: &Client, site: &Site, mark: Option<&str>) -> u16 {
        let url = format!(
            "https://contoso.registry.localhost:{}/v2/",
            site.address.port()
        );
        let wrong = secret(SecretKind::AdminPassword);
        let mut request = client
            .get(url)
            .header(HOST, self.login_server())
            .basic_auth("contoso", Some(wrong.expose()));
        if let Some(mark) = mark {
            request = request.header(FORWARDED, mark);
        }
        send(request).await.status
    }

    async fn push_blob(&self, content: Vec<u8>) -> String {
        let digest = digest_of(&content);
        let path = format!("/v2/app/blobs/uploads/?digest={digest}");
        let answer = send(self.request(Method::POST, &path).body(content)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        format!("/v2/app/blobs/{digest}")
    }
}

fn digest_of(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    let text: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{text}")
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_registry_of_another_region_is_read_without_credentials() {
    let mut scene = Scene::start().await;
    let blob = scene.push_blob(noise(100)).await;
    let get = |scene: &Scene| scene.request_by(&scene.client, Method::GET, &blob);
    assert_eq!(send(get(&scene)).await.status, 401);
    let Document::Registry(registry) = scene.registry() else {
        panic!("a registry");
    };
    let open = Document::Registry(config_documents::Registry {
        anonymous_pull_enabled: true,
        ..registry
    });
    scene.there.feed.publish(vec![open.clone()]);
    assert_eq!(send(get(&scene)).await.status, 200);
    // Also where its callers are known here.
    let name = scene.name(&[THERE, HERE]);
    scene.here.feed.publish(vec![open, name.clone()]);
    scene.there.feed.publish(vec![name]);
    assert_eq!(send(get(&scene)).await.status, 200);
    let path = format!(
        "/oauth2/token?service={}&scope=repository:app:pull",
        scene.login_server()
    );
    let token = send(scene.request_by(&scene.client, Method::GET, &path)).await;
    let token = token.body["access_token"].as_str().expect("a token");
    assert_eq!(send(get(&scene).bearer_auth(token)).await.status, 200);
    let upload = "/v2/app/blobs/uploads/";
    let push = scene.request_by(&scene.client, Method::POST, upload);
    assert_eq!(send(push).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_are_read_and_changed_in_the_registrys_region() {
    let scene = Scene::start().await;
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    let put = scene
        .request(Method::PUT, "/v2/team/app/manifests/v1")
        .header("content-type", "application/vnd.oci.image.index.v1+json");
    assert_eq!(send(put.body(index)).await.status, 201);
    let tag = "/acr/v1/team%2Fapp/_tags/v1";
    let lock = scene
        .request(Method::PATCH, tag)
        .body(r#"{"writeEnabled":false}"#);
    let locked = send(lock).await;
    assert_eq!(locked.status, 200, "{}", locked.body);
    let shown = send(scene.request(Method::GET, tag)).await;
    assert_eq!(shown.body, locked.body);
    assert_eq!(shown.body["registry"], scene.login_server());
    assert_eq!(
        shown.body["tag"]["changeableAttributes"]["writeEnabled"],
        false
    );
    let refused = send(scene.request(Method::DELETE, "/acr/v1/team/app")).await;
    assert_eq!(
        (refused.status, refused.code()),
        (405, "REGISTRY_DISALLOWED_OPERATION")
    );
    let catalog = send(scene.request(Method::GET, "/acr/v1/_catalog")).await;
    assert_eq!(catalog.body, json!({"repositories": ["team/app"]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_another_region_is_used_as_if_it_were_here() {
    let scene = Scene::start().await;
    // The challenge is that of the registry, whichever node is asked.
    let answer = send(scene.request_by(&scene.client, Method::GET, "/v2/")).await;
    let server = scene.login_server();
    assert_eq!(answer.status, 401);
    assert_eq!(
        answer.challenge,
        [format!(
            "Bearer realm=\"https://{server}/oauth2/token\",service=\"{server}\""
        )]
    );
    let path = format!("/oauth2/token?service={server}&scope=repository:app:pull,push");
    let answer = send(scene.request(Method::GET, &path)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().expect("a token");

    let content = noise(3_000_000);
    let blob = scene.push_blob(content.clone()).await;
    // By HTTP/2, which the client chooses, and by HTTP/1.1.
    let plain = scene.client_at([127, 0, 0, 1], &scene.here);
    for client in [&scene.client, &plain] {
        let request = scene.request_by(client, Method::GET, &blob);
        let response = request.bearer_auth(token).send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.content_length(), Some(3_000_000));
        let bytes = response.bytes().await.expect("all of it");
        assert!(bytes == content);
        let request = scene.request_by(client, Method::HEAD, &blob);
        let response = request.bearer_auth(token).send().await.expect("an answer");
        assert_eq!(response.headers()["content-length"], "3000000");
        let ranged = scene.request_by(client, Method::GET, &blob);
        let ranged = ranged.bearer_auth(token).header("range", "bytes=5-9");
        let response = ranged.send().await.expect("an answer");
        assert_eq!(response.status(), 206);
        assert_eq!(response.bytes().await.expect("bytes")[..], content[5..10]);
    }
    // An upload in parts of which nobody says how long they are.
    let start = send(scene.request(Method::POST, "/v2/app/blobs/uploads/")).await;
    assert_eq!(start.status, 202);
    assert!(
        start
            .header("location")
            .starts_with("/v2/app/blobs/uploads/")
    );
    let parts = content
        .chunks(100_000)
        .map(|part| Ok::<_, std::io::Error>(part.to_vec()));
    let parts: Vec<_> = parts.collect();
    let body = Body::wrap_stream(futures_util::stream::iter(parts));
    let patched = send(
        scene
            .request(Method::PATCH, start.header("location"))
            .body(body),
    )
    .await;
    assert_eq!(
        (patched.status, patched.header("range")),
        (202, "0-2999999")
    );
    let separator = if patched.header("location").contains('?') {
        '&'
    } else {
        '?'
    };
    let path = format!(
        "{}{separator}digest={}",
        patched.header("location"),
        digest_of(&content)
    );
    assert_eq!(send(scene.request(Method::PUT, &path)).await.status, 201);

    assert_eq!(scene.here.forwarded("answered"), 12);
    assert_eq!(
        scene
            .there
            .metric("wharfinger_registry_received_bytes_total "),
        6_000_000
    );
    assert!(scene.here.metric("wharfinger_registry_sent_bytes_total ") > 6_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_passed_over_and_without_any_the_region_is_named() {
    let mut scene = Scene::start().await;
    let blob = scene.push_blob(noise(1000)).await;
    // Nobody listens there; its id comes first.
    let dead = node_at(0, THERE, "127.0.0.1:9");
    scene.here.feed.publish(vec![dead.clone()]);
    for _ in 0..4 {
        assert_eq!(send(scene.request(Method::GET, &blob)).await.status, 200);
    }
    let path = format!("/v2/app/blobs/uploads/?digest={SHA256_OF_HELLO}");
    for _ in 0..2 {
        let push = scene.request(Method::POST, &path).body("hello");
        assert_eq!(send(push).await.status, 201);
    }
    let live = scene.there.documents().remove(0);
    scene.here.feed.delete(&live);
    let answer = send(scene.request(Method::GET, &blob)).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
    assert!(!answer.header("retry-after").is_empty());
    let message = answer.body["errors"][0]["message"].to_string();
    assert!(message.contains("region northeurope"), "{message}");
    // Without a single node, too.
    scene.here.feed.delete(&dead);
    assert_eq!(send(scene.request(Method::GET, &blob)).await.status, 503);
    assert_eq!(scene.here.forwarded("unreachable"), 2);
    scene.here.feed.publish(vec![live]);
    assert_eq!(send(scene.request(Method::GET, &blob)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_show_the_login_servers_certificate_gets_nothing() {
    let scene = Scene::start_trusting(Some(&Trust::new())).await;
    let answer = send(scene.request(Method::GET, "/v2/")).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
    assert_eq!(
        scene.there.metric("wharfinger_registry_sent_bytes_total "),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_not_heard_of_the_registry_says_so_to_the_one_that_asks_for_somebody() {
    let mut scene = Scene::start().await;
    for document in [scene.registry(), scene.name(&[HERE])] {
        scene.there.feed.delete(&document);
    }
    // Nothing was done there, so another is asked, whatever the method; here that one is away, and its id comes last.
    scene
        .here
        .feed
        .publish(vec![node_at(99, THERE, "127.0.0.1:9")]);
    let answer = send(scene.request(Method::POST, "/v2/app/blobs/uploads/")).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
    assert_eq!(scene.here.forwarded("unreachable"), 1);
    // What was sent with a body is gone.
    let put = scene.request(Method::PUT, "/v2/app/manifests/v1");
    let answer = send(put.body("x")).await;
    assert_eq!((answer.status, answer.code()), (421, "NAME_UNKNOWN"));
    // To anybody else there is no such registry.
    let direct = scene.client_at([127, 0, 0, 1], &scene.there);
    assert_eq!(scene.fails(&direct, &scene.there, None).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_handed_on_once() {
    let mut scene = Scene::start().await;
    // The node there takes the region here for the registry's home.
    let registry = scene.registry();
    scene.there.feed.delete(&registry);
    let Document::RegistryName(mut name) = scene.name(&[HERE]) else {
        panic!("a name");
    };
    name.home_region = Region(HERE.to_owned());
    scene.there.feed.publish(vec![Document::RegistryName(name)]);
    let answer = send(scene.request(Method::GET, "/v2/")).await;
    assert_eq!((answer.status, answer.code()), (421, "NAME_UNKNOWN"));
    assert_eq!(scene.here.forwarded("answered"), 1);
    assert_eq!(scene.here.forwarded("misdirected"), 0);
    // Whoever says so without being a node only keeps its own request from being handed on.
    let request = scene.request(Method::GET, "/v2/");
    let answer = send(request.header(FORWARDED, "unsigned")).await;
    assert_eq!(answer.status, 421);
    assert_eq!(scene.here.forwarded("misdirected"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_count_for_the_client_not_for_the_node_that_handed_them_on() {
    let scene = Scene::start().await;
    let guesser = scene.client_at([127, 0, 0, 21], &scene.here);
    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(scene.fails(&guesser, &scene.here, None).await);
    }
    assert_eq!((statuses[0], statuses[11]), (401, 429), "{statuses:?}");
    // Somebody else behind the same node is not held up, and the guesser is not let off by another way in.
    let other = scene.client_at([127, 0, 0, 22], &scene.here);
    assert_eq!(scene.fails(&other, &scene.here, None).await, 401);
    let direct = scene.client_at([127, 0, 0, 21], &scene.there);
    assert_eq!(scene.fails(&direct, &scene.there, None).await, 429);

    // What clients say about themselves does not count: not signed, by a stranger, for something else, or too old.
    let forger = scene.client_at([127, 0, 0, 23], &scene.there);
    let mark = |key: &SigningKey, changes: serde_json::Value| {
        let now = now().unix_timestamp();
        let mut claims = json!({
            "aud": "wharfinger-forwarded", "host": scene.login_server(),
            "method": "GET", "client": "127.0.0.99", "nbf": now, "exp": now + 60,
        });
        let changes = changes.as_object().expect("an object").clone();
        claims.as_object_mut().expect("an object").extend(changes);
        key.sign(&claims).expect("claims")
    };
    let stranger = SigningKey::generate("key-1");
    let forged = [
        "127.0.0.99".to_owned(),
        mark(&stranger, json!({})),
        mark(&scene.here.key, json!({"aud": scene.login_server()})),
        mark(
            &scene.here.key,
            json!({"host": "fabrikam.registry.localhost"}),
        ),
        mark(&scene.here.key, json!({"method": "PUT"})),
        mark(&scene.here.key, json!({"exp": now().unix_timestamp() - 1})),
    ];
    let mut last = 0;
    for mark in forged.iter().cycle().take(12) {
        last = scene.fails(&forger, &scene.there, Some(mark)).await;
    }
    assert_eq!(last, 429);
    // What a node vouches for does.
    let good = mark(&scene.here.key, json!({}));
    assert_eq!(scene.fails(&forger, &scene.there, Some(&good)).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_known_here_lets_callers_in_here_and_has_its_content_there() {
    let mut scene = Scene::start().await;
    let everywhere = vec![scene.registry(), scene.name(&[THERE, HERE])];
    scene.here.feed.publish(everywhere.clone());
    scene.there.feed.publish(everywhere);
    let blob = scene.push_blob(b"hello".to_vec()).await;
    let path = format!(
        "/oauth2/token?service={}&scope=repository:app:pull",
        scene.login_server()
    );
    // The node there is away: callers are let in, and what they ask for is not to be had.
    let (live, dead) = (
        scene.there.documents().remove(0),
        node_at(2, THERE, "127.0.0.1:9"),
    );
    scene.here.feed.publish(vec![dead]);
    assert_eq!(send(scene.request(Method::GET, "/v2/")).await.status, 200);
    let answer = send(scene.request(Method::GET, &path)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let token = answer.body["access_token"].as_str().expect("a token");
    let url = format!("https://{}{blob}", scene.login_server());
    let client = scene.client.clone();
    let get = || client.get(&url).bearer_auth(token);
    assert_eq!(send(get()).await.status, 503);
    let stranger = scene.request_by(&scene.client, Method::GET, &blob);
    assert_eq!(send(stranger).await.status, 401);
    scene.here.feed.publish(vec![live]);
    // The token was made here; there it counts, because the registry is known here.
    let response = get().send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().await.expect("text"), "hello");
    // The registry leaves: the token of a node where it is not known counts no more, at its home first of all.
    let at_home = vec![scene.name(&[THERE])];
    scene.there.feed.publish(at_home);
    assert_eq!(send(get()).await.status, 401);
}

/// Answers every request with `head`, then ends the connection.
async fn half_an_answer(trust: &Trust, head: &'static str) -> SocketAddr {
    let mut tls = service::tls::server_config(&trust.tls).expect("a certificate");
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else {
                continue;
            };
            let mut asked = [0; 4096];
            if stream.read(&mut asked).await.is_ok_and(|length| length > 0) {
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_there_breaks_off_here() {
    let mut scene = Scene::start().await;
    let plain = scene.client_at([127, 0, 0, 1], &scene.here);
    for (head, outcome) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello", "cut"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "cut",
        ),
        ("HTTP/1.1 20", "broken"),
        ("", "broken"),
    ] {
        let address = half_an_answer(&scene.trust, head).await;
        scene
            .here
            .feed
            .publish(vec![node_at(2, THERE, &address.to_string())]);
        let before = scene.here.forwarded(outcome);
        for client in [&scene.client, &plain] {
            let request = scene.request_by(client, Method::GET, "/v2/app/manifests/v1");
            let answered = request.send().await;
            if outcome == "broken" {
                let answer = answered.expect("an answer");
                assert_eq!(answer.status(), 502, "{head}");
            } else if let Ok(answer) = answered {
                assert!(answer.bytes().await.is_err(), "{head}");
            }
        }
        assert_eq!(scene.here.forwarded(outcome), before + 2, "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_holds_the_other_node_back() {
    const SIZE: usize = 64 * 1024 * 1024;
    let scene = Scene::start().await;
    let blob = scene.push_blob(noise(SIZE)).await;
    let plain = scene.client_at([127, 0, 0, 1], &scene.here);
    let request = scene
        .request_by(&plain, Method::GET, &blob)
        .basic_auth("contoso", Some(scene.password.expose()));
    let mut response = request.send().await.expect("an answer");
    let sent = || scene.there.metric("wharfinger_registry_sent_bytes_total ") as usize;
    // What has left the other node comes to rest far from the end: in the buffers of both nodes and of the connections between.
    let mut seen = sent();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        if sent() == seen && seen > 0 {
            break;
        }
        seen = sent();
    }
    assert!(
        seen < SIZE / 2,
        "{seen} bytes were sent to a client that took none"
    );
    let mut received = 0;
    while let Some(bytes) = response.chunk().await.expect("all of it") {
        received += bytes.len();
    }
    assert_eq!(received, SIZE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_does_not_wait_for_the_body() {
    let scene = Scene::start().await;
    let plain = scene.client_at([127, 0, 0, 1], &scene.here);
    let path = format!("/v2/app/blobs/uploads/?digest={SHA256_OF_HELLO}");
    for client in [&scene.client, &plain] {
        // A body of which the end never comes.
        let parts = futures_util::stream::iter([Ok::<_, std::io::Error>(noise(100_000))]);
        let body = futures_util::StreamExt::chain(parts, futures_util::stream::pending());
        let request = scene.request_by(client, Method::POST, &path);
        let refused = request
            .basic_auth("contoso", Some("wrong"))
            .body(Body::wrap_stream(body));
        let answer = tokio::time::timeout(Duration::from_secs(20), send(refused)).await;
        assert_eq!(answer.expect("an answer").status, 401);
    }
}
