//! The nodes that are connected to this control plane: how far each has got, in memory, and the task that writes it for the others.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use config_documents::{Epoch, Region, Rejected, Revision, STREAM_FORM};
use parking_lot::Mutex;
use store::config::{self, Position};
use store::nodes::{self, LEASE, Progress, Written};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use uuid::Uuid;

use super::ConfigFeed;
use super::limits::{
    BACK_OFF, COMMITTED_KEPT, PROGRESS_INTERVAL, READ_INTERVAL, ROTATION_ASKED_INTERVAL,
};
use crate::limits::STATEMENT_TIMEOUT;

/// Why this control plane ends a stream that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The node opened another one, here or at another control plane.
    Replaced,
    /// An operator removed the node.
    Removed,
    /// No such node is enrolled, though nobody removed it.
    Unknown,
}

/// One stream, as the rest of the feed knows it.
pub(super) struct Stream {
    pub(super) stream_id: Uuid,
    pub(super) node_id: Uuid,
    pub(super) region: Region,
    pub(super) forms: BTreeMap<String, u32>,
    /// The epoch that it began with, which an `applied` without an epoch means.
    pub(super) first_epoch: Epoch,
    marks: Mutex<Marks>,
    rotation_wanted: Notify,
    rotation_asked_at: Mutex<Option<Instant>>,
    ended: watch::Sender<Option<Ended>>,
    /// Moves when the node answered, and when the stream ended.
    answered: watch::Sender<()>,
}

/// What a stream's marks say.
#[derive(Default)]
struct Marks {
    /// Where the newest one is.
    position: Option<Position>,
    /// The highest `applied` sequence that may be said to be heard.
    heard: u64,
    /// Sequences that are committed, each with the head as it was found after that: the node may count itself as current only once it has
    /// been sent that much, since whoever committed before took it for fenced, perhaps.
    committed: VecDeque<(u64, Position)>,
}

impl Marks {
    fn hear(&mut self) {
        let Some(position) = self.position else {
            return;
        };
        while let Some((sequence, head)) = self.committed.front()
            && head.epoch == position.epoch
            && head.revision <= position.revision
        {
            self.heard = self.heard.max(*sequence);
            self.committed.pop_front();
        }
    }
}

impl Stream {
    pub(super) fn new(
        stream_id: Uuid,
        node_id: Uuid,
        region: Region,
        forms: BTreeMap<String, u32>,
        first_epoch: Epoch,
    ) -> Arc<Self> {
        Arc::new(Self {
            stream_id,
            node_id,
            region,
            forms,
            first_epoch,
            marks: Mutex::default(),
            rotation_wanted: Notify::new(),
            rotation_asked_at: Mutex::default(),
            ended: watch::Sender::new(None),
            answered: watch::Sender::new(()),
        })
    }

    /// Whether the node understands messages of the second form, and says the epoch of what it has applied.
    pub(super) fn is_of_second_form(&self) -> bool {
        self.forms.get(STREAM_FORM).is_some_and(|form| *form >= 2)
    }

    /// Whether the node understands that it is greeted, and then says what the control plane's form takes.
    pub(super) fn is_of_third_form(&self) -> bool {
        self.forms.get(STREAM_FORM).is_some_and(|form| *form >= 3)
    }

    /// An operator asks for a new credential and key. Said again now and then until they are in use, but not each time that somebody
    /// reads the list of nodes.
    pub(super) fn ask_to_rotate(&self) {
        if !self.is_of_second_form() {
            return;
        }
        let mut asked_at = self.rotation_asked_at.lock();
        if asked_at.is_none_or(|asked_at| asked_at.elapsed() >= ROTATION_ASKED_INTERVAL) {
            *asked_at = Some(Instant::now());
            self.rotation_wanted.notify_one();
        }
    }

    /// Returns when the node is to be asked.
    pub(super) async fn rotation_wanted(&self) {
        self.rotation_wanted.notified().await;
    }

    pub(super) fn marked(&self) -> Option<Position> {
        self.marks.lock().position
    }

    pub(super) fn set_marked(&self, position: Position) {
        let mut marks = self.marks.lock();
        if marks
            .position
            .is_some_and(|before| before.epoch != position.epoch)
        {
            // Their heads do not compare with what comes now; the node says something new at the next mark.
            marks.committed.clear();
        }
        marks.position = Some(position);
        marks.hear();
    }

    pub(super) fn heard(&self) -> u64 {
        self.marks.lock().heard
    }

    /// An `applied` is committed; the head was read after that.
    fn set_committed(&self, sequence: u64, head: Position) {
        let mut marks = self.marks.lock();
        if marks.committed.len() >= COMMITTED_KEPT {
            marks.committed.pop_back();
        }
        marks.committed.push_back((sequence, head));
        marks.hear();
    }

    /// Returns when the stream has to end.
    pub(super) async fn ended(&self) -> Ended {
        let mut receiver = self.ended.subscribe();
        let ended = receiver
            .wait_for(Option::is_some)
            .await
            .expect("this value holds the sender, so it cannot be gone");
        ended.expect("it was waited for")
    }
}

/// How far a node has got, as it last said on its stream.
#[derive(Clone)]
pub(super) struct LocalProgress {
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
    pub(super) rejected: Arc<[Rejected]>,
}

/// A node that is connected to this control plane.
#[derive(Clone)]
pub(super) struct Connected {
    pub(super) stream: Arc<Stream>,
    /// `None` until it has answered a mark.
    pub(super) applied: Option<LocalProgress>,
    /// When it last said something.
    seen_at: Instant,
}

impl Connected {
    pub(super) fn is_live(&self) -> bool {
        self.seen_at.elapsed() < LEASE
    }

    /// Whether it answers marks as they come. Otherwise the connection may be dead at the other end, and the node connected to another
    /// control plane long since.
    pub(super) fn is_fresh(&self) -> bool {
        self.seen_at.elapsed() < 2 * READ_INTERVAL
    }
}

pub(super) struct Connections {
    state: Mutex<State>,
    /// Counts what nodes said; waiters look again when it moves.
    changed: watch::Sender<u64>,
    unwritten: Notify,
}

#[derive(Default)]
struct State {
    connected: HashMap<Uuid, Connected>,
    /// What is to be written, with the sequence of the `applied` that said it.
    unwritten: HashMap<Uuid, (Arc<Stream>, u64, LocalProgress)>,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            unwritten: Notify::new(),
        }
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Those of these nodes that are connected here.
    pub(super) fn of(&self, nodes: impl Iterator<Item = Uuid>) -> HashMap<Uuid, Connected> {
        let state = self.state.lock();
        nodes
            .filter_map(|node| Some((node, state.connected.get(&node)?.clone())))
            .collect()
    }

    /// The first of these nodes that is connected here and has not applied a revision yet: what moves when it says something. With many nodes
    /// nearly every answer is another's.
    pub(super) fn lacking(
        &self,
        nodes: &[Uuid],
        revision: Revision,
    ) -> Option<watch::Receiver<()>> {
        let state = self.state.lock();
        nodes
            .iter()
            .filter_map(|node| state.connected.get(node))
            .find(|connected| {
                let applied = connected.applied.as_ref();
                applied.is_none_or(|applied| applied.revision < revision)
            })
            .map(|connected| connected.stream.answered.subscribe())
    }

    /// How many nodes are connected here.
    pub(super) fn count(&self) -> usize {
        self.state.lock().connected.len()
    }

    /// A stream begins whose first lease is committed; an older one of the same node ends.
    pub(super) fn begin(&self, stream: &Arc<Stream>) {
        let connected = Connected {
            stream: Arc::clone(stream),
            applied: None,
            seen_at: Instant::now(),
        };
        let mut state = self.state.lock();
        let replaced = state.connected.insert(stream.node_id, connected);
        state.unwritten.remove(&stream.node_id);
        drop(state);
        if let Some(replaced) = replaced {
            replaced.stream.ended.send_replace(Some(Ended::Replaced));
        }
        self.say_changed();
    }

    /// A node answered a mark.
    pub(super) fn applied(&self, stream: &Arc<Stream>, sequence: u64, progress: LocalProgress) {
        let mut state = self.state.lock();
        let Some(known) = state.connected.get_mut(&stream.node_id) else {
            return;
        };
        if !Arc::ptr_eq(&known.stream, stream) {
            return;
        }
        known.applied = Some(progress.clone());
        known.seen_at = Instant::now();
        let unwritten = (Arc::clone(stream), sequence, progress);
        state.unwritten.insert(stream.node_id, unwritten);
        drop(state);
        stream.answered.send_replace(());
        self.unwritten.notify_one();
        self.say_changed();
    }

    /// A stream has ended. Its lease has not: the node may go on serving what it has.
    pub(super) fn end(&self, stream: &Arc<Stream>) {
        let mut state = self.state.lock();
        if let Some(known) = state.connected.get(&stream.node_id)
            && Arc::ptr_eq(&known.stream, stream)
        {
            state.connected.remove(&stream.node_id);
        }
        drop(state);
        stream.answered.send_replace(());
        self.say_changed();
    }

    fn say_changed(&self) {
        self.changed
            .send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn take_unwritten(&self) -> Vec<(Arc<Stream>, u64, LocalProgress)> {
        std::mem::take(&mut self.state.lock().unwritten)
            .into_values()
            .collect()
    }

    /// Puts back what could not be written, unless something newer is there.
    fn put_back(&self, unwritten: Vec<(Arc<Stream>, u64, LocalProgress)>) {
        let mut state = self.state.lock();
        for entry in unwritten {
            let node_id = entry.0.node_id;
            let replaced = state
                .connected
                .get(&node_id)
                .is_some_and(|known| !Arc::ptr_eq(&known.stream, &entry.0));
            if !replaced {
                state.unwritten.entry(node_id).or_insert(entry);
            }
        }
        drop(state);
        self.unwritten.notify_one();
    }
}

/// Writes what nodes said: at once, then for all of them together. What was written is `heard`.
pub(super) async fn write_progress(feed: &ConfigFeed) {
    let mut failing = false;
    loop {
        feed.connections.unwritten.notified().await;
        let unwritten = feed.connections.take_unwritten();
        if unwritten.is_empty() {
            continue;
        }
        let rows: Vec<Progress> = unwritten.iter().map(row).collect();
        let written = nodes::progress_write(&feed.store, &rows);
        match store::within(STATEMENT_TIMEOUT, written).await {
            Ok(written) => {
                failing = false;
                hear(feed, &unwritten, &written).await;
                sleep(PROGRESS_INTERVAL).await;
            }
            Err(error) => {
                if !failing {
                    tracing::error!(
                        error.cause = %service::errors::chain(&error),
                        "the progress of nodes cannot be written; it is tried again"
                    );
                }
                failing = true;
                feed.connections.put_back(unwritten);
                sleep(BACK_OFF).await;
            }
        }
    }
}

/// Tells the streams what came of their progress.
async fn hear(
    feed: &ConfigFeed,
    unwritten: &[(Arc<Stream>, u64, LocalProgress)],
    written: &[Written],
) {
    // After the commit. Without it nothing counts as heard; nodes say more within a second.
    let head = match store::within(STATEMENT_TIMEOUT, config::head(&feed.store)).await {
        Ok(head) => Some(head.position),
        Err(error) => {
            tracing::debug!(error.cause = %service::errors::chain(&error), "the head cannot be read; nodes are not told that they were heard");
            None
        }
    };
    for ((stream, sequence, _), written) in unwritten.iter().zip(written) {
        match (written, head) {
            (Written::Heard, Some(head)) => stream.set_committed(*sequence, head),
            (Written::Heard, None) => {}
            (Written::Superseded, _) => {
                stream.ended.send_replace(Some(Ended::Replaced));
            }
            (Written::Removed, _) => {
                stream.ended.send_replace(Some(Ended::Removed));
            }
            (Written::Unknown, _) => {
                stream.ended.send_replace(Some(Ended::Unknown));
            }
        }
    }
}

fn row((stream, _, progress): &(Arc<Stream>, u64, LocalProgress)) -> Progress {
    Progress {
        node_id: stream.node_id,
        stream_id: stream.stream_id,
        epoch: progress.epoch,
        revision: progress.revision,
        rejected: progress.rejected.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u128, revision: u64) -> Position {
        Position {
            epoch: Epoch(Uuid::from_u128(epoch)),
            revision: Revision(revision),
        }
    }

    fn stream() -> Arc<Stream> {
        let region = Region("westus".to_owned());
        let id = Uuid::from_u128(1);
        Stream::new(id, id, region, BTreeMap::new(), at(1, 0).epoch)
    }

    #[test]
    fn a_node_is_told_that_it_was_heard_with_what_was_newest_then() {
        let stream = stream();
        stream.set_marked(at(1, 5));
        stream.set_committed(1, at(1, 5));
        assert_eq!(stream.heard(), 1);
        stream.set_committed(2, at(1, 7));
        assert_eq!(stream.heard(), 1, "it lacks two revisions");
        stream.set_marked(at(1, 6));
        assert_eq!(stream.heard(), 1);
        stream.set_marked(at(1, 8));
        assert_eq!(stream.heard(), 2);
    }

    #[test]
    fn what_was_committed_in_an_epoch_that_is_over_is_said_again() {
        let stream = stream();
        stream.set_marked(at(1, 5));
        stream.set_committed(1, at(2, 3));
        assert_eq!(stream.heard(), 0, "the node is still in the first");
        stream.set_marked(at(2, 9));
        assert_eq!(stream.heard(), 0);
        stream.set_committed(2, at(2, 9));
        assert_eq!(stream.heard(), 2);
    }

    #[test]
    fn of_many_committed_answers_the_newest_is_kept() {
        let stream = stream();
        stream.set_marked(at(1, 1));
        for sequence in 1..100 {
            stream.set_committed(sequence, at(1, sequence + 1));
        }
        assert_eq!(stream.heard(), 0);
        stream.set_marked(at(1, 100));
        assert_eq!(stream.heard(), 99);
    }
}
