//! How a collection leaves room for those whose content it is.

use std::time::Instant;

use tokio::time::sleep;

use crate::limits::COLLECTION_REST;

/// How fast a pass goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// It rests most of the time.
    #[default]
    Gentle,
    /// It never rests.
    Full,
}

/// Rests after work, in proportion to it: a store that answers slowly because it is busy is asked less.
pub(super) struct Pacer {
    pace: Pace,
    working_since: Instant,
}

impl Pacer {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            working_since: Instant::now(),
        }
    }

    pub(super) async fn rest(&mut self) {
        if self.pace == Pace::Full {
            return;
        }
        sleep(self.working_since.elapsed() * COLLECTION_REST).await;
        self.working_since = Instant::now();
    }
}
