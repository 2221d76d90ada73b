//! A registry over HTTP on a store of its own, at one node or at several that take turns, and the requests that tests make.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use registry_node::acr;
use registry_node::content::{Content, OpenOptions, Sources};
use registry_node::names::RepositoryName;
use registry_node::oci::{self, Caller, RepositoryAction, Route};
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};
use uuid::Uuid;

use super::stores::{StoreKind, TestStore, install_crypto_provider};

pub(crate) const REGISTRY: Uuid = Uuid::from_u128(0x5eed);
pub(crate) const LOGIN_SERVER: &str = "contoso.registry.localhost";
pub(crate) const OCI_MANIFEST: &str = registry_node::content::OCI_MANIFEST;
pub(crate) const OCI_INDEX: &str = registry_node::content::OCI_INDEX;

/// May do everything, but not read the repositories that the header `x-may-not-pull` names, with commas between.
struct TestCaller {
    may_not_pull: Option<String>,
}

impl Caller for TestCaller {
    fn may(&self, repository: &RepositoryName, action: RepositoryAction) -> bool {
        let is_hidden = self
            .may_not_pull
            .as_deref()
            .is_some_and(|names| names.split(',').any(|name| name == repository.as_str()));
        action != RepositoryAction::Pull || !is_hidden
    }

    fn name(&self) -> &str {
        "somebody"
    }
}

async fn handle(
    content: web::Data<Content>,
    request: HttpRequest,
    payload: web::Payload,
) -> HttpResponse {
    let header = |name: &str| Some(request.headers().get(name)?.to_str().ok()?.to_owned());
    let caller = TestCaller {
        may_not_pull: header("x-may-not-pull"),
    };
    let registry = header("x-registry").map_or(REGISTRY, |text| text.parse().expect("a uuid"));
    let answer = async {
        let (method, path, query) = (request.method(), request.path(), request.query_string());
        if path.starts_with("/acr/") {
            let route = acr::Route::parse(method, path, query)?;
            let registry = acr::Registry {
                content: &content,
                uid: registry,
                login_server: LOGIN_SERVER,
            };
            return acr::serve(registry, &caller, route, payload).await;
        }
        let route = Route::parse(method, path, query)?;
        oci::serve(&content, registry, &caller, route, &request, payload).await
    };
    answer.await.unwrap_or_else(|error| error.into_response())
}

/// A registry, as a client sees it.
#[derive(Clone)]
pub(crate) struct Registry {
    /// Addresses of its nodes, each of which takes the next request in turn.
    pub(crate) nodes: Vec<String>,
    turn: Arc<AtomicUsize>,
    uid: Uuid,
    /// What has to last as long as the registry.
    store: Option<Arc<TestStore>>,
    client: reqwest::Client,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("a header of text"))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// The code of an OCI error body, whose shape is checked on the way.
    pub(crate) fn code(&self) -> String {
        let body = self.json();
        let errors = body["errors"].as_array().expect("errors");
        assert_eq!(errors.len(), 1);
        assert!(!errors[0]["message"].as_str().expect("a message").is_empty());
        assert!(errors[0].get("detail").is_some());
        errors[0]["code"].as_str().expect("a code").to_owned()
    }

    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status.as_u16(), status, "{body}");
        self
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.is(status);
        assert_eq!(answer.code(), code);
        answer
    }
}

pub(crate) async fn open(directory: &Path) -> Content {
    let options = OpenOptions {
        region: "westus".to_owned(),
        single_node: false,
    };
    Content::open(directory, options, Sources::of_the_system())
        .await
        .expect("a fresh directory opens")
}

impl Registry {
    /// At one node, on a directory.
    pub(crate) async fn start() -> Self {
        Self::at_nodes(StoreKind::Disk, 1).await
    }

    /// At so many nodes, on a fresh store of that kind.
    pub(crate) async fn at_nodes(kind: StoreKind, nodes: usize) -> Self {
        let store = TestStore::new(kind);
        let mut contents = Vec::new();
        for _ in 0..nodes {
            contents.push(store.open().await);
        }
        Self::serve(contents, Some(store))
    }

    /// At one node, on content that is elsewhere.
    pub(crate) fn start_on(content: Content) -> Self {
        Self::serve(vec![content], None)
    }

    fn serve(contents: Vec<Content>, store: Option<TestStore>) -> Self {
        install_crypto_provider();
        Self {
            nodes: contents.into_iter().map(start_node).collect(),
            turn: Arc::default(),
            uid: REGISTRY,
            store: store.map(Arc::new),
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("a client"),
        }
    }

    /// An empty registry at the same nodes.
    pub(crate) fn another(&self) -> Self {
        Self {
            uid: Uuid::new_v4(),
            turn: Arc::default(),
            ..self.clone()
        }
    }

    /// The same registry at one of its nodes only.
    pub(crate) fn at_node(&self, number: usize) -> Self {
        Self {
            nodes: vec![self.nodes[number % self.nodes.len()].clone()],
            ..self.clone()
        }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let turn = self.turn.fetch_add(1, Ordering::SeqCst);
        let node = &self.nodes[turn % self.nodes.len()];
        self.client
            .request(method, format!("http://{node}{path}"))
            .header("x-registry", self.uid.to_string())
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.expect("a whole body").to_vec(),
        }
    }

    pub(crate) async fn call(&self, method: &str, path: &str) -> Answer {
        self.send(self.request(method, path)).await
    }

    /// The header that says which registry is meant, for requests that are written by hand.
    pub(crate) fn registry_header(&self) -> String {
        format!("x-registry: {}", self.uid)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path).await
    }

    /// GET with one more header.
    pub(crate) async fn get_with(&self, path: &str, name: &str, value: &str) -> Answer {
        self.send(self.request("GET", path).header(name, value))
            .await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        let answer = self.call("HEAD", path).await;
        assert!(answer.body.is_empty(), "HEAD brings no body");
        answer
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path).await
    }

    /// Begins an upload; where it goes on.
    pub(crate) async fn begin_upload(&self, repository: &str) -> String {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.call("POST", &path).await.is(202);
        begun.header("location").to_owned()
    }

    /// Sends a chunk that is said to go there.
    pub(crate) async fn chunk(&self, location: &str, range: &str, bytes: &[u8]) -> Answer {
        let request = self
            .request("PATCH", location)
            .header("content-range", range)
            .body(bytes.to_vec());
        self.send(request).await
    }

    /// Ends an upload with these bytes as the last of it.
    pub(crate) async fn finish(&self, location: &str, digest: &str, bytes: &[u8]) -> Answer {
        let separator = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{separator}digest={digest}");
        self.send(self.request("PUT", &path).body(bytes.to_vec()))
            .await
    }

    pub(crate) async fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let request = self.request("POST", &path).body(bytes.to_vec());
        self.send(request).await.is(201);
        digest
    }

    pub(crate) async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Answer {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let request = self
            .request("PUT", &path)
            .header("content-type", media_type)
            .body(bytes.to_vec());
        self.send(request).await
    }

    /// Pushes an image of one config and one layer; its digest.
    pub(crate) async fn push_image(&self, repository: &str, tag: &str, layer: &[u8]) -> String {
        self.push_image_bytes(repository, tag, layer).await.0
    }

    /// The same; digest and bytes of its manifest.
    pub(crate) async fn push_image_bytes(
        &self,
        repository: &str,
        tag: &str,
        layer: &[u8],
    ) -> (String, Vec<u8>) {
        let config = self.push_blob(repository, b"{}").await;
        let layer_digest = self.push_blob(repository, layer).await;
        let manifest = image_manifest(&[(&config, 2)], &[(&layer_digest, layer.len())]);
        self.put_manifest(repository, tag, OCI_MANIFEST, &manifest)
            .await
            .is(201);
        (sha256(&manifest), manifest)
    }

    /// The pages of a listing, by the `Link` of each, and of each the entries under `member`.
    pub(crate) async fn pages(&self, first: &str, member: &str) -> Vec<Vec<Value>> {
        let mut path = first.to_owned();
        let mut pages = Vec::new();
        loop {
            let answer = self.get(&path).await.is(200);
            pages.push(answer.json()[member].as_array().expect("entries").clone());
            let link = answer.header("link");
            if link.is_empty() {
                return pages;
            }
            let end = link.find(">; rel=\"next\"").expect("a next link");
            path = link[1..end].to_owned();
        }
    }

    /// The directory that it is on.
    pub(crate) fn directory(&self) -> &Path {
        match self.store.as_deref() {
            Some(TestStore::Disk(directory)) => directory.path(),
            _ => panic!("the store is not a directory"),
        }
    }

    /// Changes attributes under `/acr/v1`.
    pub(crate) async fn patch(&self, path: &str, change: &Value) -> Answer {
        let request = self.request("PATCH", path).json(change);
        self.send(request).await
    }

    /// Objects of blobs' bytes below the root, finished or not.
    pub(crate) fn data_files(&self) -> Vec<String> {
        files_below(&self.directory().join(format!("r/{}/data", self.uid)))
    }
}

/// Serves the content; the node's address.
fn start_node(content: Content) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let data = web::Data::new(content);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(data.clone())
            .default_service(web::to(handle))
    })
    .workers(1)
    .disable_signals()
    .listen(listener)
    .expect("a server")
    .run();
    actix_web::rt::spawn(server);
    address
}

pub(crate) fn files_below(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.expect("an entry").path())
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path.display().to_string()],
        })
        .collect()
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

pub(crate) fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}

pub(crate) fn image_manifest(config: &[(&str, usize)], layers: &[(&str, usize)]) -> Vec<u8> {
    let descriptor = |(digest, size): &(&str, usize)| {
        json!({
            "mediaType": "application/octet-stream", "digest": digest, "size": size,
        })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.first().map(descriptor),
        "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
    });
    manifest.to_string().into_bytes()
}

/// Bytes that do not compress, repeat or mean anything.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}
