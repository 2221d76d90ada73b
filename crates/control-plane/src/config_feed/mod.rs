//! The feed of configuration to nodes, and what comes back from them.
//!
//! One task reads what was published and hands it to the streams of all nodes that are connected to this control plane ([`reader`]);
//! what nodes answer is kept in memory and written for other control planes ([`connections`]); an operation waits here until its change is
//! in force ([`propagation`]). What documents mean does not belong here.

mod connections;
mod limits;
mod metrics;
mod operations;
mod outbound;
mod propagation;
mod reader;
mod stream;

pub(crate) use operations::operations;
pub(crate) use propagation::Propagation;
pub(crate) use stream::configure;

use std::sync::Arc;

use service::shutdown::Shutdown;
use store::Store;
use store::config::Published;
use tokio::sync::Semaphore;
use uuid::Uuid;

use connections::Connections;
use limits::{Attempts, CATCH_UPS};
use metrics::FeedMetrics;
use propagation::Nodes;
use reader::Reader;

use crate::Parts;

/// The feed of one control plane.
pub(crate) struct ConfigFeed {
    store: Store,
    shutdown: Shutdown,
    /// Tells this control plane's notifications from others'.
    instance: Uuid,
    metrics: FeedMetrics,
    reader: Reader,
    connections: Connections,
    nodes: Nodes,
    /// Bounds how many streams read on their own at once: each holds a connection of the pool.
    catch_ups: Semaphore,
    attempts: Attempts,
}

impl ConfigFeed {
    /// Starts the feed's tasks; they end with the shutdown. Call it inside a tokio runtime that outlives the feed.
    pub(crate) fn start(parts: &Parts) -> Arc<Self> {
        let feed = Arc::new(Self {
            store: parts.store.clone(),
            shutdown: parts.shutdown.clone(),
            instance: Uuid::new_v4(),
            metrics: FeedMetrics::register(&parts.metrics),
            reader: Reader::new(),
            connections: Connections::new(),
            nodes: Nodes::new(),
            catch_ups: Semaphore::new(CATCH_UPS),
            attempts: Attempts::new(),
        });
        feed.spawn(|feed| async move { reader::follow(&feed).await });
        feed.spawn(|feed| async move { reader::listen(&feed).await });
        feed.spawn(|feed| async move { reader::announce(&feed).await });
        feed.spawn(|feed| async move { connections::write_progress(&feed).await });
        feed.spawn(|feed| async move { propagation::follow_nodes(&feed).await });
        feed
    }

    /// Runs a task until the shutdown.
    fn spawn<F, R>(self: &Arc<Self>, task: F)
    where
        F: FnOnce(Arc<Self>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let feed = Arc::clone(self);
        tokio::spawn(async move {
            let shutdown = feed.shutdown.clone();
            tokio::select! {
                () = task(feed) => {}
                () = shutdown.wait() => {}
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
