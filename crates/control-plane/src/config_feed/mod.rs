//! The feed of configuration to nodes, and what comes back from them.
//!
//! One task reads what was published and hands it to the streams of all nodes that are connected to this control plane ([`reader`]);
//! what nodes answer is kept in memory and written for other control planes ([`connections`]); an operation waits here until its change is
//! in force ([`propagation`]). What documents mean does not belong here.

mod connections;
mod credential;
mod inbound;
mod limits;
mod maintenance;
mod metrics;
mod operations;
mod outbound;
mod propagation;
mod reader;
mod rotation;
mod stream;
mod usage;
mod used;
mod views;

pub(crate) use propagation::Propagation;
pub(crate) use stream::configure;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use service::in_flight::InFlight;
use service::shutdown::Shutdown;
use store::Store;
use store::config::Published;
use tokio::sync::Semaphore;
use uuid::Uuid;

use connections::Connections;
use limits::{Attempts, CATCH_UPS, SNAPSHOTS};
use maintenance::Maintenance;
use metrics::FeedMetrics;
use propagation::Nodes;
use reader::Reader;
use usage::Usage;
use used::Used;

use crate::Parts;
use crate::front_door::Operation;
use crate::limits::SHUTDOWN_TIMEOUT;

/// The operations beside the stream.
pub(crate) fn operations() -> Vec<Operation> {
    let mut operations = operations::operations();
    operations.extend(views::operations());
    operations
}

/// The feed of one control plane.
pub(crate) struct ConfigFeed {
    store: Store,
    shutdown: Shutdown,
    /// Asked for once the shutdown is, and nobody needs the feed any more.
    done: Shutdown,
    /// Tells this control plane's notifications from others'.
    instance: Uuid,
    /// How long an operation waits for nodes before it answers `pending`.
    propagation_timeout: Duration,
    metrics: FeedMetrics,
    reader: Reader,
    connections: Connections,
    nodes: Nodes,
    maintenance: Maintenance,
    /// Bounds how many streams read on their own at once: each holds a connection of the pool.
    catch_ups: Semaphore,
    snapshots: Semaphore,
    attempts: Attempts,
    /// The credentials that nodes say were used.
    used: Used,
    /// How much nodes say registries store.
    usage: Usage,
    /// When a node last claimed a revision above the head.
    went_back_at: Mutex<Option<Instant>>,
}

impl ConfigFeed {
    /// Starts the feed's tasks. They end with the shutdown, but not before the last stream and the last request. Call it inside a tokio
    /// runtime that outlives the feed.
    pub(crate) fn start(parts: &Parts, requests: &InFlight) -> Arc<Self> {
        let feed = Arc::new(Self {
            store: parts.store.clone(),
            shutdown: parts.shutdown.clone(),
            done: Shutdown::new(),
            instance: Uuid::new_v4(),
            propagation_timeout: parts.settings.propagation_timeout,
            metrics: FeedMetrics::register(&parts.metrics),
            reader: Reader::new(),
            connections: Connections::new(),
            nodes: Nodes::new(),
            maintenance: Maintenance::new(),
            catch_ups: Semaphore::new(CATCH_UPS),
            snapshots: Semaphore::new(SNAPSHOTS),
            attempts: Attempts::new(),
            used: Used::default(),
            usage: Usage::default(),
            went_back_at: Mutex::default(),
        });
        feed.spawn(|feed| async move { reader::follow(&feed).await });
        feed.spawn(|feed| async move { reader::listen(&feed).await });
        feed.spawn(|feed| async move { reader::announce(&feed).await });
        feed.spawn(|feed| async move { connections::write_progress(&feed).await });
        feed.spawn(|feed| async move { propagation::follow_nodes(&feed).await });
        feed.spawn(|feed| async move { maintenance::raise_forms(&feed).await });
        feed.spawn(|feed| async move { maintenance::purge(&feed).await });
        feed.spawn(|feed| async move { rotation::withdraw_retired_keys(&feed).await });
        let clock = Arc::clone(&parts.clock);
        feed.spawn(|feed| async move { used::write_used(&feed, &clock).await });
        let clock = Arc::clone(&parts.clock);
        feed.spawn(|feed| async move { usage::write_usage(&feed, &clock).await });
        let (ending, requests) = (Arc::clone(&feed), requests.clone());
        tokio::spawn(async move {
            ending.shutdown.wait().await;
            let handed_over = async {
                ending.streams_ended().await;
                requests.none().await;
            };
            let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, handed_over).await;
            ending.done.request();
        });
        feed
    }

    /// Returns when no node is connected here any more.
    async fn streams_ended(&self) {
        let mut changes = self.connections.changes();
        while self.connections.count() > 0 {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns when nobody needs the feed any more: after the shutdown, when streams are handed over and requests are answered, or when
    /// that took too long.
    pub(crate) async fn done(&self) {
        self.done.wait().await;
    }

    /// Runs a task until the feed is done.
    fn spawn<F, R>(self: &Arc<Self>, task: F)
    where
        F: FnOnce(Arc<Self>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let feed = Arc::clone(self);
        tokio::spawn(async move {
            let done = feed.done.clone();
            tokio::select! {
                () = task(feed) => {}
                () = done.wait() => {}
            }
        });
    }

    /// Says that this control plane committed something that nodes must know: it is read and sent at once, and other control planes are
    /// told. Cheap, and may be called too often.
    pub(crate) fn wake(&self) {
        self.reader.wake();
        self.reader.wake_others();
    }

    /// Waits until a change is in force, until it is known that it cannot be soon, or until the bound. Holds no connection while it waits
    /// and never fails: after a commit the answer is what is known.
    pub(crate) async fn wait(&self, published: &Published) -> Propagation {
        self.wait_but_for(published, None).await
    }
}
