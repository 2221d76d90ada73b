//! Renewing what a node shows and signs with, and removing nodes, as operators do it by way of the database.

use std::time::Duration;

use config_documents::{ControlPlaneMessage, Kind, Region};
use credentials::{Secret, SecretKind, SigningKey, SystemRandomness, generate};
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use store::config::{self, OPERATOR};
use store::nodes;
use tokio_tungstenite::tungstenite::{Error, Message};
use uuid::Uuid;

use crate::support::{Reply, TestApp};
use crate::test_node::{PATIENCE, Stream, TestNode, open, region};

struct Renewal {
    credential: Secret,
    key: SigningKey,
}

impl Renewal {
    fn new() -> Self {
        Self {
            credential: generate(SecretKind::NodeCredential, &SystemRandomness),
            key: SigningKey::generate(&Uuid::new_v4().to_string()),
        }
    }

    fn body(&self) -> Value {
        json!({ "credential": self.credential.expose(), "public_key": self.key.public() })
    }
}

async fn announce(app: &TestApp, credential: &str, renewal: &Renewal) -> Reply {
    let body = Some(renewal.body());
    app.send(Method::POST, "/config/v1/rotate", credential, body)
        .await
}

/// The next message of one of these kinds.
async fn next_of(stream: &mut Stream, is_it: impl Fn(&ControlPlaneMessage) -> bool) {
    let wait = async {
        loop {
            let message = stream.socket.next().await.unwrap().unwrap();
            if let Message::Text(text) = message
                && is_it(&serde_json::from_str(&text).unwrap())
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
}

fn is_rotate(message: &ControlPlaneMessage) -> bool {
    matches!(message, ControlPlaneMessage::Rotate)
}

fn is_removed(message: &ControlPlaneMessage) -> bool {
    matches!(message, ControlPlaneMessage::Removed)
}

/// The names of the live signing keys among a node's documents.
fn keys(node: &TestNode) -> Vec<String> {
    let keys = node.documents.keys();
    keys.filter(|(_, kind, _)| kind == Kind::SigningKey.as_str())
        .map(|(_, _, key)| key.clone())
        .collect()
}

async fn refused(app: &TestApp, credential: &str) -> u16 {
    match open(&app.base, credential).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("{:?}", other.map(|_| "a stream")),
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_rotation_is_asked_for_announced_and_in_force_when_it_is_first_used(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let mut stream = TestNode::following(&app, region("westus")).await;
    let (node_id, old) = (stream.node.node_id, stream.node.credential.clone());
    let old_kid = keys(&stream.node)[0].clone();

    assert!(nodes::rotation_request(&app.store, node_id).await.unwrap());
    config::notify(&app.store, OPERATOR).await.unwrap();
    next_of(&mut stream, is_rotate).await;
    // It is said again on the next stream, until it has happened.
    let mut stream = stream.node.connect(&app).await;
    next_of(&mut stream, is_rotate).await;

    let running = stream.run();
    let renewal = Renewal::new();
    let first = announce(&app, &old, &renewal).await;
    assert_eq!(first.status, 204, "{}", first.body);
    assert_eq!(first.header("x-wharfinger-propagation"), "complete");
    let again = announce(&app, &old, &renewal).await;
    assert_eq!(again.status, 204);
    assert_eq!(
        again.header("x-wharfinger-revision"),
        first.header("x-wharfinger-revision"),
        "repeating it changes nothing"
    );
    let mut node = running.stop().await;
    let mut both = vec![old_kid.clone(), renewal.key.kid().to_owned()];
    both.sort();
    assert_eq!(keys(&node), both);
    // Until the new one is used, both count.
    drop(open(&app.base, &old).await.unwrap());

    node.credential = renewal.credential.expose().to_owned();
    let mut stream = node.connect(&app).await;
    let mark = stream.mark().await.unwrap();
    stream.answer(mark).await;
    assert_eq!(refused(&app, &old).await, 401);
    let state = nodes::rotation_state(&app.store, node_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (state.kid.as_str(), state.requested_at),
        (renewal.key.kid(), None)
    );
    let sure = {
        let running = stream.run();
        let sure = announce(&app, renewal.credential.expose(), &renewal).await;
        stream = running.stop().await.connect(&app).await;
        sure
    };
    assert_eq!(sure.header("x-wharfinger-propagation"), "complete");

    // The old key outlives its last token, and no longer.
    let early = nodes::retired_keys_withdraw(&app.store, Duration::from_secs(60)).await;
    assert_eq!(early.unwrap(), None);
    let withdrawn = nodes::retired_keys_withdraw(&app.store, Duration::ZERO).await;
    let withdrawn = withdrawn.unwrap().unwrap();
    while stream.mark().await.unwrap().revision < withdrawn.revision {}
    assert_eq!(keys(&stream.node), [renewal.key.kid()]);
    let none = nodes::retired_keys_withdraw(&app.store, Duration::ZERO).await;
    assert_eq!(none.unwrap(), None);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn only_a_node_itself_renews_what_it_shows_and_signs_with(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let node = TestNode::joined(&app, region("westus")).await;
    let other = TestNode::joined(&app, region("westus")).await;
    let stranger = generate(SecretKind::NodeCredential, &SystemRandomness);
    for bearer in ["", "nonsense", &app.token, stranger.expose()] {
        let reply = announce(&app, bearer, &Renewal::new()).await;
        assert_eq!(reply.status, 401, "{bearer}: {}", reply.body);
    }
    let mut weak = Renewal::new();
    weak.credential = Secret::new("wfn_guessable".to_owned());
    assert_eq!(announce(&app, &node.credential, &weak).await.status, 400);
    let mut named = Renewal::new();
    named.key = SigningKey::generate("a/b");
    assert_eq!(announce(&app, &node.credential, &named).await.status, 400);

    // No node puts its key in another's place, be it present, announced or retired.
    let others = Renewal::new();
    assert_eq!(announce(&app, &other.credential, &others).await.status, 204);
    let mut taken = Renewal::new();
    taken.key = SigningKey::generate(others.key.kid());
    let reply = announce(&app, &node.credential, &taken).await;
    assert_eq!((reply.status, reply.code()), (409, "SigningKeyInUse"));
    // A key that was announced belongs to what was announced with it.
    let mut swapped = Renewal::new();
    swapped.key = SigningKey::from_pkcs8(others.key.kid(), others.key.pkcs8()).unwrap();
    assert_eq!(
        announce(&app, &other.credential, &swapped).await.status,
        409
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_removed_node_is_told_whether_it_is_connected_or_comes_back(pool: PgPool) {
    let app = TestApp::spawn_hurried(pool).await;
    let mut stays = TestNode::connected(&app, region("westus")).await;
    let mut goes = TestNode::connected(&app, region("westus")).await;
    let away = TestNode::joined(&app, region("westus")).await;
    for stream in [&mut stays, &mut goes] {
        let mark = stream.mark().await.unwrap();
        stream.answer(mark).await;
    }
    while keys(&stays.node).len() < 3 {
        stays.mark().await.unwrap();
    }
    let gone = goes.node.clone();
    for node in [&gone, &away] {
        let removal = nodes::remove(&app.store, node.node_id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(removal.region, Region("westus".to_owned()));
    }
    assert!(
        nodes::remove(&app.store, gone.node_id)
            .await
            .unwrap()
            .is_none()
    );
    config::notify(&app.store, OPERATOR).await.unwrap();
    next_of(&mut goes, is_removed).await;
    for node in [gone, away] {
        let (node_id, credential) = (node.node_id, node.credential.clone());
        let mut stream = node.connect(&app).await;
        next_of(&mut stream, is_removed).await;
        let reply = announce(&app, &credential, &Renewal::new()).await;
        assert_eq!(reply.status, 401, "{}", reply.body);
        assert!(
            nodes::list(&app.store)
                .await
                .unwrap()
                .iter()
                .all(|node| node.node_id != node_id)
        );
    }
    while keys(&stays.node).len() > 1 {
        stays.mark().await.unwrap();
    }
    let nodes = stays
        .node
        .documents
        .keys()
        .filter(|(_, kind, _)| kind == Kind::Node.as_str());
    assert_eq!(nodes.count(), 1);
}
