//! What happens to running control planes and their nodes when Postgres restarts, is restored or fails over.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use config_documents::{Epoch, Revision};
use store::Store;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cluster::{Address, Cluster, DATABASE};
use crate::support::{REGISTRIES, Reply, TestApp};
use crate::test_node::{PATIENCE, TestNode, region};

type Position = (Epoch, Revision);

async fn app_on(socket: &str) -> Arc<TestApp> {
    let store = Store::open(&Cluster::url(socket)).unwrap();
    store.migrate().await.unwrap();
    let app = TestApp::spawn_on(store).await;
    app.create_group("group").await;
    Arc::new(app)
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

/// A node that follows whatever comes, over as many streams as it takes, until it is stopped.
struct Follower {
    stop: watch::Sender<bool>,
    task: JoinHandle<TestNode>,
    seen: watch::Receiver<Option<Position>>,
}

impl Follower {
    async fn join(app: &Arc<TestApp>, region_name: &str) -> Self {
        let node = TestNode::joined(app, region(region_name)).await;
        let this = Self::of(app, node);
        this.has(Revision(1)).await;
        this
    }

    fn of(app: &Arc<TestApp>, node: TestNode) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let (saw, seen) = watch::channel(None);
        let app = Arc::clone(app);
        let task = tokio::spawn(async move {
            let mut node = node;
            loop {
                let mut stream = match node.try_connect(&app).await {
                    Ok(stream) => stream,
                    Err(same) => {
                        node = same;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                };
                loop {
                    tokio::select! {
                        mark = stream.mark() => match mark {
                            Ok(mark) if stream.try_answer(mark).await => {
                                saw.send_replace(Some((mark.epoch, mark.revision)));
                            }
                            _ => break,
                        },
                        _ = stopped.changed() => return stream.node,
                    }
                }
                node = stream.node;
            }
        });
        Self { stop, task, seen }
    }

    /// Returns once it has a revision of any epoch, and says which.
    async fn has(&self, revision: Revision) -> Epoch {
        let mut seen = self.seen.clone();
        let waited = seen.wait_for(|seen| seen.is_some_and(|(_, has)| has >= revision));
        let waited = tokio::time::timeout(PATIENCE, waited).await.unwrap();
        waited.unwrap().unwrap().0
    }

    async fn stop(self) -> TestNode {
        self.stop.send(true).unwrap();
        self.task.await.unwrap()
    }
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

/// Three nodes: two go away with changes that are going to be lost, and one stays.
async fn nodes_with_lost_changes(
    app: &Arc<TestApp>,
    before_lost: impl AsyncFnOnce(),
) -> (Vec<TestNode>, Follower) {
    let present = Follower::join(app, "westus").await;
    let leaving = [
        Follower::join(app, "westus").await,
        Follower::join(app, "northeurope").await,
    ];
    change(app, "steady").await;
    before_lost().await;
    for at in 0..5 {
        let reply = change(app, &format!("lost{at}")).await;
        assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    }
    let mut absent = Vec::new();
    for follower in leaving {
        absent.push(follower.stop().await);
    }
    assert!(absent[0].registry_names().contains(&"lost4"));
    (absent, present)
}

/// After five changes were lost and seven made: nodes that were away, and one that was not, have what there is, and nobody told them.
async fn converges(app: &Arc<TestApp>, absent: Vec<TestNode>, present: Follower) {
    let (epoch, lost) = absent[0].position.unwrap();
    let mut made = Revision(0);
    for at in 0..7 {
        made = revision(&change(app, &format!("after{at}")).await);
    }
    assert!(made > lost, "more were made than were lost");
    let mut followers = vec![present];
    for node in absent {
        followers.push(Follower::of(app, node));
    }
    for follower in &followers {
        assert_ne!(follower.has(made).await, epoch);
    }
    let reply = change(app, "latest").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
    let registries = registries(app).await;
    assert!(registries.contains(&"steady".to_owned()));
    assert!(!registries.contains(&"lost0".to_owned()));
    for follower in followers {
        let node = follower.stop().await;
        assert_eq!(node.registry_names(), registries);
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
async fn after_a_restart_of_postgres_nobody_is_refused_any_more() {
    let cluster = Cluster::start();
    let app = app_on(cluster.socket()).await;
    change(&app, "steady").await;
    let path = format!(
        "{}?api-version={REGISTRIES}",
        app.registry("group", "steady")
    );
    let (stop, stopped) = watch::channel(false);
    let answers = Arc::new(Mutex::new(Vec::new()));
    // Some ask all the time, some only now and then: their connections are old when Postgres is back.
    let clients: Vec<_> = [0, 0, 0, 0, 700, 900]
        .into_iter()
        .map(|pause| {
            let (app, path, stopped) = (Arc::clone(&app), path.clone(), stopped.clone());
            let answers = Arc::clone(&answers);
            tokio::spawn(async move {
                while !*stopped.borrow() {
                    let reply = app.get(&path).await;
                    if reply.status != 200 {
                        assert_unavailable(&reply);
                    }
                    answers.lock().unwrap().push((Instant::now(), reply.status));
                    tokio::time::sleep(Duration::from_millis(pause + 1)).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.stop("fast");
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.resume();
    let back = Instant::now();
    // Each client has asked several times by then.
    let is_over = || {
        let answers = answers.lock().unwrap();
        let last_bad = answers.iter().rev().find(|answer| answer.1 != 200);
        let since = last_bad.map_or(back, |answer| answer.0.max(back));
        since.elapsed() > Duration::from_secs(3)
            && answers.last().is_some_and(|last| last.0 > since)
    };
    while !is_over() {
        assert!(back.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.send(true).unwrap();
    for client in clients {
        client.await.unwrap();
    }
    let answers = answers.lock().unwrap().clone();
    let after = |is_good: bool| {
        let of_kind = answers
            .iter()
            .filter(move |answer| (answer.1 == 200) == is_good);
        of_kind.filter_map(|answer| answer.0.checked_duration_since(back))
    };
    let refused = answers.iter().filter(|answer| answer.1 != 200).count();
    #[expect(clippy::print_stderr, reason = "the figure is what the test is for")]
    {
        eprintln!(
            "after Postgres was back: first success {:?}, last refusal {:?}; {refused} of {} requests were refused in all",
            after(true).min(),
            after(false).max(),
            answers.len()
        );
    }
    assert!(refused > 0, "it was away");
    let reply = change(&app, "after").await;
    assert_eq!(reply.header("x-wharfinger-propagation"), "complete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_get_no_connection_are_told_to_come_back_and_the_next_ones_are_served() {
    let cluster = Cluster::start();
    let app = app_on(cluster.socket()).await;
    change(&app, "steady").await;
    let path = format!(
        "{}?api-version={REGISTRIES}",
        app.registry("group", "steady")
    );
    let mut hanging = app.store.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE registries IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *hanging)
        .await
        .unwrap();
    // More than there are connections: the first ones wait for the lock, the others for a connection.
    let requests: Vec<_> = (0..40)
        .map(|_| {
            let (app, path) = (Arc::clone(&app), path.clone());
            tokio::spawn(async move { app.get(&path).await })
        })
        .collect();
    for request in requests {
        assert_unavailable(&request.await.unwrap());
    }
    hanging.rollback().await.unwrap();
    // Without a connection it would be refused, too.
    let reply = app.get(&path).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
}
