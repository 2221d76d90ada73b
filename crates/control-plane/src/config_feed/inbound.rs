//! What a node says on its stream: its first message, then its answers to marks.

use std::sync::Arc;
use std::time::Instant;

use actix_ws::{AggregatedMessage, AggregatedMessageStream, Session};
use config_documents::{NodeMessage, Rejected, Revision};
use service::clock::Clock;
use store::config::Position;
use store::nodes::{self, LEASE, NewStream, NodeIdentity};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use uuid::Uuid;

use super::ConfigFeed;
use super::connections::{LocalProgress, Stream};
use super::limits::{
    MESSAGE_TIMEOUT, REJECTED_DOCUMENTS, REJECTED_TEXT_CHARACTERS, WENT_BACK_INTERVAL,
};
use super::operations::check_address;
use super::stream::End;

/// Takes a node's first message, and commits its lease: whoever publishes after that waits for this node.
pub(super) async fn hello(
    feed: &ConfigFeed,
    identity: &NodeIdentity,
    messages: &mut AggregatedMessageStream,
) -> Result<(Arc<Stream>, Option<Position>), End> {
    let first = timeout(MESSAGE_TIMEOUT, next(messages, None))
        .await
        .map_err(|_| End::NoHello)??;
    let NodeMessage::Hello {
        node_id,
        region,
        forms,
        epoch,
        revision,
        address,
        staleness_bound_seconds,
    } = first
    else {
        return Err(End::Protocol("the first message must be 'hello'".into()));
    };
    if node_id != identity.node_id || region != identity.region {
        return Err(End::Protocol(format!(
            "the credential is that of node {} of region '{}', not of node {node_id} of region '{region}'",
            identity.node_id, identity.region
        )));
    }
    finish_rotation(feed, identity).await?;
    update_address(feed, identity, &address).await?;
    let copy = epoch.map(|epoch| Position { epoch, revision });
    // Only for the lease's row: what the node lacks is read after the lease is committed.
    let head = head_for(feed, copy).await?;
    let has = copy
        .filter(|copy| copy.epoch == head.epoch)
        .map_or(Revision(0), |copy| copy.revision);
    let new = NewStream {
        stream_id: Uuid::new_v4(),
        node_id,
        epoch: head.epoch,
        revision: has,
        forms: forms.clone(),
        staleness_bound_seconds,
    };
    let is_enrolled = nodes::stream_begin(&feed.store, &new)
        .await
        .map_err(End::Store)?;
    if !is_enrolled {
        return Err(End::Unknown);
    }
    let stream = Stream::new(new.stream_id, node_id, region, forms, head.epoch);
    if identity.rotation_requested {
        stream.ask_to_rotate();
    }
    feed.connections.begin(&stream);
    // It may be the one that the newest forms waited for.
    feed.maintenance.wake_forms();
    Ok((stream, copy))
}

/// The head, in a new epoch if the node has a revision above it. Only so often: each such epoch costs every node a snapshot, and one node
/// whose copy is wrong, or that is not honest, must not bring that about with every hello.
async fn head_for(feed: &ConfigFeed, copy: Option<Position>) -> Result<Position, End> {
    let head = store::config::head(&feed.store).await.map_err(End::Store)?;
    let head = head.position;
    let is_above =
        copy.is_some_and(|copy| copy.epoch == head.epoch && copy.revision > head.revision);
    if !is_above {
        return Ok(head);
    }
    {
        let mut went_back_at = feed.went_back_at.lock();
        if went_back_at.is_some_and(|at| at.elapsed() < WENT_BACK_INTERVAL) {
            return Err(End::WentBack);
        }
        *went_back_at = Some(Instant::now());
    }
    let head = store::config::head_for(&feed.store, copy).await;
    Ok(head.map_err(End::Store)?.position)
}

/// What a node announced is in force when it connects with it.
async fn finish_rotation(feed: &ConfigFeed, identity: &NodeIdentity) -> Result<(), End> {
    let Some(next_kid) = &identity.next_kid else {
        return Ok(());
    };
    let finished = nodes::rotation_finish(&feed.store, identity.node_id, next_kid).await;
    if finished.map_err(End::Store)? {
        tracing::info!(
            node.id = %identity.node_id, signing_key = next_kid.as_str(),
            "a node uses its new credential; the old one is dead"
        );
    }
    Ok(())
}

async fn update_address(
    feed: &ConfigFeed,
    identity: &NodeIdentity,
    address: &str,
) -> Result<(), End> {
    if address == identity.address {
        return Ok(());
    }
    check_address(address).map_err(End::Protocol)?;
    let published = nodes::address_update(&feed.store, identity.node_id, address)
        .await
        .map_err(End::Store)?;
    if published.is_some() {
        feed.wake();
    }
    Ok(())
}

/// The listening half of a stream.
pub(super) struct Inbound {
    pub(super) feed: Arc<ConfigFeed>,
    pub(super) clock: Clock,
    pub(super) stream: Arc<Stream>,
    pub(super) applied: watch::Sender<Option<Position>>,
    pub(super) snapshot_wanted: Arc<Notify>,
    /// The last one.
    pub(super) sequence: u64,
    /// How many documents the node could not understand when it last answered.
    pub(super) rejected: usize,
}

impl Inbound {
    pub(super) async fn run(
        mut self,
        mut messages: AggregatedMessageStream,
        mut session: Session,
    ) -> End {
        loop {
            let taken = match next(&mut messages, Some(&mut session)).await {
                Ok(message) => self.take(message),
                Err(end) => Err(end),
            };
            if let Err(end) = taken {
                return end;
            }
        }
    }

    fn take(&mut self, message: NodeMessage) -> Result<(), End> {
        match message {
            NodeMessage::Used { credentials } => {
                self.feed.used.say(credentials, (self.clock)());
                Ok(())
            }
            NodeMessage::Usage { registries } => {
                let region = &self.stream.region;
                self.feed.usage.say(region, registries, (self.clock)());
                Ok(())
            }
            NodeMessage::Hello { .. } => Err(End::Protocol("'hello' was said before".into())),
            NodeMessage::SnapshotWanted { reason } => {
                tracing::error!(
                    node.id = %self.stream.node_id, node.region = %self.stream.region, reason,
                    "a node's copy diverged; it gets a snapshot"
                );
                self.snapshot_wanted.notify_one();
                Ok(())
            }
            NodeMessage::Applied {
                sequence,
                epoch,
                revision,
                rejected,
            } => {
                let epoch = epoch.unwrap_or(self.stream.first_epoch);
                self.take_applied(sequence, Position { epoch, revision }, rejected)
            }
        }
    }

    fn take_applied(
        &mut self,
        sequence: u64,
        position: Position,
        rejected: Vec<Rejected>,
    ) -> Result<(), End> {
        if sequence <= self.sequence {
            return Err(End::Protocol(format!(
                "the sequence {sequence} of 'applied' follows {}",
                self.sequence
            )));
        }
        let Position { epoch, revision } = position;
        let Some(marked) = self.stream.marked() else {
            return Err(End::Protocol(format!(
                "revision {revision} is 'applied' before the first mark"
            )));
        };
        if marked.epoch == epoch && revision > marked.revision {
            return Err(End::Protocol(format!(
                "revision {revision} is 'applied', but the newest mark is {}",
                marked.revision
            )));
        }
        self.sequence = sequence;
        if marked.epoch != epoch {
            // The answer to a mark of an epoch that has ended meanwhile.
            return Ok(());
        }
        if rejected.len() != self.rejected {
            self.rejected = rejected.len();
            let first = rejected.first();
            tracing::warn!(
                node.id = %self.stream.node_id, node.region = %self.stream.region,
                rejected.count = rejected.len(),
                rejected.kind = first.map(|first| first.kind.as_str()),
                rejected.key = first.map(|first| first.key.as_str()),
                rejected.reason = first.map(|first| first.reason.as_str()),
                "the documents that a node cannot understand have changed; it denies what they govern"
            );
        }
        let progress = LocalProgress {
            epoch,
            revision,
            rejected: bounded(rejected).into(),
        };
        self.feed
            .connections
            .applied(&self.stream, sequence, progress);
        self.applied.send_replace(Some(position));
        Ok(())
    }
}

/// Those of the highest revisions, with texts that do not grow without bound. A change is not understood if a document of its revision or a
/// later one is not, so none of the others matters to any.
fn bounded(mut rejected: Vec<Rejected>) -> Vec<Rejected> {
    rejected.sort_by_key(|document| std::cmp::Reverse(document.revision));
    rejected.truncate(REJECTED_DOCUMENTS);
    for document in &mut rejected {
        let texts = [
            &mut document.region.0,
            &mut document.kind,
            &mut document.key,
            &mut document.reason,
        ];
        for text in texts {
            if let Some((end, _)) = text.char_indices().nth(REJECTED_TEXT_CHARACTERS) {
                text.truncate(end);
            }
            // Postgres keeps no text with it.
            if text.contains('\0') {
                *text = text.replace('\0', "\u{fffd}");
            }
        }
    }
    rejected
}

/// The next message of a node. Pings are answered; whatever arrives is a sign of life.
///
/// # Errors
/// The end of the stream: a closed or broken connection, silence for a lease, or what is no message.
pub(super) async fn next(
    messages: &mut AggregatedMessageStream,
    mut session: Option<&mut Session>,
) -> Result<NodeMessage, End> {
    loop {
        let message = match timeout(LEASE, messages.recv()).await {
            Err(_) => return Err(End::Silent),
            Ok(None) => return Err(End::Disconnected),
            Ok(Some(Err(error))) => return Err(End::Protocol(error.to_string())),
            Ok(Some(Ok(message))) => message,
        };
        match message {
            AggregatedMessage::Text(text) => {
                return serde_json::from_str(&text)
                    .map_err(|error| End::Protocol(format!("a message cannot be read: {error}")));
            }
            AggregatedMessage::Binary(_) => {
                return Err(End::Protocol("messages are text, not binary".into()));
            }
            AggregatedMessage::Close(_) => return Err(End::Closed),
            AggregatedMessage::Pong(_) => {}
            AggregatedMessage::Ping(payload) => {
                if let Some(session) = session.as_deref_mut() {
                    session
                        .pong(&payload)
                        .await
                        .map_err(|_| End::Disconnected)?;
                }
            }
        }
    }
}
