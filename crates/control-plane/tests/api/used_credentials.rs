//! When secrets were last used, as nodes tell it on their streams.

use config_documents::{
    AdminPasswordSlot, ControlPlaneMessage, NodeMessage, STREAM_FORM, UsedCredential,
    UsedCredentialId, forms,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use sqlx::PgPool;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::support::{REGISTRIES, Reply, TestApp};
use crate::test_node::{PATIENCE, Stream, TestNode, region};

const APPLICATIONS: &str = "/v1.0/applications";

async fn connected(app: &TestApp, stream_form: u32) -> Stream {
    let mut node = TestNode::joined(app, region("westus")).await;
    node.forms.insert(STREAM_FORM.to_owned(), stream_form);
    node.connect(app).await
}

/// The first message of a stream.
async fn first(stream: &mut Stream) -> ControlPlaneMessage {
    loop {
        let next = tokio::time::timeout(PATIENCE, stream.socket.next());
        if let Message::Text(text) = next.await.unwrap().unwrap().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

/// The secrets of an application, once one of them shows what is expected.
async fn secrets_with(app: &TestApp, path: &str, last_used: &Value) -> Vec<Value> {
    let started_at = std::time::Instant::now();
    loop {
        let reply = app.get(path).await;
        let secrets = reply.body["passwordCredentials"].as_array().unwrap();
        if secrets
            .iter()
            .any(|secret| secret["lastUsedDateTime"] == *last_used)
        {
            return secrets.clone();
        }
        assert!(started_at.elapsed() < PATIENCE, "{}", reply.body);
        tokio::task::yield_now().await;
    }
}

fn secret(key_id: &Value, hour: OffsetDateTime) -> UsedCredential {
    let key_id = key_id.as_str().unwrap().parse().unwrap();
    UsedCredential {
        credential: UsedCredentialId::Secret { key_id },
        hour,
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn nodes_that_understand_it_are_greeted(pool: PgPool) {
    let app = TestApp::spawn_hurried(pool).await;
    let mut stream = connected(&app, 3).await;
    let newest = forms()[STREAM_FORM];
    assert!(matches!(
        first(&mut stream).await,
        ControlPlaneMessage::Greeting { stream_form } if stream_form == newest
    ));
    let mut stream = connected(&app, 2).await;
    assert!(!matches!(
        first(&mut stream).await,
        ControlPlaneMessage::Greeting { .. }
    ));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_secret_shows_the_hour_of_its_last_use(pool: PgPool) {
    let app = TestApp::spawn_hurried(pool.clone()).await;
    app.create_group("group").await;
    app.create_registry("group", "registry").await;
    let created = app
        .post(APPLICATIONS, json!({ "displayName": "used" }))
        .await;
    let path = format!("{APPLICATIONS}/{}", created.body["id"].as_str().unwrap());
    let mut keys = Vec::new();
    for _ in 0..3 {
        let added = app.post(&format!("{path}/addPassword"), json!({})).await;
        assert_eq!(added.status, 200, "{}", added.body);
        keys.push(added.body["keyId"].clone());
    }
    let registry: Uuid = sqlx::query_scalar("SELECT uid FROM registries")
        .fetch_one(&pool)
        .await
        .unwrap();
    let mut stream = connected(&app, 3).await;
    let noon = datetime!(2026-11-23 12:00 UTC);
    let unknown = json!(Uuid::nil().to_string());
    let used = |credentials| NodeMessage::Used { credentials };
    stream
        .say(&used(vec![
            secret(&keys[0], noon),
            secret(&unknown, noon),
            UsedCredential {
                credential: UsedCredentialId::AdminPassword {
                    registry_uid: registry,
                    slot: AdminPasswordSlot::Password2,
                },
                hour: noon,
            },
        ]))
        .await;
    secrets_with(&app, &path, &json!("2026-11-23T12:00:00Z")).await;
    let path_of = |action: &str| {
        let registry = app.registry("group", "registry");
        format!("{registry}/{action}?api-version={REGISTRIES}")
    };
    let last_used = |reply: Reply| {
        assert_eq!(reply.status, 200, "{}", reply.body);
        [0, 1].map(|at| reply.body["passwords"][at]["lastUsedDateTime"].clone())
    };
    let shown = app.post(&path_of("listCredentials"), json!({})).await;
    assert_eq!(
        last_used(shown),
        [json!(null), json!("2026-11-23T12:00:00Z")]
    );
    let renewal = json!({ "name": "password2" });
    let renewed = app.post(&path_of("regenerateCredential"), renewal).await;
    assert_eq!(last_used(renewed), [json!(null), json!(null)]);
    // An earlier use, from a node that was away, changes nothing; one in the future is taken for now.
    let before = OffsetDateTime::now_utc();
    stream
        .say(&used(vec![
            secret(&keys[0], noon - Duration::hours(1)),
            secret(&keys[1], noon + Duration::hours(1)),
            secret(&keys[2], before + Duration::days(400)),
        ]))
        .await;
    let secrets = secrets_with(&app, &path, &json!("2026-11-23T13:00:00Z")).await;
    let last_used = |key: &Value| {
        let secret = secrets.iter().find(|secret| secret["keyId"] == *key);
        secret.unwrap()["lastUsedDateTime"].clone()
    };
    assert_eq!(last_used(&keys[0]), json!("2026-11-23T12:00:00Z"));
    let now = last_used(&keys[2]);
    let hour = now.as_str().unwrap().get(..13).unwrap();
    let hours = [before, OffsetDateTime::now_utc()].map(|time| {
        let (date, hour) = (time.date(), time.hour());
        format!("{date}T{hour:02}")
    });
    assert!(hours.contains(&hour.to_owned()), "{now}");
}
