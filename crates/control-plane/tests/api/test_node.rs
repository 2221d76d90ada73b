//! Registry nodes of a test's own: they join, follow the stream and answer it, and keep what they get in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use config_documents::{
    Checksum, ControlPlaneMessage, Document, Epoch, NodeMessage, Region, Rejected, Revision,
    STREAM_FORM, StoredDocument, forms,
};
use credentials::{SigningKey, SystemRandomness};
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use uuid::Uuid;

use crate::support::{Reply, TestApp};

/// Longer than anything here takes, so that a test that waits in vain ends.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A node that has joined: what it knows, and what it has.
#[derive(Clone)]
pub(crate) struct TestNode {
    pub(crate) node_id: Uuid,
    pub(crate) region: Region,
    pub(crate) credential: String,
    pub(crate) documents: BTreeMap<(Region, String, String), StoredDocument>,
    pub(crate) position: Option<(Epoch, Revision)>,
    /// What it understands.
    pub(crate) forms: BTreeMap<String, u32>,
    pub(crate) staleness_bound_seconds: Option<u32>,
}

/// A node's open stream.
pub(crate) struct Stream {
    pub(crate) node: TestNode,
    pub(crate) socket: WebSocketStream<TcpStream>,
    sequence: u64,
    pub(crate) snapshots: usize,
    removals: usize,
    /// What the node says that it cannot understand.
    pub(crate) rejected: Vec<Rejected>,
    /// What a hello said of the messages that the node understands; an early build does not say the epoch of what it has applied.
    is_early: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) epoch: Epoch,
    pub(crate) revision: Revision,
    pub(crate) heard: u64,
}

/// A node that answers every mark until it is stopped.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<TestNode>,
}

pub(crate) fn region(name: &str) -> Region {
    Region(name.to_owned())
}

pub(crate) async fn join_token(app: &TestApp, region: &Region) -> String {
    let now = OffsetDateTime::now_utc();
    let token =
        store::nodes::join_token_create(&app.store, Uuid::new_v4(), region, &SystemRandomness, now)
            .await
            .unwrap();
    token.unwrap().secret.expose().to_owned()
}

pub(crate) fn join_body(token: &str, region: &Region) -> Value {
    json!({
        "join_token": token,
        "region": region.as_str(),
        "public_key": SigningKey::generate(&Uuid::new_v4().to_string()).public(),
        "address": "localhost:5443",
        "forms": forms(),
    })
}

pub(crate) async fn join(app: &TestApp, body: Value) -> Reply {
    app.send(Method::POST, "/config/v1/join", "", Some(body))
        .await
}

impl TestNode {
    pub(crate) async fn joined(app: &TestApp, region: Region) -> Self {
        let token = join_token(app, &region).await;
        let reply = join(app, join_body(&token, &region)).await;
        assert_eq!(reply.status, 201, "{}", reply.body);
        Self::of_reply(&reply, region)
    }

    /// The stream of one that has just joined.
    pub(crate) async fn connected(app: &TestApp, region: Region) -> Stream {
        Self::joined(app, region).await.connect(app).await
    }

    /// The stream of one that has just joined and answered its first mark: calls that change something wait for it.
    pub(crate) async fn following(app: &TestApp, region: Region) -> Stream {
        let mut stream = Self::connected(app, region).await;
        let mark = stream.mark().await.unwrap();
        stream.answer(mark).await;
        stream
    }

    /// From the answer to its joining.
    pub(crate) fn of_reply(reply: &Reply, region: Region) -> Self {
        Self {
            node_id: reply.body["node_id"].as_str().unwrap().parse().unwrap(),
            region,
            credential: reply.body["credential"].as_str().unwrap().to_owned(),
            documents: BTreeMap::new(),
            position: None,
            forms: forms(),
            staleness_bound_seconds: None,
        }
    }

    pub(crate) fn hello(&self) -> NodeMessage {
        NodeMessage::Hello {
            node_id: self.node_id,
            region: self.region.clone(),
            forms: self.forms.clone(),
            epoch: self.position.map(|(epoch, _)| epoch),
            revision: self.position.map_or(Revision(0), |(_, revision)| revision),
            address: "localhost:5443".to_owned(),
            staleness_bound_seconds: self.staleness_bound_seconds,
        }
    }

    pub(crate) async fn connect(self, app: &TestApp) -> Stream {
        self.try_connect(app)
            .await
            .unwrap_or_else(|_| panic!("the stream opens"))
    }

    /// The same; itself again when it is refused.
    pub(crate) async fn try_connect(self, app: &TestApp) -> Result<Stream, Self> {
        let Ok(socket) = open(&app.base, &self.credential).await else {
            return Err(self);
        };
        let hello = self.hello();
        let is_early = self.forms.get(STREAM_FORM).is_none_or(|form| *form < 2);
        let mut stream = Stream {
            node: self,
            socket,
            sequence: 0,
            snapshots: 0,
            removals: 0,
            rejected: Vec::new(),
            is_early,
        };
        stream.say(&hello).await;
        Ok(stream)
    }

    pub(crate) fn registry_names(&self) -> Vec<&str> {
        let names = self
            .documents
            .keys()
            .filter(|(_, kind, _)| kind == "registry-name");
        names.map(|(_, _, key)| key.as_str()).collect()
    }

    fn checksum(&self) -> Checksum {
        let documents = self.documents.values();
        documents.fold(Checksum::default(), |sum, document| {
            let body = document.body.as_deref().unwrap();
            sum + Checksum::of(
                document.region.as_str(),
                &document.kind,
                &document.key,
                body,
            )
        })
    }
}

pub(crate) async fn open(base: &str, bearer: &str) -> Result<WebSocketStream<TcpStream>, Error> {
    let host = base.strip_prefix("http://").unwrap();
    let mut request = format!("ws://{host}/config/v1/stream").into_client_request()?;
    if !bearer.is_empty() {
        let value = format!("Bearer {bearer}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
    }
    let connection = TcpStream::connect(host).await.unwrap();
    Ok(tokio_tungstenite::client_async(request, connection)
        .await?
        .0)
}

impl Stream {
    pub(crate) async fn say(&mut self, message: &NodeMessage) {
        let text = serde_json::to_string(message).unwrap();
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next message; the reason when the control plane closed the stream.
    async fn next(&mut self) -> Result<ControlPlaneMessage, String> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next())
                .await
                .expect("the control plane says something")
                .ok_or("the stream was not closed in order")?
                .map_err(|error| error.to_string())?;
            match message {
                Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
                Message::Close(frame) => return Err(frame.unwrap().reason.to_string()),
                _ => {}
            }
        }
    }

    /// Applies everything up to the next mark, and checks that it adds up.
    pub(crate) async fn mark(&mut self) -> Result<Mark, String> {
        loop {
            match self.next().await? {
                ControlPlaneMessage::SnapshotBegin { .. } => {
                    self.snapshots += 1;
                    self.node.documents.clear();
                }
                ControlPlaneMessage::Removed => self.removals += 1,
                ControlPlaneMessage::Greeting { .. }
                | ControlPlaneMessage::SnapshotEnd
                | ControlPlaneMessage::Rotate => {}
                ControlPlaneMessage::Documents { documents } => {
                    for document in documents {
                        self.keep(document);
                    }
                }
                ControlPlaneMessage::Mark {
                    epoch,
                    revision,
                    checksum,
                    heard,
                    ..
                } => {
                    assert_eq!(self.node.checksum(), checksum, "at revision {revision}");
                    self.node.position = Some((epoch, revision));
                    return Ok(Mark {
                        epoch,
                        revision,
                        heard,
                    });
                }
            }
        }
    }

    fn keep(&mut self, document: StoredDocument) {
        assert!(document.region.is_all() || document.region == self.node.region);
        let key = (
            document.region.clone(),
            document.kind.clone(),
            document.key.clone(),
        );
        match &document.body {
            Some(body) => {
                Document::parse(&document.kind, &document.key, body).unwrap();
                self.node.documents.insert(key, document);
            }
            None => {
                self.node.documents.remove(&key);
            }
        }
    }

    pub(crate) async fn answer(&mut self, mark: Mark) {
        assert!(self.try_answer(mark).await, "the stream is open");
    }

    /// False when the stream has ended.
    pub(crate) async fn try_answer(&mut self, mark: Mark) -> bool {
        self.sequence += 1;
        let applied = NodeMessage::Applied {
            sequence: self.sequence,
            epoch: (!self.is_early).then_some(mark.epoch),
            revision: mark.revision,
            rejected: self.rejected.clone(),
        };
        let text = serde_json::to_string(&applied).unwrap();
        self.socket.send(Message::text(text)).await.is_ok()
    }

    /// Answers marks until the control plane has heard of a revision.
    pub(crate) async fn answer_until_heard(&mut self, revision: Revision) {
        let mut sequence = None;
        loop {
            let mark = self.mark().await.unwrap();
            if sequence.is_some_and(|sequence| mark.heard >= sequence) {
                return;
            }
            self.answer(mark).await;
            if mark.revision >= revision && sequence.is_none() {
                sequence = Some(self.sequence);
            }
        }
    }

    /// Reads until the control plane closes, and gives its reason.
    pub(crate) async fn closed(self) -> String {
        self.last_words().await.1
    }

    /// The same, with how often it said that the node was removed.
    pub(crate) async fn last_words(mut self) -> (usize, String) {
        loop {
            if let Err(reason) = self.mark().await {
                return (self.removals, reason);
            }
        }
    }

    /// Answers marks until the control plane closes the stream, and gives back what the node has.
    pub(crate) async fn node_at_end(mut self) -> TestNode {
        while let Ok(mark) = self.mark().await {
            if !self.try_answer(mark).await {
                break;
            }
        }
        self.node
    }

    pub(crate) fn run(mut self) -> Running {
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    mark = self.mark() => self.run_on(mark).await,
                    _ = stopped.changed() => return self.node,
                }
            }
        });
        Running { stop, task }
    }

    async fn run_on(&mut self, mark: Result<Mark, String>) {
        let mark = mark.expect("the control plane keeps the stream");
        self.answer(mark).await;
    }
}

impl Running {
    /// Ends the stream and gives back what the node has.
    pub(crate) async fn stop(self) -> TestNode {
        self.stop.send(true).unwrap();
        self.task.await.unwrap()
    }
}
