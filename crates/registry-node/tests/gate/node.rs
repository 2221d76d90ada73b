//! A node's gate with content, without a control plane: its configuration comes from the test.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use actix_web::dev::ServerHandle;
use config_documents::{Document, Registry};
use credentials::{Secret, SecretKind, SigningKey};
use registry_node::{
    config::{Identities, Standing},
    content::{Content, OpenOptions, Sources},
    gate::{Forwarding, Gate, GateServer, LoadLimits, Stopper},
    metrics::NodeMetrics,
};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response};
use serde_json::Value;
use service::{metrics::Metrics, tls::TlsArguments};
use tempfile::TempDir;

use crate::support::*;

/// What is under way when a node stops may take this long.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than nodes wait for each other when they serve: a machine that is busy with tests is no node that is away.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A running gate. One registry, Contoso, is there from the start.
pub(crate) struct Node {
    pub(crate) feed: Feed,
    pub(crate) port: u16,
    pub(crate) client: Client,
    pub(crate) signing_key: SigningKey,
    /// The admin account's passwords, the first and the second.
    pub(crate) passwords: [Secret; 2],
    handle: ServerHandle,
    stopper: Arc<Stopper>,
    metrics: Metrics,
    directory: TempDir,
}

/// What a client sees of an answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) challenge: Vec<String>,
    pub(crate) body: Value,
    pub(crate) response_headers: reqwest::header::HeaderMap,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let headers = response.headers().clone();
        Self {
            status: response.status().as_u16(),
            challenge: headers
                .get_all("www-authenticate")
                .iter()
                .map(|value| value.to_str().expect("text").to_owned())
                .collect(),
            response_headers: headers,
            body: response.json().await.unwrap_or(Value::Null),
        }
    }

    pub(crate) fn code(&self) -> &str {
        self.body["errors"][0]["code"].as_str().unwrap_or_default()
    }

    pub(crate) fn message(&self) -> &str {
        self.body["errors"][0]["message"]
            .as_str()
            .unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.response_headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

impl Node {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| Standing::unbounded()).await
    }

    /// With a standing made from the state directory.
    pub(crate) async fn start_with(standing: impl FnOnce(&Path) -> Standing) -> Self {
        Self::start_limited(standing, LoadLimits::default()).await
    }

    /// With a standing made from the state directory, and limits.
    pub(crate) async fn start_limited(
        standing: impl FnOnce(&Path) -> Standing,
        limits: LoadLimits,
    ) -> Self {
        service::install_crypto_provider();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let names = ["contoso", "fabrikam", "elsewhere", "nobody"];
        let hosts: Vec<String> = names
            .map(|name| format!("{name}.registry.localhost"))
            .to_vec();
        let certified =
            rcgen::generate_simple_self_signed(hosts.clone()).expect("a certificate can be made");
        let tls = TlsArguments {
            tls_certificate: directory.path().join("certificate.pem"),
            tls_key: directory.path().join("key.pem"),
        };
        std::fs::write(&tls.tls_certificate, certified.cert.pem()).expect("write");
        std::fs::write(&tls.tls_key, certified.signing_key.serialize_pem()).expect("write");
        let peers = service::tls::client_config(Some(&tls.tls_certificate)).expect("PEM");
        let tls = service::tls::server_config(&tls).expect("a certificate with its key");

        let standing = standing(directory.path());
        let feed = Feed::with_standing(directory.path(), standing).begun_with(roles());
        let options = OpenOptions {
            region: REGION.to_owned(),
            single_node: true,
        };
        let root = directory.path().join("content");
        let content = Content::open(&root, options, Sources::of_the_system())
            .await
            .expect("an empty directory");
        let signing_key = SigningKey::generate("node-key");
        let same_key = SigningKey::from_pkcs8("node-key", signing_key.pkcs8()).expect("a key");
        let metrics = Metrics::new("test");
        let gate = Gate::new(
            Arc::clone(&feed.configuration),
            content,
            Arc::new(Identities::in_memory(
                uuid::Uuid::from_u128(99),
                region(),
                secret(SecretKind::NodeCredential),
                same_key,
            )),
            NodeMetrics::new(&metrics),
            Sources::of_the_system(),
            Forwarding::new(region(), peers, CONNECT_TIMEOUT),
            limits,
        );
        let listen = ["127.0.0.1:0".parse().expect("an address")];
        let server = GateServer::open(Arc::new(gate), &listen, &tls, SHUTDOWN_TIMEOUT);
        let server = server.expect("a free port");
        let address = server.addresses()[0];
        let handle = server.handle();
        let stopper = Arc::new(server.stopper());
        tokio::spawn(server.serve());

        let certificate = Certificate::from_pem(certified.cert.pem().as_bytes()).expect("PEM");
        let mut client = Client::builder().tls_certs_only([certificate]);
        for host in &hosts {
            client = client.resolve(host, address);
        }
        let passwords = [(); 2].map(|()| secret(SecretKind::AdminPassword));
        let mut node = Self {
            feed,
            port: address.port(),
            client: client.build().expect("a client"),
            signing_key,
            passwords,
            handle,
            stopper,
            metrics,
            directory,
        };
        let contoso = node.contoso(&[1, 1]);
        let key = signing_key_document(&node);
        node.feed.publish(vec![Document::Registry(contoso), key]);
        node
    }

    /// The registry with its passwords at these generations; none: the admin account is off.
    pub(crate) fn contoso(&self, generations: &[u64]) -> Registry {
        let passwords: Vec<(&Secret, u64)> = self
            .passwords
            .iter()
            .zip(generations.iter().copied())
            .collect();
        registry(1, "Contoso", self.port, &passwords)
    }

    /// A service principal with its secret, holding these roles.
    pub(crate) fn add_principal(&mut self, number: u128, roles: &[(&str, &str)]) -> Secret {
        let secret = secret(SecretKind::ServicePrincipalSecret);
        let mut documents = vec![Document::Principal(principal(number, &secret, &[]))];
        for (index, (scope, role)) in roles.iter().enumerate() {
            documents.push(assignment(
                number * 100 + index as u128,
                scope,
                object_id(number),
                role,
            ));
        }
        self.feed.publish(documents);
        secret
    }

    /// Ends as a node that is told to; returns when what was under way has ended.
    pub(crate) fn stop(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopper = Arc::clone(&self.stopper);
        async move { stopper.stop().await }
    }

    /// The certificate that vouches for the node.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    /// Bytes of bodies that the node has taken for callers whom it let in.
    pub(crate) fn received_bytes(&self) -> u64 {
        let text = self.metrics.encode().expect("text");
        text.lines()
            .find_map(|line| line.strip_prefix("wharfinger_registry_received_bytes_total "))
            .and_then(|number| number.parse().ok())
            .expect("a counter")
    }

    /// What a counter with labels says: for each set of labels its number.
    pub(crate) fn counted(&self, name: &str) -> Vec<(String, u64)> {
        let text = self.metrics.encode().expect("text");
        text.lines()
            .filter_map(|line| {
                let (labels, number) = line
                    .strip_prefix(name)?
                    .strip_prefix('{')?
                    .split_once("} ")?;
                Some((labels.to_owned(), number.parse().ok()?))
            })
            .collect()
    }

    pub(crate) fn request(&self, method: Method, registry: &str, path: &str) -> RequestBuilder {
        let host = login_server(registry, self.port);
        self.client.request(method, format!("https://{host}{path}"))
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, "contoso", path)
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, "contoso", path)
    }

    /// A token by `GET`, as docker asks for one.
    pub(crate) async fn token(&self, user: &str, password: &Secret, scopes: &[&str]) -> Answer {
        let mut path = format!(
            "/oauth2/token?service=contoso.registry.localhost:{}",
            self.port
        );
        for scope in scopes {
            path.push_str("&scope=");
            path.push_str(scope);
        }
        send(self.get(&path).basic_auth(user, Some(password.expose()))).await
    }

    /// A token that must be given.
    pub(crate) async fn access_token(&self, user: &str, password: &Secret, scope: &str) -> String {
        let answer = self.token(user, password, &[scope]).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["access_token"]
            .as_str()
            .expect("a token")
            .to_owned()
    }

    pub(crate) fn challenge(&self, rest: &str) -> Vec<String> {
        let server = format!("contoso.registry.localhost:{}", self.port);
        vec![format!(
            "Bearer realm=\"https://{server}/oauth2/token\",service=\"{server}\"{rest}"
        )]
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The answer does not matter: the process ends with the test.
        drop(self.handle.stop(false));
    }
}

pub(crate) fn signing_key_document(node: &Node) -> Document {
    signing_key(node.signing_key.public())
}

pub(crate) async fn send(request: RequestBuilder) -> Answer {
    Answer::of(request.send().await.expect("an answer")).await
}

/// What a token says, without looking at its signature.
pub(crate) fn claims(token: &str) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let payload = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON")
}

pub(crate) const SHA256_OF_HELLO: &str =
    "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/// Uploads the five bytes `hello` in one request.
pub(crate) fn hello_path(repository: &str) -> String {
    format!("/v2/{repository}/blobs/uploads/?digest={SHA256_OF_HELLO}")
}
