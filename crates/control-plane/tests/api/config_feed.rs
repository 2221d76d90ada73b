//! The stream of configuration to nodes, and what an operation says about its change, with nodes that speak the protocol.

use std::sync::Arc;
use std::time::Duration;

use config_documents::{NodeMessage, Rejected, Revision};
use credentials::{SecretKind, SystemRandomness, generate};
use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{Reply, TestApp};
use crate::test_node::{PATIENCE, Stream, TestNode, join, join_body, join_token, open, region};

/// A change that all nodes of a region must know.
pub(crate) async fn change(app: &TestApp, name: &str) -> Reply {
    let path = app.registry("group", name);
    let body = json!({ "location": "westus", "sku": { "name": "Basic" }, "properties": { "adminUserEnabled": true } });
    let reply = app
        .put(
            &format!("{path}?api-version={}", crate::support::REGISTRIES),
            body,
        )
        .await;
    assert!(reply.status == 200 || reply.status == 201, "{}", reply.body);
    reply
}

pub(crate) fn revision(reply: &Reply) -> Revision {
    Revision(reply.header("x-wharfinger-revision").parse().unwrap())
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_node_gets_a_snapshot_and_then_what_changes(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    change(&app, "before").await;
    let mut stream = TestNode::connected(&app, region("westus")).await;
    let first = stream.mark().await.unwrap();
    assert_eq!(stream.snapshots, 1);
    assert_eq!(stream.node.registry_names(), ["before"]);
    let roles = stream
        .node
        .documents
        .keys()
        .filter(|(_, kind, _)| kind == "role-definition");
    assert_eq!(roles.count(), rbac::built_in_roles().len());
    stream.answer(first).await;
    let running = stream.run();
    let reply = change(&app, "after").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    assert_eq!(reply.header("x-wharfinger-missing"), "");
    assert!(revision(&reply) > first.revision);
    let node = running.stop().await;
    assert_eq!(node.registry_names(), ["after", "before"]);
    assert_eq!(node.position, Some((first.epoch, revision(&reply))));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_node_that_comes_back_gets_what_it_lacks_and_no_snapshot(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    let mut stream = TestNode::connected(&app, region("westus")).await;
    let mark = stream.mark().await.unwrap();
    let node = stream.node.clone();
    drop(stream);
    end_leases(&app).await;
    let reply = change(&app, "meanwhile").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "partial");
    assert_eq!(
        reply.header("x-wharfinger-missing"),
        node.node_id.to_string()
    );
    let mut stream = node.connect(&app).await;
    let again = stream.mark().await.unwrap();
    assert_eq!(stream.snapshots, 0);
    assert_eq!(again.epoch, mark.epoch);
    assert_eq!(again.revision, revision(&reply));
    assert_eq!(stream.node.registry_names(), ["meanwhile"]);
}

/// As if no node had been heard from for a lease.
pub(crate) async fn end_leases(app: &TestApp) {
    let wait = async {
        // A stream that was dropped may still be noticed, so its last word may still be written.
        while connected(app).await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap();
    // What was on its way to the database when its stream ended may come after the first time.
    let mut ended = 1;
    while ended > 0 {
        ended = sqlx::query(
            "UPDATE node_streams SET lease_expires_at = now() - interval '1 second' WHERE lease_expires_at > now()",
        )
        .execute(app.store.pool())
        .await
        .unwrap()
        .rows_affected();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// How many streams the control plane has.
async fn connected(app: &TestApp) -> i64 {
    let text = app.metrics.encode().unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("wharfinger_config_connected_nodes{"))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(_, number)| number.parse::<i64>().unwrap())
        .sum()
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_change_is_complete_when_every_node_of_the_region_has_it(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    let nobody = change(&app, "nobody").await;
    assert_eq!(
        nobody.header("x-wharfinger-propagation"),
        "complete",
        "there is no node"
    );
    let mut running = Vec::new();
    for _ in 0..3 {
        let stream = TestNode::following(&app, region("westus")).await;
        running.push(stream.run());
    }
    for name in ["first", "second", "third"] {
        let reply = change(&app, name).await;
        assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    }
    for node in running {
        assert_eq!(
            node.stop().await.registry_names(),
            ["first", "nobody", "second", "third"]
        );
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_change_is_pending_while_a_live_node_does_not_answer(pool: PgPool) {
    let app = TestApp::spawn_hurried(pool).await;
    app.create_group("group").await;
    let mut stream = TestNode::following(&app, region("westus")).await;
    let reply = change(&app, "unanswered").await;
    assert_eq!(reply.status, 201, "the change is made all the same");
    assert_eq!(reply.header("x-wharfinger-propagation"), "pending");
    assert_eq!(
        reply.header("x-wharfinger-missing"),
        stream.node.node_id.to_string()
    );
    let path = format!("/config/v1/propagation/{}", revision(&reply));
    let view = app.get(&path).await;
    assert_eq!(view.body["propagation"], "pending");
    assert_eq!(
        view.body["missing"][0]["nodeId"],
        stream.node.node_id.to_string()
    );
    stream.answer_until_heard(revision(&reply)).await;
    let view = app.get(&path).await;
    assert_eq!(view.body["propagation"], "complete", "{}", view.body);
}

/// A call whose answer was lost is repeated, and finds everything as it should be.
#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_repeated_change_waits_for_the_first_one(pool: PgPool) {
    let app = TestApp::spawn_hurried(pool).await;
    app.create_group("group").await;
    let mut stream = TestNode::following(&app, region("westus")).await;
    let first = change(&app, "unanswered").await;
    assert_eq!(first.header("x-wharfinger-propagation"), "pending");
    let again = change(&app, "unanswered").await;
    assert_eq!(again.status, 200);
    assert_eq!(again.header("x-wharfinger-propagation"), "pending");
    assert_eq!(
        again.header("x-wharfinger-missing"),
        stream.node.node_id.to_string()
    );
    stream.answer_until_heard(revision(&first)).await;
    let running = stream.run();
    let again = change(&app, "unanswered").await;
    assert_eq!(again.header("x-wharfinger-propagation"), "complete");
    assert_eq!(
        again.header("x-wharfinger-revision"),
        "",
        "it made no revision"
    );
    let path = app.registry("group", "never there");
    let path = format!("{path}?api-version={}", crate::support::REGISTRIES);
    let deleted = app.send(Method::DELETE, &path, &app.token, None).await;
    assert_eq!(deleted.status, 204, "{}", deleted.body);
    assert_eq!(deleted.header("x-wharfinger-propagation"), "complete");
    running.stop().await;
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_document_that_a_node_cannot_understand_makes_its_change_partial(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    let mut stream = TestNode::connected(&app, region("westus")).await;
    let mark = stream.mark().await.unwrap();
    stream.rejected = vec![Rejected {
        region: region("*"),
        kind: "registry-name".to_owned(),
        key: "strange".to_owned(),
        revision: Revision(mark.revision.0 + 1),
        reason: "a test".to_owned(),
    }];
    stream.answer(mark).await;
    let node_id = stream.node.node_id.to_string();
    let running = stream.run();
    let reply = change(&app, "strange").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "partial");
    assert_eq!(reply.header("x-wharfinger-missing"), node_id);
    let later = change(&app, "plain").await;
    assert_eq!(
        later.header("x-wharfinger-propagation"),
        "complete",
        "it is not about this change"
    );
    running.stop().await;
    let list = app.get("/config/v1/nodes").await;
    assert_eq!(
        list.body["nodes"][0]["rejected"][0]["key"], "strange",
        "{}",
        list.body
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn nodes_of_other_regions_are_not_sent_what_is_not_theirs(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    let stream = TestNode::following(&app, region("northeurope")).await;
    let running = stream.run();
    let reply = change(&app, "western").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    let node = running.stop().await;
    assert_eq!(
        node.registry_names(),
        ["western"],
        "every node has all names"
    );
    assert!(node.documents.keys().all(|(_, kind, _)| kind != "registry"));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_mark_says_what_was_heard(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let mut stream = TestNode::connected(&app, region("westus")).await;
    let first = stream.mark().await.unwrap();
    assert_eq!(first.heard, 0);
    let second = stream.mark().await.unwrap();
    assert_eq!(
        (second.revision, second.heard),
        (first.revision, 0),
        "nothing was answered"
    );
    stream.answer_until_heard(first.revision).await;
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_node_whose_copy_diverged_gets_a_snapshot(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let mut stream = TestNode::connected(&app, region("westus")).await;
    stream.node.documents.clear();
    let mut stream = reconnect(stream, &app).await;
    assert_eq!(stream.snapshots, 0);
    stream
        .say(&NodeMessage::SnapshotWanted {
            reason: "a test".to_owned(),
        })
        .await;
    while stream.snapshots == 0 {
        let mark = stream.mark().await.unwrap();
        stream.answer(mark).await;
    }
}

/// The same node with what it has, on a new stream.
async fn reconnect(mut stream: Stream, app: &TestApp) -> Stream {
    let mark = stream.mark().await.unwrap();
    stream.answer(mark).await;
    let node = stream.node.clone();
    drop(stream);
    let mut stream = node.connect(app).await;
    let mark = stream.mark().await.unwrap();
    stream.answer(mark).await;
    stream
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_second_stream_of_a_node_ends_the_first(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let mut first = TestNode::connected(&app, region("westus")).await;
    first.mark().await.unwrap();
    let mut second = first.node.clone().connect(&app).await;
    second.mark().await.unwrap();
    assert_eq!(first.closed().await, "the node opened another stream");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_node_that_the_database_does_not_know_loses_its_stream_and_is_not_called_removed(
    pool: PgPool,
) {
    let app = TestApp::spawn(pool).await;
    let mut stream = TestNode::connected(&app, region("westus")).await;
    let mark = stream.mark().await.unwrap();
    sqlx::query("DELETE FROM nodes")
        .execute(app.store.pool())
        .await
        .unwrap();
    stream.answer(mark).await;
    let credential = stream.node.credential.clone();
    let (removed, reason) = stream.last_words().await;
    assert_eq!(
        (removed, reason.as_str()),
        (0, "no such node is enrolled"),
        "it may go on serving what it has"
    );
    let refused = open(&app.base, &credential).await.unwrap_err();
    assert_refused(refused, "InvalidNodeCredential");
}

fn assert_refused(error: Error, code: &str) {
    let Error::Http(response) = error else {
        panic!("{error}")
    };
    assert_eq!(response.status(), 401);
    let body: Value = serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
    assert_eq!(body["error"]["code"], code);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn only_a_nodes_own_credential_opens_its_stream(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let unknown = generate(SecretKind::NodeCredential, &SystemRandomness);
    let join_token = join_token(&app, &region("westus")).await;
    for bearer in [
        "",
        app.token.as_str(),
        unknown.expose(),
        &join_token,
        "wfn_short",
    ] {
        let refused = open(&app.base, bearer).await.unwrap_err();
        assert_refused(refused, "InvalidNodeCredential");
    }
    let node = TestNode::joined(&app, region("westus")).await;
    let other = TestNode::joined(&app, region("westus")).await;
    let mut as_other = node.clone();
    as_other.node_id = other.node_id;
    let mut elsewhere = node.clone();
    elsewhere.region = region("northeurope");
    for pretender in [as_other, elsewhere] {
        let reason = pretender.connect(&app).await.closed().await;
        assert!(
            reason.starts_with("the credential is that of node"),
            "{reason}"
        );
    }
    let plain = app
        .send(Method::GET, "/config/v1/stream", &node.credential, None)
        .await;
    assert_eq!((plain.status, plain.code()), (400, "WebSocketRequired"));
    // And a node's credential opens nothing else.
    let path = format!("{}?api-version=2022-12-01", app.subscription());
    let reply = app.send(Method::GET, &path, &node.credential, None).await;
    assert_eq!(reply.status, 401);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_breaks_the_protocol_ends_the_stream_with_the_reason(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let node = TestNode::joined(&app, region("westus")).await;
    let applied = |sequence, revision| NodeMessage::Applied {
        sequence,
        epoch: None,
        revision: Revision(revision),
        rejected: Vec::new(),
    };
    let ahead = applied(1, u64::MAX);
    let repeated = applied(0, 0);
    let cases = [
        (
            serde_json::to_string(&ahead).unwrap(),
            "is 'applied', but the newest mark is",
        ),
        (
            serde_json::to_string(&repeated).unwrap(),
            "the sequence 0 of 'applied' follows 0",
        ),
        (
            serde_json::to_string(&node.hello()).unwrap(),
            "'hello' was said before",
        ),
        ("{\"type\":\"ahoy\"}".to_owned(), "a message cannot be read"),
        ("x".repeat(5 * 1024 * 1024), ""),
    ];
    for (text, reason) in cases {
        let mut stream = node.clone().connect(&app).await;
        stream.mark().await.unwrap();
        // The control plane may close before all of it is sent.
        let _ = stream.socket.send(Message::text(text)).await;
        let closed = stream.closed().await;
        assert!(closed.contains(reason), "{closed}");
    }
    let mut silent = open(&app.base, &node.credential).await.unwrap();
    silent
        .send(Message::text(
            serde_json::to_string(&applied(1, 1)).unwrap(),
        ))
        .await
        .unwrap();
    let Some(Ok(Message::Close(Some(frame)))) = silent.next().await else {
        panic!("not closed")
    };
    assert_eq!(frame.reason.as_str(), "the first message must be 'hello'");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_join_token_joins_one_node(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let westus = region("westus");
    let token = join_token(&app, &westus).await;
    let first = join(&app, join_body(&token, &westus)).await;
    assert_eq!(first.status, 201, "{}", first.body);
    assert_eq!(first.header("x-wharfinger-propagation"), "complete");
    assert_eq!(first.header("cache-control"), "no-store");
    let used = join(&app, join_body(&token, &westus)).await;
    assert_eq!((used.status, used.code()), (403, "JoinTokenUsed"));
    let expired = join_token(&app, &westus).await;
    sqlx::query("UPDATE node_join_tokens SET expires_at = now() - interval '1 second' WHERE used_at IS NULL")
        .execute(app.store.pool())
        .await
        .unwrap();
    let expired = join(&app, join_body(&expired, &westus)).await;
    assert_eq!((expired.status, expired.code()), (403, "JoinTokenExpired"));
    let token = join_token(&app, &westus).await;
    let elsewhere = join(&app, join_body(&token, &region("northeurope"))).await;
    assert_eq!(
        (elsewhere.status, elsewhere.code()),
        (403, "JoinTokenOfOtherRegion")
    );
    let unknown = generate(SecretKind::JoinToken, &SystemRandomness);
    for wrong in [unknown.expose(), app.token.as_str(), "", "wfj_short"] {
        let refused = join(&app, join_body(wrong, &westus)).await;
        assert_eq!((refused.status, refused.code()), (401, "InvalidJoinToken"));
    }
    let mut malformed = join_body(&token, &region("west us"));
    malformed["address"] = json!("nowhere");
    let refused = join(&app, malformed).await;
    assert_eq!(refused.status, 400);
    let targets: Vec<&str> = refused.body["error"]["details"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["target"].as_str().unwrap())
        .collect();
    assert_eq!(targets, ["region", "address"], "every fault is named");
    let last = join(&app, join_body(&token, &westus)).await;
    assert_eq!(
        last.status, 201,
        "refusals did not use it up: {}",
        last.body
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn operators_see_who_has_what(pool: PgPool) {
    let app = TestApp::spawn_hurried(pool).await;
    let mut stream = TestNode::connected(&app, region("westus")).await;
    let absent = TestNode::joined(&app, region("northeurope")).await;
    let head = app.get("/config/v1/nodes").await.body["revision"]
        .as_u64()
        .unwrap();
    stream.answer_until_heard(Revision(head)).await;
    let list = app.get("/config/v1/nodes").await;
    let nodes = list.body["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2);
    assert_eq!(
        nodes[0]["nodeId"],
        absent.node_id.to_string(),
        "in the order of regions"
    );
    assert_eq!(
        (&nodes[0]["isLive"], &nodes[0]["lag"]),
        (&json!(false), &json!(head))
    );
    assert_eq!(
        (&nodes[1]["isLive"], &nodes[1]["lag"]),
        (&json!(true), &json!(0))
    );
    let view = app.get(&format!("/config/v1/propagation/{head}")).await;
    assert_eq!(view.body["propagation"], "partial");
    assert_eq!(view.body["missing"].as_array().unwrap().len(), 1);
    for (path, status, code) in [
        (
            format!("/config/v1/propagation/{}", head + 1),
            404,
            "RevisionNotFound",
        ),
        (
            "/config/v1/propagation/newest".to_owned(),
            400,
            "InvalidRevision",
        ),
        (
            "/config/v1/propagation/-1".to_owned(),
            400,
            "InvalidRevision",
        ),
    ] {
        let reply = app.get(&path).await;
        assert_eq!((reply.status, reply.code()), (status, code));
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_control_plane_waits_for_nodes_of_another(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    let other = Arc::new(app.replica().await);
    let mut stream = TestNode::joined(&app, region("westus"))
        .await
        .connect(&other)
        .await;
    let mark = stream.mark().await.unwrap();
    stream.answer(mark).await;
    let running = stream.run();
    for name in ["alpha", "bravo", "charlie"] {
        let reply = change(&app, name).await;
        assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    }
    assert_eq!(
        running.stop().await.registry_names(),
        ["alpha", "bravo", "charlie"]
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn nodes_converge_while_two_control_planes_write(pool: PgPool) {
    let app = Arc::new(TestApp::spawn(pool).await);
    app.create_group("group").await;
    let other = Arc::new(app.replica().await);
    let mut running = Vec::new();
    for (at, home) in [&app, &other, &app].into_iter().enumerate() {
        let name = ["westus", "northeurope"][at % 2];
        let mut stream = TestNode::joined(&app, region(name))
            .await
            .connect(home)
            .await;
        let mark = stream.mark().await.unwrap();
        stream.answer(mark).await;
        running.push(stream.run());
    }
    let mut writers = Vec::new();
    for (writer, home) in [app.clone(), other.clone(), app.clone(), other.clone()]
        .into_iter()
        .enumerate()
    {
        writers.push(tokio::spawn(async move {
            for at in 0..8 {
                let reply = change(&home, &format!("registry{writer}{at}")).await;
                assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for node in running {
        assert_eq!(node.stop().await.registry_names().len(), 32);
    }
}
