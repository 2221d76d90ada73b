//! Time and randomness of the content, handed in from outside so that tests can hold them still.

use std::sync::Arc;

use service::clock::{self, Clock};
use uuid::Uuid;

/// Where the time and random ids come from.
#[derive(Clone)]
pub struct Sources {
    /// The time now.
    pub now: Clock,
    /// A random id that was never given before.
    pub random_id: Arc<dyn Fn() -> Uuid + Send + Sync>,
}

impl Sources {
    /// The machine's clock and the operating system's randomness.
    #[must_use]
    pub fn of_the_system() -> Self {
        Self {
            now: clock::of_the_system(),
            random_id: Arc::new(Uuid::new_v4),
        }
    }
}
