//! What is remembered of callers between decisions: whether the credential of a token counts, and what roles it has at a scope and in the
//! directory.
//!
//! Whatever changes one of these facts publishes in its transaction, nearly always because nodes have to know it too, and so counts the head's
//! revision up. A decision reads the head in the statement that finds the resource: what is remembered of another revision does not count. So nothing is
//! decided by what was taken away before the decision began, on whichever control plane, and no one has to be told to forget.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{CallerFacts, Credential, HeldRoles, ScopeKeys};
use crate::head::Head;

/// Memory for what is remembered of callers, in bytes, and how long it is kept unused.
const REMEMBERED_BYTES: u64 = 2 * 1024 * 1024;
const REMEMBERED_IDLE: Duration = Duration::from_secs(600);

/// What was found of a caller whose credential counts.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) head: Head,
    pub(super) caller: CallerFacts,
    /// When the credential is over by itself.
    pub(super) counts_until: OffsetDateTime,
    pub(super) directory_roles: Vec<String>,
    pub(super) held: HeldRoles,
}

impl Remembered {
    fn weight_bytes(&self, key: &Key) -> u32 {
        // A custom role has a few patterns, of some hundred bytes.
        let assignments: usize = self
            .held
            .assignments
            .iter()
            .map(|assigned| 100 + assigned.scope_key.len())
            .sum();
        let bytes = 400 + key.scope.len() + assignments + self.held.custom.len() * 2000;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    object_id: Uuid,
    key_id: Uuid,
    /// The innermost; empty where no scope is asked for.
    scope: String,
}

impl Key {
    fn of(credential: Credential, scope: &ScopeKeys) -> Self {
        Self {
            object_id: credential.object_id,
            key_id: credential.key_id,
            scope: scope.chain.first().cloned().unwrap_or_default(),
        }
    }
}

/// What is remembered, of all callers.
pub(crate) struct RememberedCallers {
    by_key: Cache<Key, Arc<Remembered>>,
    /// The newest revision that was seen here: what is of an earlier one is not worth asking about.
    newest: AtomicI64,
}

impl Default for RememberedCallers {
    fn default() -> Self {
        Self {
            by_key: Cache::builder()
                .max_capacity(REMEMBERED_BYTES)
                .weigher(|key: &Key, value: &Arc<Remembered>| value.weight_bytes(key))
                .time_to_idle(REMEMBERED_IDLE)
                .build(),
            newest: AtomicI64::new(0),
        }
    }
}

impl RememberedCallers {
    /// What may still be so; only the head tells.
    pub(super) fn get(
        &self,
        credential: Credential,
        scope: &ScopeKeys,
        now: OffsetDateTime,
    ) -> Option<Arc<Remembered>> {
        let newest = self.newest.load(Ordering::Relaxed);
        self.by_key
            .get(&Key::of(credential, scope))
            .filter(|known| known.head.revision == newest)
            .filter(|known| now < known.counts_until)
    }

    pub(super) fn insert(&self, credential: Credential, scope: &ScopeKeys, found: Remembered) {
        self.by_key
            .insert(Key::of(credential, scope), Arc::new(found));
    }

    pub(super) fn saw(&self, head: Head) {
        self.newest.store(head.revision, Ordering::Relaxed);
    }
}
