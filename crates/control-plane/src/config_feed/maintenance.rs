//! What the feed does now and then: putting newer forms into use, and forgetting old tombstones. Both are idempotent, and every control
//! plane does them.

use store::config::{self, TOMBSTONE_AGE};
use store::nodes;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::ConfigFeed;
use super::limits::{BACK_OFF, FORMS_INTERVAL, PURGE_INTERVAL, PURGE_TOMBSTONES};

/// What wakes the tasks before their time.
pub(super) struct Maintenance {
    forms_wanted: Notify,
    purge_wanted: Notify,
}

impl Maintenance {
    pub(super) fn new() -> Self {
        Self {
            forms_wanted: Notify::new(),
            purge_wanted: Notify::new(),
        }
    }

    /// Says that a node may understand more than before, or that one that understood less is gone.
    pub(super) fn wake_forms(&self) {
        self.forms_wanted.notify_one();
    }
}

/// Publishes documents in the newest form that all nodes understand.
pub(super) async fn raise_forms(feed: &ConfigFeed) {
    loop {
        match config::forms_raise(&feed.store).await {
            Ok(None) => {}
            Ok(Some(raised)) => {
                tracing::info!(
                    forms = ?raised.forms,
                    config.revision = raised.published.as_ref().map(|published| published.revision.0),
                    "every enrolled node understands newer documents; they are published from now on"
                );
                if raised.published.is_some() {
                    feed.wake();
                }
            }
            Err(error) => tracing::debug!(
                error.cause = %service::errors::chain(&error),
                "whether newer documents can be published is not known; it is tried again"
            ),
        }
        // Nodes that come back together are looked at together.
        sleep(BACK_OFF).await;
        let _ = timeout(FORMS_INTERVAL, feed.maintenance.forms_wanted.notified()).await;
    }
}

/// Forgets what was deleted long ago, and how far nodes got in epochs that are over.
pub(super) async fn purge(feed: &ConfigFeed) {
    loop {
        if let Err(error) = nodes::progress_forget(&feed.store).await {
            tracing::debug!(error.cause = %service::errors::chain(&error), "the progress of nodes in past epochs is not forgotten yet");
        }
        match config::tombstones_purge(&feed.store, TOMBSTONE_AGE, PURGE_TOMBSTONES).await {
            Ok(purged) => {
                feed.metrics.purged(purged.tombstones);
                if purged.tombstones > 0 {
                    tracing::info!(
                        tombstones = purged.tombstones,
                        config.purged_through = purged.purged_through.0,
                        "old tombstones are forgotten; a node that has less than revision {} gets a snapshot",
                        purged.purged_through
                    );
                }
                if purged.tombstones >= u64::from(PURGE_TOMBSTONES) {
                    // There may be more; others get at the head in between.
                    feed.maintenance.purge_wanted.notify_one();
                }
            }
            Err(error) => tracing::debug!(
                error.cause = %service::errors::chain(&error),
                "old tombstones are not forgotten yet; it is tried again"
            ),
        }
        sleep(BACK_OFF).await;
        let _ = timeout(PURGE_INTERVAL, feed.maintenance.purge_wanted.notified()).await;
    }
}
