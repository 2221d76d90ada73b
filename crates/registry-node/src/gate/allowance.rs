//! How often something may happen: a number of times at once, and then steadily.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What is still allowed. Refills steadily up to a maximum.
#[derive(Debug)]
pub(super) struct Allowance {
    maximum: u32,
    interval: Duration,
    /// When the allowance will be (or was) full again.
    full_at: Mutex<Instant>,
}

impl Allowance {
    /// Once each interval, and up to the maximum at once.
    pub(super) fn full(maximum: u32, interval: Duration, now: Instant) -> Self {
        Self {
            maximum,
            interval,
            full_at: Mutex::new(now),
        }
    }

    /// Takes one, or says how long it takes until one is allowed.
    pub(super) fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut full_at = self.full_at.lock();
        match self.wait_until(*full_at, now) {
            Some(wait) => Err(wait),
            None => {
                *full_at = (*full_at).max(now) + self.interval;
                Ok(())
            }
        }
    }

    /// How long it takes until one is allowed; `None` when one is now.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.wait_until(*self.full_at.lock(), now)
    }

    /// Whether nothing is missing: then it is like a new one.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        *self.full_at.lock() <= now
    }

    fn wait_until(&self, full_at: Instant, now: Instant) -> Option<Duration> {
        let after = full_at.max(now) + self.interval;
        let latest = now + self.interval * self.maximum;
        let wait = after.checked_duration_since(latest)?;
        (!wait.is_zero()).then_some(wait)
    }
}
