//! The other end of the stream: says what a test tells it to, and shows what the node said.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, web};
use actix_ws::Message;
use config_documents::{
    Checksum, ControlPlaneMessage, Document, Epoch, JoinAnswer, JoinRequest, NodeMessage, Revision,
    RotateRequest, StoredDocument,
};
use credentials::{Secret, SecretKind};
use futures_util::StreamExt;
use parking_lot::Mutex;
use registry_node::config::ControlPlane;
use tempfile::TempDir;
use tokio::sync::{broadcast, mpsc};
use uuid::Uuid;

use crate::support::*;

pub(crate) const NODE_ID: Uuid = Uuid::from_u128(0x0de);
pub(crate) const EPOCH: Epoch = Epoch(Uuid::from_u128(7));

#[derive(Clone)]
enum Say {
    Text(String),
    Close,
}

struct Shared {
    join_token: Secret,
    credential: Secret,
    /// Those with which a stream can be opened.
    accepted: Mutex<Vec<String>>,
    /// What each opened stream showed.
    shown: Mutex<Vec<String>>,
    rotations: Mutex<Vec<(String, RotateRequest)>>,
    /// What a rotation answers.
    propagation: Mutex<&'static str>,
    joined: Mutex<Option<JoinRequest>>,
    told: mpsc::UnboundedSender<NodeMessage>,
    say: broadcast::Sender<Say>,
}

pub(crate) struct TestControlPlane {
    pub(crate) join_token: Secret,
    pub(crate) credential: Secret,
    shared: Arc<Shared>,
    told: mpsc::UnboundedReceiver<NodeMessage>,
    address: SocketAddr,
    handle: ServerHandle,
    directory: TempDir,
}

impl TestControlPlane {
    pub(crate) async fn start() -> Self {
        service::install_crypto_provider();
        let directory = tempfile::tempdir().expect("a directory");
        let certified =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a key");
        let tls = service::tls::TlsArguments {
            tls_certificate: directory.path().join("certificate.pem"),
            tls_key: directory.path().join("key.pem"),
        };
        std::fs::write(&tls.tls_certificate, certified.cert.pem()).expect("write");
        std::fs::write(&tls.tls_key, certified.signing_key.serialize_pem()).expect("write");
        let tls = service::tls::server_config(&tls).expect("a certificate with its key");
        let (told_sender, told) = mpsc::unbounded_channel();
        let credential = secret(SecretKind::NodeCredential);
        let shared = Arc::new(Shared {
            join_token: secret(SecretKind::JoinToken),
            accepted: Mutex::new(vec![credential.expose().to_owned()]),
            shown: Mutex::default(),
            rotations: Mutex::default(),
            propagation: Mutex::new("complete"),
            credential,
            joined: Mutex::new(None),
            told: told_sender,
            say: broadcast::Sender::new(16),
        });
        let data = web::Data::from(Arc::clone(&shared));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(data.clone())
                .route("/config/v1/join", web::post().to(join))
                .route("/config/v1/rotate", web::post().to(rotate))
                .route("/config/v1/stream", web::get().to(stream))
        })
        .workers(1)
        .disable_signals()
        .bind_rustls_0_23("localhost:0", tls)
        .expect("a free port");
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        tokio::spawn(server);
        Self {
            join_token: shared.join_token.clone(),
            credential: shared.credential.clone(),
            shared,
            told,
            address,
            handle,
            directory,
        }
    }

    pub(crate) fn ca_file(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    pub(crate) fn client(&self) -> ControlPlane {
        ControlPlane::new(&self.url(), Some(&self.ca_file())).expect("a URL")
    }

    pub(crate) fn joined(&self) -> Option<JoinRequest> {
        self.shared.joined.lock().clone()
    }

    /// From now on streams are opened with these, and no others.
    pub(crate) fn accept(&self, credentials: &[&str]) {
        *self.shared.accepted.lock() = credentials.iter().map(|&text| text.to_owned()).collect();
    }

    /// What was shown by the streams that were opened.
    pub(crate) fn shown(&self) -> Vec<String> {
        self.shared.shown.lock().clone()
    }

    /// The rotations asked for, each with the bearer that it was asked with.
    pub(crate) fn rotations(&self) -> Vec<(String, RotateRequest)> {
        self.shared.rotations.lock().clone()
    }

    pub(crate) async fn rotation(&self, number: usize) -> (String, RotateRequest) {
        while self.rotations().len() <= number {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        self.rotations()[number].clone()
    }

    pub(crate) fn rotations_answer(&self, propagation: &'static str) {
        *self.shared.propagation.lock() = propagation;
    }

    /// The next message of the node.
    pub(crate) async fn next(&mut self) -> NodeMessage {
        self.told.recv().await.expect("the server holds a sender")
    }

    pub(crate) fn told_nothing(&self) -> bool {
        self.told.is_empty()
    }

    pub(crate) fn send_text(&self, text: &str) {
        self.say(Say::Text(text.to_owned()));
    }

    /// Ends the stream that is open, if there is one.
    pub(crate) fn close(&self) {
        let _nobody_listens = self.shared.say.send(Say::Close);
    }

    pub(crate) async fn stop(&self) {
        self.handle.stop(false).await;
    }

    fn say(&self, say: Say) {
        self.shared
            .say
            .send(say)
            .unwrap_or_else(|_| panic!("no stream is open"));
    }

    pub(crate) fn send(&self, message: &ControlPlaneMessage) {
        self.send_text(&serde_json::to_string(message).expect("a message"));
    }

    /// A whole snapshot at revision 1, with its mark.
    pub(crate) fn send_snapshot(&self, documents: &[Document]) {
        let mut checksum = Checksum::default();
        let stored = documents
            .iter()
            .map(|document| {
                let (kind, key, body) = (document.kind().as_str(), document.key(), document.body());
                checksum += Checksum::of(REGION, kind, &key, &body);
                StoredDocument {
                    region: region(),
                    kind: kind.to_owned(),
                    key,
                    body: Some(body),
                    revision: Revision(1),
                }
            })
            .collect();
        self.send(&ControlPlaneMessage::SnapshotBegin { epoch: EPOCH });
        self.send(&ControlPlaneMessage::Documents { documents: stored });
        self.send(&ControlPlaneMessage::SnapshotEnd);
        self.send(&ControlPlaneMessage::Mark {
            epoch: EPOCH,
            revision: Revision(1),
            time: now(),
            checksum,
            heard: 0,
        });
    }
}

impl Drop for TestControlPlane {
    fn drop(&mut self) {
        // The answer does not matter: the process ends with the test.
        drop(self.handle.stop(false));
    }
}

async fn join(request: web::Json<JoinRequest>, shared: web::Data<Shared>) -> HttpResponse {
    let mut joined = shared.joined.lock();
    if joined.is_some() || request.join_token != shared.join_token.expose() {
        return HttpResponse::Forbidden().json(serde_json::json!({
            "error": {"code": "JoinTokenInvalid", "message": "The join token was used."}
        }));
    }
    *joined = Some(request.into_inner());
    HttpResponse::Created().json(JoinAnswer {
        node_id: NODE_ID,
        credential: shared.credential.expose().to_owned(),
    })
}

fn bearer(request: &HttpRequest) -> String {
    let value = request.headers().get("authorization");
    value
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .unwrap_or_default()
        .to_owned()
}

async fn rotate(
    request: HttpRequest,
    body: web::Json<RotateRequest>,
    shared: web::Data<Shared>,
) -> HttpResponse {
    let rotation = (bearer(&request), body.into_inner());
    shared.rotations.lock().push(rotation);
    HttpResponse::Ok()
        .insert_header(("x-wharfinger-propagation", *shared.propagation.lock()))
        .finish()
}

async fn stream(
    request: HttpRequest,
    payload: web::Payload,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, actix_web::Error> {
    let given = bearer(&request);
    if !shared.accepted.lock().contains(&given) {
        return Ok(HttpResponse::Unauthorized().finish());
    }
    shared.shown.lock().push(given);
    let mut said = shared.say.subscribe();
    let (response, mut session, mut messages) = actix_ws::handle(&request, payload)?;
    messages = messages.max_frame_size(16 * 1024 * 1024);
    actix_web::rt::spawn(async move {
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        let message = serde_json::from_str(&text).expect("the contract's message");
                        let _test_is_over = shared.told.send(message);
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                },
                say = said.recv() => match say {
                    Ok(Say::Text(text)) => {
                        if session.text(text).await.is_err() {
                            return;
                        }
                    }
                    _ => {
                        let _gone_already = session.close(None).await;
                        return;
                    }
                },
            }
        }
    });
    Ok(response)
}
