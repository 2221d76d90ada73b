//! The nodes that are connected to this control plane: how far each has got, in memory, and the task that writes it for the others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use config_documents::{Epoch, Region, Rejected, Revision};
use parking_lot::Mutex;
use store::nodes::{self, LEASE, Progress};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use uuid::Uuid;

use super::ConfigFeed;
use super::limits::{BACK_OFF, PROGRESS_INTERVAL};

/// Why this control plane ends a stream that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The node opened another one.
    Replaced,
    /// The node is not enrolled any more.
    Removed,
}

/// One stream, as the rest of the feed knows it.
pub(super) struct Stream {
    pub(super) node_id: Uuid,
    pub(super) region: Region,
    pub(super) forms: BTreeMap<String, u32>,
    /// The one epoch of this stream: an `applied` does not say its own, so a new epoch takes a new stream.
    pub(super) epoch: Epoch,
    /// The revision of the newest mark.
    marked: AtomicU64,
    /// The highest `applied` sequence that is committed.
    heard: AtomicU64,
    ended: watch::Sender<Option<Ended>>,
}

impl Stream {
    pub(super) fn new(
        node_id: Uuid,
        region: Region,
        forms: BTreeMap<String, u32>,
        epoch: Epoch,
    ) -> Arc<Self> {
        Arc::new(Self {
            node_id,
            region,
            forms,
            epoch,
            marked: AtomicU64::new(0),
            heard: AtomicU64::new(0),
            ended: watch::Sender::new(None),
        })
    }

    pub(super) fn marked(&self) -> Revision {
        Revision(self.marked.load(Ordering::Acquire))
    }

    pub(super) fn set_marked(&self, revision: Revision) {
        self.marked.store(revision.0, Ordering::Release);
    }

    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Acquire)
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

/// How far a node has got in its stream's epoch, as it last said.
#[derive(Clone)]
pub(super) struct LocalProgress {
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
    pub(super) rejected: Arc<[Rejected]>,
    /// When it said so.
    pub(super) at: Instant,
}

impl LocalProgress {
    pub(super) fn is_live(&self) -> bool {
        self.at.elapsed() < LEASE
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
    connected: HashMap<Uuid, (Arc<Stream>, LocalProgress)>,
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

    /// What each of these nodes last said here; nodes that are not connected here are left out.
    pub(super) fn progress_of(
        &self,
        nodes: impl Iterator<Item = Uuid>,
    ) -> HashMap<Uuid, LocalProgress> {
        let state = self.state.lock();
        nodes
            .filter_map(|node| Some((node, state.connected.get(&node)?.1.clone())))
            .collect()
    }

    /// A stream begins whose first lease is committed; an older one of the same node ends.
    pub(super) fn begin(&self, stream: &Arc<Stream>, revision: Revision) {
        let progress = LocalProgress {
            epoch: stream.epoch,
            revision,
            rejected: Arc::new([]),
            at: Instant::now(),
        };
        let mut state = self.state.lock();
        let replaced = state
            .connected
            .insert(stream.node_id, (Arc::clone(stream), progress));
        state.unwritten.remove(&stream.node_id);
        drop(state);
        if let Some((replaced, _)) = replaced {
            replaced.ended.send_replace(Some(Ended::Replaced));
        }
        self.say_changed();
    }

    /// A node answered a mark.
    pub(super) fn applied(&self, stream: &Arc<Stream>, sequence: u64, progress: LocalProgress) {
        let mut state = self.state.lock();
        let Some((current, known)) = state.connected.get_mut(&stream.node_id) else {
            return;
        };
        if !Arc::ptr_eq(current, stream) {
            return;
        }
        known.clone_from(&progress);
        let unwritten = (Arc::clone(stream), sequence, progress);
        state.unwritten.insert(stream.node_id, unwritten);
        drop(state);
        self.unwritten.notify_one();
        self.say_changed();
    }

    /// A stream has ended. Its lease has not: the node may go on serving what it has.
    pub(super) fn end(&self, stream: &Arc<Stream>) {
        let mut state = self.state.lock();
        if let Some((current, _)) = state.connected.get(&stream.node_id)
            && Arc::ptr_eq(current, stream)
        {
            state.connected.remove(&stream.node_id);
        }
        drop(state);
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
                .is_some_and(|(current, _)| !Arc::ptr_eq(current, &entry.0));
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
        match nodes::progress_write(&feed.store, &rows).await {
            Ok(enrolled) => {
                failing = false;
                for (stream, sequence, _) in unwritten {
                    if enrolled.contains(&stream.node_id) {
                        stream.heard.fetch_max(sequence, Ordering::AcqRel);
                    } else {
                        stream.ended.send_replace(Some(Ended::Removed));
                    }
                }
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

fn row((stream, _, progress): &(Arc<Stream>, u64, LocalProgress)) -> Progress {
    Progress {
        node_id: stream.node_id,
        epoch: progress.epoch,
        revision: progress.revision,
        rejected: progress.rejected.to_vec(),
        forms: stream.forms.clone(),
        begins_stream: false,
    }
}
