//! What is remembered of applications between sign-ins. Adding and removing secrets, and whatever befalls a service principal, publishes: what was
//! read at another head does not count.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use uuid::Uuid;

use super::SignInFacts;
use crate::head::Head;

/// Memory for what is remembered of applications, in bytes, and how long it is kept unused.
const REMEMBERED_BYTES: u64 = 1024 * 1024;
const REMEMBERED_IDLE: Duration = Duration::from_secs(600);

/// An application that has a service principal: without one a new secret publishes nothing.
#[derive(Clone)]
pub(super) struct Remembered {
    pub(super) head: Head,
    pub(super) facts: Arc<SignInFacts>,
}

impl Remembered {
    fn weight_bytes(&self) -> u32 {
        let bytes = 200 + self.facts.secrets.len() * 200;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

/// What is remembered, by application id.
pub(crate) struct RememberedApplications(Cache<Uuid, Remembered>);

impl Default for RememberedApplications {
    fn default() -> Self {
        let cache = Cache::builder()
            .max_capacity(REMEMBERED_BYTES)
            .weigher(|_: &Uuid, value: &Remembered| value.weight_bytes())
            .time_to_idle(REMEMBERED_IDLE)
            .build();
        Self(cache)
    }
}

impl RememberedApplications {
    pub(super) fn get(&self, app_id: Uuid) -> Option<Remembered> {
        self.0.get(&app_id)
    }

    pub(super) fn insert(&self, app_id: Uuid, found: Remembered) {
        self.0.insert(app_id, found);
    }
}
