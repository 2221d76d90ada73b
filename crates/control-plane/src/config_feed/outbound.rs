//! What a node is sent: a snapshot or what it lacks, then every batch, each closed by a mark.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use actix_ws::Session;
use config_documents::{Checksum, ControlPlaneMessage, Kind, Revision, StoredDocument};
use service::clock::Clock;
use store::config::{Position, Reading};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::ConfigFeed;
use super::connections::Stream;
use super::limits::{MESSAGE_TIMEOUT, READ_INTERVAL, SNAPSHOT_INTERVAL, UNANSWERED_MARKS};
use super::reader::{SharedBatch, messages_of};
use super::stream::End;

/// That of a catch-up, and beside it that of a snapshot if it is one.
type Permits<'a> = (SemaphorePermit<'a>, Option<SemaphorePermit<'a>>);

async fn take(semaphore: &Semaphore) -> Result<SemaphorePermit<'_>, End> {
    semaphore.acquire().await.map_err(|_| End::Shutdown)
}

/// The sending half of a stream.
pub(super) struct Outbound {
    pub(super) feed: Arc<ConfigFeed>,
    pub(super) clock: Clock,
    pub(super) stream: Arc<Stream>,
    pub(super) session: Session,
    pub(super) batches: Receiver<Arc<SharedBatch>>,
    /// The newest mark that the node answered.
    pub(super) applied: watch::Receiver<Option<Position>>,
    pub(super) snapshot_wanted: Arc<Notify>,
    /// What the node has, or has been sent, with what it adds up to; `None` until the first reading.
    pub(super) sent: Option<(Position, Checksum)>,
    /// The revisions of marks that the node has not answered.
    pub(super) unanswered: VecDeque<Revision>,
    pub(super) snapshot_at: Option<Instant>,
}

impl Outbound {
    /// Sends until the stream ends. `copy` is what the node said that it has.
    pub(super) async fn run(mut self, copy: Option<Position>) -> End {
        match self.send_all(copy).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn send_all(
        &mut self,
        mut copy: Option<Position>,
    ) -> Result<std::convert::Infallible, End> {
        // Whether the node lacks something that could not be read; it is tried again at each tick.
        let mut behind = !self.catch_up(copy).await?;
        let mut tick = interval(READ_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        loop {
            let may_send = self.unanswered.len() < UNANSWERED_MARKS && !behind;
            let snapshot_wanted = Arc::clone(&self.snapshot_wanted);
            let stream = Arc::clone(&self.stream);
            tokio::select! {
                batch = self.batches.recv(), if may_send => {
                    behind = !match batch {
                        Ok(batch) => self.follow(&batch).await?,
                        Err(RecvError::Lagged(_)) => self.catch_up(self.position()).await?,
                        Err(RecvError::Closed) => return Err(End::Shutdown),
                    };
                    tick.reset();
                }
                answered = self.applied.changed() => {
                    answered.map_err(|_| End::Disconnected)?;
                    let applied = *self.applied.borrow_and_update();
                    if let Some(applied) = applied
                        && self.position().is_some_and(|position| position.epoch == applied.epoch)
                    {
                        self.unanswered.retain(|revision| *revision > applied.revision);
                    }
                }
                () = stream.rotation_wanted() => {
                    self.send(&ControlPlaneMessage::Rotate).await?;
                }
                () = snapshot_wanted.notified() => {
                    self.wait_before_snapshot().await;
                    // Nothing else helps the node, also when it can only be read later.
                    (self.sent, copy) = (None, None);
                    behind = !self.catch_up(None).await?;
                }
                _ = tick.tick() => {
                    if behind {
                        behind = !self.catch_up(self.position().or(copy)).await?;
                    } else {
                        self.mark().await?;
                    }
                }
            }
        }
    }

    fn position(&self) -> Option<Position> {
        self.sent.map(|(position, _)| position)
    }

    async fn wait_before_snapshot(&mut self) {
        if let Some(at) = self.snapshot_at {
            tokio::time::sleep(SNAPSHOT_INTERVAL.saturating_sub(at.elapsed())).await;
        }
    }

    /// Sends what is new in a batch. False when it has to be read first, and could not be.
    async fn follow(&mut self, shared: &SharedBatch) -> Result<bool, End> {
        let batch = &shared.batch;
        let Some(position) = self.position() else {
            return self.catch_up(None).await;
        };
        let head = batch.head.position;
        match &batch.documents {
            Some(documents)
                if head.epoch == position.epoch && batch.from.revision <= position.revision =>
            {
                if head.revision <= position.revision {
                    return Ok(true);
                }
                if self.is_removed_by(documents) {
                    return Err(End::Removed);
                }
                let region = self.stream.region.clone();
                if batch.from == position {
                    let messages = shared.messages(&region).map_err(End::Encode)?;
                    for message in messages.iter() {
                        self.send_text(message.clone()).await?;
                    }
                } else {
                    let new = documents
                        .iter()
                        .filter(|document| document.revision > position.revision)
                        .filter(|document| document.region.includes(&region))
                        .cloned()
                        .collect();
                    self.send_documents(new).await?;
                }
                self.mark_new(head, batch.head.checksum(&region)).await?;
                Ok(true)
            }
            _ => self.catch_up(Some(position)).await,
        }
    }

    /// Reads what the node lacks and sends it, page by page. False when the database is away: nothing was sent then.
    async fn catch_up(&mut self, copy: Option<Position>) -> Result<bool, End> {
        let feed = Arc::clone(&self.feed);
        let Some((mut reading, _permits)) = self.begin_reading(&feed, copy).await? else {
            return Ok(false);
        };
        let head = reading.head().position;
        if head.epoch != self.stream.first_epoch && !self.stream.is_of_second_form() {
            // What such a node answers could be of either epoch.
            return Err(End::NewEpoch);
        }
        let is_snapshot = reading.is_snapshot();
        if is_snapshot {
            self.snapshot_at = Some(Instant::now());
            feed.metrics.snapshot_sent();
            tracing::info!(node.id = %self.stream.node_id, config.revision = head.revision.0, "sending a snapshot");
            self.send(&ControlPlaneMessage::SnapshotBegin { epoch: head.epoch })
                .await?;
        }
        loop {
            // Half of it may be sent: only a new stream can put that right.
            let page = reading.next_page().await.map_err(End::Store)?;
            if page.is_empty() {
                break;
            }
            if self.is_removed_by(&page) {
                return Err(End::Removed);
            }
            self.send_documents(page).await?;
        }
        let checksum = reading.head().checksum(&self.stream.region);
        if let Err(error) = reading.finish().await {
            tracing::debug!(error.cause = %service::errors::chain(&error), "a finished reading could not be closed");
        }
        if is_snapshot {
            self.unanswered.clear();
            self.send(&ControlPlaneMessage::SnapshotEnd).await?;
        }
        self.mark_new(head, checksum).await?;
        Ok(true)
    }

    /// Begins to read what the node lacks when it is its turn; `None` when the database is away.
    async fn begin_reading<'a>(
        &self,
        feed: &'a ConfigFeed,
        copy: Option<Position>,
    ) -> Result<Option<(Reading, Permits<'a>)>, End> {
        let mut snapshot = None;
        if copy.is_none() {
            snapshot = Some(take(&feed.snapshots).await?);
        }
        loop {
            let catch_up = take(&feed.catch_ups).await?;
            let reading = match Reading::begin(&feed.store, &self.stream.region, copy).await {
                Ok(reading) => reading,
                Err(error) => {
                    tracing::debug!(node.id = %self.stream.node_id, error.cause = %service::errors::chain(&error), "what a node lacks cannot be read; it is tried again");
                    return Ok(None);
                }
            };
            if !reading.is_snapshot() || snapshot.is_some() {
                return Ok(Some((reading, (catch_up, snapshot))));
            }
            // It has to wait for its turn, and must not hold a transaction meanwhile.
            drop((reading, catch_up));
            snapshot = Some(take(&feed.snapshots).await?);
        }
    }

    /// Whether the stream's node is among what was deleted.
    fn is_removed_by(&self, documents: &[StoredDocument]) -> bool {
        documents.iter().any(|document| {
            document.body.is_none()
                && document.kind == Kind::Node.as_str()
                && document.key == self.stream.node_id.to_string()
        })
    }

    /// Sends documents in messages of bounded size.
    async fn send_documents(&mut self, documents: Vec<StoredDocument>) -> Result<(), End> {
        for message in messages_of(documents) {
            self.send(&message).await?;
        }
        Ok(())
    }

    /// Closes what was sent.
    async fn mark_new(&mut self, position: Position, checksum: Checksum) -> Result<(), End> {
        self.sent = Some((position, checksum));
        self.stream.set_marked(position);
        let is_answered = self.applied.borrow().is_some_and(|applied| {
            applied.epoch == position.epoch && applied.revision >= position.revision
        });
        if !is_answered {
            self.unanswered.push_back(position.revision);
        }
        self.mark().await
    }

    /// Says again where the node should be. While the database is away this is still true of what was sent, and `heard` stands still.
    async fn mark(&mut self) -> Result<(), End> {
        let Some((position, checksum)) = self.sent else {
            return Ok(());
        };
        self.send(&ControlPlaneMessage::Mark {
            epoch: position.epoch,
            revision: position.revision,
            time: (self.clock)(),
            checksum,
            heard: self.stream.heard(),
        })
        .await
    }

    async fn send(&mut self, message: &ControlPlaneMessage) -> Result<(), End> {
        let text = serde_json::to_string(message).map_err(End::Encode)?;
        self.send_text(text).await
    }

    async fn send_text(&mut self, text: String) -> Result<(), End> {
        match timeout(MESSAGE_TIMEOUT, self.session.text(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Disconnected),
            Err(_) => Err(End::NotReading),
        }
    }
}
