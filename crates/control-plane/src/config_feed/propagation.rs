//! Whether a change is in force: who has applied it, who lacks it, and the wait for that.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use config_documents::{Epoch, Region, Rejected, Revision};
use store::config::{Lineage, Published};
use store::nodes::{self, NodeState};
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use uuid::Uuid;

use super::ConfigFeed;
use super::connections::Connected;
use super::limits::{
    BACK_OFF, NAMED_NODES, NODES_INTERVAL, NODES_PAUSE_MAXIMUM, NODES_PAUSE_PER_NODE,
    REMOTE_PROGRESS_INTERVAL,
};
use crate::limits::STATEMENT_TIMEOUT;

/// How far a change has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Every enrolled node of the regions concerned has applied it, or refuses requests because it is too long without news.
    Complete,
    /// Every node with a live lease has applied it; others may still serve the old state, or a node cannot understand it.
    Partial,
    /// The wait ended before that was known; or a new epoch has begun, and the change may have been lost with the database that it was
    /// committed to.
    Pending,
}

impl Outcome {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Pending => "pending",
        }
    }
}

/// What is known about a change when its operation answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Propagation {
    pub(crate) outcome: Outcome,
    pub(crate) revision: Revision,
    /// The nodes that lack it or cannot understand it. Empty with `pending` when not even the list of nodes could be read.
    pub(crate) missing: Vec<Uuid>,
}

impl Propagation {
    /// The headers of the answer.
    pub(crate) fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("x-wharfinger-propagation", self.outcome.as_str().to_owned()),
            ("x-wharfinger-revision", self.revision.to_string()),
        ];
        if !self.missing.is_empty() {
            headers.push(("x-wharfinger-missing", self.missing_text()));
        }
        headers
    }

    /// The headers of an answer to what made no revision of its own.
    pub(crate) fn headers_of_repetition(&self) -> Vec<(&'static str, String)> {
        let mut headers = self.headers();
        headers.retain(|(name, _)| *name != "x-wharfinger-revision");
        headers
    }

    /// The ids of the missing nodes; beyond a bound only how many more there are (`+7`).
    fn missing_text(&self) -> String {
        let named: Vec<String> = self
            .missing
            .iter()
            .take(NAMED_NODES)
            .map(Uuid::to_string)
            .collect();
        let mut text = named.join(", ");
        if let Some(more) = self.missing.len().checked_sub(NAMED_NODES)
            && more > 0
        {
            write!(text, ", +{more}").expect("a string takes all text");
        }
        text
    }
}

/// The list of nodes as it was last read, shared by all who wait: one statement serves everyone who asked before it began.
pub(super) struct Nodes {
    asked: AtomicU64,
    wanted: Notify,
    view: watch::Sender<View>,
}

#[derive(Clone)]
struct View {
    /// Asked for before it was read: this question and all before it.
    answers: u64,
    read_at: Instant,
    /// `None` before the first time.
    lineage: Option<Lineage>,
    nodes: Arc<[NodeState]>,
}

impl Nodes {
    pub(super) fn new() -> Self {
        Self {
            asked: AtomicU64::new(0),
            wanted: Notify::new(),
            view: watch::Sender::new(View {
                answers: 0,
                read_at: Instant::now(),
                lineage: None,
                nodes: Arc::new([]),
            }),
        }
    }

    /// [`Self::ask`] for one who waits for a change, who takes whichever list was read last if that fault is on.
    #[cfg(feature = "faults-on-purpose")]
    fn ask_for_change(&self) -> u64 {
        if service::faults_on_purpose::is_on("waiter-ignores-joined-node") {
            return 0;
        }
        self.ask()
    }

    /// Asks for a list that is read from now on, and gives the question's number.
    pub(super) fn ask(&self) -> u64 {
        let question = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.wanted.notify_one();
        question
    }
}

/// Reads the list of nodes when someone asks, and now and then for the metrics.
pub(super) async fn follow_nodes(feed: &ConfigFeed) {
    let mut shown_at: Option<Instant> = None;
    loop {
        // Timed out or asked: either is a reason to read.
        let _ = timeout(NODES_INTERVAL, feed.nodes.wanted.notified()).await;
        let answers = feed.nodes.asked.load(Ordering::Acquire);
        let read_at = Instant::now();
        match store::within(STATEMENT_TIMEOUT, nodes::survey(&feed.store)).await {
            Ok((lineage, nodes)) => {
                let is_due = shown_at.is_none_or(|shown_at| shown_at.elapsed() >= NODES_INTERVAL);
                if let (true, Some(head)) = (is_due, feed.reader.head()) {
                    feed.metrics.nodes(head, &nodes);
                    feed.attempts.forget_quiet();
                    shown_at = Some(read_at);
                }
                feed.ask_to_rotate(&nodes);
                let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
                feed.nodes.view.send_replace(View {
                    answers,
                    read_at,
                    lineage: Some(lineage),
                    nodes: nodes.into(),
                });
                // The first who asks is answered at once, those who follow closely together.
                sleep(
                    NODES_PAUSE_PER_NODE
                        .saturating_mul(count)
                        .min(NODES_PAUSE_MAXIMUM),
                )
                .await;
            }
            Err(error) => {
                tracing::debug!(error.cause = %service::errors::chain(&error), "the list of nodes cannot be read; it is tried again");
                sleep(BACK_OFF).await;
                feed.nodes.wanted.notify_one();
            }
        }
    }
}

impl ConfigFeed {
    /// [`ConfigFeed::wait`] without regard to one node: the one that is just being enrolled and cannot have connected.
    pub(super) async fn wait_but_for(
        &self,
        published: &Published,
        except: Option<Uuid>,
    ) -> Propagation {
        let started = Instant::now();
        self.wake();
        let propagation = self.wait_until_known(published, except).await;
        self.metrics
            .propagated(propagation.outcome, started.elapsed());
        if propagation.outcome != Outcome::Complete {
            tracing::warn!(
                config.revision = published.revision.0,
                propagation.outcome = propagation.outcome.as_str(),
                propagation.missing = propagation.missing_text(),
                "a change is not known to be in force everywhere"
            );
        }
        propagation
    }

    async fn wait_until_known(&self, published: &Published, except: Option<Uuid>) -> Propagation {
        let deadline = tokio::time::Instant::now() + self.propagation_timeout;
        let mut changes = self.connections.changes();
        let mut view = self.nodes.view.subscribe();
        // Asked after the caller's commit: a node that is not in the list, or whose lease is not, reads the head after that commit.
        #[cfg(not(feature = "faults-on-purpose"))]
        let question = self.nodes.ask();
        #[cfg(feature = "faults-on-purpose")]
        let question = self.nodes.ask_for_change();
        let mut poll = interval(REMOTE_PROGRESS_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = Propagation {
            outcome: Outcome::Pending,
            revision: published.revision,
            missing: Vec::new(),
        };
        // One of the nodes that are missing: all are looked at again when none of those that are connected here lacks the change.
        let mut lacking = None;
        let mut look = true;
        loop {
            if look {
                let current = view.borrow_and_update().clone();
                if current.answers >= question {
                    known = self.judge(published, except, &current);
                    if known.outcome != Outcome::Pending {
                        return known;
                    }
                    lacking = self.connections.lacking(&known.missing, published.revision);
                }
            }
            look = tokio::select! {
                () = sleep_until(deadline) => return known,
                () = next(&mut lacking, &mut changes) => {
                    lacking = self.connections.lacking(&known.missing, published.revision);
                    lacking.is_none()
                }
                _ = view.changed() => lacking.is_none(),
                _ = poll.tick() => {
                    let lineage = view.borrow().lineage;
                    if self.is_known_elsewhere(&known.missing, lineage) {
                        self.nodes.ask();
                    }
                    true
                }
            };
        }
    }

    /// Whether a newer list of nodes could tell more than these nodes' streams do: one is not connected here, or not in earnest, or has
    /// gone on to another epoch than the list.
    fn is_known_elsewhere(&self, missing: &[Uuid], lineage: Option<Lineage>) -> bool {
        let here = self.connections.of(missing.iter().copied());
        let epoch = lineage.map(|lineage| lineage.epoch);
        let is_elsewhere = |node: &Connected| {
            !node.is_fresh()
                || node
                    .applied
                    .as_ref()
                    .is_some_and(|applied| Some(applied.epoch) != epoch)
        };
        here.len() < missing.len() || here.values().any(is_elsewhere)
    }

    fn judge(&self, published: &Published, except: Option<Uuid>, view: &View) -> Propagation {
        let concerned: Vec<&NodeState> = view
            .nodes
            .iter()
            .filter(|node| Some(node.node_id) != except && concerns(published, &node.region))
            .collect();
        let here = self
            .connections
            .of(concerned.iter().map(|node| node.node_id));
        match view.lineage {
            Some(lineage) if lineage.holds(published) => {
                judge(published, lineage.epoch, &concerned, &here, view.read_at)
            }
            _ => Propagation {
                outcome: Outcome::Pending,
                revision: published.revision,
                missing: concerned.iter().map(|node| node.node_id).collect(),
            },
        }
    }

    /// How far a revision has got, everywhere, without waiting; by a list of nodes that was just read.
    pub(super) fn judge_now(
        &self,
        published: &Published,
        lineage: Lineage,
        nodes: &[NodeState],
    ) -> Propagation {
        let view = View {
            answers: 0,
            read_at: Instant::now(),
            lineage: Some(lineage),
            nodes: nodes.into(),
        };
        self.judge(published, None, &view)
    }
}

/// Returns when this node said something, or any if there is none.
async fn next(lacking: &mut Option<watch::Receiver<()>>, changes: &mut watch::Receiver<u64>) {
    match lacking {
        // The stream is gone: that is news too.
        Some(lacking) => drop(lacking.changed().await),
        None => drop(changes.changed().await),
    }
}

fn concerns(published: &Published, region: &Region) -> bool {
    published
        .regions
        .iter()
        .any(|published| published.includes(region))
}

/// Level-triggered: a node has a revision when it has applied that one or a later one, of the head's epoch, which holds what was published.
/// What it said to this control plane and what is written of it both count; it never goes backwards.
fn judge(
    published: &Published,
    epoch: Epoch,
    concerned: &[&NodeState],
    here: &HashMap<Uuid, Connected>,
    read_at: Instant,
) -> Propagation {
    let mut missing = Vec::new();
    let mut waiting = false;
    for node in concerned {
        let connected = here.get(&node.node_id);
        let said = connected.and_then(|connected| connected.applied.as_ref());
        // A node that has gone on to another epoch has given up what is written of it in this one.
        let has_moved_on = connected.is_some_and(Connected::is_fresh)
            && said.is_some_and(|said| said.epoch != epoch);
        let rejected = said
            .filter(|said| said.epoch == epoch && said.revision >= published.revision)
            .map(|said| &*said.rejected)
            .or_else(|| {
                node.progress
                    .as_ref()
                    .filter(|progress| {
                        !has_moved_on
                            && progress.epoch == epoch
                            && progress.revision >= published.revision
                    })
                    .map(|progress| progress.rejected.as_slice())
            });
        let is_live_here = connected.is_some_and(Connected::is_live);
        match rejected {
            Some(rejected) if !rejects(rejected, published.revision) => {}
            Some(_) => missing.push(node.node_id),
            // It refuses until it is told that something newer than this reading was heard, and has been sent this change by then.
            None if node.is_fenced && !is_live_here => {}
            None => {
                missing.push(node.node_id);
                waiting |= is_live_here || read_at.elapsed() < node.lease_remaining;
            }
        }
    }
    let outcome = match (missing.is_empty(), waiting) {
        (true, _) => Outcome::Complete,
        (false, true) => Outcome::Pending,
        (false, false) => Outcome::Partial,
    };
    Propagation {
        outcome,
        revision: published.revision,
        missing,
    }
}

/// Whether a document of this revision, or one that may have taken its place since, was not understood.
fn rejects(rejected: &[Rejected], revision: Revision) -> bool {
    rejected
        .iter()
        .any(|document| document.revision >= revision)
}
