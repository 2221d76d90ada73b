//! The node's configuration: how it arrives, where it is kept, and what requests see of it.
//!
//! [`Index`] is what requests are decided by; [`LocalCopy`] is the same on disk; [`Applier`] takes
//! batches from the stream into both; [`Follower`] keeps the stream; [`enrolment`] is how the node
//! became one, [`Identities`] what it shows and signs with, [`Standing`] whether it may serve at all.
//! What requests do with the index belongs to the gate.

mod applier;
mod control_plane;
mod copy_file;
pub mod enrolment;
#[cfg(test)]
mod failing_disk;
mod follower;
mod freshness;
mod identities;
mod index;
mod joining;
mod local_copy;
mod rotation;
mod sharded_map;
mod standing;
mod usage_reports;
mod used_credentials;

pub use applier::{Applier, ApplyError};
pub use control_plane::{ControlPlane, ControlPlaneError, Stream};
pub use follower::Follower;
pub use freshness::{BootTime, Freshness, Stale};
pub use identities::{Identities, Identity};
pub use index::{Access, Index, RegistryEntry, SigningKeyEntry};
pub use joining::{wait_for_change, wait_until_servable};
pub use local_copy::{CopyError, CopyState, DeletedRegistries, LocalCopy, Opened, Written};
pub use standing::{BootClock, Refusal, Standing, StandingError, StandingNow};
pub use usage_reports::UsageReports;
pub use used_credentials::UsedCredentials;

use std::time::Duration;

use config_documents::Revision;
use parking_lot::{RwLock, RwLockReadGuard};
use time::OffsetDateTime;
use tokio::sync::watch;

/// What requests see, shared by all of them; and how far it has come.
pub struct Configuration {
    index: RwLock<Index>,
    progress: watch::Sender<Progress>,
    standing: Standing,
    used: UsedCredentials,
    usage: UsageReports,
}

/// How far the configuration has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What is applied; `None` while the node has never had a configuration.
    pub state: Option<CopyState>,
    /// Whether a control plane has vouched for it since this process began.
    pub is_confirmed: bool,
    /// The stream to the control plane.
    pub connection: Connection,
    /// The newest revision that the control plane has spoken of.
    pub announced: Revision,
    /// How far the control plane's clock is ahead of this node's, in seconds, at the last mark.
    pub clock_offset_seconds: f64,
    /// Documents that the node holds and cannot understand.
    pub rejected_count: usize,
    /// What the control plane sent did not add up, and it has not sent anything since that did.
    pub divergence: Option<Divergence>,
}

/// Nothing is applied until a snapshot adds up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// What did not hold.
    pub reason: String,
    /// Snapshots that did not add up either.
    pub failed_snapshots: u32,
}

/// The stream to the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// Not tried yet.
    #[default]
    Unknown,
    /// Up since the last message.
    Connected,
    /// Down, or never came up.
    Unreachable(String),
    /// The control plane does not accept this node.
    Refused(String),
}

impl Default for Configuration {
    fn default() -> Self {
        Self::new(Index::default(), None)
    }
}

impl Configuration {
    /// Begins with what a copy held, and serves however old it gets.
    pub fn new(index: Index, state: Option<CopyState>) -> Self {
        Self::with_standing(index, state, Standing::unbounded())
    }

    /// Begins with what a copy held.
    pub fn with_standing(index: Index, state: Option<CopyState>, standing: Standing) -> Self {
        let rejected_count = index.rejected().len();
        Self {
            index: RwLock::new(index),
            progress: watch::Sender::new(Progress {
                state,
                rejected_count,
                ..Progress::default()
            }),
            standing,
            used: UsedCredentials::default(),
            usage: UsageReports::default(),
        }
    }

    /// What the control plane is told of the credentials that were used here.
    pub fn used(&self) -> &UsedCredentials {
        &self.used
    }

    /// What the control plane is told of how much registries store.
    pub fn usage(&self) -> &UsageReports {
        &self.usage
    }

    /// Whether this node may serve at all.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// What requests are decided by, as it is now. Hold it for a decision, never across an await.
    pub fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read()
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// To wait for progress.
    pub fn subscribe(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut Index)) {
        change(&mut self.index.write());
    }

    /// The old index is dropped after the lock is released: that takes a while.
    fn replace(&self, index: Index) {
        let _old = std::mem::replace(&mut *self.index.write(), index);
    }

    fn report(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.send_modify(change);
    }
}

impl Progress {
    /// How old the configuration may be: the time since a control plane vouched for it, by this
    /// node's clock. `None` without a configuration.
    pub fn age(&self, now: OffsetDateTime) -> Option<Duration> {
        let state = self.state?;
        Some((now - state.as_of).try_into().unwrap_or(Duration::ZERO))
    }

    /// Revisions that were announced and are not applied.
    pub fn lag(&self) -> u64 {
        let applied = self.state.map_or(Revision(0), |state| state.revision);
        self.announced.0.saturating_sub(applied.0)
    }

    /// One line for `/readyz` and for logs.
    pub fn describe(&self, now: OffsetDateTime) -> String {
        let state = match (self.state, self.age(now)) {
            (Some(state), Some(age)) => format!(
                "revision {} of epoch {}, {} seconds old",
                state.revision,
                state.epoch,
                age.as_secs()
            ),
            _ => "no configuration yet".to_owned(),
        };
        let connection = match &self.connection {
            Connection::Unknown => "the control plane was not asked yet".to_owned(),
            Connection::Connected => "the control plane is connected".to_owned(),
            Connection::Unreachable(reason) => {
                format!("the control plane cannot be reached: {reason}")
            }
            Connection::Refused(reason) => format!("the control plane refuses this node: {reason}"),
        };
        let rejected = match self.rejected_count {
            0 => String::new(),
            count => format!("; {count} documents are not understood"),
        };
        let divergence = match &self.divergence {
            None => String::new(),
            Some(divergence) => format!(
                "; nothing is applied until a snapshot adds up ({} did not): {}",
                divergence.failed_snapshots, divergence.reason
            ),
        };
        format!("{state}; {connection}{rejected}{divergence}")
    }
}
