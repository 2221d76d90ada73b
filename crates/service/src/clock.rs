//! The clock of a program: taken once, where the program begins, and handed down, so that tests can hold it still.

use std::sync::Arc;

use time::OffsetDateTime;

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// The machine's clock.
#[expect(
    clippy::disallowed_methods,
    reason = "programs begin here; everything else is handed a clock"
)]
pub fn of_the_system() -> Clock {
    Arc::new(OffsetDateTime::now_utc)
}
