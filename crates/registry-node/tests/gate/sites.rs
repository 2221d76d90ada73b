//! Two nodes of different regions, each with its own configuration and content.

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
use reqwest::{Certificate, Client, Method, RequestBuilder, header::HOST};
use service::{metrics::Metrics, tls::TlsArguments};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{node::*, support::*};

pub(crate) const HERE: &str = "westus";
pub(crate) const THERE: &str = "northeurope";
const REGISTRY: u128 = 1;
pub(crate) const FORWARDED: &str = "x-wharfinger-forwarded";

/// A node of one region.
pub(crate) struct Site {
    region: &'static str,
    number: u128,
    pub(crate) feed: Feed,
    pub(crate) key: SigningKey,
    pub(crate) address: SocketAddr,
    metrics: Metrics,
    handle: ServerHandle,
    _directory: TempDir,
}

/// The certificate that all nodes have, and which they trust.
pub(crate) struct Trust {
    directory: TempDir,
    pub(crate) tls: TlsArguments,
}

impl Trust {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn client(&self, address: SocketAddr) -> reqwest::ClientBuilder {
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
            Forwarding::new(Region(region.to_owned()), peers, CONNECT_TIMEOUT),
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
    pub(crate) fn documents(&self) -> Vec<Document> {
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

    pub(crate) fn metric(&self, line: &str) -> u64 {
        let text = self.metrics.encode().expect("text");
        let found = text.lines().find_map(|found| found.strip_prefix(line));
        found.map_or(0, |number| number.trim().parse().expect("a number"))
    }

    pub(crate) fn forwarded(&self, outcome: &str) -> u64 {
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

pub(crate) fn node_at(number: u128, region: &str, address: &str) -> Document {
    Document::Node(NodeDocument {
        node_id: Uuid::from_u128(number),
        region: Region(region.to_owned()),
        address: address.to_owned(),
    })
}

/// A registry whose home is there, and a client that knows the node here.
pub(crate) struct Scene {
    pub(crate) trust: Trust,
    pub(crate) here: Site,
    pub(crate) there: Site,
    pub(crate) password: Secret,
    pub(crate) client: Client,
}

impl Scene {
    pub(crate) async fn start() -> Self {
        Self::start_trusting(None).await
    }

    pub(crate) async fn start_trusting(trusted: Option<&Trust>) -> Self {
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

    pub(crate) fn registry(&self) -> Document {
        let port = self.here.address.port();
        let mut registry = registry(REGISTRY, "contoso", port, &[(&self.password, 1)]);
        registry.home_region = Region(THERE.to_owned());
        Document::Registry(registry)
    }

    pub(crate) fn login_server(&self) -> String {
        login_server("contoso", self.here.address.port())
    }

    pub(crate) fn name(&self, regions: &[&str]) -> Document {
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

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_by(&self.client, method, path)
            .basic_auth("contoso", Some(self.password.expose()))
    }

    pub(crate) fn request_by(&self, client: &Client, method: Method, path: &str) -> RequestBuilder {
        client.request(method, format!("https://{}{path}", self.login_server()))
    }

    /// A client with an address of its own, which speaks HTTP/1.1 to the site.
    pub(crate) fn client_at(&self, address: [u8; 4], site: &Site) -> Client {
        self.trust
            .client(site.address)
            .local_address(IpAddr::from(address))
            .http1_only()
            .build()
            .expect("a client")
    }

    /// The answer to a login with a wrong password.
    pub(crate) async fn fails(&self, client: &Client, site: &Site, mark: Option<&str>) -> Answer {
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
        send(request).await
    }

    pub(crate) async fn push_blob(&self, content: Vec<u8>) -> String {
        let digest = digest_of(&content);
        let path = format!("/v2/app/blobs/uploads/?digest={digest}");
        let answer = send(self.request(Method::POST, &path).body(content)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        format!("/v2/app/blobs/{digest}")
    }
}

pub(crate) fn digest_of(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    let text: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{text}")
}

pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
