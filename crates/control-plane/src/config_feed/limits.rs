//! The bounds of the feed, each in one place.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// The head is read at least this often, and marks are sent at least this often.
pub(super) const READ_INTERVAL: Duration =
    Duration::from_millis(config_documents::MINIMUM_MARK_INTERVAL_MILLISECONDS);

/// How long a task rests after the database failed it.
pub(super) const BACK_OFF: Duration = Duration::from_millis(500);

/// Notifications to other control planes are at least this far apart.
pub(super) const ANNOUNCE_INTERVAL: Duration = Duration::from_millis(10);

/// More documents than this at once are not kept in memory for all streams: each stream reads them page by page.
pub(super) const BATCH_DOCUMENTS: u32 = 5_000;

/// After a batch, the next one waits this long for each connected node and each change of the batch (so many are counted at most): a lone
/// change goes out at once, of many at a time more go together.
pub(super) const BATCH_PAUSE_PER_NODE_AND_CHANGE: Duration = Duration::from_micros(40);
pub(super) const BATCH_PAUSE_CHANGES: u32 = 25;
pub(super) const BATCH_PAUSE_MAXIMUM: Duration = Duration::from_millis(100);

/// Batches that a stream may be behind before it reads on its own.
pub(super) const BATCHES_KEPT: usize = 64;

/// Streams that read on their own at once; less than half of the connections there are.
pub(super) const CATCH_UPS: usize = 4;
/// As many of these may be snapshots: they take longest, and a slow node takes one slowly. What others lack is read beside them.
pub(super) const SNAPSHOTS: usize = 2;

/// Progress of all connected nodes is written at most this often.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Answers of a node that are committed and wait for the node to be sent what was newest then.
pub(super) const COMMITTED_KEPT: usize = 16;

/// Documents that a node cannot understand of which one node's are kept: those of the highest revisions, by which alone it is decided
/// whether a change is in force.
pub(super) const REJECTED_DOCUMENTS: usize = 1_000;

/// The longest key, and the longest reason, of such a document that is kept, in characters.
pub(super) const REJECTED_TEXT_CHARACTERS: usize = 300;

/// How often it is looked whether documents can be published in a newer form, when no node says so.
pub(super) const FORMS_INTERVAL: Duration = Duration::from_secs(60);

/// A stream is asked for a new credential and key at most this often.
pub(super) const ROTATION_ASKED_INTERVAL: Duration = Duration::from_secs(1);

/// A new epoch begins at most this often because a node says that it has a revision above the head.
pub(super) const WENT_BACK_INTERVAL: Duration = Duration::from_secs(60);

/// How often old tombstones are looked for.
pub(super) const PURGE_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// How often it is looked for signing keys of before a rotation whose tokens are dead.
pub(super) const RETIRED_KEYS_INTERVAL: Duration = Duration::from_secs(60);

/// Tombstones that are purged at once: the head is locked meanwhile.
pub(super) const PURGE_TOMBSTONES: u32 = 1_000;

/// How far apart streams are closed when the control plane ends, and the longest that one stays open then: nodes come to the others one
/// by one.
pub(super) const STAGGER: Duration = Duration::from_millis(10);
pub(super) const STAGGER_MAXIMUM: Duration = Duration::from_secs(2);

/// How often an operation looks for the progress of nodes that are connected elsewhere.
pub(super) const REMOTE_PROGRESS_INTERVAL: Duration = Duration::from_millis(50);

/// How often the list of nodes is read when nobody asks, for the metrics.
pub(super) const NODES_INTERVAL: Duration = Duration::from_secs(5);

/// The list of nodes is not read again for this long for each node in it.
pub(super) const NODES_PAUSE_PER_NODE: Duration = Duration::from_micros(50);
pub(super) const NODES_PAUSE_MAXIMUM: Duration = Duration::from_millis(10);

/// Credentials that nodes said were used which are kept until they are written, how many are written at once, and how far apart.
pub(super) const USED_CREDENTIALS: usize = 100_000;
pub(super) const USED_WRITTEN_AT_ONCE: usize = 5_000;
pub(super) const USED_INTERVAL: Duration = Duration::from_secs(1);

/// Registries of which nodes said how much they store that are kept until it is written, how many are written at once, and how far apart.
pub(super) const USAGES: usize = 100_000;
pub(super) const USAGES_WRITTEN_AT_ONCE: usize = 5_000;
pub(super) const USAGE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a node may take to say hello, and how long one message may take to leave.
pub(super) const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a node is pinged: it may have nothing to say for long, while it applies a snapshot.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(3);

/// The largest message of a node, in bytes.
pub(super) const MAXIMUM_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Documents in one message to a node, and about how many bytes of them.
pub(super) const MESSAGE_DOCUMENTS: usize = 500;
pub(super) const MESSAGE_BYTES: usize = 256 * 1024;

/// Revisions that a node may leave unanswered before it is sent more.
pub(super) const UNANSWERED_MARKS: usize = 16;

/// A stream whose checksums do not hold gets a snapshot at most this often.
pub(super) const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(5);

/// Nodes named in one header.
pub(super) const NAMED_NODES: usize = 50;

/// Attempts to connect or to join that one address may make at once, and a second: each looks through all verifiers.
const ATTEMPTS_AT_ONCE: NonZeroU32 = NonZeroU32::new(1_000).expect("not zero");
const ATTEMPTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(50).expect("not zero");

/// Counts attempts by address.
pub(super) struct Attempts(DefaultKeyedRateLimiter<IpAddr>);

impl Attempts {
    pub(super) fn new() -> Self {
        let quota = Quota::per_second(ATTEMPTS_PER_SECOND).allow_burst(ATTEMPTS_AT_ONCE);
        Self(RateLimiter::keyed(quota))
    }

    /// Counts an attempt; false when it is one too many. Connections without an address are not limited.
    pub(super) fn allow(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|peer| self.0.check_key(&peer).is_ok())
    }

    /// Forgets addresses that have been quiet.
    pub(super) fn forget_quiet(&self) {
        self.0.retain_recent();
    }
}
