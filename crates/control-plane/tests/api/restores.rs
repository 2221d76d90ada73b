//! What happens to running control planes and their nodes when Postgres restarts, is restored or fails over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use config_documents::Revision;
use store::Store;
use tokio::sync::watch;

use crate::cluster::{Address, Cluster, DATABASE};
use crate::support::{REGISTRIES, Reply, TestApp};
use crate::test_node::{PATIENCE, Stream, TestNode, region};

async fn app_on(socket: &str) -> TestApp {
    let store = Store::open(&Cluster::url(socket)).unwrap();
    store.migrate().await.unwrap();
    let app = TestApp::spawn_on(store).await;
    app.create_group("group").await;
    app
}

/// Creates a registry; while the database is away, again and again.
async fn change(app: &TestApp, name: &str) -> Reply {
    let path = format!("{}?api-version={REGISTRIES}", app.registry("group", name));
    let body = serde_json::json!({ "location": "westus", "sku": { "name": "Basic" }, "properties": { "adminUserEnabled": true } });
    let until = Instant::now() + PATIENCE;
    loop {
        let reply = app.put(&path, body.clone()).await;
        if reply.status == 200 || reply.status == 201 {
            return reply;
        }
        assert_unavailable(&reply);
        assert!(Instant::now() < until, "{}", reply.body);
    }
}

fn assert_unavailable(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert!(!reply.header("retry-after").is_empty());
}

/// A node that has applied what there is and answers whatever comes.
async fn following(app: &TestApp, region_name: &str) -> Stream {
    let mut stream = TestNode::joined(app, region(region_name))
        .await
        .connect(app)
        .await;
    let mark = stream.mark().await.unwrap();
    stream.answer_until_heard(mark.revision).await;
    stream
}

/// Lets a node go, with what it has; it has a revision at least.
async fn away(mut stream: Stream, revision: Revision) -> TestNode {
    stream.answer_until_heard(revision).await;
    stream.node
}

fn revision(reply: &Reply) -> Revision {
    Revision(reply.header("x-wharfinger-revision").parse().unwrap())
}

/// The registries that there are.
async fn registries(app: &TestApp) -> Vec<String> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT name_key FROM registries ORDER BY name_key")
            .fetch_all(app.store.pool())
            .await
            .unwrap();
    names
}

/// A node that was away comes back: it gets a snapshot, and then has what there is, and nothing that was lost.
async fn comes_back(app: &TestApp, node: TestNode) {
    let epoch = node.position.unwrap().0;
    let mut stream = node.connect(app).await;
    let mark = stream.mark().await.unwrap();
    assert_ne!(mark.epoch, epoch);
    assert_eq!(stream.snapshots, 1);
    assert_eq!(stream.node.registry_names(), registries(app).await);
    stream.answer_until_heard(mark.revision).await;
}

/// After five changes were lost and seven made: nodes that were away, and one that was not, have what there is.
async fn converges(app: &TestApp, absent: Vec<TestNode>, present: Stream) {
    let (epoch, _) = present.node.position.unwrap();
    let running = present.run();
    let mut last = None;
    for at in 0..7 {
        last = Some(change(app, &format!("after{at}")).await);
    }
    let last = last.unwrap();
    for node in absent {
        comes_back(app, node).await;
    }
    let reply = change(app, "last").await;
    assert_eq!(
        reply.header("x-wharfinger-propagation"),
        "partial",
        "those that came back are gone again"
    );
    let node = running.stop().await;
    let position = node.position.unwrap();
    assert_ne!(position.0, epoch);
    assert!(position.1 > revision(&last));
    assert_eq!(node.registry_names(), registries(app).await);
    assert!(node.registry_names().contains(&"kept"));
    assert!(!node.registry_names().contains(&"lost0"));
}

/// Two nodes that go away with changes that are going to be lost, and one that stays.
async fn nodes_with_lost_changes(
    app: &TestApp,
    before_lost: impl AsyncFnOnce(),
) -> (Vec<TestNode>, Stream) {
    let absent = [
        following(app, "westus").await,
        following(app, "northeurope").await,
    ];
    let mut present = following(app, "westus").await;
    change_with(app, "kept", &mut present).await;
    before_lost().await;
    let mut newest = Revision(0);
    for at in 0..5 {
        newest = revision(&change_with(app, &format!("lost{at}"), &mut present).await);
    }
    let mut gone = Vec::new();
    for stream in absent {
        gone.push(away(stream, newest).await);
    }
    assert!(gone[0].registry_names().contains(&"lost4"));
    (gone, present)
}

/// A change, while a stream answers.
async fn change_with(app: &TestApp, name: &str, stream: &mut Stream) -> Reply {
    let changed = change(app, name);
    let answered = async {
        loop {
            let mark = stream.mark().await.unwrap();
            stream.answer(mark).await;
        }
    };
    tokio::select! {
        reply = changed => reply,
        () = answered => panic!("the stream goes on"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_converge_after_a_dump_was_restored_in_place() {
    let cluster = Cluster::start();
    let app = app_on(cluster.socket()).await;
    let mut dump = None;
    let (absent, present) = nodes_with_lost_changes(&app, async || {
        dump = Some(cluster.dump());
    })
    .await;
    cluster.restore(&dump.unwrap(), DATABASE, ["--clean", "--if-exists"]);
    converges(&app, absent, present).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_converge_after_a_dump_was_restored_into_another_database() {
    let cluster = Cluster::start();
    let app = app_on(cluster.socket()).await;
    let mut dump = None;
    let (absent, present) = nodes_with_lost_changes(&app, async || {
        dump = Some(cluster.dump());
    })
    .await;
    cluster.run_sql("postgres", "CREATE DATABASE restored");
    cluster.restore(&dump.unwrap(), "restored", []);
    for sql in [
        "ALTER DATABASE wharfinger ALLOW_CONNECTIONS false",
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'wharfinger'",
        "ALTER DATABASE wharfinger RENAME TO old",
        "ALTER DATABASE restored RENAME TO wharfinger",
    ] {
        cluster.run_sql("postgres", sql);
    }
    converges(&app, absent, present).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_converge_after_a_failover_that_lost_changes() {
    let primary = Cluster::start();
    let address = Address::of(&primary);
    let app = app_on(&address.socket()).await;
    let replica = Cluster::replica(&primary);
    let (absent, present) = nodes_with_lost_changes(&app, async || {
        replica.caught_up(&primary);
        replica.stop("fast");
    })
    .await;
    primary.stop("immediate");
    // So that it finds nobody to get the rest from.
    drop(primary);
    replica.resume();
    replica.promote();
    address.move_to(&replica);
    converges(&app, absent, present).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_postgres_is_over_within_five_seconds() {
    let cluster = Cluster::start();
    let app = Arc::new(app_on(cluster.socket()).await);
    change(&app, "kept").await;
    let path = format!("{}?api-version={REGISTRIES}", app.registry("group", "kept"));
    let (stop, stopped) = watch::channel(false);
    // Some ask all the time, some only now and then: their connections are old when Postgres is back.
    let clients: Vec<_> = [0, 0, 0, 0, 700, 900]
        .into_iter()
        .map(|pause| {
            let (app, path, stopped) = (Arc::clone(&app), path.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while !*stopped.borrow() {
                    let reply = app.get(&path).await;
                    if reply.status != 200 {
                        assert_unavailable(&reply);
                    }
                    answers.push((Instant::now(), reply.status));
                    tokio::time::sleep(Duration::from_millis(pause + 1)).await;
                }
                answers
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.stop("fast");
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.resume();
    let back = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.send(true).unwrap();
    let mut answers = Vec::new();
    for client in clients {
        answers.extend(client.await.unwrap());
    }
    let after = |answer: &&(Instant, u16)| answer.0 > back;
    let good = answers
        .iter()
        .filter(after)
        .filter(|answer| answer.1 == 200);
    let bad = answers
        .iter()
        .filter(after)
        .filter(|answer| answer.1 != 200);
    let first_good = good.map(|answer| answer.0 - back).min().unwrap();
    let last_bad = bad.map(|answer| answer.0 - back).max().unwrap_or_default();
    let refused = answers.iter().filter(|answer| answer.1 != 200).count();
    #[expect(clippy::print_stderr, reason = "the figure is what the test is for")]
    {
        eprintln!(
            "after Postgres was back: first success {first_good:?}, last refusal {last_bad:?}; {refused} of {} requests were refused in all",
            answers.len()
        );
    }
    assert!(refused > 0, "it was away");
    assert!(first_good < Duration::from_secs(5) && last_bad < Duration::from_secs(5));
    let reply = change(&app, "after").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
}
