//! How far a pass or a check is, for whoever looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use uuid::Uuid;

/// What is being done now. Clones share it.
#[derive(Clone, Default)]
pub struct Progress(Arc<Inner>);

#[derive(Default)]
struct Inner {
    doing: Mutex<Doing>,
    done: AtomicU64,
}

/// The work under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doing {
    /// In which registry.
    pub registry: Option<Uuid>,
    /// What: a few words.
    pub stage: &'static str,
}

impl Progress {
    /// Something else begins.
    pub fn begin(&self, registry: Option<Uuid>, stage: &'static str) {
        *self.0.doing.lock() = Doing { registry, stage };
        self.0.done.store(0, Ordering::Relaxed);
    }

    /// So many more things were looked at.
    pub fn advance(&self, count: usize) {
        self.0.done.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// What is being done, and how many things were looked at.
    #[must_use]
    pub fn now(&self) -> (Doing, u64) {
        let doing = self.0.doing.lock().clone();
        (doing, self.0.done.load(Ordering::Relaxed))
    }
}
