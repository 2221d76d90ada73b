//! Reads what was published, once for all streams, and tells other control planes to do the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use config_documents::{ControlPlaneMessage, Region, StoredDocument};
use parking_lot::Mutex;
use store::config::{self, Announcer, Batch, Head, Listener, Position};
use store::{Store, StoreError};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{sleep, timeout};

use super::ConfigFeed;
use super::limits::{
    ANNOUNCE_INTERVAL, BACK_OFF, BATCH_DOCUMENTS, BATCH_PAUSE_CHANGES, BATCH_PAUSE_MAXIMUM,
    BATCH_PAUSE_PER_NODE_AND_CHANGE, BATCHES_KEPT, MESSAGE_BYTES, MESSAGE_DOCUMENTS, READ_INTERVAL,
};
use crate::limits::STATEMENT_TIMEOUT;

/// A batch for all streams, with the messages that nodes of a region get of it: they are written as JSON once, not for each node.
pub(super) struct SharedBatch {
    pub(super) batch: Batch,
    messages: Mutex<HashMap<Region, Arc<[String]>>>,
}

impl SharedBatch {
    fn new(batch: Batch) -> Self {
        Self {
            batch,
            messages: Mutex::default(),
        }
    }

    /// The messages with all of this batch's documents that concern a region; none when it has to be read page by page.
    ///
    /// # Errors
    /// When one cannot be written.
    pub(super) fn messages(&self, region: &Region) -> Result<Arc<[String]>, serde_json::Error> {
        let mut known = self.messages.lock();
        if let Some(messages) = known.get(region) {
            return Ok(Arc::clone(messages));
        }
        let concerned = self
            .batch
            .documents
            .iter()
            .flatten()
            .filter(|document| document.region.includes(region))
            .cloned()
            .collect();
        let messages: Arc<[String]> = messages_of(concerned)
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<_, _>>()?;
        known.insert(region.clone(), Arc::clone(&messages));
        Ok(messages)
    }
}

/// Documents in messages of bounded size.
pub(super) fn messages_of(documents: Vec<StoredDocument>) -> Vec<ControlPlaneMessage> {
    let mut messages = Vec::new();
    let mut message = Vec::new();
    let mut bytes = 0;
    for document in documents {
        let size = document.body.as_ref().map_or(0, String::len) + document.key.len() + 100;
        if !message.is_empty()
            && (message.len() >= MESSAGE_DOCUMENTS || bytes + size > MESSAGE_BYTES)
        {
            messages.push(ControlPlaneMessage::Documents {
                documents: std::mem::take(&mut message),
            });
            bytes = 0;
        }
        bytes += size;
        message.push(document);
    }
    if !message.is_empty() {
        messages.push(ControlPlaneMessage::Documents { documents: message });
    }
    messages
}

/// What the reading tasks share with the streams.
pub(super) struct Reader {
    wanted: Notify,
    others_wanted: Notify,
    batches: broadcast::Sender<Arc<SharedBatch>>,
    head: watch::Sender<Option<Head>>,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            wanted: Notify::new(),
            others_wanted: Notify::new(),
            batches: broadcast::Sender::new(BATCHES_KEPT),
            head: watch::Sender::new(None),
        }
    }

    pub(super) fn wake(&self) {
        self.wanted.notify_one();
    }

    pub(super) fn wake_others(&self) {
        self.others_wanted.notify_one();
    }

    /// Every batch that is read from now on.
    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<SharedBatch>> {
        self.batches.subscribe()
    }

    /// The head as it was last read; `None` before the first time.
    pub(super) fn head(&self) -> Option<Position> {
        self.head.borrow().as_ref().map(|head| head.position)
    }
}

/// Reads the feed whenever it is woken, and every second: correctness comes from the latter. While the database is away, streams stay
/// open and go on getting marks of what they have; those renew nothing, since nothing new is `heard`.
pub(super) async fn follow(feed: &ConfigFeed) {
    let mut failing = false;
    loop {
        let before = feed.reader.head();
        let read = read(&feed.store, &feed.reader);
        match store::within(STATEMENT_TIMEOUT, read).await {
            Ok(()) => {
                if failing {
                    tracing::info!("the configuration can be read again");
                }
                failing = false;
                if let Some(head) = feed.reader.head() {
                    feed.metrics.head(head);
                    if before.is_some_and(|before| before.epoch != head.epoch) {
                        feed.metrics.epoch_begun();
                    }
                }
                sleep(pause(before, feed.reader.head(), feed.connections.count())).await;
                let _ = timeout(READ_INTERVAL, feed.reader.wanted.notified()).await;
            }
            Err(error) => {
                feed.metrics.read_failed();
                if !failing {
                    tracing::error!(
                        error.cause = %service::errors::chain(&error),
                        "the configuration cannot be read; nodes keep what they have"
                    );
                }
                failing = true;
                sleep(BACK_OFF).await;
            }
        }
    }
}

/// How long changes are collected after a batch was handed to so many nodes: each batch costs work for every one of them. The more changes
/// came together, the more come on.
fn pause(from: Option<Position>, to: Option<Position>, nodes: usize) -> Duration {
    let revision = |position: Option<Position>| position.map_or(0, |position| position.revision.0);
    let changes = revision(to).saturating_sub(revision(from));
    let changes = u32::try_from(changes).unwrap_or(u32::MAX);
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    BATCH_PAUSE_PER_NODE_AND_CHANGE
        .saturating_mul(nodes)
        .saturating_mul(changes.min(BATCH_PAUSE_CHANGES))
        .min(BATCH_PAUSE_MAXIMUM)
}

async fn read(store: &Store, reader: &Reader) -> Result<(), StoreError> {
    let Some(from) = reader.head() else {
        // The first time nothing is handed on: streams begin with a reading of their own.
        let head = config::head(store).await?;
        tracing::info!(config.epoch = %head.position.epoch, config.revision = head.position.revision.0, "following the configuration");
        reader.head.send_replace(Some(head));
        return Ok(());
    };
    #[cfg(not(feature = "faults-on-purpose"))]
    let batch = config::read(store, from, BATCH_DOCUMENTS).await?;
    #[cfg(feature = "faults-on-purpose")]
    let batch = read_perhaps_bounded(store, from).await?;
    let to = batch.head.position;
    if to == from {
        return Ok(());
    }
    if to.epoch != from.epoch {
        tracing::warn!(
            config.epoch = %to.epoch, config.revision = to.revision.0,
            config.previous_epoch = %from.epoch, config.previous_revision = from.revision.0,
            "a new epoch of the configuration has begun; every node gets a snapshot"
        );
    }
    reader.head.send_replace(Some(batch.head.clone()));
    // Without a connected node there is nobody to hand it to, which is no failure.
    let _ = reader.batches.send(Arc::new(SharedBatch::new(batch)));
    Ok(())
}

/// Reads documents up to a head that was read before them, if that fault is on.
#[cfg(feature = "faults-on-purpose")]
async fn read_perhaps_bounded(store: &Store, from: Position) -> Result<Batch, StoreError> {
    if !service::faults_on_purpose::is_on("head-bounded-read") {
        return config::read(store, from, BATCH_DOCUMENTS).await;
    }
    let head = config::head(store).await?;
    sleep(Duration::from_millis(20)).await;
    let mut batch = config::read(store, from, BATCH_DOCUMENTS).await?;
    if let Some(documents) = &mut batch.documents {
        documents.retain(|document| document.revision <= head.position.revision);
    }
    batch.head = head;
    Ok(batch)
}

/// Hears what other control planes announce.
pub(super) async fn listen(feed: &ConfigFeed) {
    loop {
        let Err(error) = hear(feed).await;
        tracing::debug!(
            error.cause = %service::errors::chain(&error),
            "announcements of other control planes are not heard; the head is read every second all the same"
        );
        sleep(BACK_OFF).await;
    }
}

async fn hear(feed: &ConfigFeed) -> Result<std::convert::Infallible, StoreError> {
    let mut listener = Listener::connect(&feed.store).await?;
    loop {
        if listener.heard(feed.instance).await? == Announcer::Operator {
            feed.nodes.ask();
        }
        feed.reader.wake();
    }
}

/// Announces local commits to other control planes: the first at once, those that follow closely together.
pub(super) async fn announce(feed: &ConfigFeed) {
    loop {
        feed.reader.others_wanted.notified().await;
        if let Err(error) = config::notify(&feed.store, feed.instance).await {
            tracing::debug!(
                error.cause = %service::errors::chain(&error),
                "a change was not announced; other control planes read it within a second"
            );
        }
        sleep(ANNOUNCE_INTERVAL).await;
    }
}
