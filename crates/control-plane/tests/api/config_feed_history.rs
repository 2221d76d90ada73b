//! Epochs, forms, fencing and several control planes, with nodes that speak the protocol.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config_documents::{Epoch, Rejected, Revision};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use store::config::{self, Cause};
use tokio::net::TcpStream;

use crate::config_feed::{change, end_leases, revision};
use crate::support::TestApp;
use crate::test_node::{Mark, PATIENCE, Stream, TestNode, join, join_body, join_token, region};

/// A node that has applied what there is.
async fn current(app: &TestApp, node: TestNode) -> (Stream, Mark) {
    let mut stream = node.connect(app).await;
    let mark = stream.mark().await.unwrap();
    stream.answer(mark).await;
    loop {
        let mark = stream.mark().await.unwrap();
        if mark.heard > 0 {
            return (stream, mark);
        }
        stream.answer(mark).await;
    }
}

async fn joined(app: &TestApp) -> TestNode {
    TestNode::joined(app, region("westus")).await
}

/// Answers marks until one of another epoch.
async fn until_other_epoch(stream: &mut Stream, epoch: Epoch) -> Mark {
    loop {
        let mark = stream.mark().await.unwrap();
        if mark.epoch != epoch {
            return mark;
        }
        stream.answer(mark).await;
    }
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_new_epoch_comes_as_a_snapshot_on_the_same_stream(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    let (mut stream, first) = current(&app, joined(&app).await).await;
    config::epoch_begin(&app.store, first.epoch, Cause::Operator)
        .await
        .unwrap()
        .unwrap();
    let mark = until_other_epoch(&mut stream, first.epoch).await;
    assert_eq!((stream.snapshots, mark.revision), (2, first.revision));
    // The answer to a mark of the epoch before may still be under way.
    stream.answer(first).await;
    stream.answer_until_heard(mark.revision).await;
    let running = stream.run();
    let reply = change(&app, "after").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    let node = running.stop().await;
    assert_eq!(node.registry_names(), ["after"]);
    assert_eq!(node.position, Some((mark.epoch, revision(&reply))));
    assert!(
        app.metrics
            .encode()
            .unwrap()
            .contains("wharfinger_config_epochs_begun_total 1")
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_node_that_does_not_say_its_epoch_gets_a_new_stream_for_a_new_one(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let mut node = joined(&app).await;
    node.forms.remove("stream");
    let (stream, first) = current(&app, node.clone()).await;
    config::epoch_begin(&app.store, first.epoch, Cause::Operator)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        stream.closed().await,
        "a new epoch of the configuration has begun"
    );
    let (stream, again) = current(&app, node).await;
    assert_eq!(stream.snapshots, 1);
    assert_ne!(again.epoch, first.epoch);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_node_ahead_of_the_head_begins_a_new_epoch(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    let (stream, mark) = current(&app, joined(&app).await).await;
    let mut node = stream.node.clone();
    drop(stream);
    node.position = Some((mark.epoch, Revision(mark.revision.0 + 100)));
    let (stream, again) = current(&app, node).await;
    assert_eq!(stream.snapshots, 1);
    assert_ne!(again.epoch, mark.epoch);
    let running = stream.run();
    let reply = change(&app, "after").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    // One that goes on claiming so does not bring about an epoch each time.
    let mut node = running.stop().await;
    node.position = Some((again.epoch, Revision(again.revision.0 + 100)));
    let mut stream = node.connect(&app).await;
    assert!(stream.mark().await.is_err(), "it has to wait");
    let head = config::head(&app.store).await.unwrap().position;
    assert_eq!(head.epoch, again.epoch);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn what_went_back_unseen_is_seen_by_the_control_plane_itself(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    change(&app, "before").await;
    let (mut stream, mark) = current(&app, joined(&app).await).await;
    // As if the files had been put back as they were: only what is gone tells.
    sqlx::query("UPDATE config_head SET revision = revision - 2")
        .execute(app.store.pool())
        .await
        .unwrap();
    let again = until_other_epoch(&mut stream, mark.epoch).await;
    assert_eq!(again.revision.0, mark.revision.0 - 2);
}

/// A change that is committed, while its node does not answer before a new epoch has begun: what is said of the change.
async fn propagation_across(app: TestApp, cause: Cause) -> String {
    let app = Arc::new(app);
    app.create_group("group").await;
    let (mut stream, first) = current(&app, joined(&app).await).await;
    let changing = {
        let app = Arc::clone(&app);
        tokio::spawn(async move { change(&app, "across").await })
    };
    while stream.node.registry_names().is_empty() {
        stream.mark().await.unwrap();
    }
    config::epoch_begin(&app.store, first.epoch, cause)
        .await
        .unwrap()
        .unwrap();
    // Answers to marks of the epoch before do not count either.
    loop {
        let mark = stream.mark().await.unwrap();
        if mark.epoch != first.epoch {
            stream.answer(mark).await;
            break;
        }
    }
    let running = stream.run();
    let reply = changing.await.unwrap();
    running.stop().await;
    reply.header("x-wharfinger-propagation").to_owned()
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_change_is_complete_across_an_epoch_that_holds_it(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    assert_eq!(propagation_across(app, Cause::Operator).await, "complete");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_change_that_may_be_lost_is_pending(pool: PgPool) {
    let app = TestApp::spawn_hurried(pool).await;
    assert_eq!(propagation_across(app, Cause::WentBack).await, "pending");
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_fenced_node_is_not_waited_for(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    let mut bounded = joined(&app).await;
    bounded.staleness_bound_seconds = Some(1);
    let (stream, _) = current(&app, bounded).await;
    let bounded = stream.node.clone();
    drop(stream);
    let (stream, _) = current(&app, joined(&app).await).await;
    let unbounded = stream.node.node_id.to_string();
    drop(stream);
    end_leases(&app).await;
    let is_fenced = async {
        while app.get("/config/v1/nodes").await.body["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|node| node["isFenced"] == false)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, is_fenced).await.unwrap();
    let reply = change(&app, "stale").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "partial");
    assert_eq!(
        reply.header("x-wharfinger-missing"),
        unbounded,
        "it serves without bound"
    );
    sqlx::query("DELETE FROM nodes WHERE node_id = $1::uuid")
        .bind(&unbounded)
        .execute(app.store.pool())
        .await
        .unwrap();
    let reply = change(&app, "fenced").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    let path = format!("/config/v1/propagation/{}", revision(&reply));
    let view = app.get(&path).await.body;
    assert_eq!(view["propagation"], "complete");
    assert_eq!(view["missing"], json!([]));
    assert_eq!(view["fenced"][0]["nodeId"], bounded.node_id.to_string());
    assert_eq!(view["fenced"][0]["stalenessBoundSeconds"], 1);
    // It is not fenced once it is told that it was heard, and it has the change by then.
    let mut stream = bounded.connect(&app).await;
    loop {
        let mark = stream.mark().await.unwrap();
        if mark.heard > 0 {
            break;
        }
        stream.answer(mark).await;
    }
    assert_eq!(stream.node.registry_names(), ["fenced", "stale"]);
    let view = app.get(&path).await.body;
    assert_eq!(view["fenced"], json!([]));
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_removed_node_is_told_so_at_once(pool: PgPool) {
    let app = TestApp::spawn_hurried(pool).await;
    let (stream, _) = current(&app, joined(&app).await).await;
    let mut early = joined(&app).await;
    early.forms.remove("stream");
    let (early, _) = current(&app, early).await;
    for node_id in [stream.node.node_id, early.node.node_id] {
        store::nodes::remove(&app.store, node_id)
            .await
            .unwrap()
            .unwrap();
    }
    let (removed, reason) = stream.last_words().await;
    assert_eq!(
        (removed, reason.as_str()),
        (1, "the node is not enrolled any more")
    );
    let (removed, reason) = early.last_words().await;
    assert_eq!(
        (removed, reason.as_str()),
        (0, "the node is not enrolled any more"),
        "it would not understand"
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn many_rejected_documents_are_bounded_and_the_newest_decide(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    let (mut stream, mark) = current(&app, joined(&app).await).await;
    // The one that counts is far behind the bound in the order that the node says it.
    let of = |at: u64| Rejected {
        region: region("*"),
        kind: "registry-name".to_owned(),
        key: format!("strange{at}"),
        revision: Revision(at),
        reason: "\0".repeat(400),
    };
    stream.rejected = (0..1_500).map(|_| of(0)).collect();
    stream.rejected.push(of(mark.revision.0 + 1));
    stream.answer_until_heard(mark.revision).await;
    let list = app.get("/config/v1/nodes").await;
    let rejected = list.body["nodes"][0]["rejected"].as_array().unwrap();
    assert_eq!(rejected.len(), 1_000);
    assert_eq!(rejected[0]["revision"], mark.revision.0 + 1);
    assert_eq!(rejected[0]["reason"].as_str().unwrap().chars().count(), 300);
    let running = stream.run();
    let reply = change(&app, "strange").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "partial");
    running.stop().await;
}

/// Region and form of each signing key that a node has.
fn signing_keys(node: &TestNode) -> Vec<(String, u64)> {
    let keys = node
        .documents
        .values()
        .filter(|document| document.kind == "signing-key");
    keys.map(|key| {
        let body: Value = serde_json::from_str(key.body.as_deref().unwrap()).unwrap();
        (key.region.0.clone(), body["form"].as_u64().unwrap())
    })
    .collect()
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_newer_form_is_published_once_the_last_node_announces_it(pool: PgPool) {
    let app = TestApp::spawn_hurried(pool).await;
    // As an earlier build left it. Without a node of an earlier build the forms would be raised at once.
    sqlx::query(
        "WITH earlier AS (
             INSERT INTO nodes (node_id, region, address, verifier, kid, forms, created_at)
             VALUES (gen_random_uuid(), 'westus', 'localhost:1', '', 'earlier', '{}', now())
         )
         UPDATE config_head SET forms = '{}'",
    )
    .execute(app.store.pool())
    .await
    .unwrap();
    let westus = region("westus");
    let token = join_token(&app, &westus).await;
    let mut body = join_body(&token, &westus);
    body.as_object_mut().unwrap().remove("forms");
    let reply = join(&app, body).await;
    assert_eq!(reply.status, 201, "{}", reply.body);
    sqlx::query("DELETE FROM nodes WHERE kid = 'earlier'")
        .execute(app.store.pool())
        .await
        .unwrap();
    let mut old = TestNode::of_reply(&reply, westus.clone());
    old.forms = BTreeMap::new();
    let (stream, _) = current(&app, old.clone()).await;
    assert_eq!(signing_keys(&stream.node), [("westus".to_owned(), 1)]);
    drop(stream);
    let (mut other, _) = current(&app, TestNode::joined(&app, region("northeurope")).await).await;
    assert_eq!(signing_keys(&other.node), [("northeurope".to_owned(), 1)]);
    // The node comes back with a newer build.
    old.forms = config_documents::forms();
    let (mut stream, _) = current(&app, old).await;
    let everywhere = vec![("*".to_owned(), 2); 2];
    for stream in [&mut stream, &mut other] {
        while signing_keys(&stream.node) != everywhere {
            let mark = stream.mark().await.unwrap();
            stream.answer(mark).await;
        }
    }
    // And now no older one may join.
    let token = join_token(&app, &westus).await;
    let mut body = join_body(&token, &westus);
    body["forms"] = json!({ "signing-key": 1 });
    let refused = join(&app, body).await;
    assert_eq!((refused.status, refused.code()), (403, "NodeTooOld"));
    assert!(
        refused.message().contains("'signing-key' in form 2"),
        "{}",
        refused.message()
    );
    let joined = join(&app, join_body(&token, &westus)).await;
    assert_eq!(
        joined.status, 201,
        "the token is still good: {}",
        joined.body
    );
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_stream_at_another_control_plane_ends_the_first(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let other = app.replica().await;
    let (mut first, mark) = current(&app, joined(&app).await).await;
    let (second, _) = current(&other, first.node.clone()).await;
    first.answer(mark).await;
    assert_eq!(first.closed().await, "the node opened another stream");
    let connected = |list: &Value| list["nodes"][0]["isConnectedHere"].clone();
    assert_eq!(connected(&other.get("/config/v1/nodes").await.body), true);
    assert_eq!(connected(&app.get("/config/v1/nodes").await.body), false);
    drop(second);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_stream_that_is_dead_at_the_other_end_does_not_hide_the_node_at_another_control_plane(
    pool: PgPool,
) {
    let app = TestApp::spawn(pool).await;
    app.create_group("group").await;
    let other = app.replica().await;
    // It stays open and says nothing any more.
    let (first, _) = current(&app, joined(&app).await).await;
    let (second, _) = current(&other, first.node.clone()).await;
    let running = second.run();
    let mut outcomes = Vec::new();
    for attempt in 0..3 {
        let reply = change(&app, &format!("hidden{attempt}")).await;
        outcomes.push(reply.header("x-wharfinger-propagation").to_owned());
    }
    assert_eq!(outcomes[2], "complete", "{outcomes:?}");
    running.stop().await;
    drop(first);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn no_revision_is_lost_repeated_or_skipped_when_a_control_plane_ends_amid_writes(
    pool: PgPool,
) {
    let app = Arc::new(TestApp::spawn(pool).await);
    app.create_group("group").await;
    let other = Arc::new(app.replica().await);
    let (mut stream, first) = current(&other, joined(&app).await).await;
    let writers: Vec<_> = [&app, &app, &other, &other]
        .into_iter()
        .enumerate()
        .map(|(writer, home)| {
            let (home, is_ending) = (Arc::clone(home), Arc::ptr_eq(home, &other));
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for at in 0..25 {
                    let path = home.registry("group", &format!("registry{writer}at{at}"));
                    let path = format!("{path}?api-version={}", crate::support::REGISTRIES);
                    let body = json!({ "location": "westus", "sku": { "name": "Basic" }, "properties": { "adminUserEnabled": true } });
                    let request = home
                        .request(Method::PUT, &path)
                        .bearer_auth(&home.token)
                        .json(&body);
                    match request.send().await {
                        Ok(answer) => {
                            assert_eq!(answer.status(), 201);
                            let revision = answer.headers()["x-wharfinger-revision"].to_str();
                            revisions.push(revision.unwrap().parse::<u64>().unwrap());
                        }
                        Err(error) => {
                            assert!(is_ending, "{error}");
                            break;
                        }
                    }
                }
                revisions
            })
        })
        .collect();
    // Once it is in the midst of it.
    let mut seen = first.revision;
    while seen.0 < first.revision.0 + 10 {
        let mark = stream.mark().await.unwrap();
        assert!(mark.revision >= seen);
        seen = mark.revision;
        stream.answer(mark).await;
    }
    other.stop();
    let node = stream.node_at_end().await;
    let (stream, again) = current(&app, node).await;
    assert_eq!((again.epoch, stream.snapshots), (first.epoch, 0));
    assert!(again.revision >= seen);
    let running = stream.run();
    let mut revisions = Vec::new();
    for writer in writers {
        revisions.extend(writer.await.unwrap());
    }
    revisions.sort_unstable();
    let known = revisions.len();
    revisions.dedup();
    assert_eq!(revisions.len(), known, "none is repeated");
    // At one moment: a request that was cut off may still be at its commit.
    let (head, registries): (i64, i64) =
        sqlx::query_as("SELECT revision, (SELECT count(*) FROM registries) FROM config_head")
            .fetch_one(app.store.pool())
            .await
            .unwrap();
    let head = u64::try_from(head).unwrap();
    assert!(known >= 50 && head >= *revisions.last().unwrap());
    // Each creation is one revision, answered or not.
    assert_eq!(
        head - first.revision.0,
        u64::try_from(registries).unwrap(),
        "none is skipped"
    );
    let last = change(&app, "last1").await;
    assert_eq!(last.header("x-wharfinger-propagation"), "complete");
    let node = running.stop().await;
    let last = usize::try_from(registries).unwrap() + 1;
    assert_eq!(node.registry_names().len(), last);
}

#[sqlx::test(migrator = "store::MIGRATIONS")]
async fn a_control_plane_ends_without_waiting_for_idle_connections(pool: PgPool) {
    let app = TestApp::spawn(pool).await;
    let (stream, _) = current(&app, joined(&app).await).await;
    let address = app.base.strip_prefix("http://").unwrap().to_owned();
    let idle = TcpStream::connect(&address).await.unwrap();
    let started = Instant::now();
    app.stop();
    assert_eq!(stream.closed().await, "the control plane is stopping");
    let refused = async {
        while TcpStream::connect(&address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    // Ten seconds is what it waits for what does not end.
    assert!(started.elapsed() < Duration::from_secs(9));
    drop(idle);
}
