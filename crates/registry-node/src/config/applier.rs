//! From the messages of the stream to the local copy and the index: batches are staged, and become
//! durable, then visible, at the mark that closes them.

use std::{collections::HashSet, sync::Arc};

use config_documents::{
    Checksum, ControlPlaneMessage, Epoch, NodeMessage, Region, Rejected, Revision, StoredDocument,
};
use time::{Duration, OffsetDateTime};
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use super::{
    BootTime, Configuration, CopyError, CopyState, Divergence, Index, LocalCopy, Written,
    local_copy::deleted_registries_in,
};
use crate::limits::{REJECTED_TOLD_MAXIMUM, SNAPSHOT_RETRY_MAXIMUM, SNAPSHOT_RETRY_MINIMUM};

/// A mark that changes nothing is written to the copy this often, so that it knows its age.
const REFRESH_INTERVAL: Duration = Duration::minutes(1);
/// A difference between the clocks of node and control plane above this is reported.
const CLOCK_OFFSET_REPORTED: Duration = Duration::seconds(2);

/// Why a message could not be applied. The stream ends then; the next one begins from what is applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The copy could not be written, so the change is not in force.
    #[error("a change cannot be kept on this node's disk")]
    Copy(#[from] CopyError),
    /// The control plane broke the stream's grammar.
    #[error("the stream is out of order: {0}")]
    OutOfOrder(String),
}

/// Takes messages into the copy and the index.
pub struct Applier {
    configuration: Arc<Configuration>,
    copy: LocalCopy,
    region: Region,
    state: Option<CopyState>,
    staged: Vec<StoredDocument>,
    snapshot: Snapshot,
    /// Snapshots in a row that did not add up.
    failed_snapshots: u32,
    sequence: u64,
    clock_is_off: bool,
    deleted_registries: Option<UnboundedSender<Uuid>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    /// Documents add to what is there.
    No,
    /// It was asked for; nothing counts until it begins.
    Awaited,
    /// It will be asked for at the first mark after this: the last ones did not add up either.
    AskAt(BootTime),
    /// It is coming.
    Begun(Epoch),
    /// All of it is staged; the next mark applies it.
    Complete(Epoch),
}

struct Mark {
    epoch: Epoch,
    revision: Revision,
    time: OffsetDateTime,
    checksum: Checksum,
}

impl Applier {
    /// Goes on from the copy, which the configuration already shows.
    pub fn new(configuration: Arc<Configuration>, copy: LocalCopy, region: Region) -> Self {
        let state = copy.state().copied();
        Self {
            configuration,
            copy,
            region,
            state,
            staged: Vec::new(),
            snapshot: Snapshot::No,
            failed_snapshots: 0,
            sequence: 0,
            clock_is_off: false,
            deleted_registries: None,
        }
    }

    /// The same, telling `deleted` the uid of each registry whose tombstone is applied. A registry that is merely not in a snapshot
    /// is not one of them.
    #[must_use]
    pub fn telling_of_deleted_registries(mut self, deleted: UnboundedSender<Uuid>) -> Self {
        self.deleted_registries = Some(deleted);
        self
    }

    /// Forgets what an earlier stream left unfinished, and says what is applied.
    pub fn begin_stream(&mut self) -> Option<CopyState> {
        self.staged = Vec::new();
        self.snapshot = Snapshot::No;
        self.sequence = 0;
        self.state
    }

    /// Takes one message, and says what to answer. Blocks while the disk works.
    ///
    /// # Errors
    /// See [`ApplyError`]; end the stream then.
    pub fn receive(
        &mut self,
        message: ControlPlaneMessage,
        now: OffsetDateTime,
    ) -> Result<Option<NodeMessage>, ApplyError> {
        match message {
            ControlPlaneMessage::SnapshotBegin { epoch } => {
                self.staged = Vec::new();
                self.snapshot = Snapshot::Begun(epoch);
                Ok(None)
            }
            ControlPlaneMessage::Documents { documents } => self.stage(documents).map(|()| None),
            ControlPlaneMessage::SnapshotEnd => match self.snapshot {
                Snapshot::Begun(epoch) => {
                    self.snapshot = Snapshot::Complete(epoch);
                    Ok(None)
                }
                _ => Err(out_of_order("a snapshot ends that did not begin")),
            },
            ControlPlaneMessage::Mark {
                epoch,
                revision,
                time,
                checksum,
                heard: _,
            } => {
                self.compare_clocks(time, now);
                self.configuration
                    .report(|progress| progress.announced = revision);
                self.mark(Mark {
                    epoch,
                    revision,
                    time,
                    checksum,
                })
            }
            ControlPlaneMessage::Greeting { .. }
            | ControlPlaneMessage::Rotate
            | ControlPlaneMessage::Removed => {
                Err(out_of_order("a request to the node is no configuration"))
            }
        }
    }

    fn stage(&mut self, documents: Vec<StoredDocument>) -> Result<(), ApplyError> {
        let foreign = documents
            .iter()
            .find(|document| !document.region.includes(&self.region));
        if let Some(document) = foreign {
            return Err(out_of_order(&format!(
                "a document of region {} came to a node of region {}",
                document.region, self.region
            )));
        }
        if !matches!(self.snapshot, Snapshot::Awaited | Snapshot::AskAt(_)) {
            self.staged.extend(documents);
        }
        Ok(())
    }

    fn mark(&mut self, mark: Mark) -> Result<Option<NodeMessage>, ApplyError> {
        let staged = latest(std::mem::take(&mut self.staged));
        let epoch = match (self.snapshot, self.state) {
            (Snapshot::Awaited, _) => return Ok(None),
            (Snapshot::AskAt(at), _) => return Ok(self.ask_if_due(at)),
            (Snapshot::Begun(_), _) => return Err(out_of_order("a mark came inside a snapshot")),
            (Snapshot::Complete(epoch), _) => epoch,
            (Snapshot::No, Some(state)) => state.epoch,
            (Snapshot::No, None) => {
                return Ok(self.want_snapshot("nothing is applied yet".to_owned()));
            }
        };
        if epoch != mark.epoch {
            let reason = format!("the mark is of epoch {}, not {epoch}", mark.epoch);
            return Ok(self.want_snapshot(reason));
        }
        let state = CopyState {
            epoch,
            revision: mark.revision,
            checksum: mark.checksum,
            as_of: mark.time,
        };
        if matches!(self.snapshot, Snapshot::Complete(_)) {
            self.apply_snapshot(&staged, state)
        } else {
            self.apply_changes(staged, state)
        }
    }

    fn apply_snapshot(
        &mut self,
        staged: &[StoredDocument],
        state: CopyState,
    ) -> Result<Option<NodeMessage>, ApplyError> {
        if let Some(before) = self.state
            && before.epoch == state.epoch
            && state.revision < before.revision
        {
            return Err(goes_back(before.revision, state.revision));
        }
        let live: Vec<StoredDocument> = staged
            .iter()
            .filter(|document| document.body.is_some())
            .cloned()
            .collect();
        let written = self.copy.replace(staged, state)?;
        if let Some(reason) = refusal(&written, state.checksum) {
            self.failed_snapshots = self.failed_snapshots.saturating_add(1);
            return Ok(self.want_snapshot(reason));
        }
        let mut index = Index::default();
        for document in &live {
            index.apply(document);
        }
        #[cfg(feature = "faults-on-purpose")]
        let index = self.merged_if_asked(index, &live);
        self.configuration.replace(index);
        self.tell_of_deleted_registries(staged);
        tracing::info!(
            config.epoch = %state.epoch,
            config.revision = state.revision.0,
            config.documents = live.len(),
            "configuration replaced by a snapshot of {} documents at revision {}",
            live.len(),
            state.revision
        );
        self.snapshot = Snapshot::No;
        Ok(Some(self.applied(state)))
    }

    /// The snapshot put over what was there before.
    #[cfg(feature = "faults-on-purpose")]
    fn merged_if_asked(&self, snapshot: Index, live: &[StoredDocument]) -> Index {
        if !service::faults_on_purpose::is_on("snapshot-merged") {
            return snapshot;
        }
        let mut merged = Index::default();
        self.configuration
            .change(|index| std::mem::swap(index, &mut merged));
        for document in live {
            merged.apply(document);
        }
        merged
    }

    fn apply_changes(
        &mut self,
        staged: Vec<StoredDocument>,
        state: CopyState,
    ) -> Result<Option<NodeMessage>, ApplyError> {
        let before = self.state.map_or(Revision(0), |before| before.revision);
        if state.revision < before {
            return Err(goes_back(before, state.revision));
        }
        if staged.is_empty() {
            return self.confirm(state);
        }
        let written = self.copy.apply(&staged, state)?;
        if let Some(reason) = refusal(&written, state.checksum) {
            return Ok(self.want_snapshot(reason));
        }
        self.configuration.change(|index| {
            // What disappears goes first: its place may be taken by something else in this batch.
            let (gone, live): (Vec<_>, Vec<_>) =
                staged.iter().partition(|document| document.body.is_none());
            for document in gone.into_iter().chain(live) {
                index.apply(document);
            }
        });
        self.tell_of_deleted_registries(&staged);
        tracing::debug!(
            config.revision = state.revision.0,
            config.documents = staged.len(),
            "configuration is at revision {}",
            state.revision
        );
        Ok(Some(self.applied(state)))
    }

    fn tell_of_deleted_registries(&self, applied: &[StoredDocument]) {
        let Some(told) = &self.deleted_registries else {
            return;
        };
        for uid in deleted_registries_in(applied) {
            // Nobody listens any more when the node ends.
            let _ = told.send(uid);
        }
    }

    /// A mark without documents: nothing changed, but it is vouched for again.
    fn confirm(&mut self, state: CopyState) -> Result<Option<NodeMessage>, ApplyError> {
        let found = self.state.map_or(Checksum::default(), |old| old.checksum);
        if found != state.checksum {
            return Ok(self.want_snapshot(differs(found, state.checksum)));
        }
        let is_due = self
            .copy
            .state()
            .is_none_or(|kept| state.as_of - kept.as_of >= REFRESH_INTERVAL);
        if is_due {
            let written = self.copy.apply(&[], state)?;
            if let Some(reason) = refusal(&written, state.checksum) {
                return Ok(self.want_snapshot(reason));
            }
        }
        Ok(Some(self.applied(state)))
    }

    fn applied(&mut self, state: CopyState) -> NodeMessage {
        self.state = Some(state);
        self.failed_snapshots = 0;
        let (rejected, rejected_count) = newest_rejected(&self.configuration.index());
        let before = self.configuration.progress().rejected_count;
        if rejected_count > rejected.len() && rejected_count != before {
            tracing::warn!(
                config.rejected = rejected_count,
                "{rejected_count} documents cannot be understood; the control plane is told of the newest {}",
                rejected.len()
            );
        }
        self.configuration.report(|progress| {
            progress.state = Some(state);
            progress.is_confirmed = true;
            progress.rejected_count = rejected_count;
            progress.divergence = None;
        });
        self.sequence += 1;
        NodeMessage::Applied {
            sequence: self.sequence,
            epoch: Some(state.epoch),
            revision: state.revision,
            rejected,
        }
    }

    /// The answer to a mark that will be applied.
    #[cfg(feature = "faults-on-purpose")]
    pub(super) fn promise(&mut self, message: &ControlPlaneMessage) -> Option<NodeMessage> {
        match message {
            ControlPlaneMessage::Mark {
                epoch, revision, ..
            } if !self.staged.is_empty() => {
                self.sequence += 1;
                Some(NodeMessage::Applied {
                    sequence: self.sequence,
                    epoch: Some(*epoch),
                    revision: *revision,
                    rejected: Vec::new(),
                })
            }
            _ => None,
        }
    }

    /// Asks for a snapshot: at once, unless the last ones did not add up either.
    fn want_snapshot(&mut self, reason: String) -> Option<NodeMessage> {
        tracing::warn!(
            snapshots.failed = self.failed_snapshots,
            "configuration kept as it is, a snapshot is asked for: {reason}"
        );
        self.staged = Vec::new();
        let failed_snapshots = self.failed_snapshots;
        self.configuration.report(|progress| {
            progress.divergence = Some(Divergence {
                reason,
                failed_snapshots,
            });
        });
        let wait = match failed_snapshots {
            0 | 1 => std::time::Duration::ZERO,
            failed => (SNAPSHOT_RETRY_MINIMUM * 2_u32.saturating_pow(failed - 2))
                .min(SNAPSHOT_RETRY_MAXIMUM),
        };
        self.ask_if_due(BootTime(
            self.configuration.standing().clock().now().0 + wait,
        ))
    }

    fn ask_if_due(&mut self, at: BootTime) -> Option<NodeMessage> {
        if self.configuration.standing().clock().now() < at {
            self.snapshot = Snapshot::AskAt(at);
            return None;
        }
        self.snapshot = Snapshot::Awaited;
        let divergence = self.configuration.progress().divergence;
        Some(NodeMessage::SnapshotWanted {
            reason: divergence.map_or_else(String::new, |divergence| divergence.reason),
        })
    }

    fn compare_clocks(&mut self, theirs: OffsetDateTime, ours: OffsetDateTime) {
        let offset = theirs - ours;
        let is_off = offset.abs() > CLOCK_OFFSET_REPORTED;
        if is_off && !self.clock_is_off {
            tracing::warn!(
                clock.offset_seconds = offset.as_seconds_f64(),
                "the control plane's clock is {offset} ahead of this node's"
            );
        }
        self.clock_is_off = is_off;
        self.configuration
            .report(|progress| progress.clock_offset_seconds = offset.as_seconds_f64());
    }
}

/// Of the documents that cannot be understood those of the highest revisions, by which it is decided whether a change is in force; and how
/// many there are in all.
fn newest_rejected(index: &Index) -> (Vec<Rejected>, usize) {
    let mut rejected: Vec<&Rejected> = index.rejected().collect();
    let count = rejected.len();
    rejected.sort_unstable_by_key(|document| std::cmp::Reverse(document.revision));
    rejected.truncate(REJECTED_TOLD_MAXIMUM);
    (rejected.into_iter().cloned().collect(), count)
}

fn out_of_order(what: &str) -> ApplyError {
    ApplyError::OutOfOrder(what.to_owned())
}

fn goes_back(from: Revision, to: Revision) -> ApplyError {
    out_of_order(&format!(
        "a mark at revision {to} came after revision {from}"
    ))
}

/// Of each document the state that came last: an older one must not come back to life behind its tombstone.
fn latest(staged: Vec<StoredDocument>) -> Vec<StoredDocument> {
    let mut seen = HashSet::with_capacity(staged.len());
    let is_latest: Vec<bool> = staged
        .iter()
        .rev()
        .map(|document| seen.insert((&document.region, &document.kind, &document.key)))
        .collect();
    staged
        .into_iter()
        .zip(is_latest.into_iter().rev())
        .filter_map(|(document, is_latest)| is_latest.then_some(document))
        .collect()
}

/// Why something was not written.
fn refusal(written: &Written, expected: Checksum) -> Option<String> {
    match written {
        Written::Yes => None,
        Written::ChecksumDiffers { found } => Some(differs(*found, expected)),
        Written::FileDiffers => Some(
            "the copy on this node's disk is not what is in force: a change that the disk refused is there all the same"
                .to_owned(),
        ),
    }
}

fn differs(found: Checksum, expected: Checksum) -> String {
    format!("the checksum would be {found} and the mark says {expected}")
}
